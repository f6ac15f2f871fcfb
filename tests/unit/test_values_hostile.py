"""The value codec against an enemy: malformed input is a ValueDecodeError, and nothing else happens."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import json
import random
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from faas.values import ValueDecodeError, ValueEncodeError, decode, encode, is_plain_json, to_json
from PIL import Image

DAYS = pd.date_range("2024-01-01", periods=3, tz="Europe/Paris")


def forge(node: Any, *buffers: bytes, lengths: list[Any] | None = None, version: int = 1) -> bytes:
    """An envelope around whatever the test wants in it."""
    header = (
        node if isinstance(node, bytes) else json.dumps({"value": node, "buffers": lengths or [*map(len, buffers)]})
    )
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<7sBI", b"\x93FAASVL", version, len(header)) + header + b"".join(buffers)


def array(dtype: Any, shape: Any, place: int = 0, order: Any = "C") -> dict[str, Any]:
    return {"$": "np.array", "d": dtype, "s": shape, "o": order, "b": place}


def objects(*items: Any) -> dict[str, Any]:
    return {"$": "np.array", "d": "O", "s": [len(items)], "o": "C", "v": [*items]}


def index(length: int) -> dict[str, Any]:
    return {"$": "pd.RangeIndex", "v": [0, length, 1], "name": None}


def test_the_forger_can_make_good_values_too() -> None:
    assert decode(forge([1, {"$": "bytes", "b": 0}], b"xy")) == [1, b"xy"]
    assert decode(forge(array("<i2", [2]), b"\1\0\2\0")).tolist() == [1, 2]
    frame = {"$": "pd.DataFrame", "columns": index(1), "index": index(2), "data": [objects(1, "a")]}
    assert decode(forge(frame)).shape == (2, 1)


SAMPLES: dict[str, Any] = {
    "python": {
        "a": [1, 2.5, None, "ü", b"x"],
        (1, 2): {3},
        "t": dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    },
    "more python": [decimal.Decimal("1.5"), 1j, 2**80, collections.deque([1], 3), range(3), slice(1), dt.timedelta(1)],
    "packed": [[1.5, "a", None, True] * 20, list(range(40)), [b"ab"] * 20, [np.float32(1)] * 20],
    "numpy": [np.arange(3), np.array(["é"]), np.zeros(2, [("a", "?"), ("b", "U1")]), np.ma.MaskedArray([1, 2], [0, 1])],
    "frame": pd.DataFrame({"a": [1, 2, 3], "s": ["x", None, "z"], "c": pd.Categorical(["u", "v", "u"])}, index=DAYS),
    "extensions": pd.DataFrame(
        {
            "p": pd.period_range("2024", periods=2, freq="M"),
            "i": pd.interval_range(0, 2),
            "I": pd.array([1, None], dtype="Int64"),
            "sp": pd.arrays.SparseArray([0, 1]),
        }
    ),
    "indexes": [pd.MultiIndex.from_product([["a"], [1, 2]]), DAYS, pd.NaT, pd.Timestamp(0), pd.Period("2024", "Y")],
    "sparse": [sp.eye(3, format=name) for name in ("csr", "coo", "dia", "bsr", "lil", "dok")],
    "image": Image.new("P", (3, 2)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_value_cut_short_anywhere_is_refused(name: str) -> None:
    data = b"".join(encode(SAMPLES[name]))
    # Every place of the prefix, the end of the header and the buffers; every 7th in between.
    places = {*range(80), *range(80, len(data), 7), *range(max(0, len(data) - 80), len(data))}
    for length in places & {*range(len(data))}:
        with pytest.raises(ValueDecodeError):
            decode(data[:length])
    with pytest.raises(ValueDecodeError):
        decode(data + b"\0")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_value_is_decoded_or_refused(name: str) -> None:
    data = b"".join(encode(SAMPLES[name]))
    chance = random.Random(name)
    end = 12 + int.from_bytes(data[8:12], "little")
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 1, 4])):
            # The header decides more than the data.
            broken[chance.randrange(end if chance.random() < 0.8 else len(data))] ^= 1 << chance.randrange(8)
        try:
            decode(broken)
        except ValueDecodeError:
            continue


def mutations(node: Any, chance: random.Random) -> Any:
    """The tree with one part replaced by something of another kind, of another size, or by another part."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in range(len(part)) if isinstance(part, list) else part if isinstance(part, dict) else ():
            places.append((part, key))
            walk(part[key])

    node = json.loads(json.dumps(node))
    walk(node)
    part, key = chance.choice(places)
    other, other_key = chance.choice(places)
    odd = [None, True, -1, 0, 1, 2**31, 2**62, -(2**63), 1.5, "", "O", "<f8", "pd.NaT", [], {}, [[]], [10**9], [-1]]
    part[key] = chance.choice([*odd, json.loads(json.dumps(other[other_key]))])
    return node


