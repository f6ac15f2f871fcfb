"""Nodes of the header's tree: their type, and typed access to the fields of a node that may be hostile.

A plain value is itself (null, booleans, numbers, strings, arrays, objects). Anything else is an object with the key
"$" that names its kind.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, cast, overload

from .errors import ValueDecodeError

__all__ = ["TAG", "Node", "Tagged", "field", "integers", "is_unicode", "kind_of", "optional", "tagged"]

Node: TypeAlias = "bool | int | float | str | list[Node] | dict[str, Node] | None"
Tagged: TypeAlias = "dict[str, Any]"

TAG = "$"

_T = TypeVar("_T")


def kind_of(value: object) -> type:
    """The exact type; of a value that may be anything, a type checker knows no better."""
    return type(value)


def tagged(node: Any, what: str) -> Tagged:
    """The node, which has to be an object; `what` is what the error says is missing."""
    if type(node) is not dict:
        raise ValueDecodeError(f"{what} is missing")
    return cast("Tagged", node)


@overload
def field(node: Tagged, key: str, kind: type[list[Any]]) -> list[Any]: ...
@overload
def field(node: Tagged, key: str, kind: type[dict[str, Any]]) -> Tagged: ...
@overload
def field(node: Tagged, key: str, kind: type[_T]) -> _T: ...
def field(node: Tagged, key: str, kind: type[Any]) -> Any:
    """The field `key`, which has to be exactly a `kind`."""
    value = node.get(key)
    if type(value) is not kind:
        raise ValueDecodeError(f"{node.get(TAG, 'a node')!s:.40}: the field {key!r} is not of type {kind.__name__}")
    return value


def optional(node: Tagged, key: str, kind: type[_T]) -> _T | None:
    """As `field`, or None where the field is null or missing."""
    return None if node.get(key) is None else field(node, key, kind)


def integers(node: Tagged, key: str, *, minimum: int | None = None) -> list[int]:
    """The field `key`, which has to be a list of integers of at least `minimum`."""
    values = field(node, key, list)
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
