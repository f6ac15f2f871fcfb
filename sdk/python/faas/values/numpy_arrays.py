"""numpy: arrays of every dtype without pickles, scalars, masked and record arrays, dtypes."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, integers, kind_of, tagged
from .packages import load

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = [
    "DECODERS",
    "decode_array",
    "encode_array",
    "encoder_for",
    "object_array",
    "pack_scalars",
    "unpack_scalars",
]

_SIMPLE = re.compile(
    r"[<>|](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SUV][0-9]{1,10}"
    r"|[mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
_LONG = re.compile(r".(?:f12|f16|c24|c32)")


def encoder_for(kind: type) -> Callable[[Encoder, Any], Node] | None:
    """The function that encodes values whose type is exactly `kind`."""
    return _encoders().get(kind)


@lru_cache(maxsize=1)
def _encoders() -> dict[type, Callable[[Encoder, Any], Node]]:
    np = load("numpy")
    encoders: dict[type, Callable[[Encoder, Any], Node]] = {
        np.ndarray: encode_array,
        np.recarray: encode_array,
        np.record: _encode_scalar,
        np.ma.MaskedArray: _encode_masked_array,
        type(np.ma.masked): _encode_masked_constant,
    }
    for code in np.typecodes["All"]:
        if code != "O":
            scalar = np.dtype(code).type
            encoders[scalar] = _encode_text_scalar if scalar in (np.str_, np.bytes_) else _encode_scalar
    for dtype_class in {kind_of(np.dtype(code)) for code in np.typecodes["All"]}:
        encoders[dtype_class] = _encode_dtype_value
    if _string_dtype() is not None:
        encoders[_string_dtype()] = _encode_dtype_value
    return encoders


def _string_dtype() -> Any:
    """The class StringDType of numpy 2, or None."""
    return getattr(getattr(load("numpy"), "dtypes", None), "StringDType", None)


def _is_string_dtype(dtype: Any) -> bool:
    string_dtype = _string_dtype()
    return string_dtype is not None and isinstance(dtype, string_dtype)


# dtypes


def _encode_dtype(encoder: Encoder, dtype: Any) -> Node:
    np = load("numpy")
    if dtype.metadata is not None:
        raise encoder.error("a dtype with metadata can't be sent: send .astype(...) of it without the metadata")
    if _is_string_dtype(dtype):
        node: dict[str, Node] = {"string": True, "coerce": bool(dtype.coerce)}
        return {**node, "na": encoder.child(".na_object", dtype.na_object)} if hasattr(dtype, "na_object") else node
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _encode_dtype(encoder, base), "shape": list(shape)}
    if dtype.names is not None:
        return _encode_struct(encoder, dtype)
    if dtype.kind == "O":
        return "O"
    if _LONG.fullmatch(dtype.str):
        return {"long": dtype.str, "bits": int(np.finfo(dtype).nmant)}
    if not _SIMPLE.fullmatch(dtype.str):
        raise encoder.error(f"an array of dtype {dtype} can't be sent: convert it with .astype(...)")
    return dtype.str


def _encode_struct(encoder: Encoder, dtype: Any) -> Node:
    if dtype.hasobject:
        raise encoder.error("a structured dtype with objects can't be sent: send its fields one by one")
    fields = [dtype.fields[name] for name in dtype.names]
    titles = [entry[2] if len(entry) > 2 else None for entry in fields]
    if not all(title is None or type(title) is str for title in titles):
        raise encoder.error("a dtype with titles that are no text can't be sent: rename its fields")
    return {
        "names": list(dtype.names),
        "formats": [_encode_dtype(encoder, entry[0]) for entry in fields],
        "offsets": [int(entry[1]) for entry in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
        "record": dtype.type is load("numpy").record,
    }


def _decode_dtype(decoder: Decoder, node: Any) -> Any:
    np = load("numpy")
    if type(node) is str:
        if node == "O":
            return np.dtype(object)
        if not _SIMPLE.fullmatch(node) or _LONG.fullmatch(node):
            raise ValueDecodeError(f"unknown dtype {node!r:.60}")
        return np.dtype(node)
    node = tagged(node, "a dtype")
    if "string" in node:
        if _string_dtype() is None:
            raise ValueDecodeError("the value needs numpy's StringDType: pip install 'numpy>=2'")
        na = {"na_object": decoder.decode(node["na"])} if "na" in node else {}
        return _string_dtype()(coerce=field(node, "coerce", bool), **na)
    if "long" in node:
        text = field(node, "long", str)
        if not _LONG.fullmatch(text) or np.finfo(np.dtype(text)).nmant != field(node, "bits", int):
            raise ValueDecodeError("this machine has another long double: send float64")
        return np.dtype(text)
    if "base" in node:
        return np.dtype((_decode_part(decoder, node["base"]), tuple(integers(node, "shape", minimum=0))))
    return _decode_struct(decoder, node)


def _decode_part(decoder: Decoder, node: Any) -> Any:
    dtype = _decode_dtype(decoder, node)
    if dtype.hasobject:
        raise ValueDecodeError("a structured dtype has objects")
    return dtype


def _decode_struct(decoder: Decoder, node: Tagged) -> Any:
    np = load("numpy")
    names, titles = field(node, "names", list), field(node, "titles", list)
    offsets = integers(node, "offsets", minimum=0)
    formats = [_decode_part(decoder, part) for part in field(node, "formats", list)]
    layout: dict[str, Any] = {"names": names, "formats": formats, "offsets": offsets}
    layout["itemsize"] = field(node, "itemsize", int)
    if len({*map(len, (names, titles, offsets, formats))}) != 1:
        raise ValueDecodeError("a structured dtype has fields without a part")
    if not all(title is None or type(title) is str for title in titles):
        raise ValueDecodeError("a structured dtype has wrong titles")
    if any(title is not None for title in titles):
        layout["titles"] = titles
    dtype = np.dtype(layout, align=field(node, "aligned", bool))
    return np.dtype((np.record, dtype)) if field(node, "record", bool) else dtype


def _encode_dtype_value(encoder: Encoder, value: Any) -> Node:
    return {TAG: "np.dtype", "v": _encode_dtype(encoder, value)}


def _decode_dtype_value(decoder: Decoder, node: Tagged) -> Any:
    return _decode_dtype(decoder, node.get("v"))


# Arrays


def encode_array(encoder: Encoder, value: Any) -> Node:
    """The node of an ndarray or a recarray."""
    np = load("numpy")
    if type(value) is np.recarray and value.dtype.names is None:
        raise encoder.error("a recarray without fields can't be sent: send numpy.asarray(...) of it")
    flags = value.flags
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    node: dict[str, Node] = {TAG: "np.recarray" if type(value) is np.recarray else "np.array"}
    node |= {"d": _encode_dtype(encoder, value.dtype), "s": list(value.shape), "o": order}
    plain = value.view(np.ndarray)
    if value.dtype.kind == "O":
        return {**node, "v": encoder.items(plain.ravel(order).tolist())}
    if _is_string_dtype(value.dtype):
        na = getattr(value.dtype, "na_object", None)
        texts = [None if text is na else text for text in plain.ravel(order).tolist()]
        return {**node, "v": encoder.items(texts)}
    if value.dtype.itemsize == 0 and value.size:
        raise encoder.error("an array whose items have no bytes can't be sent: send its shape")
    flat = np.ascontiguousarray(plain.T if order == "F" else plain).reshape(-1)
    data = _without_padding(flat).view(np.uint8) if flat.size else b""
    return {**node, "b": encoder.buffer(memoryview(data))}


def _without_padding(flat: Any) -> Any:
    """The same items with zeros between their parts: what memory held there before is not for the other side."""
    np = load("numpy")
    dtype = flat.dtype
    if dtype.names is not None:
        clean = np.zeros(flat.shape, dtype)
        for name in dtype.names:
            _copy_field(clean[name], flat[name])
        return clean
    if _LONG.fullmatch(dtype.str) and np.finfo(dtype).nmant == 63:
        part = np.dtype(np.longdouble).itemsize
        clean = flat.copy()
        clean.view(np.uint8).reshape(-1, part)[:, slice(10, None) if dtype.str[0] != ">" else slice(part - 10)] = 0
        return clean
    return flat


def _copy_field(target: Any, source: Any) -> None:
    if target.dtype.names is None:
        target[...] = source
        return
    for name in target.dtype.names:
        _copy_field(target[name], source[name])


def decode_array(decoder: Decoder, node: Any) -> Any:
    """A plain ndarray; anything else is refused."""
    node = tagged(node, "an array")
    if node.get(TAG) != "np.array":
        raise ValueDecodeError("an array is missing")
    return _decode_array(decoder, node)


def _decode_array(decoder: Decoder, node: Tagged) -> Any:
    np = load("numpy")
    dtype = _decode_dtype(decoder, node.get("d"))
    shape = tuple(integers(node, "s", minimum=0))
    order = field(node, "o", str)
    if order not in ("C", "F") or len(shape) > 64 or dtype.subdtype is not None:
        raise ValueDecodeError("an array has a wrong layout")
    make = np.recarray if node[TAG] == "np.recarray" else np.ndarray
    if make is np.recarray and dtype.names is None:
        raise ValueDecodeError("a recarray has no fields")
    if dtype.kind == "O" or _is_string_dtype(dtype):
        items = decoder.items(node.get("v"))
        if math.prod(shape) != len(items):
            raise ValueDecodeError(f"an array of shape {shape} has {len(items)} items")
        if _is_string_dtype(dtype):
            na = getattr(dtype, "na_object", None)
            if not all(item is None or type(item) is str for item in items):
                raise ValueDecodeError("an array of text has other items")
            items = [na if item is None else item for item in items]
        array = make(shape, dtype, order=order)
        _flat(array, order)[...] = object_array(items)
        return array
    data = decoder.buffer(node)
    if math.prod(shape) * dtype.itemsize != len(data) or (dtype.itemsize == 0 and math.prod(shape)):
        raise ValueDecodeError(f"an array of shape {shape} and dtype {dtype} has {len(data)} bytes")
    array = make(shape, dtype, order=order)
    flat = _flat(array, order)
    if len(data):
        flat.view(np.uint8)[...] = np.frombuffer(data, np.uint8)
        _check_items(flat)
    return array


def object_array(items: list[Any]) -> Any:
    """A one-dimensional array of objects; numpy would look into items that are sequences."""
    np = load("numpy")
    return np.fromiter(items, dtype=object, count=len(items))


def _flat(array: Any, order: str) -> Any:
    plain = array.view(load("numpy").ndarray)
    return (plain.T if order == "F" else plain).reshape(-1)


def _check_items(array: Any) -> None:
    """Refuse bit patterns that no array has: truth values beyond 1, text beyond Unicode."""
    np = load("numpy")
    dtype = array.dtype
    if dtype.names is not None:
        for name in dtype.names:
            _check_items(array[name])
    elif array.size and dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise ValueDecodeError("an array of booleans has other values")
    elif array.size and dtype.kind == "U" and dtype.itemsize:
        letters = np.ascontiguousarray(array).reshape(-1).view(f"{dtype.str[0]}u4")
        if letters.max() > 0x10FFFF:
            raise ValueDecodeError("an array of text has letters beyond Unicode")


# Masked arrays


def _encode_masked_array(encoder: Encoder, value: Any) -> Node:
    np = load("numpy")
    mask = None if value.mask is np.ma.nomask else encoder.child(".mask", np.asarray(value.mask))
    fill = value._fill_value
    return {
        TAG: "np.ma",
        "data": encoder.child(".data", value.data.view(np.ndarray)),
        "mask": mask,
        "fill": None if fill is None else encoder.child(".fill_value", np.asarray(fill)),
        "hard": bool(value.hardmask),
    }


def _decode_masked_array(decoder: Decoder, node: Tagged) -> Any:
    np = load("numpy")
    data = decode_array(decoder, node.get("data"))
    mask = np.ma.nomask if node.get("mask") is None else decode_array(decoder, node["mask"])
    if mask is not np.ma.nomask and (mask.shape != data.shape or mask.dtype != np.ma.make_mask_descr(data.dtype)):
        raise ValueDecodeError("the mask of an array doesn't fit")
    array = np.ma.MaskedArray(data, mask=mask, hard_mask=field(node, "hard", bool))
    if node.get("fill") is not None:
        fill = decode_array(decoder, node["fill"])
        if fill.ndim:
            raise ValueDecodeError("the fill value of an array is no single value")
        array.set_fill_value(fill[()])
    return array


def _encode_masked_constant(encoder: Encoder, value: Any) -> Node:
    return {TAG: "np.masked"}


def _decode_masked_constant(decoder: Decoder, node: Tagged) -> Any:
    return load("numpy").ma.masked


# Scalars


def _encode_scalar(encoder: Encoder, value: Any) -> Node:
    return {TAG: "np.scalar", "v": encode_array(encoder, load("numpy").asarray(value))}


def _decode_scalar(decoder: Decoder, node: Tagged) -> Any:
    array = decode_array(decoder, node.get("v"))
    if array.ndim or array.dtype.kind == "O":
        raise ValueDecodeError("a scalar has a shape")
    return array[()]


def _encode_text_scalar(encoder: Encoder, value: Any) -> Node:
    # An array of text would drop the zeros at its end, and so does str() of such a scalar.
    plain = value[:]
    return {TAG: f"np.{type(plain).__name__}", "v": encoder.encode(plain)}


def _decode_text_scalar(kind: type) -> Callable[[Decoder, Tagged], Any]:
    def decode(decoder: Decoder, node: Tagged) -> Any:
        plain = decoder.decode(node.get("v"))
        if type(plain) is not kind:
            raise ValueDecodeError("a scalar has a wrong type")
        return getattr(load("numpy"), f"{kind.__name__}_")(plain)

    return decode


def pack_scalars(encoder: Encoder, kind: type, values: Sequence[Any]) -> Node:
    """The node of many numpy scalars of one type, or None where they are something else."""
    if kind.__module__ != "numpy" or "numpy" not in sys.modules or encoder_for(kind) is not _encode_scalar:
        return None
    dtypes = {value.dtype for value in values}
    if len(dtypes) > 1 or values[0].dtype.kind == "V":
        return None
    return {TAG: "np", "v": encode_array(encoder, load("numpy").array(values, dtypes.pop()))}


def unpack_scalars(decoder: Decoder, node: Tagged) -> list[Any]:
    """The scalars of a node that `pack_scalars` made."""
    array = decoder.decode(node.get("v"))
    if type(array) is not load("numpy").ndarray or array.ndim != 1 or array.dtype.kind not in "biufcmM":
        raise ValueDecodeError("packed scalars are no plain array")
    return list(array)


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    "np.array": _decode_array,
    "np.recarray": _decode_array,
    "np.dtype": _decode_dtype_value,
    "np.ma": _decode_masked_array,
    "np.masked": _decode_masked_constant,
    "np.scalar": _decode_scalar,
    "np.str": _decode_text_scalar(str),
    "np.bytes": _decode_text_scalar(bytes),
}
