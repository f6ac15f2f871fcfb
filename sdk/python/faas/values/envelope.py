"""The envelope: magic, version, header length, JSON header, raw buffers; its limits are checked here."""

from __future__ import annotations

import json
import re
import struct
from itertools import accumulate, pairwise
from typing import Any, NoReturn

from .errors import ValueDecodeError, ValueEncodeError
from .nodes import integers, tagged

__all__ = ["CHUNK_BYTES", "MAGIC", "MAX_HEADER_BYTES", "MAX_JSON_DEPTH", "VERSION", "open_envelope", "seal"]

MAGIC = b"\x93FAASVL"
VERSION = 1
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 256 << 20
# The parser recurses on the C stack, and a notebook may have raised Python's own recursion limit.
MAX_JSON_DEPTH = 500

_PREFIX = struct.Struct("<7sBI")
_SMALL_BYTES = 64 << 10
_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def seal(node: Any, buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """The envelope of a tree and its buffers, in chunks of at most `CHUNK_BYTES`; large buffers aren't copied."""
    document = {"value": node, "buffers": [len(buffer) for buffer in buffers]}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    header = text.encode()
    if len(header) > MAX_HEADER_BYTES:
        raise ValueEncodeError(
            f"the value has too many small objects (their description takes {len(header) >> 20} MiB of at most "
            f"{MAX_HEADER_BYTES >> 20}): send arrays or DataFrames, or save it to a file"
        )
    if _json_depth(header) > MAX_JSON_DEPTH:
        raise ValueEncodeError("the value is nested too deeply: flatten it, or save it to a file")
    chunks: list[bytes | memoryview] = []
    pending = bytearray(_PREFIX.pack(MAGIC, VERSION, len(header)))
    for buffer in (header, *buffers):
        if len(pending) + len(buffer) <= CHUNK_BYTES and len(buffer) <= _SMALL_BYTES:
            pending += buffer
            continue
        if pending:
            chunks.append(bytes(pending))
            pending.clear()
        view = memoryview(buffer)
        chunks += [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]
    if pending:
        chunks.append(bytes(pending))
    return chunks


def open_envelope(data: bytes | bytearray | memoryview) -> tuple[Any, list[memoryview]]:
    """The tree and the buffers (views into `data`). Raises ValueDecodeError."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueDecodeError("the encoded value is not one contiguous run of bytes")
    view = view.cast("B")
    if len(view) < _PREFIX.size:
        raise ValueDecodeError("the encoded value is cut short: no complete prefix")
    magic, version, header_length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise ValueDecodeError("this is not an encoded value: the magic bytes are missing")
    if version != VERSION:
        raise ValueDecodeError(
            f"the value has format version {version}, this side knows {VERSION}: update the older side"
        )
    body = _PREFIX.size + header_length
    if header_length > MAX_HEADER_BYTES or body > len(view):
        raise ValueDecodeError(f"the header claims {header_length} bytes, {len(view) - _PREFIX.size} are there")
    document = tagged(_parse(bytes(view[_PREFIX.size : body])), "a value with buffers")
    if document.keys() != {"value", "buffers"}:
        raise ValueDecodeError("the header is not a value with buffers")
    lengths = integers(document, "buffers", minimum=0)
    if body + sum(lengths) != len(view):
        raise ValueDecodeError(f"the buffers claim {sum(lengths)} bytes, {len(view) - body} are there")
    ends = list(accumulate(lengths, initial=body))
    return document["value"], [view[start:end] for start, end in pairwise(ends)]


def _parse(header: bytes) -> Any:
    if _json_depth(header) > MAX_JSON_DEPTH:
        raise ValueDecodeError("the header is nested too deeply")
    return json.loads(header.decode(), parse_int=_integer, parse_constant=_refuse_constant)


def _json_depth(header: bytes) -> int:
    if header.count(b"[") + header.count(b"{") <= MAX_JSON_DEPTH:
        return 0
    brackets = _JSON_STRING.sub(b"", header).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_DEPTH_STEP.__getitem__, brackets)), default=0)


def _integer(digits: str) -> int:
    # Larger ones travel as hexadecimal text: reading long decimals takes quadratic time.
    if len(digits) > 20:
        raise ValueDecodeError("a number in the header is too long")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueDecodeError(f"the header has a number {name}, which is not JSON")
