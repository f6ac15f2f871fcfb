"""Nodes of the header's tree: their type, and typed access to the fields of a node that may be hostile.

A plain value is itself (null, booleans, numbers, strings, arrays, objects). Anything else is an object with the key
"$" that names its kind.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from .errors import ValueDecodeError

__all__ = ["TAG", "Node", "Tagged", "field", "integers", "is_unicode", "optional"]

Node: TypeAlias = "None | bool | int | float | str | list[Node] | dict[str, Node]"
Tagged: TypeAlias = "dict[str, Any]"

TAG = "$"

_T = TypeVar("_T")


def field(node: Tagged, key: str, kind: type[_T]) -> _T:
    """The field `key`, which has to be exactly a `kind`."""
    value = node.get(key)
    if type(value) is not kind:
        raise ValueDecodeError(
            f"{node.get(TAG, 'a node')!s:.40}: the field {key!r} is not of type {kind.__name__}"
        )
    return value


def optional(node: Tagged, key: str, kind: type[_T]) -> _T | None:
    """As `field`, or None where the field is null or missing."""
    return None if node.get(key) is None else field(node, key, kind)


def integers(node: Tagged, key: str, *, minimum: int | None = None) -> list[int]:
    """The field `key`, which has to be a list of integers of at least `minimum`."""
    values: list[Any] = field(node, key, list)
    for value in values:
        if type(value) is not int or (minimum is not None and value < minimum):
            raise ValueDecodeError(f"{node.get(TAG, 'a node')!s:.40}: the field {key!r} has a wrong number")
    return values


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates. UTF-8 can't hold them, and JSON's escapes would merge two neighbours."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
