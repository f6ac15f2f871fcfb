"""The value codec: numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from faas.values import ValueEncodeError, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from values_checks import assert_same, round_trip

RNG = np.random.default_rng(7)
BASE = np.arange(120.0).reshape(2, 3, 4, 5)
STRUCT = np.dtype([("a", "i1"), ("b", "<f8", (2,)), ("c", [("d", "U3"), ("e", ">i4")])], align=True)

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    **{code: np.arange(5).astype(code) for code in ("i1", "u1", "<i2", ">i2", "<u4", ">i8", "u8", "f2", ">f4", "f8")},
    "bool": np.array([[True, False], [False, True]]),
    "longdouble": np.array([1, np.pi, np.nan, -0.0], np.longdouble) / 3,
    "big-endian longdouble": np.array([1, 2, 3], np.longdouble).astype(np.dtype(np.longdouble).newbyteorder(">")),
    "complex": np.array([1 + 2j, np.nan], "c8"),
    "clongdouble": np.array([1 + 2j, 1j], np.clongdouble) / 3,
    "nan with payload": np.array([0x7FF8DEADBEEF0001, 1 << 63], "u8").view("f8"),
    **{
        f"datetime64[{unit}]": np.array([0, 5, "NaT"], f"M8[{unit}]")
        for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "25s")
    },
    "datetime64 without a unit": np.array(["NaT"], "M8"),
    "timedelta64": np.array([1, -5, "NaT"], ">m8[3D]"),
    "U": np.array(["a", "", "ü😀"]),
    ">U": np.array(["a", "bc"], ">U2"),
    "S": np.array([b"a", b"\0b", b""]),
    "V": np.array([b"abc", b"\xff\0"], "V3"),
    "0-d": np.array(3.5),
    "0-d object": np.array({"a": 1}, object),
    "empty": np.empty((0, 3, 0), "i4"),
    "empty text": np.empty(0, "U5"),
    "empty object": np.empty((2, 0), object),
    "fortran": np.asfortranarray(RNG.random((3, 4))),
    "fortran object": np.asfortranarray(np.arange(6).reshape(2, 3).astype(object)),
    "transposed 4-d": BASE.T,
    "strided": BASE[:, ::2, ::-1, 1::2],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "reversed": np.arange(10)[::-1],
    "32 dimensions": np.ones((1,) * 32),
    "read-only": np.frombuffer(b"abcdefgh", "i4"),
    "struct": np.zeros((2, 2), STRUCT),
    "struct with padding": np.ones(3, np.dtype({"names": ["x"], "formats": ["i2"], "offsets": [4], "itemsize": 16})),
    "struct that overlaps": np.ones(2, np.dtype({"names": ["x", "y"], "formats": ["i4", "i2"], "offsets": [0, 2]})),
    "struct with titles": np.zeros(2, [(("A title", "a"), "i4"), ("b", "f4")]),
    "struct field view": np.zeros(3, [("a", "i4"), ("b", "f8"), ("c", "i1")])[["a", "c"]],
    "struct fortran": np.zeros((2, 3), [("a", "?")], order="F"),
    "recarray": np.rec.fromarrays([[1, 2], ["x", "yy"]], names="n,s"),
    "array of records": np.zeros(2, np.dtype((np.record, [("a", "i4")]))),
    "objects": np.array([1, "a", None, [1, 2], (3,), np.float32(2), float("nan")], object),
    "objects that are lists": np.array([[1], [2]], object),
    "array of arrays": np.array([None, None]),
    "nested objects": np.array([[{"a": np.arange(2)}, {1}], [b"", ...]], object),
    "large": RNG.random((300, 1000)),
}
ARRAYS["array of arrays"][:] = [np.arange(3), np.arange(2)]
STRUCTS = ARRAYS["struct"]
STRUCTS["b"] = 1.5
STRUCTS["c"]["d"] = "é"


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_equal_writable_and_on_their_own(name: str) -> None:
    array = ARRAYS[name]
    copy = round_trip(array)
    assert_same(array, copy)
    assert copy.flags.c_contiguous or not array.flags.c_contiguous
    assert copy.strides == array.strides or not (array.flags.forc and array.size)
    assert copy.flags.owndata
    assert not np.shares_memory(array, copy)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 1 has no StringDType")
@pytest.mark.parametrize(
    "options",
    [{}, {"coerce": False}, {"na_object": None}, {"na_object": np.nan}, {"na_object": pd.NA}, {"na_object": "missing"}],
    ids=repr,
)
def test_text_of_any_length_arrives_equal(options: dict[str, Any]) -> None:
    dtype = np.dtypes.StringDType(**options)
    missing = [dtype.na_object] if hasattr(dtype, "na_object") else []
    array = np.array(["", "ü" * 1000, "a\0", *missing, "b"] * 20, dtype).reshape(-1, 2)
    copy = round_trip(array)
    assert_same(array, copy)
    assert copy.dtype.coerce == dtype.coerce
    assert_same(np.empty((0, 2), dtype), round_trip(np.empty((0, 2), dtype)))


SCALARS = [
    *(np.int8(-1), np.uint64(2**64 - 1), np.float16(0.1), np.float64(-0.0), np.float64("nan"), np.longdouble(1) / 3),
    *(np.bool_(True), np.complex64(1j), np.clongdouble(1j) / 3, np.str_("ü\0"), np.str_(""), np.bytes_(b"a\0")),
    *(np.datetime64("2024-01-01T00:00", "25m"), np.datetime64("NaT"), np.timedelta64(3, "ps"), np.void(b"ab\0")),
    *(np.zeros(1, STRUCT)[0], ARRAYS["recarray"][1]),
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: f"{type(value).__name__} {value}")
def test_scalars_arrive_equal(value: Any) -> None:
    assert_same(value, round_trip(value))
    assert_same([value] * 50, round_trip([value] * 50))


def test_scalars_of_many_units_in_one_list_arrive_equal() -> None:
    value = [np.datetime64(5, unit) for unit in ("D", "s", "ns")] * 10
    assert_same(value, round_trip(value))


@pytest.mark.parametrize("code", ["i4", ">M8[25s]", "U3", "O", "f2", "V7", STRUCT, ("i4", (2, 3)), np.longdouble])
def test_dtypes_arrive_equal(code: Any) -> None:
    assert_same(np.dtype(code).descr, round_trip(np.dtype(code)).descr)
    assert np.dtype(code) == round_trip(np.dtype(code))


MASKED = {
    "no mask": np.ma.MaskedArray([1, 2, 3]),
    "mask": np.ma.MaskedArray([[1.5, np.nan]], [[True, False]], fill_value=-1),
    "hard": np.ma.MaskedArray([1, 2], [0, 1], hard_mask=True),
    "struct": np.ma.MaskedArray(np.zeros(3, [("a", "i4"), ("b", "U2")]), [(0, 1), (1, 0), (1, 1)], fill_value=(7, "x")),
    "objects": np.ma.MaskedArray(np.array(["a", None], object), [0, 1]),
    "dates": np.ma.MaskedArray(np.array(["2024-01-01", "NaT"], "M8[D]"), [0, 1]),
    "0-d": np.ma.MaskedArray(1.5, True),
    "empty": np.ma.MaskedArray([], []),
    "constant": np.ma.masked,
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_arrays_arrive_equal(name: str) -> None:
    assert_same(MASKED[name], round_trip(MASKED[name]))


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(
        npst.scalar_dtypes() | npst.array_dtypes(allow_subarrays=True) | npst.nested_dtypes(),
        npst.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
        # Most of an array may stay one value: it's the layout that is tested.
        fill=None,
    ),
    st.sampled_from(["C", "F", "strided"]),
)
def test_any_array_arrives_equal(array: np.ndarray[Any, Any], layout: str) -> None:
    if array.dtype.itemsize == 0:
        return
    array = array[::-1] if layout == "strided" and array.ndim else np.array(array, order="F" if layout == "F" else "C")
    assert_same(array, round_trip(array))


def test_memory_between_the_fields_does_not_travel() -> None:
    dtype = np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [0], "itemsize": 64})
    array = np.frombuffer(b"secret!!" * 16, dtype)
    assert b"ecret" not in b"".join(encode(array))
    numbers = np.frombuffer(b"\xee" * 64, np.longdouble)
    if np.finfo(np.longdouble).nmant == 63:
        assert b"\xee" * 11 not in b"".join(encode(numbers))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(2, [("a", "O")]), "structured dtype with objects"),
        (np.zeros(2, np.dtype("i4", metadata={"unit": "m"})), "metadata"),
        (np.zeros(5, []), "no bytes"),
        (np.memmap, "can't be sent"),
    ],
)
def test_arrays_that_cannot_travel_say_so(array: Any, words: str) -> None:
    with pytest.raises(ValueEncodeError, match=words):
        encode(array)
