"""pandas: Timestamp, Timedelta, Period, Interval, NaT, NA, offsets (also as the freq of an index), time zones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, kind_of, tagged
from .packages import load
from .python_types import zone

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "decode_offset", "decode_zone", "encode_offset", "encode_zone", "encoders"]

_UNITS = ("s", "ms", "us", "ns")
# An offset that isn't a fixed span is applied step by step.
_MOST_STEPS = 1_000_000
_FIXED_SPANS = ("Day", "Hour", "Minute", "Second", "Milli", "Micro", "Nano")
# By name and parameters: the letters of frequency strings differ between versions of pandas.
_OFFSETS = (
    *_FIXED_SPANS,
    *(
        "BDay",
        "BusinessDay",
        "BusinessHour",
        "BMonthBegin",
        "BMonthEnd",
        "BusinessMonthBegin",
        "BusinessMonthEnd",
    ),
    *("BHalfYearBegin", "BHalfYearEnd", "BQuarterBegin", "BQuarterEnd", "BYearBegin", "BYearEnd"),
    *("DateOffset", "Easter", "FY5253", "FY5253Quarter", "HalfYearBegin", "HalfYearEnd", "LastWeekOfMonth"),
    *("MonthBegin", "MonthEnd", "QuarterBegin", "QuarterEnd", "SemiMonthBegin", "SemiMonthEnd", "Week"),
    *("WeekOfMonth", "YearBegin", "YearEnd"),
)


@lru_cache(maxsize=1)
def encoders() -> dict[type, Callable[[Encoder, Any], Node]]:
    """The functions that encode, by exact type."""
    pd = load("pandas")
    return {
        pd.Timestamp: _encode_timestamp,
        pd.Timedelta: _encode_timedelta,
        pd.Period: _encode_period,
        pd.Interval: _encode_interval,
        type(pd.NaT): lambda encoder, value: {TAG: "pd.NaT"},
        type(pd.NA): lambda encoder, value: {TAG: "pd.NA"},
        **dict.fromkeys(_offset_classes().values(), encode_offset),
    }


# Offsets and time zones


@lru_cache(maxsize=1)
def _offset_classes() -> dict[str, Any]:
    offsets = load("pandas").offsets
    return {name: getattr(offsets, name) for name in _OFFSETS if hasattr(offsets, name)}


def encode_offset(encoder: Encoder, value: Any) -> Node:
    """The node of an offset: its class, its count, its parameters."""
    name = type(value).__name__
    kwds = dict(value.kwds)
    if _offset_classes().get(name) is not type(value) or type(value)(value.n, value.normalize, **kwds) != value:
        raise encoder.error(f"the frequency {value!r:.80} can't be sent: set freq to None")
    node: dict[str, Node] = {
        TAG: "pd.offset",
        "name": name,
        "n": int(value.n),
        "normalize": bool(value.normalize),
    }
    return {**node, "kwds": encoder.child(".kwds", kwds)}


def decode_offset(decoder: Decoder, node: Any) -> Any:
    """An offset; anything else is refused."""
    node = tagged(node, "a frequency")
    if node.get(TAG) != "pd.offset":
        raise ValueDecodeError("a frequency is missing")
    name, n = field(node, "name", str), field(node, "n", int)
    kwds = decoder.decode(field(node, "kwds", dict))
    if name not in _OFFSETS or kind_of(kwds) is not dict:
        raise ValueDecodeError(f"unknown frequency {name!r:.60}")
    if name not in _offset_classes():
        raise ValueDecodeError(f"the frequency {name} needs a newer pandas: pip install -U pandas")
    if abs(n) > _MOST_STEPS and name not in _FIXED_SPANS:
        raise ValueDecodeError("a frequency has too many steps")
    return _offset_classes()[name](n, field(node, "normalize", bool), **kwds)


def encode_zone(encoder: Encoder, tz: dt.tzinfo | None) -> Node:
    """The node of the time zone of a pandas type, which may be one of pytz."""
    key: Any = getattr(tz, "zone", None)
    if type(tz).__module__.partition(".")[0] == "pytz" and type(key) is str:
        return {TAG: "pd.pytz", "v": key}
    return encoder.child(".tz", tz)


def decode_zone(decoder: Decoder, node: Any) -> dt.tzinfo | None:
    """A time zone or None; anything else is refused."""
    tz = decoder.decode(node)
    if tz is not None and not isinstance(tz, dt.tzinfo):
        raise ValueDecodeError("a time zone is missing")
    return tz


def _decode_pytz(decoder: Decoder, node: Tagged) -> dt.tzinfo:
    known = zone(field(node, "v", str))
    try:
        return load("pytz").timezone(known.key)
    except ValueDecodeError:
        # pandas 2 makes these zones, pandas 3 doesn't bring pytz along: the standard library has the same ones.
        return known


# Scalars


def _encode_timestamp(encoder: Encoder, value: Any) -> Node:
    moment = int(value.asm8.view("i8"))
    return {TAG: "pd.Timestamp", "v": moment, "unit": value.unit, "tz": encode_zone(encoder, value.tz)}


def _decode_timestamp(decoder: Decoder, node: Tagged) -> Any:
    moment = load("pandas").Timestamp(load("numpy").datetime64(field(node, "v", int), _unit(node)))
    tz = decode_zone(decoder, node.get("tz"))
    return moment if tz is None else moment.tz_localize("UTC").tz_convert(tz)


def _encode_timedelta(encoder: Encoder, value: Any) -> Node:
    return {TAG: "pd.Timedelta", "v": int(value.asm8.view("i8")), "unit": value.unit}


def _decode_timedelta(decoder: Decoder, node: Tagged) -> Any:
    return load("pandas").Timedelta(load("numpy").timedelta64(field(node, "v", int), _unit(node)))


def _unit(node: Tagged) -> str:
    unit = field(node, "unit", str)
    if unit not in _UNITS:
        raise ValueDecodeError(f"unknown unit {unit!r:.20}")
    return unit


def _encode_period(encoder: Encoder, value: Any) -> Node:
    return {TAG: "pd.Period", "v": int(value.ordinal), "freq": encoder.child(".freq", value.freq)}


def _decode_period(decoder: Decoder, node: Tagged) -> Any:
    freq = decode_offset(decoder, node.get("freq"))
    return load("pandas").Period(ordinal=field(node, "v", int), freq=freq)


def _encode_interval(encoder: Encoder, value: Any) -> Node:
    ends = {"left": encoder.child(".left", value.left), "right": encoder.child(".right", value.right)}
    return {TAG: "pd.Interval", **ends, "closed": value.closed}


def _decode_interval(decoder: Decoder, node: Tagged) -> Any:
    left, right = decoder.decode(node.get("left")), decoder.decode(node.get("right"))
    return load("pandas").Interval(left, right, closed=field(node, "closed", str))


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {
    "pd.Timestamp": _decode_timestamp,
    "pd.Timedelta": _decode_timedelta,
    "pd.Period": _decode_period,
    "pd.Interval": _decode_interval,
    "pd.NaT": lambda decoder, node: load("pandas").NaT,
    "pd.NA": lambda decoder, node: load("pandas").NA,
    "pd.offset": decode_offset,
    "pd.pytz": _decode_pytz,
}