@pytest.mark.parametrize("name", SAMPLES)
def test_a_tree_with_a_wrong_part_is_decoded_or_refused(name: str) -> None:
    data = b"".join(encode(SAMPLES[name]))
    end = 12 + int.from_bytes(data[8:12], "little")
    header = json.loads(data[12:end])
    chance = random.Random(name)
    for _ in range(200):
        forged = json.dumps(mutations(header, chance)).encode()
        try:
            decode(forge(forged, data[end:]))
        except ValueDecodeError:
            continue


ONE_KIB = b"\0" * 1024
F8 = array("<f8", [1])
ENORMOUS = {
    "array": (array("<f8", [10**10]), ONE_KIB),
    "array of many dimensions": (array("<f8", [10**5] * 3), ONE_KIB),
    "array whose size overflows": (array("<f8", [2**32, 2**32]), b""),
    "array of long text": (array("<U1000000000", [3]), ONE_KIB),
    "array of items without bytes": (array("<U0", [10**9]), b""),
    "array of empty structures": (
        array(
            {"names": [], "formats": [], "offsets": [], "titles": [], "itemsize": 0, "aligned": False, "record": False},
            [10**12],
        ),
        b"",
    ),
    "structure with a large item": (
        array(
            {
                "names": ["a"],
                "formats": ["<i4"],
                "offsets": [0],
                "titles": [None],
                "itemsize": 2**31 - 1,
                "aligned": False,
                "record": False,
            },
            [10],
        ),
        ONE_KIB,
    ),
    "subarray": (
        array(
            {
                "names": ["a"],
                "formats": [{"base": "<i4", "shape": [20000, 20000]}],
                "offsets": [0],
                "titles": [None],
                "itemsize": 1600000000,
                "aligned": False,
                "record": False,
            },
            [10],
        ),
        ONE_KIB,
    ),
    "objects": ({**objects(1, 2), "s": [10**9]},),
    "text": ({"$": "np.array", "d": {"string": True, "coerce": True}, "s": [10**9], "o": "C", "v": []},),
    "Series over an index": ({"$": "pd.Series", "v": F8, "name": None, "index": index(10**10)}, b"\0" * 8),
    "Series of a single value": (
        {"$": "pd.Series", "v": array("<f8", []), "name": None, "index": index(10**10)},
        b"\0" * 8,
    ),
    "DataFrame over an index": (
        {"$": "pd.DataFrame", "columns": index(1), "index": index(10**10), "data": [F8]},
        b"\0" * 8,
    ),
    "DataFrame with a table": (
        {"$": "pd.DataFrame", "columns": index(10**10), "index": index(1), "table": array("<f8", [1, 1])},
        b"\0" * 8,
    ),
    "DataFrame with many columns": ({"$": "pd.DataFrame", "columns": index(10**10), "index": index(0), "data": []},),
    "mixed items": ({"$": "list", "v": {"$": "mix", "b": 0, "parts": [None] * 5}}, b"\4" * 10 + b"\5"),
    "packed text": ({"$": "list", "v": {"$": "strs", "n": 0, "b": 1}}, b"\xff" * 4000, b"x"),
    "image": ({"$": "pil.image", "mode": "RGBA", "size": [10**5, 10**5], "b": 0, "info": {}}, ONE_KIB),
    "image without pixels": ({"$": "pil.image", "mode": "RGBA", "size": [0, 10**10], "b": 0, "info": {}}, b""),
    "sparse rows": (
        {
            "$": "sp.sparse",
            "format": "csr",
            "kind": "array",
            "shape": [10**10, 3],
            "data": array("<f8", [0], 0),
            "indices": array("<i4", [0], 1),
            "indptr": array("<i4", [1], 2),
        },
        *(b"", b"", b"\0" * 4),
    ),
    "sparse rows of lists": (
        {
            "$": "sp.sparse",
            "format": "lil",
            "kind": "array",
            "shape": [10**10, 3],
            "data": array("<f8", [0], 0),
            "indices": array("<i4", [0], 1),
            "indptr": array("<i4", [1], 2),
        },
        *(b"", b"", b"\0" * 4),
    ),
    "whole number": ({"$": "int", "v": "9" * 100 + "g"},),
    "decimal number": (b'{"value":' + b"9" * 5000 + b',"buffers":[]}',),
}


