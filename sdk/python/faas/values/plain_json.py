"""Encoded values that are plain JSON: null, booleans, whole and finite numbers, text, lists, objects."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from .codec import decode_with, encode
from .decoder import DECODERS, PLAIN_DECODERS, Decoder
from .errors import ValueEncodeError
from .nodes import Tagged, is_unicode, kind_of

__all__ = ["from_json", "is_plain_json", "to_json"]


class _NotPlainError(Exception):
    """The value has a part that JSON has no form for."""


def _not_plain(decoder: Decoder, node: Tagged) -> NoReturn:
    raise _NotPlainError


def _decode_dict(decoder: Decoder, node: Tagged) -> dict[str, Any]:
    keys = decoder.items(node.get("k"))
    # Before they are put into a dict: of all keys only text can't be made to collide.
    if not all(type(key) is str for key in keys):
        raise _NotPlainError
    return dict(zip(keys, decoder.items(node.get("v")), strict=True))


_HANDLERS = {**dict.fromkeys(DECODERS, _not_plain), **PLAIN_DECODERS, "dict": _decode_dict}


def is_plain_json(data: bytes | bytearray | memoryview) -> bool:
    """Whether the encoded value is plain JSON. Raises ValueDecodeError where the data is malformed."""
    try:
        _plain(data)
    except _NotPlainError:
        return False
    return True


def to_json(data: bytes | bytearray | memoryview) -> Any:
    """The encoded value if it is plain JSON, else None (as for None itself: `is_plain_json` tells them apart).

    Raises ValueDecodeError where the data is malformed.
    """
    try:
        return _plain(data)
    except _NotPlainError:
        return None


def from_json(value: Any) -> bytes:
    """The encoded bytes of a plain JSON value. Raises ValueEncodeError for any other."""
    try:
        _check(value)
    except _NotPlainError:
        raise ValueEncodeError("the value is not plain JSON: send it encoded") from None
    except RecursionError:
        raise ValueEncodeError("the value is nested too deeply: flatten it") from None
    return b"".join(encode(value))


def _plain(data: bytes | bytearray | memoryview) -> Any:
    value = decode_with(data, _HANDLERS)
    _check(value)
    return value


def _check(value: Any) -> None:
    kind = kind_of(value)
    if kind is list:
        for item in value:
            _check(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str or not is_unicode(key):
                raise _NotPlainError
            _check(item)
    elif kind is float:
        if not math.isfinite(value):
            raise _NotPlainError
    elif kind is str:
        if not is_unicode(value):
            raise _NotPlainError
    elif value is not None and kind is not bool and kind is not int:
        raise _NotPlainError
