"""The types of Python itself and of its standard library, each to a node and back."""

from __future__ import annotations

import collections
import datetime as dt
import re
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import packed
from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, integers, is_unicode, kind_of, optional

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "ENCODERS", "PLAIN_DECODERS", "zone"]

_DOUBLES = {"float": struct.Struct("<d"), "complex": struct.Struct("<2d")}
# Reducing a fraction takes quadratic time.
_FRACTION_BITS = 1 << 17
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")


def zone(key: str) -> zoneinfo.ZoneInfo:
    """The time zone of a key. Raises ValueDecodeError where this machine doesn't know it."""
    if not _ZONE_KEY.fullmatch(key):
        raise ValueDecodeError(f"{key!r:.60} is no time zone")
    try:
        return zoneinfo.ZoneInfo(key)
    except (KeyError, OSError) as error:
        raise ValueDecodeError(f"the time zone {key!r} isn't known here: pip install tzdata") from error


# Numbers


def _encode_float(encoder: Encoder, value: float) -> Node:
    return {TAG: "float", "v": _DOUBLES["float"].pack(value).hex()}


def _encode_complex(encoder: Encoder, value: complex) -> Node:
    return {TAG: "complex", "v": _DOUBLES["complex"].pack(value.real, value.imag).hex()}


def _decode_float(decoder: Decoder, node: Tagged) -> float:
    return _DOUBLES["float"].unpack(_hex(node, 8))[0]


def _decode_complex(decoder: Decoder, node: Tagged) -> complex:
    return complex(*_DOUBLES["complex"].unpack(_hex(node, 16)))


def _hex(node: Tagged, size: int) -> bytes:
    data = bytes.fromhex(field(node, "v", str))
    if len(data) != size:
        raise ValueDecodeError("a number has a wrong size")
    return data


def _decode_int(decoder: Decoder, node: Tagged) -> int:
    return int(field(node, "v", str), 16)


def _encode_decimal(encoder: Encoder, value: Decimal) -> Node:
    return {TAG: "decimal", "v": str(value)}


def _decode_decimal(decoder: Decoder, node: Tagged) -> Decimal:
    return Decimal(field(node, "v", str))


def _encode_fraction(encoder: Encoder, value: Fraction) -> Node:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _FRACTION_BITS:
        raise encoder.error("the fraction is too long to be sent: send its numerator and its denominator")
    return {TAG: "fraction", "v": [encoder.encode(value.numerator), encoder.encode(value.denominator)]}


def _decode_fraction(decoder: Decoder, node: Tagged) -> Fraction:
    numerator, denominator = decoder.decode(field(node, "v", list))
    if not all(type(part) is int and part.bit_length() <= _FRACTION_BITS for part in (numerator, denominator)):
        raise ValueDecodeError("a fraction has wrong or too long parts")
    return Fraction(numerator, denominator)


# Text and bytes


def _decode_str(decoder: Decoder, node: Tagged) -> str:
    return str(decoder.buffer(node), "utf-8", "surrogatepass")


def _encode_bytes(encoder: Encoder, value: bytes | bytearray) -> Node:
    # A view of a bytearray would forbid its owner to resize it for as long as the chunks live.
    return {TAG: type(value).__name__, "b": encoder.buffer(bytes(value))}


def _decode_bytes(decoder: Decoder, node: Tagged) -> bytes:
    return bytes(decoder.buffer(node))


def _decode_bytearray(decoder: Decoder, node: Tagged) -> bytearray:
    return bytearray(decoder.buffer(node))


def _encode_path(encoder: Encoder, value: PurePosixPath) -> Node:
    return {TAG: "path" if type(value) is PosixPath else "purepath", "v": encoder.text(str(value))}


def _decode_path(kind: type[PurePosixPath]) -> Callable[[Decoder, Tagged], PurePosixPath]:
    def decode(decoder: Decoder, node: Tagged) -> PurePosixPath:
        text = decoder.decode(node.get("v"))
        if type(text) is not str:
            raise ValueDecodeError("a path is not text")
        return kind(text)

    return decode


def _encode_uuid(encoder: Encoder, value: uuid.UUID) -> Node:
    return {TAG: "uuid", "v": value.hex}


def _decode_uuid(decoder: Decoder, node: Tagged) -> uuid.UUID:
    return uuid.UUID(hex=field(node, "v", str))


# Containers


def _encode_list(encoder: Encoder, value: list[Any]) -> Node:
    node = encoder.items(value)
    return node if type(node) is list else {TAG: "list", "v": node}


