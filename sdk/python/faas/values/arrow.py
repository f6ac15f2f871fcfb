"""pyarrow: the data of arrow-backed columns, as a description of the type and raw buffers.

Arrow's own stream format would be shorter to write, but its reader builds extension types by name and inflates
compressed buffers to whatever size they claim. Here each buffer is as large as the bytes that arrived, and arrow checks
offsets, indices and text in full before anything reads them.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import ValueDecodeError
from .nodes import Node, field, tagged
from .packages import load

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["decode", "encode"]

_LARGEST_LENGTH = 2**48


@lru_cache(maxsize=1)
def _simple() -> dict[str, Any]:
    """Types without parameters, and times, by their names in arrow."""
    pa = load("pyarrow")
    names = ("bool_", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)))
    names += (
        "float16",
        "float32",
        "float64",
        "date32",
        "date64",
        "string",
        "large_string",
        "binary",
        "large_binary",
    )
    kinds = [getattr(pa, name)() for name in (*names, "month_day_nano_interval")]
    kinds += [pa.time32(unit) for unit in ("s", "ms")] + [pa.time64(unit) for unit in ("us", "ns")]
    for unit in ("s", "ms", "us", "ns"):
        kinds += [pa.duration(unit), pa.timestamp(unit)]
    return {str(kind): kind for kind in kinds}


def encode(encoder: Encoder, data: Any) -> Node:
    """The node of an array or a chunked array."""
    pa = load("pyarrow")
    chunks = data.chunks if isinstance(data, pa.ChunkedArray) else [data]
    kind = _encode_type(encoder, data.type)
    return {"type": kind, "chunks": [_encode_chunk(encoder, _compact(chunk)) for chunk in chunks]}


def decode(decoder: Decoder, node: Any) -> Any:
    """A chunked array, checked in full."""
    pa = load("pyarrow")
    node = tagged(node, "arrow data")
    kind = _decode_type(node.get("type"))
    chunks = [_decode_chunk(decoder, kind, chunk) for chunk in field(node, "chunks", list)]
    for chunk in chunks:
        chunk.validate(full=True)
    return pa.chunked_array(chunks, type=kind)


def _encode_type(encoder: Encoder, kind: Any) -> Node:
    types = load("pyarrow").types
    if _simple().get(str(kind)) == kind:
        return str(kind)
    if types.is_timestamp(kind):
        return {"name": "timestamp", "unit": kind.unit, "tz": kind.tz}
    if types.is_decimal128(kind) or types.is_decimal256(kind):
        return {"name": f"decimal{kind.bit_width}", "n": [kind.precision, kind.scale]}
    if types.is_fixed_size_binary(kind) and kind.byte_width:
        return {"name": "binary", "n": [kind.byte_width]}
    if types.is_dictionary(kind):
        parts = [_encode_type(encoder, kind.index_type), _encode_type(encoder, kind.value_type)]
        return {"name": "dictionary", "types": parts, "ordered": kind.ordered}
    name = next((name for name, check in _NESTED.items() if getattr(types, check)(kind)), None)
    if name is None or kind.num_fields == 0 or (name == "fixed_size_list" and not kind.list_size):
        raise encoder.error(f"arrow data of type {kind} can't be sent: convert it with .astype(...)")
    parts = [kind.field(place) for place in range(kind.num_fields)]
    if name == "map":
        parts = [kind.key_field, kind.item_field]
    if any(part.metadata for part in parts):
        raise encoder.error("arrow fields with metadata can't be sent: convert the column with .astype(...)")
    node: dict[str, Node] = {"name": name, "types": [_encode_type(encoder, part.type) for part in parts]}
    node |= {"names": [part.name for part in parts], "nullable": [part.nullable for part in parts]}
    if name == "map":
        node["ordered"] = kind.keys_sorted
    return {**node, "n": [kind.list_size]} if name == "fixed_size_list" else node


_NESTED = {
    "list": "is_list",
    "large_list": "is_large_list",
    "fixed_size_list": "is_fixed_size_list",
    "map": "is_map",
    "struct": "is_struct",
}


def _decode_type(node: Any) -> Any:
    pa = load("pyarrow")
    if type(node) is str and node in _simple():
        return _simple()[node]
    node = tagged(node, "a known arrow type")
    name = field(node, "name", str)
    if name == "timestamp":
        return pa.timestamp(field(node, "unit", str), tz=field(node, "tz", str))
    if name in ("decimal128", "decimal256"):
        precision, scale = field(node, "n", list)
        return (pa.decimal128 if name == "decimal128" else pa.decimal256)(precision, scale)
    if name == "binary":
        return pa.binary(_positive(node))
    parts = [_decode_type(part) for part in field(node, "types", list)]
    if name == "dictionary":
        index_type, value_type = parts
        return pa.dictionary(index_type, value_type, ordered=field(node, "ordered", bool))
    names, nullable = field(node, "names", list), field(node, "nullable", list)
    fields = [pa.field(*part) for part in zip(names, parts, nullable, strict=True)]
    if name == "struct" and fields:
        return pa.struct(fields)
    if name == "map":
        key, item = fields
        return pa.map_(key, item, keys_sorted=field(node, "ordered", bool))
    if name == "fixed_size_list":
        return pa.list_(*fields, _positive(node))
    if name in ("list", "large_list"):
        return (pa.list_ if name == "list" else pa.large_list)(*fields)
    raise ValueDecodeError(f"unknown arrow type {name!r:.60}")


def _positive(node: dict[str, Any]) -> int:
    (size,) = field(node, "n", list)
    if type(size) is not int or not 0 < size < 2**31:
        raise ValueDecodeError("an arrow type has a wrong size")
    return size


def _compact(chunk: Any) -> Any:
    """The same data without what lies outside of a slice: arrow's writer leaves it out."""
    pa = load("pyarrow")
    batch = pa.record_batch([chunk], names=["chunk"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.ipc.open_stream(sink.getvalue()) as reader:
        return reader.read_next_batch().column(0)


def _encode_chunk(encoder: Encoder, chunk: Any) -> Node:
    if hasattr(chunk, "dictionary"):
        parts = [_encode_chunk(encoder, chunk.indices), _encode_chunk(encoder, _compact(chunk.dictionary))]
        return {"indices": parts[0], "dictionary": parts[1]}
    buffers: list[Node] = []
    for buffer, size in zip(chunk.buffers(), _sizes(chunk), strict=False):
        view = None if buffer is None else memoryview(buffer).cast("B")[:size]
        buffers.append(None if view is None else encoder.buffer(view))
    parts: list[Node] = [_encode_chunk(encoder, child) for child in _children(chunk)]
    return {"n": len(chunk), "b": buffers, "parts": parts}


def _sizes(chunk: Any) -> list[int]:
    """The bytes that each buffer of the array itself needs: arrow pads them with what stands beside a slice."""
    length, kind = len(chunk), chunk.type
    sizes, children = [(length + 7) // 8], _layout(kind)[1]
    if _layout(kind)[0] == 1:
        return sizes
    if not children and not _is_text(kind):
        return [*sizes, (length * kind.bit_width + 7) // 8]
    typecode = "q" if str(kind).startswith("large_") else "i"
    sizes.append((length + 1) * struct.calcsize(typecode))
    offsets = memoryview(chunk.buffers()[1] or b"").cast("B")[: sizes[1]].cast(typecode)
    return [*sizes, offsets[-1] if offsets else 0] if _is_text(kind) else sizes


def _is_text(kind: Any) -> bool:
    types = load("pyarrow").types
    checks = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(check(kind) for check in checks)


def _children(chunk: Any) -> list[Any]:
    types = load("pyarrow").types
    if types.is_struct(chunk.type):
        return [chunk.field(place) for place in range(chunk.type.num_fields)]
    if types.is_map(chunk.type):
        return [load("pyarrow").StructArray.from_arrays([chunk.keys, chunk.items], fields=list(_entries(chunk.type)))]
    return [chunk.values] if hasattr(chunk, "values") else []


def _entries(kind: Any) -> tuple[Any, Any]:
    return kind.key_field, kind.item_field


def _layout(kind: Any) -> tuple[int, list[Any]]:
    """How many buffers an array of this type has itself, and the types of its children."""
    pa = load("pyarrow")
    if pa.types.is_struct(kind):
        return 1, [kind.field(place).type for place in range(kind.num_fields)]
    if pa.types.is_fixed_size_list(kind):
        return 1, [kind.value_type]
    if pa.types.is_map(kind):
        return 2, [pa.struct(_entries(kind))]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 2, [kind.value_type]
    return 3 if _is_text(kind) else 2, []


def _decode_chunk(decoder: Decoder, kind: Any, node: Any) -> Any:
    pa = load("pyarrow")
    node = tagged(node, "arrow data")
    if pa.types.is_dictionary(kind):
        indices = _decode_chunk(decoder, kind.index_type, node.get("indices"))
        dictionary = _decode_chunk(decoder, kind.value_type, node.get("dictionary"))
        for part in (indices, dictionary):
            part.validate(full=True)
        return pa.DictionaryArray.from_arrays(indices, dictionary, ordered=kind.ordered, safe=True)
    count, children = _layout(kind)
    length, places, parts = field(node, "n", int), field(node, "b", list), field(node, "parts", list)
    if not 0 <= length <= _LARGEST_LENGTH or len(places) != count or len(parts) != len(children):
        raise ValueDecodeError("arrow data has wrong parts")
    buffers: list[Any] = []
    for place in places:
        data = None if place is None else bytes(decoder.buffer({"b": place}))
        buffers.append(None if data is None else pa.py_buffer(data))
    decoded = [_decode_chunk(decoder, child, part) for child, part in zip(children, parts, strict=True)]
    return pa.Array.from_buffers(kind, length, buffers, children=decoded or None)