@pytest.mark.parametrize("name", ENORMOUS)
def test_a_claimed_size_is_refused_before_anything_is_allocated(name: str) -> None:
    data = forge(*ENORMOUS[name])
    with pytest.raises(ValueDecodeError):
        decode(data)  # the first time imports packages
    tracemalloc.start()
    try:
        started = time.process_time()
        with pytest.raises(ValueDecodeError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        assert time.process_time() - started < 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93FAASVL",
        forge(1)[1:],
        forge(1, version=2),
        forge(1, version=0),
        forge(b""),
        forge(b"null"),
        forge(b"{}"),
        forge(b'{"value":1}'),
        forge(b'{"value":1,"buffers":[],"more":1}'),
        forge(b'{"value":1,"buffers":{}}'),
        forge(b'{"value":1,"buffers":[-1]}'),
        forge(b'{"value":1,"buffers":[true]}', b"x"),
        forge(b'{"value":1,"buffers":[1e0]}', b"x"),
        forge(b'{"value":NaN,"buffers":[]}'),
        forge(b'{"value":-Infinity,"buffers":[]}'),
        forge(b'{"value":"\xff","buffers":[]}'),
        forge({"$": "bytes", "b": 0}, b"xx", lengths=[2**63]),
        forge({"$": "bytes", "b": 0}, b"xx", lengths=[1, 2]),
        struct.pack("<7sBI", b"\x93FAASVL", 1, 2**32 - 1) + b"{}",
        struct.pack("<7sBI", b"\x93FAASVL", 1, 400 << 20) + b"{}",
    ],
    ids=range(21),
)
def test_a_wrong_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(ValueDecodeError):
        decode(data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"$":"tuple","v":['])
@pytest.mark.parametrize("levels", [400, 100_000])
def test_deep_nesting_is_refused(opening: bytes, levels: int) -> None:
    closing = {b"[": b"]", b'{"a":': b"}", b'{"$":"tuple","v":[': b"]}"}[opening]
    data = forge(b'{"value":' + opening * levels + b"1" + closing * levels + b',"buffers":[]}')
    with pytest.raises(ValueDecodeError, match="nested too deeply"):
        decode(data)
    with pytest.raises(ValueDecodeError, match="nested too deeply"):
        to_json(data)


def test_deep_nesting_is_refused_without_recursion_where_the_limit_of_python_was_raised() -> None:
    data = forge(b'{"value":' + b'["[\\"{",' * 300_000)
    code = """
import sys
sys.setrecursionlimit(10**8)
sys.path.insert(0, sys.argv[1])
from faas.values import ValueDecodeError, decode
try:
    decode(sys.stdin.buffer.read())
except ValueDecodeError:
    print("refused")
"""
    root = sys.modules["faas"].__path__[0]
    run = subprocess.run(
        [sys.executable, "-c", code, f"{root}/.."], input=data, capture_output=True, timeout=60, check=False
    )
    assert run.stdout == b"refused\n", run.stderr


UNKNOWN: list[Any] = [
    {"$": "os.system", "v": ["true"]},
    {"$": "np.loads"},
    {"$": ""},
    {"$": None},
    {"$": []},
    {"$": {"$": "list"}},
    {"$": 1},
    {"$": "mix", "b": 0, "parts": []},
    {"$": "list", "v": {"$": "tuple", "v": []}},
    {"$": "list", "v": None},
    {"$": "list"},
    {"$": "dict", "k": [1], "v": []},
    {"$": "dict", "k": [[]], "v": [1]},
    {"$": "dict", "k": {"$": "list", "v": [1]}, "v": [1]},
    {"$": "set", "v": [[1]]},
    {"$": "float", "v": "00"},
    {"$": "float", "v": 1},
    {"$": "int", "v": 5},
    {"$": "int", "v": "1__0"},
    {"$": "complex", "v": "zz" * 16},
    {"$": "decimal", "v": "1.5.5"},
    {"$": "fraction", "v": [1, 0]},
    {"$": "fraction", "v": [1.5, 2]},
    {"$": "fraction", "v": ["1/2", "2"]},
    {"$": "uuid", "v": "x"},
    {"$": "path", "v": 5},
    {"$": "range", "v": [0, 1, 0]},
    {"$": "range", "v": [0, 1.5, 1]},
    {"$": "slice", "v": [1]},
    {"$": "date", "v": [2024, 13, 1]},
    {"$": "date", "v": [2024]},
    {"$": "datetime", "v": [2024, 1, 1, 0, 0, 0, 0, 0], "tz": "UTC"},
    {"$": "datetime", "v": [2024, 1, 1, 0, 0, 0, 0, 5], "tz": None},
    {"$": "time", "v": [25, 0, 0, 0, 0], "tz": None},
    {"$": "time", "v": [], "tz": None},
    {"$": "timedelta", "v": [10**10, 0, 0]},
    {"$": "timezone", "v": [5, 0, 0], "name": None},
    {"$": "zoneinfo", "v": "../../../etc/passwd"},
    {"$": "zoneinfo", "v": "/etc/localtime"},
    {"$": "zoneinfo", "v": "Europe"},
    {"$": "zoneinfo", "v": "Nowhere/City"},
    {"$": "zoneinfo", "v": "UTC\0"},
    {"$": "deque", "max": -1, "v": []},
    {"$": "pd.Timestamp", "v": 2**63, "unit": "ns", "tz": None},
    {"$": "pd.Timestamp", "v": 1, "unit": "as", "tz": None},
    {"$": "pd.Timestamp", "v": 1, "unit": "ns", "tz": "Europe/Paris"},
    {"$": "pd.Period", "v": 1, "freq": "M"},
    {
        "$": "pd.Period",
        "v": 1,
        "freq": {"$": "pd.offset", "name": "BaseOffset", "n": 1, "normalize": False, "kwds": {}},
    },
    {"$": "pd.offset", "name": "__class__", "n": 1, "normalize": False, "kwds": {}},
    {"$": "pd.offset", "name": "BusinessHour", "n": 10**15, "normalize": False, "kwds": {}},
    {"$": "pd.offset", "name": "MonthEnd", "n": 1, "normalize": False, "kwds": {"self": 1}},
    {"$": "pd.Interval", "left": 2, "right": 1, "closed": "left"},
    {"$": "pd.Interval", "left": "a", "right": [], "closed": "left"},
    {"$": "pd.RangeIndex", "v": [0, 5, 0], "name": None},
    {"$": "pd.RangeIndex", "v": [0, 2**70, 1], "name": None},
    {"$": "pd.RangeIndex", "v": [0, 5, 1], "name": []},
    {"$": "pd.MultiIndex", "levels": [index(2)], "codes": [objects(1)], "names": [None]},
    {"$": "pd.Index", "v": {"$": "pd.NaT"}, "name": None},
    {"$": "pd.Index", "v": [1, 2], "name": None},
    {"$": "pd.Series", "v": index(3), "name": None, "index": index(3)},
    {"$": "pd.string", "storage": "disk", "missing": "NA", "v": []},
    {"$": "pd.string", "storage": "python", "missing": "NA", "v": [1]},
    {"$": "pd.string", "storage": "python", "missing": "NA", "v": [["a", "b"]]},
    {"$": "np.scalar", "v": objects(1)},
    {"$": "np.str", "v": 5},
    {"$": "np.bytes", "v": "x"},
    {"$": "list", "v": {"$": "np", "v": objects(1)}},
    {"$": "list", "v": {"$": "np", "v": "x"}},
    {"$": "pil.image", "mode": "BGR;15", "size": [1, 1], "b": 0, "info": {}},
]


@pytest.mark.parametrize("node", UNKNOWN, ids=lambda node: str(node)[:50])
def test_an_unknown_or_wrong_node_is_refused(node: Any) -> None:
    with pytest.raises(ValueDecodeError):
        decode(forge(node))
    with pytest.raises(ValueDecodeError):
        decode(forge([node]))


STRUCT = {
    "names": ["a"],
    "formats": ["<i8"],
    "offsets": [0],
    "titles": [None],
    "itemsize": 8,
    "aligned": False,
    "record": False,
}


@pytest.mark.parametrize(
    "dtype",
    [
        *(
            "O",
            "|O",
            "|O8",
            "O8",
            "object",
            "<f8,O",
            "f8",
            "=f8",
            "<f8\n",
            "<f8,<f8",
            "(2,)<f8",
            "V8",
            "|V-8",
            "<U99999999999",
        ),
        *(
            "<f7",
            "<f16",
            "<i3",
            "<M8[",
            "<M8[ns",
            "<M8[x]",
            "<M8[-1ns]",
            "<M8[99999999999ns]",
            "<M8[1/2ns]",
            "float64",
            "",
            "T",
        ),
        *("__import__('os')", "|S", "<c4", "datetime64", "d", "<f8 "),
        *(None, 5, [], ["a", "<f8"], {}, {"base": "<f8"}, {"base": "O", "shape": [1]}, {"long": "<f8", "bits": 52}),
        *({"long": "<f16", "bits": 7}, {"long": "O", "bits": 1}, {"string": True}, {"base": "<i8", "shape": [1]}),
        {**STRUCT, "formats": ["O"]},
        {**STRUCT, "formats": ["<i8", "<i8"]},
        {**STRUCT, "formats": [{"string": True, "coerce": True}]},
        {**STRUCT, "formats": [{"base": "<i1", "shape": [-1]}]},
        {**STRUCT, "formats": [{"base": "<i1", "shape": [2**40]}]},
        {**STRUCT, "offsets": [-8]},
        {**STRUCT, "offsets": [4]},
        {**STRUCT, "itemsize": 4},
        {**STRUCT, "itemsize": -8},
        {**STRUCT, "names": [5]},
        {**STRUCT, "names": [["a"]]},
        {**STRUCT, "titles": [5]},
        {**STRUCT, "titles": []},
        {**STRUCT, "names": ["a", "a"], "formats": ["<i4", "<i4"], "offsets": [0, 4], "titles": [None, None]},
    ],
    ids=str,
)
def test_an_evil_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(ValueDecodeError):
        decode(forge(array(dtype, [1]), b"\1" + b"\0" * 7))


@pytest.mark.parametrize(
    "node",
    [
        array("<f8", [-1]),
        array("<f8", [-1, -1]),
        array("<f8", [2]),
        array("<f8", [True]),
        array("<f8", [1.0]),
        array("<f8", 1),
        array("<f8", None),
        array("<f8", [1] * 65),
        array("<f8", [2**62] * 60),
        array("<f8", [1], order="K"),
        array("<f8", [1], order=None),
        array("<f8", [1], place=-1),
        array("<f8", [1], place=1),
        {**array("<f8", [1]), "b": True},
        {**array("<f8", [1]), "b": "0"},
        {**array("O", [1])},
        array("|b1", [8]),
        array("<U1", [2]),
        {"$": "np.recarray", **{k: v for k, v in array("<f8", [1]).items() if k != "$"}},
    ],
    ids=str,
)
def test_a_wrong_array_is_refused(node: Any) -> None:
    with pytest.raises(ValueDecodeError):
        decode(forge(node, b"\xff" * 8))


def test_a_buffer_is_used_exactly_once() -> None:
    part = {"$": "bytes", "b": 0}
    for node in ([part, part], [part, array("<f8", [1])], {"$": "list", "v": {"$": "strs", "n": 0, "b": 0}}):
        with pytest.raises(ValueDecodeError, match="used twice"):
            decode(forge(node, b"\0" * 8))
    with pytest.raises(ValueDecodeError, match="not part of the value"):
        decode(forge([part], b"\0" * 8, b"unused"))
    with pytest.raises(ValueDecodeError, match="not part of the value"):
        is_plain_json(forge([1], b"unused"))


def places(*numbers: int) -> bytes:
    return np.array(numbers, "<i4").tobytes()


CSR = {
    "$": "sp.sparse",
    "format": "csr",
    "kind": "array",
    "shape": [2, 3],
    "data": array("<f8", [2], 0),
    "indices": array("<i4", [2], 1),
    "indptr": array("<i4", [3], 2),
}
COO = {
    "$": "sp.sparse",
    "format": "coo",
    "kind": "array",
    "shape": [2, 3],
    "data": array("<f8", [2], 0),
    "coords": [array("<i4", [2], 1), array("<i4", [2], 2)],
}
DIA = {
    "$": "sp.sparse",
    "format": "dia",
    "kind": "array",
    "shape": [2, 3],
    "data": array("<f8", [1, 2], 0),
    "offsets": array("<i4", [1], 1),
}


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        (CSR, [places(0, 3), places(0, 1, 2)]),
        (CSR, [places(0, -1), places(0, 1, 2)]),
        (CSR, [places(0, 10**9), places(0, 1, 2)]),
        (CSR, [places(0, 1), places(0, 5, 2)]),
        (CSR, [places(0, 1), places(0, 10**6, 0)]),
        (CSR, [places(0, 1), places(0, 2**31 - 1, 0)]),
        (
            {**CSR, "shape": [4, 3], "indptr": array("<i4", [5], 2)},
            [places(0, 1), places(0, 2**31 - 1, -(2**31), -1, 1)],
        ),
        ({**CSR, "indices": array("<i8", [1], 1)}, [places(0, 1), places(0, 1, 2)]),
        (CSR, [places(0, 1), places(0, -5, 2)]),
        (CSR, [places(0, 1), places(1, 1, 2)]),
        (CSR, [places(0, 1), places(0, 1, 10**9)]),
        ({**CSR, "format": "csc"}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "format": "lil"}, [places(0, 5), places(0, 1, 2)]),
        ({**CSR, "format": "bsr"}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "format": "xyz"}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "kind": "spmatrix"}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "shape": [2, -3]}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "shape": [2**63, 3]}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "indices": array("<f4", [2], 1)}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "indices": array(">i4", [2], 1)}, [places(0, 1), places(0, 1, 2)]),
        ({**CSR, "data": objects(1, 2)}, [places(0, 1), places(0, 1, 2)]),
        (COO, [places(0, 2), places(0, 1)]),
        (COO, [places(0, 1), places(0, -1)]),
        ({**COO, "format": "dok"}, [places(0, 1), places(0, 3)]),
        ({**COO, "shape": [2]}, [places(0, 1), places(0, 1)]),
        (DIA, [places(2**31 - 1)]),
        (DIA, [places(-3)]),
    ],
)
def test_places_outside_of_a_sparse_matrix_are_refused(node: Any, parts: list[bytes]) -> None:
    with pytest.raises(ValueDecodeError):
        decode(forge(node, b"\0" * 16, *parts))


