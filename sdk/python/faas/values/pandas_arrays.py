"""pandas: the data of a column or an index, by the meaning of its dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import arrow
from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, kind_of, tagged
from .numpy_arrays import decode_array, encode_array, object_array
from .packages import load
from .pandas_scalars import decode_offset, decode_zone, encode_zone

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "decode_column", "encode_column", "moments", "string_dtypes"]


def encode_column(encoder: Encoder, column: Any) -> Node:
    """The node of the data of a Series, an Index or an extension array."""
    np, pd = load("numpy"), load("pandas")
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return encode_array(encoder, column.to_numpy())
    encode = _encoders().get(kind_of(dtype))
    if encode is None:
        raise encoder.error(f"data of dtype {dtype!s:.80} can't be sent: convert it with .astype(...)")
    data = column.array if isinstance(column, pd.Series | pd.Index) else column
    return encode(encoder, data)


def decode_column(decoder: Decoder, node: Any) -> Any:
    """A one-dimensional ndarray or extension array; anything else is refused."""
    node = tagged(node, "the data of a column")
    tag = node.get(TAG)
    if tag == "np.array":
        data = decode_array(decoder, node)
    elif type(tag) is str and tag in DECODERS:
        data = decoder.decode(node)
    else:
        raise ValueDecodeError("the data of a column is missing")
    if data.ndim != 1:
        raise ValueDecodeError("the data of a column is not one-dimensional")
    return data


@lru_cache(maxsize=1)
def _encoders() -> dict[type, Callable[[Encoder, Any], Node]]:
    pd = load("pandas")
    return {
        pd.CategoricalDtype: _encode_categorical,
        pd.DatetimeTZDtype: _encode_zoned,
        pd.PeriodDtype: _encode_period,
        pd.IntervalDtype: _encode_interval,
        pd.StringDtype: _encode_string,
        pd.SparseDtype: _encode_sparse,
        pd.ArrowDtype: _encode_arrow,
        **dict.fromkeys(map(type, _masked_dtypes()), _encode_masked),
    }


def _masked_dtypes() -> list[Any]:
    pd = load("pandas")
    numbers = [kind() for kind in (pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype, pd.Int64Dtype)]
    numbers += [kind() for kind in (pd.UInt8Dtype, pd.UInt16Dtype, pd.UInt32Dtype, pd.UInt64Dtype)]
    return [*numbers, pd.Float32Dtype(), pd.Float64Dtype(), pd.BooleanDtype()]


def moments(data: Any) -> Any:
    """The numbers behind dates or spans of time as a numpy array of the same unit."""
    return data.asi8.view(f"{'m' if data.dtype.kind == 'm' else 'M'}8[{data.unit}]")


def _encode_categorical(encoder: Encoder, data: Any) -> Node:
    codes, categories = encode_array(encoder, data.codes), encoder.child(".categories", data.categories)
    return {TAG: "pd.categorical", "codes": codes, "categories": categories, "ordered": bool(data.ordered)}


def _decode_categorical(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    categories = decoder.decode(node.get("categories"))
    if not isinstance(categories, pd.Index):
        raise ValueDecodeError("the categories are no index")
    codes = decode_array(decoder, node.get("codes"))
    if codes.dtype.kind not in "iu":
        raise ValueDecodeError("the codes of categories are no whole numbers")
    return pd.Categorical.from_codes(codes, categories, ordered=field(node, "ordered", bool))


def _encode_zoned(encoder: Encoder, data: Any) -> Node:
    return {
        TAG: "pd.zoned",
        "v": encode_array(encoder, moments(data)),
        "tz": encode_zone(encoder, data.dtype.tz),
    }


def _decode_zoned(decoder: Decoder, node: Tagged) -> Any:
    values = decode_array(decoder, node.get("v"))
    tz = decode_zone(decoder, node.get("tz"))
    if values.dtype.kind != "M" or tz is None:
        raise ValueDecodeError("dates with a time zone have no dates or no time zone")
    return load("pandas").DatetimeIndex(values).tz_localize("UTC").tz_convert(tz).array


def _encode_period(encoder: Encoder, data: Any) -> Node:
    freq = encoder.child(".freq", data.dtype.freq)
    return {TAG: "pd.period", "v": encode_array(encoder, data.asi8), "freq": freq}


def _decode_period(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    ordinals = decode_array(decoder, node.get("v"))
    if ordinals.dtype != "i8":
        raise ValueDecodeError("the ordinals of periods are no whole numbers")
    return pd.arrays.PeriodArray(ordinals, dtype=pd.PeriodDtype(decode_offset(decoder, node.get("freq"))))


def _encode_interval(encoder: Encoder, data: Any) -> Node:
    ends = {"left": encoder.child(".left", data.left), "right": encoder.child(".right", data.right)}
    return {TAG: "pd.interval", **ends, "closed": data.closed}


def _decode_interval(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    left, right = decoder.decode(node.get("left")), decoder.decode(node.get("right"))
    if not isinstance(left, pd.Index) or not isinstance(right, pd.Index):
        raise ValueDecodeError("the ends of intervals are no index")
    return pd.arrays.IntervalArray.from_arrays(left, right, closed=field(node, "closed", str))


def _encode_masked(encoder: Encoder, data: Any) -> Node:
    # The parts and not to_numpy(): a NaN and a missing value are two things in Float64.
    return {
        TAG: "pd.masked",
        "v": encode_array(encoder, data._data),
        "mask": encode_array(encoder, data._mask),
    }


def _decode_masked(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    values, mask = decode_array(decoder, node.get("v")), decode_array(decoder, node.get("mask"))
    classes = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
    return classes.get(values.dtype.kind, pd.arrays.IntegerArray)(values, mask)


def _encode_string(encoder: Encoder, data: Any) -> Node:
    dtype = data.dtype
    missing = "NA" if dtype.na_value is load("pandas").NA else "nan"
    storage = "python" if dtype.storage == "python" else "pyarrow"
    items = encoder.items(data.to_numpy(dtype=object, na_value=None).tolist())
    return {TAG: "pd.string", "storage": storage, "missing": missing, "v": items}


def _decode_string(decoder: Decoder, node: Tagged) -> Any:
    pd = load("pandas")
    items = decoder.items(node.get("v"))
    if not all(item is None or type(item) is str for item in items):
        raise ValueDecodeError("a column of text has other items")
    dtype = _string_dtype(field(node, "storage", str), field(node, "missing", str))
    if dtype is None:
        nan = float("nan")
        return object_array([nan if item is None else item for item in items])
    return pd.array(object_array(items), dtype=dtype)


def _string_dtype(storage: str, missing: str) -> Any:
    """The dtype, or None where this pandas is older than `str`, whose ancestor is object."""
    pd = load("pandas")
    if storage not in ("python", "pyarrow") or missing not in ("NA", "nan"):
        raise ValueDecodeError("unknown kind of text column")
    if storage == "pyarrow":
        try:
            load("pyarrow")
        except ValueDecodeError:
            # A text column is one dtype to its users: pandas itself stores it in whatever is there.
            storage = "python"
    if missing == "NA":
        return pd.StringDtype(storage)
    try:
        return pd.StringDtype(storage, na_value=float("nan"))
    except TypeError:
        # pandas 2.1 and 2.2 have it under this name, in arrow's storage only.
        return _ancestor_of_str() if storage == "pyarrow" else None


def _ancestor_of_str() -> Any:
    try:
        return load("pandas").StringDtype("pyarrow_numpy")
    except ValueError:
        return None


def string_dtypes() -> list[Any]:
    """The text dtypes that can be made here."""
    dtypes = [_string_dtype(storage, missing) for storage in ("python", "pyarrow") for missing in ("NA", "nan")]
    return [dtype for dtype in dtypes if dtype is not None]


def _encode_sparse(encoder: Encoder, data: Any) -> Node:
    return {
        TAG: "pd.sparse",
        "v": encode_array(encoder, data.sp_values),
        "at": encode_array(encoder, data.sp_index.to_int_index().indices),
        "n": len(data),
        "kind": data.kind,
        "fill": encoder.child(".fill_value", data.fill_value),
    }


def _decode_sparse(decoder: Decoder, node: Tagged) -> Any:
    sparse_array = load("pandas").arrays.SparseArray
    values, places = decode_array(decoder, node.get("v")), decode_array(decoder, node.get("at"))
    length, kind = field(node, "n", int), field(node, "kind", str)
    if values.ndim != 1 or places.shape != values.shape or places.dtype != "i4" or kind not in ("integer", "block"):
        raise ValueDecodeError("a sparse column has wrong parts")
    # pandas doesn't look closely at places that it puts into blocks, and writes where they point.
    if len(places) and (places[0] < 0 or places[-1] >= length or (places[1:] <= places[:-1]).any()):
        raise ValueDecodeError("the entries of a sparse column lie outside of it")
    parts = {"fill_value": decoder.decode(node.get("fill")), "kind": kind, "dtype": values.dtype}
    if hasattr(sparse_array, "from_indices"):
        return sparse_array.from_indices(values, places, length, **parts)
    # The class of the index is private to older versions, so it is taken from an array.
    index = type(sparse_array([0]).sp_index)(length, places)
    return sparse_array(values, sparse_index=index.to_block_index() if kind == "block" else index, **parts)


def _encode_arrow(encoder: Encoder, data: Any) -> Node:
    return {TAG: "pd.arrow", "v": arrow.encode(encoder, data.__arrow_array__())}


def _decode_arrow(decoder: Decoder, node: Tagged) -> Any:
    return load("pandas").arrays.ArrowExtensionArray(arrow.decode(decoder, node.get("v")))


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    "pd.categorical": _decode_categorical,
    "pd.zoned": _decode_zoned,
    "pd.period": _decode_period,
    "pd.interval": _decode_interval,
    "pd.masked": _decode_masked,
    "pd.string": _decode_string,
    "pd.sparse": _decode_sparse,
    "pd.arrow": _decode_arrow,
}
