"""Many items of one kind, or of a few, as buffers instead of one node each."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from . import numpy_arrays
from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, tagged

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["pack", "unpack"]

_FEWEST = 16
_FEWEST_MIXED = 64
_MOST_KINDS = 8


def pack(encoder: Encoder, values: Sequence[Any]) -> Node:
    """The node of the items, or None where they are too few or of other kinds."""
    if len(values) < _FEWEST:
        return None
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = kinds.pop()
        pack_one = _PACKERS.get(kind)
        return pack_one(encoder, values) if pack_one else numpy_arrays.pack_scalars(encoder, kind, values)
    if len(values) < _FEWEST_MIXED or len(kinds) > _MOST_KINDS or not kinds <= {*_PACKERS, type(None)}:
        return None
    codes = {kind: code for code, kind in enumerate(kinds)}
    parts: list[Node] = []
    for kind in kinds:
        part = [value for value in values if type(value) is kind]
        parts.append(None if kind is type(None) else encoder.items(part))
    return {TAG: "mix", "b": encoder.buffer(bytes(map(codes.__getitem__, map(type, values)))), "parts": parts}


def unpack(decoder: Decoder, node: Any) -> list[Any]:
    """The items of a node that `pack` made."""
    node = tagged(node, "a run of items")
    tag = node.get(TAG)
    unpack_one = _UNPACKERS.get(tag) if type(tag) is str else None
    if unpack_one is None:
        raise ValueDecodeError(f"unknown kind of items {tag!r:.60}")
    return unpack_one(decoder, node)


def _little_endian(numbers: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _numbers(typecode: str, data: memoryview) -> array[Any]:
    numbers: array[Any] = array(typecode)
    numbers.frombytes(data)
    return _little_endian(numbers)


def _pack_numbers(tag: str, typecode: str) -> Callable[[Encoder, Sequence[Any]], Node]:
    def pack_one(encoder: Encoder, values: Sequence[Any]) -> Node:
        try:
            numbers = array(typecode, values)
        except OverflowError:
            return None
        return {TAG: tag, "b": encoder.buffer(_little_endian(numbers).tobytes())}

    return pack_one


def _unpack_numbers(typecode: str) -> Callable[[Decoder, Tagged], list[Any]]:
    def unpack_one(decoder: Decoder, node: Tagged) -> list[Any]:
        return _numbers(typecode, decoder.buffer(node)).tolist()

    return unpack_one


def _pack_bools(encoder: Encoder, values: Sequence[bool]) -> Node:
    return {TAG: "bools", "b": encoder.buffer(bytes(values))}


def _unpack_bools(decoder: Decoder, node: Tagged) -> list[Any]:
    return list(map(bool, decoder.buffer(node)))


def _pack_runs(tag: str, empty: Any, to_bytes: Callable[[Any], bytes]) -> Callable[[Encoder, Sequence[Any]], Node]:
    def pack_one(encoder: Encoder, values: Sequence[Any]) -> Node:
        try:
            lengths = array("I", map(len, values))
        except OverflowError:
            return None
        data = to_bytes(empty.join(values))
        return {TAG: tag, "n": encoder.buffer(_little_endian(lengths).tobytes()), "b": encoder.buffer(data)}

    return pack_one


def _unpack_runs(from_bytes: Callable[[memoryview], Any]) -> Callable[[Decoder, Tagged], list[Any]]:
    def unpack_one(decoder: Decoder, node: Tagged) -> list[Any]:
        lengths = _numbers("I", decoder.buffer(node, "n"))
        joined = from_bytes(decoder.buffer(node))
        ends = list(accumulate(lengths, initial=0))
        if ends[-1] != len(joined):
            raise ValueDecodeError("packed items don't add up")
        return [joined[start:end] for start, end in pairwise(ends)]

    return unpack_one


def _unpack_mix(decoder: Decoder, node: Tagged) -> list[Any]:
    codes = bytes(decoder.buffer(node))
    sources: list[Iterator[Any]] = []
    counted = 0
    for code, part in enumerate(field(node, "parts", list)):
        count = codes.count(code) if code < 256 else 0
        items = [None] * count if part is None else decoder.items(part)
        if len(items) != count:
            raise ValueDecodeError("mixed items don't add up")
        sources.append(iter(items))
        counted += count
    if counted != len(codes):
        raise ValueDecodeError("mixed items don't add up")
    return [next(sources[code]) for code in codes]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


_PACKERS: dict[type, Callable[[Encoder, Sequence[Any]], Node]] = {
    bool: _pack_bools,
    int: _pack_numbers("i8", "q"),
    float: _pack_numbers("f8", "d"),
    str: _pack_runs("strs", "", _utf8),
    bytes: _pack_runs("byteses", b"", bytes),
}

_UNPACKERS: dict[str, Callable[[Decoder, Tagged], list[Any]]] = {
    "bools": _unpack_bools,
    "i8": _unpack_numbers("q"),
    "f8": _unpack_numbers("d"),
    "strs": _unpack_runs(_text),
    "byteses": _unpack_runs(bytes),
    "np": numpy_arrays.unpack_scalars,
    "mix": _unpack_mix,
}