def test_places_outside_of_pandas_arrays_are_refused() -> None:
    categorical = {"$": "pd.categorical", "codes": array("|i1", [2]), "categories": index(2), "ordered": False}
    assert len(decode(forge(categorical, b"\0\1"))) == 2
    for codes in (b"\0\2", b"\0\x80"):
        with pytest.raises(ValueDecodeError):
            decode(forge(categorical, codes))
    multi = {"$": "pd.MultiIndex", "levels": [index(2)], "codes": [array("|i1", [2])], "names": [None]}
    assert len(decode(forge(multi, b"\0\1"))) == 2
    for codes in (b"\0\2", b"\0\x80"):
        with pytest.raises(ValueDecodeError):
            decode(forge(multi, codes))
    sparse = {
        "$": "pd.sparse",
        "v": array("<f8", [2]),
        "at": array("<i4", [2], 1),
        "n": 5,
        "kind": "block",
        "fill": 0.0,
    }
    assert len(decode(forge(sparse, b"\0" * 16, places(1, 4)))) == 5
    for at in (places(1, 5), places(-1, 1), places(2, 1), places(1, 1)):
        for kind in ("block", "integer"):
            with pytest.raises(ValueDecodeError):
                decode(forge({**sparse, "kind": kind}, b"\0" * 16, at))