def _encode_items(tag: str) -> Callable[[Encoder, Any], Node]:
    def encode(encoder: Encoder, value: Any) -> Node:
        return {TAG: tag, "v": encoder.items(tuple(value))}

    return encode


def _decode_tuple(decoder: Decoder, node: Tagged) -> tuple[Any, ...]:
    return tuple(decoder.items(node.get("v")))


def _decode_set(decoder: Decoder, node: Tagged) -> set[Any]:
    result: set[Any] = set()
    # A loop in Python: items that were made to collide are slow, and this can be interrupted.
    for item in decoder.items(node.get("v")):
        result.add(item)
    return result


def _decode_frozenset(decoder: Decoder, node: Tagged) -> frozenset[Any]:
    return frozenset(_decode_set(decoder, node))


def _decode_list(decoder: Decoder, node: Tagged) -> list[Any]:
    return decoder.items(node.get("v"))


def _encode_deque(encoder: Encoder, value: collections.deque[Any]) -> Node:
    return {TAG: "deque", "max": value.maxlen, "v": encoder.items(tuple(value))}


def _decode_deque(decoder: Decoder, node: Tagged) -> collections.deque[Any]:
    return collections.deque(decoder.items(node.get("v")), optional(node, "max", int))


def _encode_dict(encoder: Encoder, value: dict[Any, Any]) -> Node:
    values = packed.pack(encoder, tuple(value.values()))
    named = values is None and TAG not in value and all(type(key) is str for key in value)
    if named and is_unicode("".join(value)):
        return {key: encoder.child((key,), item) for key, item in value.items()}
    return _pairs(encoder, "dict", value, values)


def _encode_mapping(encoder: Encoder, value: Any) -> Node:
    if kind_of(value) is collections.defaultdict and value.default_factory is not None:
        raise encoder.error("a defaultdict with a factory can't be sent: send dict(...) of it")
    return _pairs(encoder, type(value).__name__.lower(), value)


def _pairs(encoder: Encoder, tag: str, value: dict[Any, Any], values: Node = None) -> Node:
    keys = encoder.within(".keys()", type(encoder).items, tuple(value))
    return {TAG: tag, "k": keys, "v": values or [encoder.child((key,), item) for key, item in value.items()]}


def _decode_mapping(empty: Callable[[], dict[Any, Any]]) -> Callable[[Decoder, Tagged], dict[Any, Any]]:
    def decode(decoder: Decoder, node: Tagged) -> dict[Any, Any]:
        keys = decoder.items(node.get("k"))
        result = empty()
        # A loop for the same reason as in _decode_set.
        for key, value in zip(keys, decoder.items(node.get("v")), strict=True):
            result[key] = value
        return result

    return decode


def _encode_range(encoder: Encoder, value: range) -> Node:
    return {TAG: "range", "v": [encoder.encode(part) for part in (value.start, value.stop, value.step)]}


def _decode_range(decoder: Decoder, node: Tagged) -> range:
    start, stop, step = decoder.decode(field(node, "v", list))
    return range(start, stop, step)


def _encode_slice(encoder: Encoder, value: slice) -> Node:
    parts = ("start", "stop", "step")
    return {TAG: "slice", "v": [encoder.child(f".{part}", getattr(value, part)) for part in parts]}


def _decode_slice(decoder: Decoder, node: Tagged) -> slice:
    start, stop, step = decoder.decode(field(node, "v", list))
    return slice(start, stop, step)


def _encode_ellipsis(encoder: Encoder, value: object) -> Node:
    return {TAG: "ellipsis"}


def _decode_ellipsis(decoder: Decoder, node: Tagged) -> object:
    return ...


# Dates and times


def _encode_date(encoder: Encoder, value: dt.date) -> Node:
    return {TAG: "date", "v": [value.year, value.month, value.day]}


def _decode_date(decoder: Decoder, node: Tagged) -> dt.date:
    return dt.date(*integers(node, "v"))


def _encode_time(encoder: Encoder, value: dt.time) -> Node:
    parts: list[Node] = [value.hour, value.minute, value.second, value.microsecond, value.fold]
    return {TAG: "time", "v": parts, "tz": encoder.child(".tzinfo", value.tzinfo)}


def _decode_time(decoder: Decoder, node: Tagged) -> dt.time:
    *parts, fold = integers(node, "v")
    return dt.time(*parts, tzinfo=decoder.decode(node.get("tz")), fold=fold)


