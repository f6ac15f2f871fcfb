"""pandas: DataFrame, Series, every Index, and extension arrays on their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import pandas_arrays, pandas_scalars
from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, integers, optional
from .numpy_arrays import decode_array, encode_array
from .packages import load
from .pandas_arrays import decode_column, encode_column, moments
from .pandas_scalars import decode_offset, decode_zone, encode_offset, encode_zone

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "encoder_for"]


def encoder_for(kind: type) -> Callable[[Encoder, Any], Node] | None:
    """The function that encodes values whose type is exactly `kind`."""
    return _encoders().get(kind)


@lru_cache(maxsize=1)
def _encoders() -> dict[type, Callable[[Encoder, Any], Node]]:
    pd = load("pandas")
    arrays: list[Any] = [vars(pd.arrays)[name] for name in pd.arrays.__all__]
    # The variants of text arrays have no public names.
    arrays += [type(pd.array([], dtype=dtype)) for dtype in pandas_arrays.string_dtypes()]
    return {
        **pandas_scalars.encoders(),
        pd.DataFrame: _encode_frame,
        pd.Series: _encode_series,
        pd.Index: _encode_index,
        pd.CategoricalIndex: _encode_index,
        pd.PeriodIndex: _encode_index,
        pd.IntervalIndex: _encode_index,
        pd.DatetimeIndex: _encode_times_index,
        pd.TimedeltaIndex: _encode_times_index,
        pd.RangeIndex: _encode_range_index,
        pd.MultiIndex: _encode_multi_index,
        **dict.fromkeys([*arrays, pd.Categorical], _encode_array),
    }


# Indexes


def _encode_index(encoder: Encoder, value: Any) -> Node:
    return {TAG: "pd.Index", "v": encode_column(encoder, value), "name": encoder.child(".name", value.name)}


def _decode_index(decoder: Decoder, node: Tagged) -> Any:
    data, name = decode_column(decoder, node.get("v")), decoder.decode(node.get("name"))
    return load("pandas").Index(data, dtype=data.dtype, name=name, copy=False, tupleize_cols=False)


def _encode_times_index(encoder: Encoder, value: Any) -> Node:
    return {
        TAG: "pd.times",
        "v": encode_array(encoder, moments(value)),
        "tz": encode_zone(encoder, getattr(value, "tz", None)),
        "freq": None if value.freq is None else encoder.within(".freq", encode_offset, value.freq),
        "name": encoder.child(".name", value.name),
    }


def _decode_times_index(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    data, tz = decode_array(decoder, node.get("v")), decode_zone(decoder, node.get("tz"))
    if data.dtype.kind not in "mM" or (tz is not None and data.dtype.kind == "m"):
        raise ValueDecodeError("an index of times has other values")
    name = decoder.decode(node.get("name"))
    index = (pd.DatetimeIndex if data.dtype.kind == "M" else pd.TimedeltaIndex)(data, name=name)
    if tz is not None:
        index = index.tz_localize("UTC").tz_convert(tz)
    if node.get("freq") is not None:
        index.freq = decode_offset(decoder, node["freq"])
    return index


def _encode_range_index(encoder: Encoder, value: Any) -> Node:
    parts: list[Node] = [value.start, value.stop, value.step]
    return {TAG: "pd.RangeIndex", "v": parts, "name": encoder.child(".name", value.name)}


def _decode_range_index(decoder: Decoder, node: Tagged) -> Any:
    return load("pandas").RangeIndex(*integers(node, "v"), name=decoder.decode(node.get("name")))


def _encode_multi_index(encoder: Encoder, value: Any) -> Node:
    return {
        TAG: "pd.MultiIndex",
        "levels": [encoder.child(f".levels[{place}]", level) for place, level in enumerate(value.levels)],
        "codes": [encode_array(encoder, codes) for codes in value.codes],
        "names": [encoder.child(f".names[{place}]", name) for place, name in enumerate(value.names)],
    }


def _decode_multi_index(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    levels = [_expect_index(decoder, level) for level in field(node, "levels", list)]
    codes = [decode_array(decoder, part) for part in field(node, "codes", list)]
    if any(part.ndim != 1 or part.dtype.kind not in "iu" for part in codes):
        raise ValueDecodeError("the codes of an index are no whole numbers")
    names = [decoder.decode(name) for name in field(node, "names", list)]
    return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=True)


def _expect_index(decoder: Decoder, node: Any) -> Any:
    index = decoder.decode(node)
    if not isinstance(index, load("pandas").Index):
        raise ValueDecodeError("an index is missing")
    return index


# Arrays, Series, DataFrame


def _plain_array() -> Any:
    """The extension array around a numpy array, under its present name or that of pandas 2.0."""
    arrays = load("pandas").arrays
    return arrays.NumpyExtensionArray if "NumpyExtensionArray" in arrays.__all__ else arrays.PandasArray


def _encode_array(encoder: Encoder, value: Any) -> Node:
    pd = load("pandas")
    if value.dtype.kind in "mM" and hasattr(value, "asi8"):
        index = (pd.DatetimeIndex if value.dtype.kind == "M" else pd.TimedeltaIndex)(value)
        return {TAG: "pd.array", "times": _encode_times_index(encoder, index)}
    plain = type(value) is _plain_array()
    return {TAG: "pd.array", "v": encode_array(encoder, value.to_numpy()) if plain else encode_column(encoder, value)}


def _decode_array(decoder: Decoder, node: Tagged) -> Any:
    if "times" in node:
        return _decode_times_index(decoder, field(node, "times", dict)).array
    data = decode_column(decoder, node.get("v"))
    return _plain_array()(data) if isinstance(data, load("numpy").ndarray) else data


def _encode_labels(encoder: Encoder, value: Any) -> dict[str, Node]:
    node: dict[str, Node] = {"index": encoder.child(".index", value.index)}
    if value.attrs:
        node["attrs"] = encoder.child(".attrs", value.attrs)
    if not value.flags.allows_duplicate_labels:
        node["unique"] = True
    return node


def _decode_labels(decoder: Decoder, node: Tagged, value: Any) -> Any:
    attrs = decoder.decode(node.get("attrs"))
    if type(attrs) is dict:
        value.attrs = attrs
    if optional(node, "unique", bool):
        value.flags.allows_duplicate_labels = False
    return value


def _encode_series(encoder: Encoder, value: Any) -> Node:
    node: dict[str, Node] = {TAG: "pd.Series", "v": encode_column(encoder, value)}
    return {**node, "name": encoder.child(".name", value.name), **_encode_labels(encoder, value)}


def _decode_series(decoder: Decoder, node: Tagged) -> Any:
    data = decode_column(decoder, node.get("v"))
    index, name = _expect_index(decoder, node.get("index")), decoder.decode(node.get("name"))
    # One value would be spread over an index of any length.
    if len(data) != len(index):
        raise ValueDecodeError("a Series and its index differ in length")
    series = load("pandas").Series(data, index=index, dtype=data.dtype, name=name, copy=False)
    return _decode_labels(decoder, node, series)


def _encode_frame(encoder: Encoder, value: Any) -> Node:
    np = load("numpy")
    node: dict[str, Node] = {TAG: "pd.DataFrame", "columns": encoder.child(".columns", value.columns)}
    dtypes = list(value.dtypes)
    if dtypes and isinstance(dtypes[0], np.dtype) and dtypes[0].kind != "O" and len(set(dtypes)) == 1:
        node["table"] = encode_array(encoder, value.to_numpy())
    else:
        data: list[Node] = []
        for place, name in enumerate(value.columns):
            data.append(encoder.within((name,), encode_column, value.iloc[:, place]))
        node["data"] = data
    return {**node, **_encode_labels(encoder, value)}


def _decode_frame(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    columns, index = _expect_index(decoder, node.get("columns")), _expect_index(decoder, node.get("index"))
    if "table" in node:
        table = decode_array(decoder, node["table"])
        if table.shape != (len(index), len(columns)) or table.dtype.kind == "O":
            raise ValueDecodeError("a DataFrame and its labels differ in size")
        return _decode_labels(decoder, node, pd.DataFrame(table, index=index, columns=columns, copy=False))
    data = [decode_column(decoder, part) for part in field(node, "data", list)]
    if len(data) != len(columns) or any(len(column) != len(index) for column in data):
        raise ValueDecodeError("a DataFrame and its labels differ in size")
    series = [pd.Series(column, index=index, dtype=column.dtype, copy=False) for column in data]
    frame = pd.DataFrame(dict(enumerate(series)), index=index)
    frame.columns = columns
    return _decode_labels(decoder, node, frame)


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    **pandas_scalars.DECODERS,
    **pandas_arrays.DECODERS,
    "pd.Index": _decode_index,
    "pd.times": _decode_times_index,
    "pd.RangeIndex": _decode_range_index,
    "pd.MultiIndex": _decode_multi_index,
    "pd.array": _decode_array,
    "pd.Series": _decode_series,
    "pd.DataFrame": _decode_frame,
}