def test_a_frequency_that_does_not_fit_is_refused() -> None:
    days = {"$": "pd.offset", "name": "Day", "n": 1, "normalize": False, "kwds": {}}
    times = {"$": "pd.times", "v": array("<M8[ns]", [3]), "tz": None, "freq": days, "name": None}
    good = np.arange("2024-01-01", "2024-01-04", dtype="M8[D]").astype("M8[ns]")
    assert decode(forge(times, good.tobytes())).freq == pd.offsets.Day()
    with pytest.raises(ValueDecodeError):
        decode(forge(times, good[[0, 2, 1]].tobytes()))


def test_keys_that_collide_do_not_reach_a_dict_where_the_gateway_looks_for_json() -> None:
    keys = [{"$": "int", "v": f"{n * (2**61 - 1):x}"} for n in range(1, 30_000)]
    data = forge({"$": "dict", "k": keys, "v": [0] * len(keys)})
    started = time.process_time()
    assert not is_plain_json(data)
    assert to_json(data) is None
    assert time.process_time() - started < 2


def test_a_fraction_that_would_take_long_to_reduce_is_refused() -> None:
    part = {"$": "int", "v": "f" * 1_000_000}
    with pytest.raises(ValueDecodeError, match="too long"):
        decode(forge({"$": "fraction", "v": [part, part]}))
    with pytest.raises(ValueEncodeError, match="too long"):
        encode(fractions.Fraction(1, 2**200_000))