def _encode_datetime(encoder: Encoder, value: dt.datetime) -> Node:
    parts: list[Node] = [value.year, value.month, value.day, value.hour, value.minute, value.second]
    parts += [value.microsecond, value.fold]
    return {TAG: "datetime", "v": parts, "tz": encoder.child(".tzinfo", value.tzinfo)}


def _decode_datetime(decoder: Decoder, node: Tagged) -> dt.datetime:
    *parts, fold = integers(node, "v")
    return dt.datetime(*parts, tzinfo=decoder.decode(node.get("tz")), fold=fold)  # type: ignore[misc]


def _encode_timedelta(encoder: Encoder, value: dt.timedelta) -> Node:
    return {TAG: "timedelta", "v": [value.days, value.seconds, value.microseconds]}


def _decode_timedelta(decoder: Decoder, node: Tagged) -> dt.timedelta:
    days, seconds, microseconds = integers(node, "v")
    return dt.timedelta(days, seconds, microseconds)


def _encode_timezone(encoder: Encoder, value: dt.timezone) -> Node:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    own_name = None if name == dt.timezone(offset).tzname(None) else encoder.text(name)
    return {TAG: "timezone", "v": [offset.days, offset.seconds, offset.microseconds], "name": own_name}


def _decode_timezone(decoder: Decoder, node: Tagged) -> dt.timezone:
    offset, name = _decode_timedelta(decoder, node), decoder.decode(node.get("name"))
    return dt.timezone(offset) if name is None else dt.timezone(offset, name)


def _encode_zoneinfo(encoder: Encoder, value: zoneinfo.ZoneInfo) -> Node:
    if value.key is None or not _ZONE_KEY.fullmatch(value.key):  # pyright: ignore[reportUnnecessaryComparison]
        raise encoder.error("a time zone without a standard key can't be sent: use zoneinfo.ZoneInfo('Area/City')")
    return {TAG: "zoneinfo", "v": value.key}


def _decode_zoneinfo(decoder: Decoder, node: Tagged) -> zoneinfo.ZoneInfo:
    return zone(field(node, "v", str))


ENCODERS: dict[type, Callable[[Encoder, Any], Node]] = {
    float: _encode_float,
    complex: _encode_complex,
    Decimal: _encode_decimal,
    Fraction: _encode_fraction,
    bytes: _encode_bytes,
    bytearray: _encode_bytes,
    PurePosixPath: _encode_path,
    PosixPath: _encode_path,
    uuid.UUID: _encode_uuid,
    list: _encode_list,
    tuple: _encode_items("tuple"),
    set: _encode_items("set"),
    frozenset: _encode_items("frozenset"),
    collections.deque: _encode_deque,
    dict: _encode_dict,
    collections.OrderedDict: _encode_mapping,
    collections.defaultdict: _encode_mapping,
    collections.Counter: _encode_mapping,
    range: _encode_range,
    slice: _encode_slice,
    type(...): _encode_ellipsis,
    dt.date: _encode_date,
    dt.time: _encode_time,
    dt.datetime: _encode_datetime,
    dt.timedelta: _encode_timedelta,
    dt.timezone: _encode_timezone,
    zoneinfo.ZoneInfo: _encode_zoneinfo,
}

# What a plain JSON value can be made of, beside dicts.
PLAIN_DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    "int": _decode_int,
    "str": _decode_str,
    "list": _decode_list,
}

DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    **PLAIN_DECODERS,
    "dict": _decode_mapping(dict),
    "float": _decode_float,
    "complex": _decode_complex,
    "decimal": _decode_decimal,
    "fraction": _decode_fraction,
    "bytes": _decode_bytes,
    "bytearray": _decode_bytearray,
    "purepath": _decode_path(PurePosixPath),
    "path": _decode_path(PosixPath),
    "uuid": _decode_uuid,
    "tuple": _decode_tuple,
    "set": _decode_set,
    "frozenset": _decode_frozenset,
    "deque": _decode_deque,
    "ordereddict": _decode_mapping(collections.OrderedDict),
    "defaultdict": _decode_mapping(collections.defaultdict),
    "counter": _decode_mapping(collections.Counter),
    "range": _decode_range,
    "slice": _decode_slice,
    "ellipsis": _decode_ellipsis,
    "date": _decode_date,
    "time": _decode_time,
    "datetime": _decode_datetime,
    "timedelta": _decode_timedelta,
    "timezone": _decode_timezone,
    "zoneinfo": _decode_zoneinfo,
}
