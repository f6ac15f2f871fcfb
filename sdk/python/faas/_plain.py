"""Which values go into a request as they are: what JSON gives back exactly, and is small. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from faas.errors import invalid

__all__ = ["split_variables"]

_MAX_DEPTH = 16
#: Of one value: items of containers and characters of text. What is larger travels as a stream of its own.
_MAX_SIZE = 32_768
#: Of all values of one request, since its body has a limit.
_MAX_TOTAL = 1 << 20


def split_variables(branches: list[Mapping[str, object]]) -> list[tuple[dict[str, object], dict[str, object]]]:
    """The variables of each branch: those that go into the request, and those that are pushed afterwards.

    Raises:
        InvalidRequestError: a name that is none of a variable.
    """
    left = _MAX_TOTAL
    split: list[tuple[dict[str, object], dict[str, object]]] = []
    for variables in branches:
        plain: dict[str, object] = {}
        others: dict[str, object] = {}
        for name, value in variables.items():
            if not name.isidentifier():
                raise invalid(f"{name!r} is no name of a variable")
            size = _size(value, _MAX_DEPTH)
            if size is not None and size <= min(left, _MAX_SIZE):
                left -= size
                plain[name] = value
            else:
                others[name] = value
        split.append((plain, others))
    return split


def _size(value: object, depth: int) -> int | None:
    """A measure of the JSON of a value, None where JSON would change it, or it is large anyway.

    The types are looked at exactly: a tuple would come back as a list, and a numpy number or an enum as another.
    """
    kind = type(value)
    if value is None or kind is bool:
        return 4
    if kind is int:
        return cast("int", value).bit_length() // 3 + 1
    if kind is float:
        return 24 if math.isfinite(cast("float", value)) else None
    if kind is str:
        text = cast("str", value)
        return None if len(text) > _MAX_SIZE or not _encodes(text) else 2 + 2 * len(text)
    if depth == 0:
        return None
    if kind is list:
        items = cast("list[object]", value)
        return None if len(items) > _MAX_SIZE else _sum(items, depth)
    if kind is dict:
        entries = cast("dict[object, object]", value)
        if len(entries) > _MAX_SIZE or not all(type(key) is str for key in entries):
            return None
        return _sum([*entries, *entries.values()], depth)
    return None


def _sum(items: list[object], depth: int) -> int | None:
    total = 2
    for item in items:
        size = _size(item, depth - 1)
        if size is None:
            return None
        total += size + 1
        if total > _MAX_SIZE:
            return None
    return total


def _encodes(text: str) -> bool:
    """Whether it is text that UTF-8 has bytes for: no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
