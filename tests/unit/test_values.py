"""The value codec: Python's own types, its errors, its chunks."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import io
import pathlib
import shutil
import subprocess
import sys
import uuid
import zoneinfo
from typing import Any, NamedTuple

import faas.values
import numpy as np
import pytest
from faas.values import ValueDecodeError, ValueEncodeError, decode, encode, from_json, is_plain_json, to_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from values_checks import assert_same, round_trip

PARIS = zoneinfo.ZoneInfo("Europe/Paris")

VALUES: dict[str, Any] = {
    "None": None,
    "bools": [True, False],
    "ints": [0, -1, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**64) - 1, 10**5000],
    "floats": [0.0, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")],
    "complex": [1 + 2j, complex(-0.0, float("nan")), complex(float("inf"), -0.0)],
    "text": ["", "a", "ü€😀", "\0", "\ud800", "\ud800\udc00", "\udc00\ud800", '"\\\n', "$", "x" * 5000],
    "bytes": [b"", b"\0\xff", bytearray(b"abc"), bytearray()],
    "list": [1, [2, [3, []]]],
    "tuple": (1, (), ((2,),)),
    "dict in order": {"b": 1, "a": 2, "": 3},
    "dict with the tag as a key": {"$": "list", "v": []},
    "dict with other keys": {1: "a", "1": "b", (1, "x"): 2, None: 3, frozenset({1}): 4, b"k": 5, 1.5: {}},
    "dict with surrogates in keys": dict.fromkeys(["\ud800", "\udc00"]),
    "dict with many keys": {f"key {n}": n * 1.5 for n in range(500)},
    "dict of dicts": {n: {"n": n, "half": n / 2} for n in range(100)},
    "sets": [set(), {1, "a", (2,)}, frozenset(), frozenset({1.5, None})],
    "range": [range(0), range(1, 10**30, 7), range(5, -5, -1)],
    "slice": [slice(None), slice(1, "b", 2.5)],
    "Ellipsis": ...,
    "datetime": [
        dt.datetime(1, 1, 1),  # noqa: DTZ001
        dt.datetime(2024, 10, 27, 2, 30, 1, 999999, tzinfo=PARIS, fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=7), "odd\ud800")),
    ],
    "date": dt.date(9999, 12, 31),
    "time": [dt.time(23, 59, 59, 999999, fold=1), dt.time(1, tzinfo=PARIS)],
    "timedelta": [dt.timedelta(-999999999), dt.timedelta(1, 2, 3), dt.timedelta.max],
    "timezone": [dt.UTC, dt.timezone(dt.timedelta(hours=1)), dt.timezone(dt.timedelta(hours=1), "X")],
    "zoneinfo": [PARIS, zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("America/Argentina/Buenos_Aires")],
    "Decimal": [decimal.Decimal(text) for text in ("0", "-0", "1.10", "1E+400", "sNaN12", "-Infinity", "0E-7")],
    "Fraction": fractions.Fraction(-(10**40), 7),
    "UUID": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "paths": [pathlib.PurePosixPath("/a/../b"), pathlib.PurePosixPath(), pathlib.PosixPath("ü\udcff/x")],
    "OrderedDict": collections.OrderedDict([("b", 1), ("a", [2])]),
    "defaultdict": collections.defaultdict(None, {"a": 1}),
    "Counter": collections.Counter("mississippi"),
    "deque": [collections.deque([1, [2]]), collections.deque([1, 2, 3], maxlen=3), collections.deque(maxlen=0)],
    "packed lists": [
        [1.5] * 20,
        [True] * 17,
        list(range(100)),
        ["é"] * 30,
        [b"ab", b""] * 20,
        ["\ud800", "\udc00"] * 9,
    ],
    "packed tuple": tuple(range(-50, 50)),
    "a long list with a huge number": [*range(100), 2**70],
    "mixed lists": [[1, "a", None, 2.5, True, b"x"] * 30, [1, 1.0, True, None] * 40, [None] * 200],
    "records": [{"id": n, "name": f"n{n}", "tags": ["a"]} for n in range(50)],
    "100 levels": None,
}
for _ in range(99):
    VALUES["100 levels"] = [VALUES["100 levels"]]


@pytest.mark.parametrize("name", VALUES)
def test_python_values_arrive_equal(name: str) -> None:
    assert_same(VALUES[name], round_trip(VALUES[name]))


def test_nan_keeps_its_bits() -> None:
    bits = np.array([0xFFF8DEADBEEF0001], np.uint64)
    assert np.float64(round_trip(float(bits.view(np.float64)[0]))).view(np.uint64) == bits[0]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(codec=None), max_size=20)
    | st.binary(max_size=20)
    | st.decimals()
    | st.fractions()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(PARIS))
    | st.timedeltas()
    | st.uuids()
)
KEYS = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.text(max_size=3)) | st.binary(max_size=3)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=80)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=20)
        | st.sets(KEYS, max_size=20)
        | st.lists(inner, max_size=5).map(collections.deque)
    ),
    max_leaves=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree_of_python_values_arrives_equal(value: Any) -> None:
    assert_same(value, round_trip(value))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(), min_size=64))
def test_any_long_list_arrives_equal(value: list[Any]) -> None:
    assert_same(value, round_trip(value))


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Model:
    weight: float


class Words(dict):  # type: ignore[type-arg]
    pass


class MyArray(np.ndarray):  # type: ignore[type-arg]
    pass


class Celsius(float):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Colour.RED, [".value"]),
        (Point(1), ["tuple(...)", "_asdict"]),
        (Model(1.5), ["Model", "dataclasses.asdict"]),
        (Words(), ["Words", "plain dict"]),
        (Celsius(1.5), ["Celsius", "plain float"]),
        (np.zeros(3).view(MyArray), ["MyArray", "plain numpy.ndarray"]),
        (np.matrix([[1]]), ["matrix", "plain numpy.ndarray"]),
        (collections.defaultdict(list), ["factory", "dict(...)"]),
        (iter([1]), ["list(...)"]),
        ((n for n in ()), ["generator", "list(...)"]),
        (lambda: 1, ["function", "save it to a file"]),
        (sys, ["module"]),
        (int, ["type"]),
        (object(), ["object", "arrays, DataFrames or plain Python values"]),
        (io.BytesIO(), ["BytesIO"]),
        (dt.datetime(2024, 1, 1, tzinfo=type("Z", (dt.tzinfo,), {})()), [".tzinfo", "zoneinfo.ZoneInfo"]),
    ],
)
def test_a_type_that_cannot_travel_is_named_with_a_way_out(value: Any, words: list[str]) -> None:
    with pytest.raises(ValueEncodeError) as caught:
        encode([value])
    for word in ["value[0]", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([0, 1, 2, {"model": object()}], "rows[3]['model']"),
        ({"a": ({1: object()},)}, "rows['a'][0][1]"),
        (slice(1, object()), "rows.stop"),
        ({object: 1}, "rows.keys()[0]"),
        (collections.OrderedDict(k=[object()]), "rows['k'][0]"),
        ([*range(100), object()], "rows[100]"),
        (np.array([1, object()], object), "rows[1]"),
    ],
)
def test_the_error_names_the_place_inside_the_value(value: Any, place: str) -> None:
    with pytest.raises(ValueEncodeError) as caught:
        encode(value, "rows")
    assert str(caught.value).startswith(f"{place}: ")


def test_a_cycle_is_an_encode_error() -> None:
    knot: list[Any] = [1]
    knot.append({"again": knot})
    with pytest.raises(ValueEncodeError, match=r"value\[1\]\['again'\]: the list contains itself"):
        encode(knot)
    objects = np.empty(1, object)
    objects[0] = [objects]
    with pytest.raises(ValueEncodeError, match="contains itself"):
        encode(objects)


def test_a_shared_part_is_not_a_cycle() -> None:
    part = [1]
    assert round_trip([part, part, (part,)]) == [[1], [1], ([1],)]


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}])
def test_too_deep_a_value_is_an_encode_error(wrap: Any) -> None:
    value: Any = 1
    for _ in range(100):
        value = wrap(value)
    assert_same(value, round_trip(value))
    with pytest.raises(ValueEncodeError, match="nested more than 100 levels deep"):
        encode(wrap(value))


def test_an_instance_of_a_class_that_lies_about_its_module_is_refused() -> None:
    for module in ("numpy", "pandas", "scipy", "PIL", "pyarrow", "torch", "builtins", "nowhere"):
        liar = type("ndarray", (), {"__module__": module})
        with pytest.raises(ValueEncodeError, match="can't be sent"):
            encode(liar())


def test_large_arrays_are_chunks_of_at_most_one_mebibyte_that_view_them() -> None:
    array = np.arange(1_000_000, dtype="f8")
    chunks = encode({"a": array, "small": b"x"})
    assert max(map(len, chunks)) <= 1 << 20
    assert sum(isinstance(chunk, memoryview) and np.shares_memory(chunk, array) for chunk in chunks) == 8
    assert_same(decode(b"".join(chunks))["a"], array)


def test_many_small_buffers_are_joined() -> None:
    assert len(encode([np.arange(3)] * 1000)) == 1


def test_every_kind_of_buffer_can_be_decoded() -> None:
    data = b"".join(encode({"a": b"xyz"}))
    for source in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert decode(source) == {"a": b"xyz"}
    with pytest.raises(ValueDecodeError):
        decode(memoryview(data * 2)[::2])


JSON_VALUES = [
    None,
    True,
    0,
    -5,
    10**40,
    1.5,
    -0.0,
    "",
    "ü😀",
    "x" * 9000,
    [],
    [1, "a", None, [2.5]],
    {"b": {"$": 1}, "a": []},
    list(range(1000)),
    [1.5] * 100,
    ["a", None] * 100,
    {str(n): n for n in range(1000)},
]


@pytest.mark.parametrize("value", JSON_VALUES, ids=lambda value: repr(value)[:20])
def test_plain_json_comes_out_and_goes_in(value: Any) -> None:
    data = from_json(value)
    assert is_plain_json(data)
    assert_same(to_json(data), value)
    assert_same(decode(data), value)


@pytest.mark.parametrize(
    "value",
    [
        *([float("nan")], float("inf"), (1,), {1: 2}, {"a": b"x"}, "\ud800", {"\ud800": 1}, 1j, np.float64(1.5)),
        *([float("nan")] * 100, [b"x"] * 100, [np.float64(1)] * 100, np.arange(3), collections.OrderedDict()),
        *([1, b"x"] * 100, dt.date(2024, 1, 1), {"a": [{"b": ...}]}),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_not_plain_json_is_said_to_be_so(value: Any) -> None:
    data = b"".join(encode(value))
    assert not is_plain_json(data)
    assert to_json(data) is None
    with pytest.raises(ValueEncodeError):
        from_json(value)


def test_json_that_is_too_deep_is_an_encode_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueEncodeError, match="nested too deeply"):
        from_json(value)
    while value:
        value = value.pop()


def test_a_damaged_value_is_no_plain_json_but_an_error() -> None:
    with pytest.raises(ValueDecodeError):
        is_plain_json(b"nonsense")
    with pytest.raises(ValueDecodeError):
        to_json(from_json([1])[:-1])


ALONE = """
import sys
before = set(sys.modules)
import wire_values
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - {"wire_values"}
loaded = {name for name in loaded if not name.startswith("_sysconfigdata")}
assert loaded <= set(sys.stdlib_module_names), loaded
value = {"a": [1, 2.5, "x"], "b": (b"y",)}
data = b"".join(wire_values.encode(value))
assert wire_values.decode(data) == value
assert wire_values.to_json(wire_values.from_json([1])) == [1]
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numpy", "pandas", "scipy", "PIL", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
for line in sys.stdin:
    package, _, data = line.strip().partition(" ")
    try:
        wire_values.decode(bytes.fromhex(data))
    except wire_values.ValueDecodeError as error:
        assert package in str(error) and f"pip install {package}" in str(error), error
    else:
        raise AssertionError(package)
print("ok")
"""


def test_the_folder_works_alone_and_names_the_package_that_is_missing(tmp_path: pathlib.Path) -> None:
    pd = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    image = pytest.importorskip("PIL.Image")
    source = pathlib.Path(faas.values.__file__).parent
    shutil.copytree(source, tmp_path / "wire_values", ignore=shutil.ignore_patterns("__pycache__"))
    samples = {
        "numpy": [np.arange(3), np.float64(1), np.str_("a"), np.ma.masked, [np.float64(1)] * 50, np.dtype("i4")],
        "pandas": [pd.NaT, pd.RangeIndex(3)],
        "scipy": [sparse.eye(2, format="csr")],
        "pillow": [image.new("L", (1, 1))],
    }
    lines = [f"{name} {b''.join(encode(value)).hex()}" for name, values in samples.items() for value in values]
    run = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ALONE}"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout == "ok\n", run.stderr
