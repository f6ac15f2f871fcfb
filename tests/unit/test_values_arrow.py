"""The value codec: columns that are backed by arrow. They need pyarrow, which is no dependency of ours."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import struct
from typing import Any

import pandas as pd
import pytest
from faas.values import ValueDecodeError, ValueEncodeError, decode, encode
from values_checks import assert_same, round_trip

pa = pytest.importorskip("pyarrow")

STRUCT = pa.struct([pa.field("a", pa.int8()), pa.field("b", pa.list_(pa.string()), nullable=False)])
ARRAYS: dict[str, Any] = {
    "int8": pa.array([1, None, 3], pa.int8()),
    "uint64": pa.array([2**64 - 1], pa.uint64()),
    "float16": pa.array([1.5, None], pa.float32()).cast(pa.float16()),
    "double": pa.array([1.5, float("inf"), None]),
    "bool": pa.array([True, None, False] * 10),
    "string": pa.array(["a", None, "ü😀", ""]),
    "large_string": pa.array(["a", None], pa.large_string()),
    "binary": pa.array([b"\0", None]),
    "fixed binary": pa.array([b"ab", None], pa.binary(2)),
    "date32": pa.array([dt.date(2024, 1, 1), None]),
    "time64": pa.array([dt.time(1, 2, 3), None]),
    "timestamp": pa.array([dt.datetime(2024, 1, 1), None], pa.timestamp("ms")),  # noqa: DTZ001
    "zoned timestamp": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", "Europe/Paris")),
    "duration": pa.array([dt.timedelta(1), None]),
    "decimal128": pa.array([decimal.Decimal("1.10"), None]),
    "decimal256": pa.array([decimal.Decimal("1.10")], pa.decimal256(50, 5)),
    "list": pa.array([[1, None], None, []]),
    "large_list": pa.array([["a"], None], pa.large_list(pa.string())),
    "fixed list": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
    "struct": pa.array([{"a": 1, "b": ["x", None]}, None, {"a": None, "b": []}], STRUCT),
    "map": pa.array([[("k", 1), ("l", None)], None, []], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "ordered dictionary": pa.array([1, 2], pa.dictionary(pa.int8(), pa.int64(), ordered=True)),
    "list of dictionaries": pa.array([["a"], ["a", "b"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    "list of structs": pa.array([[{"a": 1, "b": []}], []], pa.list_(STRUCT)),
    "empty": pa.array([], pa.string()),
    "no chunks": pa.chunked_array([], pa.int64()),
    "chunks": pa.chunked_array([["a", "b"], [], ["c"]]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrow_columns_arrive_equal(name: str) -> None:
    series = pd.Series(pd.arrays.ArrowExtensionArray(ARRAYS[name]), name="s")
    copy = round_trip(series)
    pd.testing.assert_series_equal(series, copy)
    assert copy.dtype.pyarrow_dtype == series.dtype.pyarrow_dtype
    assert copy.array.__arrow_array__().to_pylist() == series.array.__arrow_array__().to_pylist()
    part = series[1:2]
    assert round_trip(part).array.__arrow_array__().to_pylist() == part.array.__arrow_array__().to_pylist()
    frame = pd.DataFrame({"x": series, "n": range(len(series))})
    pd.testing.assert_frame_equal(frame, round_trip(frame))


@pytest.mark.parametrize("missing", [pd.NA, float("nan")], ids=str)
def test_text_in_arrow_storage_arrives_equal(missing: Any) -> None:
    series = pd.Series(["a", None, "ü"] * 50, dtype=pd.StringDtype("pyarrow", na_value=missing))
    assert_same(series, round_trip(series))
    assert_same(pd.Index(series), round_trip(pd.Index(series)))


def test_a_part_of_a_column_is_sent_without_the_rest() -> None:
    column = pd.Series(["secret" * 100, "public", "secret" * 100], dtype=pd.ArrowDtype(pa.string()))
    data = b"".join(encode(column[1:2]))
    assert b"secret" not in data
    assert b"public" in data


@pytest.mark.parametrize("kind", [pa.null(), pa.string_view(), pa.run_end_encoded(pa.int32(), pa.int8())], ids=str)
def test_an_arrow_type_that_cannot_travel_says_so(kind: Any) -> None:
    series = pd.Series(pd.arrays.ArrowExtensionArray(pa.array([None], kind)))
    with pytest.raises(ValueEncodeError, match="arrow data of type"):
        encode(series)


def forge(kind: Any, chunk: Any, *buffers: bytes) -> bytes:
    node = {"$": "pd.arrow", "v": {"type": kind, "chunks": [chunk]}}
    header = json.dumps({"value": {"$": "pd.array", "v": node}, "buffers": [*map(len, buffers)]}).encode()
    return struct.pack("<7sBI", b"\x93FAASVL", 1, len(header)) + header + b"".join(buffers)


def test_the_forger_can_make_good_columns_too() -> None:
    chunk = {"n": 2, "b": [None, 0, 1], "parts": []}
    assert decode(forge("string", chunk, struct.pack("<3i", 0, 1, 3), b"abc")).tolist() == ["a", "bc"]


LIST = {"name": "list", "types": ["int8"], "names": ["item"], "nullable": [True]}
DICTIONARY = {"name": "dictionary", "types": ["int8", "string"], "ordered": False}
WORDS = {"n": 1, "b": [None, 1, 2], "parts": []}
EIGHT = b"\0" * 8


@pytest.mark.parametrize(
    ("kind", "chunk", "buffers"),
    [
        ("int64", {"n": 2, "b": [None, 0], "parts": []}, [EIGHT]),
        ("int64", {"n": 10**10, "b": [None, 0], "parts": []}, [EIGHT]),
        ("int64", {"n": 2**63 - 1, "b": [None, 0], "parts": []}, [EIGHT]),
        ("int64", {"n": -1, "b": [None, 0], "parts": []}, [EIGHT]),
        ("int64", {"n": 1, "b": [None, None], "parts": []}, []),
        ("int64", {"n": 1, "b": [None], "parts": []}, []),
        ("int64", {"n": 64, "b": [0, 1], "parts": []}, [b"\0", EIGHT * 64]),
        ("bool", {"n": 100, "b": [None, 0], "parts": []}, [EIGHT]),
        ("string", {"n": 1, "b": [None, 0, 1], "parts": []}, [struct.pack("<2i", 0, 9), b"abc"]),
        ("string", {"n": 1, "b": [None, 0, 1], "parts": []}, [struct.pack("<2i", 2, 1), b"abc"]),
        ("string", {"n": 1, "b": [None, 0, 1], "parts": []}, [struct.pack("<2i", -5, 1), b"abc"]),
        ("string", {"n": 1, "b": [None, 0, 1], "parts": []}, [struct.pack("<2i", 0, 1), b"\xff"]),
        ("string", {"n": 1, "b": [None, 0, None], "parts": []}, [struct.pack("<2i", 0, 5)]),
        ("string", {"n": 5, "b": [None, 0, 1], "parts": []}, [struct.pack("<2i", 0, 1), b"a"]),
        (
            LIST,
            {"n": 1, "b": [None, 0], "parts": [{"n": 1, "b": [None, 1], "parts": []}]},
            [struct.pack("<2i", 0, 5), b"a"],
        ),
        (LIST, {"n": 1, "b": [None, 0], "parts": []}, [EIGHT]),
        (DICTIONARY, {"indices": {"n": 1, "b": [None, 0], "parts": []}, "dictionary": WORDS}, [b"\1", EIGHT, b"a"]),
        (DICTIONARY, {"indices": {"n": 1, "b": [None, 0], "parts": []}, "dictionary": WORDS}, [b"\xff", EIGHT, b"a"]),
        (DICTIONARY, {"indices": {"n": 9, "b": [None, 0], "parts": []}, "dictionary": WORDS}, [b"\0", EIGHT, b"a"]),
        ({"name": "struct", "types": [], "names": [], "nullable": []}, {"n": 10**9, "b": [None], "parts": []}, []),
        (
            {**LIST, "name": "fixed_size_list", "n": [0]},
            {"n": 10**9, "b": [None], "parts": []},
            [],
        ),
        ({"name": "binary", "n": [0]}, {"n": 10**9, "b": [None, None], "parts": []}, []),
        ({"name": "decimal128", "n": [1000, 5]}, {"n": 0, "b": [None, None], "parts": []}, []),
        ({"name": "extension"}, {"n": 0, "b": [], "parts": []}, []),
        ("null", {"n": 10**12, "b": [None], "parts": []}, []),
        ("extension<pandas.period>", {"n": 0, "b": [], "parts": []}, []),
        (None, {"n": 0, "b": [], "parts": []}, []),
    ],
)
def test_malformed_arrow_data_is_refused(kind: Any, chunk: Any, buffers: list[bytes]) -> None:
    with pytest.raises(ValueDecodeError):
        decode(forge(kind, chunk, *buffers))