def test_a_pickle_is_not_loaded(tmp_path: Any) -> None:
    target = tmp_path / "made"
    evil = b"cos\nsystem\n(S'touch %s'\ntR." % str(target).encode()
    for data in (
        evil,
        forge({"$": "bytes", "b": 0}, evil),
        forge(array("|O", [1]), evil),
        forge(array("O", [1]), evil),
    ):
        try:
            decode(data)
        except ValueDecodeError:
            continue
    assert not target.exists()


def test_decoding_stays_within_a_multiple_of_its_input() -> None:
    # What costs most for its bytes: empty containers, each two or three bytes.
    for part in (b"[]", b"{}", b'{"":0}', b'{"$":"ellipsis"}', b'{"$":"pd.NaT"}', b'{"$":"set","v":[]}'):
        data = forge(b'{"value":[' + part + (b"," + part) * 20_000 + b'],"buffers":[]}')
        tracemalloc.start()
        try:
            decode(data)
            assert tracemalloc.get_traced_memory()[1] < 100 * len(data)
        finally:
            tracemalloc.stop()


def test_a_value_of_several_gigabytes_of_claims_leaves_the_process_small() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, claim in sorted(ENORMOUS.items()):
        with pytest.raises(ValueDecodeError):
            decode(forge(*claim))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
