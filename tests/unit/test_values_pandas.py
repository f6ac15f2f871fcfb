"""The value codec: pandas."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faas.values import ValueEncodeError, encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.extra import pandas as pdst
from values_checks import assert_same, round_trip

PANDAS = tuple(map(int, pd.__version__.split(".")[:2]))
PARIS = zoneinfo.ZoneInfo("Europe/Paris")
DAYS = pd.date_range("2024-03-29", periods=4, freq="D", tz=PARIS)
NAN = float("nan")

INDEXES: dict[str, pd.Index[Any]] = {
    "default": pd.RangeIndex(4),
    "range": pd.RangeIndex(10, -2, -3, name="r"),
    "ints": pd.Index([3, 1, 1], name=("a", 1)),
    "small ints": pd.Index(np.array([1, 2], "u1")),
    "floats": pd.Index([1.5, NAN, -0.0]),
    "bools": pd.Index([True, False]),
    "complex": pd.Index([1j, 2]),
    "text": pd.Index(["a", "b", None]),
    "objects": pd.Index(["a", 1, None, NAN, pd.NA, pd.NaT, (1, 2)], dtype=object),
    "tuples": pd.Index([(1, "a"), (2, "b")], tupleize_cols=False),
    "dates as objects": pd.Index([dt.date(2024, 1, 1), pd.Timestamp(0)], dtype=object),
    "days": DAYS,
    "days without freq": pd.DatetimeIndex(DAYS, freq=None, name="when"),
    "naive": pd.DatetimeIndex(["2024-01-01", None]),
    "seconds": pd.DatetimeIndex(np.array(["0001-01-01", "9999-12-31"], "M8[s]")),
    "utc": pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC", unit="ms"),
    "by name of the zone": pd.date_range("2024-01-01", periods=3, tz="America/New_York"),
    "fixed offset": pd.date_range("2024-01-01", periods=3, tz=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    "empty with freq": pd.date_range("2024-01-01", periods=0, freq="W-TUE"),
    "spans": pd.timedelta_range(0, periods=4, freq="90min", name="Δ"),
    "spans of seconds": pd.TimedeltaIndex(np.array([1, 2, "NaT"], "m8[s]")),
    "periods": pd.period_range("2024-01", periods=3, freq="Q-NOV"),
    "periods of days": pd.PeriodIndex(["2024-01-01", None], freq="D"),
    "intervals": pd.interval_range(0, 3, closed="both"),
    "intervals of days": pd.interval_range(DAYS[0], periods=3, freq="D", closed="left"),
    "intervals with gaps": pd.IntervalIndex.from_tuples([(0.5, 1), None]),
    "categories": pd.CategoricalIndex(["b", "a", None], categories=["b", "a", "c"], ordered=True, name="k"),
    "Int64": pd.Index([1, None], dtype="Int64"),
    "string": pd.Index(["a", None], dtype="string"),
    "multi": pd.MultiIndex.from_product([["x", "y"], DAYS, [1.5]], names=["a", None, ("t", 2)]),
    "multi with gaps": pd.MultiIndex.from_arrays([["a", None], [1, NAN], [pd.NaT, DAYS[0]]]),
    "multi with unused levels": pd.MultiIndex.from_product([["a", "b"], [1, 2]])[:1],
    "multi of categories": pd.MultiIndex.from_arrays([pd.Categorical(["a", "b"]), pd.interval_range(0, 2)]),
    "empty": pd.Index([]),
    "empty multi": pd.MultiIndex.from_arrays([[], []], names=["a", "b"]),
    **{
        f"freq {freq}": pd.date_range("2024-01-01", periods=5, freq=freq)
        for freq in (
            *("B", "W-WED", "MS", "QS-FEB", "YS-MAR", "SMS-10", "h", "7min", "3s", "5ms", "us", "10ns", "-2D", "bh"),
            *(pd.offsets.MonthEnd(2), pd.offsets.QuarterEnd(startingMonth=2), pd.offsets.DateOffset(months=1, days=2)),
            *(pd.offsets.WeekOfMonth(week=1, weekday=3), pd.offsets.LastWeekOfMonth(weekday=4), pd.offsets.Easter()),
            *(pd.offsets.FY5253(weekday=4, startingMonth=12, variation="last"), pd.offsets.BMonthEnd()),
            *(
                pd.offsets.BusinessHour(start="08:00", end="12:30"),
                pd.offsets.FY5253Quarter(weekday=1, startingMonth=3),
            ),
        )
    },
}


@pytest.mark.parametrize("name", INDEXES)
def test_indexes_arrive_equal(name: str) -> None:
    index = INDEXES[name]
    assert_same(index, round_trip(index))
    frame = pd.DataFrame({"v": range(len(index))}, index=index)
    assert_same(frame, round_trip(frame))
    if not index.has_duplicates:
        assert_same(frame.T, round_trip(frame.T))


COLUMNS: dict[str, Any] = {
    "int64": [1, 2, 3],
    "float32": np.array([1.5, NAN, -0.0], "f4"),
    "float16": np.array([1, 2, 3], "f2"),
    "longdouble": np.array([1, 2, 3], np.longdouble) / 3,
    "complex": np.array([1j, NAN, 2]),
    "bool": [True, False, True],
    "big-endian": np.array([1, 2, 3], ">i4"),
    "strided": np.arange(30)[::10],
    "text": ["a", None, "ü"],
    "objects": pd.Series(["a", 1, [2]], dtype=object),
    "missing of every kind": pd.Series([None, NAN, pd.NA, pd.NaT, np.datetime64("NaT")], dtype=object),
    "text as objects": pd.Series(["a", None, NAN] * 50, dtype=object),
    "scalars": pd.Series([pd.Timestamp(0), pd.Timedelta(1), pd.Period("2024", "Y"), pd.Interval(0, 1)], dtype=object),
    "frames in cells": pd.Series([pd.DataFrame({"a": [1]}), np.arange(3), None], dtype=object),
    "categories": pd.Categorical(["a", "b", None]),
    "ordered categories": pd.Categorical([3, 1, 3], categories=[3, 2, 1], ordered=True),
    "categories of dates": pd.Categorical(DAYS),
    "categories of objects": pd.Categorical(pd.Series([1, "a", (1, 2)], dtype=object)),
    "no categories": pd.Categorical([None, None]),
    "many categories": pd.Categorical(np.arange(40000) % 1000),
    "naive": pd.to_datetime(["2024-01-01", None, "2024-06-01"]),
    "microseconds": np.array(["1500-01-01", "NaT"], "M8[us]"),
    "zoned": pd.Series(DAYS),
    "zoned in seconds": pd.Series(DAYS.as_unit("s")),
    "spans": pd.to_timedelta([1, None, 3], unit="h"),
    "spans of ms": np.array([1, "NaT"], "m8[ms]"),
    "periods": pd.period_range("2024-01", periods=3, freq="M"),
    "periods of 2 hours": pd.period_range("2024-01-01", periods=3, freq="2h"),
    "periods with gaps": pd.PeriodIndex(["2024-01", None], freq="M"),
    "intervals": pd.arrays.IntervalArray.from_tuples([(0, 1), (1, 2)], closed="neither"),
    "intervals with gaps": pd.arrays.IntervalArray.from_tuples([(0.5, 1), None]),
    **{
        name: pd.array([1, None, 3], dtype=name)
        for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64")
    },
    "boolean": pd.array([True, None, False], dtype="boolean"),
    "NaN beside NA": pd.arrays.FloatingArray(np.array([NAN, 1.5, 2]), np.array([False, True, False])),
    "string": pd.array(["a", None, "ü\0"], dtype="string[python]"),
    "sparse": pd.arrays.SparseArray([0, 0, 1, 2]),
    "sparse with gaps": pd.arrays.SparseArray([NAN, 1.5, NAN]),
    "sparse in blocks": pd.arrays.SparseArray([0, 1, 1, 0, 2], kind="block", fill_value=0),
    "sparse bool": pd.arrays.SparseArray([True, False, True], fill_value=False),
    "sparse with another fill": pd.arrays.SparseArray([7, 7, 8], fill_value=7),
    "sparse objects": pd.arrays.SparseArray(np.array(["a", None, "b"], object)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_dtype_arrive_equal(name: str) -> None:
    series = pd.Series(COLUMNS[name], name="s", copy=True)
    assert_same(series, round_trip(series))
    assert_same(series.array, round_trip(series.array))
    assert_same(series[:0], round_trip(series[:0]))
    frame = pd.DataFrame({"x": series, "y": series, "n": range(len(series))})
    assert_same(frame, round_trip(frame))
    frame = pd.DataFrame({"x": series})
    assert_same(frame, round_trip(frame))


@pytest.mark.skipif(PANDAS < (2, 3), reason="pandas before 2.3 has no `str`")
def test_str_columns_arrive_equal() -> None:
    series = pd.Series(["a", None, "ü"] * 100, dtype=pd.StringDtype("python", na_value=NAN), name="s")
    assert_same(series, round_trip(series))
    frame = pd.DataFrame({"s": series})
    assert_same(frame, round_trip(frame))


@pytest.mark.skipif(PANDAS < (3, 0), reason="the default of pandas 3")
def test_the_default_text_column_stays_str() -> None:
    frame = round_trip(pd.DataFrame({"s": ["a", None]}))
    assert str(frame["s"].dtype) == "str"
    assert str(frame.columns.dtype) == "str"


FRAMES: dict[str, pd.DataFrame] = {
    "mixed": pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, NAN], "d": DAYS[:2]}, index=["r1", "r2"]),
    "one dtype": pd.DataFrame(np.arange(12.0).reshape(3, 4)),
    "one dtype, many blocks": pd.DataFrame({"a": [1.5]}).assign(b=2.5, c=3.5),
    "fortran": pd.DataFrame(np.asfortranarray(np.arange(12).reshape(3, 4))),
    "dates": pd.DataFrame({"a": pd.to_datetime(["2024-01-01"]), "b": pd.to_datetime(["2025-01-01"])}),
    "bools": pd.DataFrame({"a": [True], "b": [False]}),
    "objects": pd.DataFrame(np.array([[1, "a"], [None, (2,)]], object)),
    "duplicate columns": pd.DataFrame([[1, "a", 2.5]], columns=["x", "y", "x"]),
    "duplicate rows and columns": pd.DataFrame([[1, "a"], [2, "b"]], columns=["x", "x"], index=[0, 0]),
    "columns of any kind": pd.DataFrame([[1, 2.5, "a", None]], columns=pd.Index([1, "b", (1, 2), None], dtype=object)),
    "multi both ways": pd.DataFrame(
        np.arange(8).reshape(4, 2),
        index=pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["k", "n"]),
        columns=pd.MultiIndex.from_tuples([("x", 1), ("x", 2)], names=[None, "c"]),
    ),
    "no rows": pd.DataFrame({"a": pd.Series([], dtype="i8"), "b": pd.Series([], dtype=object)}),
    "no columns": pd.DataFrame(index=DAYS),
    "nothing": pd.DataFrame(),
    "named columns": pd.DataFrame({"a": [1]}).rename_axis(columns="cols", index="rows"),
    "wide": pd.DataFrame({f"c{n}": [n, n + 1] if n % 2 else ["a", None] for n in range(300)}),
    "sliced": pd.DataFrame({"a": range(10), "b": [f"{n}" for n in range(10)]}).iloc[::3, ::-1],
    "range of 3": pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=pd.RangeIndex(0, 6, 3)),
}
FRAMES["attrs"] = FRAMES["mixed"].copy()
FRAMES["attrs"].attrs = {"unit": "m", "when": dt.date(2024, 1, 1), "nested": {"a": [1, (2,)]}}
FRAMES["no duplicates allowed"] = FRAMES["mixed"].set_flags(allows_duplicate_labels=False)


@pytest.mark.parametrize("name", FRAMES)
def test_frames_arrive_equal(name: str) -> None:
    frame = FRAMES[name]
    assert_same(frame, round_trip(frame))


def test_a_frame_that_arrived_can_be_changed() -> None:
    for name in ("mixed", "one dtype", "objects"):
        frame = round_trip(FRAMES[name])
        frame.iloc[0, 0] = 9
        frame["new"] = 1
        assert frame.iloc[0, 0] == 9


@pytest.mark.parametrize("name", ["text", "zoned", ("a", 1), 5, None, 1.5, pd.Timestamp(0)], ids=repr)
def test_series_names_arrive_equal(name: Any) -> None:
    series = pd.Series([1, 2], name=name, index=DAYS[:2])
    series.attrs["k"] = [1]
    assert_same(series, round_trip(series))


SCALARS = [
    *(pd.NaT, pd.NA, pd.Timestamp(0), pd.Timestamp("2024-01-01 00:00:00.123456789"), pd.Timestamp("2024").as_unit("s")),
    *(pd.Timestamp("2024-07-27 02:30", tz=PARIS), pd.Timestamp("2024-10-27 00:30", tz="UTC").tz_convert(PARIS)),
    *(pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert(PARIS), pd.Timestamp(0, tz="Asia/Kolkata")),
    *(pd.Timestamp("0001-01-01").as_unit("s"), pd.Timedelta(-1), pd.Timedelta("1D").as_unit("s"), pd.Timedelta.max),
    *(pd.Period("2024-05", "M"), pd.Period("2024-05-01 12:00", "2h"), pd.Period("2024Q1", "Q-NOV")),
    *(
        pd.Interval(0, 1),
        pd.Interval(DAYS[0], DAYS[1], closed="both"),
        pd.Interval(0.5, float("inf"), closed="neither"),
    ),
    *(pd.offsets.MonthEnd(3), pd.offsets.Day(), pd.DateOffset(years=1, hours=2), pd.offsets.BDay(5, normalize=True)),
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_scalars_arrive_equal(value: Any) -> None:
    copy = round_trip([value])[0]
    assert_same(value, copy)
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        assert (copy.unit, copy.asm8.view("i8")) == (value.unit, value.asm8.view("i8"))
    if isinstance(value, pd.Timestamp):
        assert copy.tz == value.tz
        assert copy.fold == value.fold


class OwnFrame(pd.DataFrame):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (OwnFrame({"a": [1]}), r"OwnFrame.*plain pandas.*DataFrame"),
        (pd.DataFrame({"a": [1, object()]}), r"value\['a'\]\[1\]: a value of type object"),
        (pd.DataFrame({"a": [1]}, index=pd.Index([object()])), r"value\.index\[0\]"),
        (pd.Series([1], name=("a", object())), r"value\.name\[1\]"),
        (pd.date_range("2024", periods=2, freq=pd.offsets.CDay(holidays=["2024-01-02"])), "set freq to None"),
        (pd.DataFrame({"a": [1]}).groupby("a"), "GroupBy"),
    ],
)
def test_what_cannot_travel_says_where_it_is(value: Any, words: str) -> None:
    with pytest.raises(ValueEncodeError, match=words):
        encode(value)


def test_attrs_that_cannot_travel_say_where_they_are() -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["model"] = object()
    with pytest.raises(ValueEncodeError, match=r"value\.attrs\['model'\]"):
        encode(frame)


TEXT = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pdst.data_frames(
        [
            pdst.column("i", dtype="i8"),
            pdst.column("f", dtype="f8"),
            pdst.column("when", elements=npst.from_dtype(np.dtype("M8[ns]")), dtype="M8[ns]"),
            pdst.column("b", dtype=bool),
            pdst.column("o", elements=TEXT | st.integers() | st.floats(), dtype=object),
        ],
        index=pdst.range_indexes(max_size=80) | pdst.indexes(dtype="i8", max_size=80, unique=False),
    )
)
def test_any_frame_arrives_equal(frame: pd.DataFrame) -> None:
    assert_same(frame, round_trip(frame))


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=100), st.sampled_from(["string", "category", object]))
def test_any_text_column_arrives_equal(items: list[str | None], dtype: Any) -> None:
    series = pd.Series(items, dtype=dtype)
    assert_same(series, round_trip(series))
