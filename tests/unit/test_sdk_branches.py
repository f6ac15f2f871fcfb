"""What is sent for branches, and what is said when some could not be made."""

from __future__ import annotations

import enum
import json
import math
import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from faas import errors
from faas._branches import branch_fields
from faas.types import BranchInput, BranchRequest
from hypothesis import given
from hypothesis import strategies as st


class Colour(enum.IntEnum):
    RED = 1


def is_plain(value: object) -> bool:
    return branch_fields([{"variables": {"x": value}}])[1] == [{}]


SELF: list[Any] = []
SELF.append(SELF)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(10**40), 0.1, -0.0, "", "ä\0\u2028", [], {}, [1, [2.0, {"a": None}]], {"": {"b": [False]}}],
)
def test_plain_values_travel_in_the_request_and_arrive_as_they_were(value: object):
    assert is_plain(value)
    assert_arrives(value)


@pytest.mark.parametrize(
    "value",
    [(1, 2), b"x", {1}, {1: 2}, math.nan, math.inf, [math.nan], Colour.RED, OrderedDict(a=1), 1j, "\ud800", {"\ud800": 1},
     SELF, object(), "x" * 100_000, [0] * 100_000, [[0] * 200] * 200, {"a": {"b": (1,)}}],
)  # fmt: skip
def test_what_json_would_change_or_is_large_does_not(value: object):
    assert not is_plain(value)


def assert_arrives(value: object) -> None:
    fields, pushes = branch_fields([{"variables": {"x": value}}])
    assert pushes == [{}]
    body = BranchInput.model_validate({"branches": fields}).model_dump_json(exclude_none=True)
    received = BranchInput.model_validate_json(body).branches[0].variables["x"]
    assert repr(received) == repr(value)  # repr tells 1 from True and 1.0, and 0.0 from -0.0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_whatever_counts_as_plain_arrives_as_it_was(value: object):
    if is_plain(value):
        assert_arrives(value)


def test_lists_say_what_differs():
    fields, pushes = branch_fields(
        None, [{"lr": 0.1}, {"lr": 0.2, "grid": (1, 2)}], ["a", "b"], [{"k": "1"}, {"k": "2"}], [{"E": "1"}, {}]
    )
    assert fields == [
        {"name": "a", "variables": {"lr": 0.1}, "labels": {"k": "1"}, "env_vars": {"E": "1"}},
        {"name": "b", "variables": {"lr": 0.2}, "labels": {"k": "2"}, "env_vars": {}},
    ]
    assert pushes == [{}, {"grid": (1, 2)}]


def test_branches_may_be_models_dicts_or_a_number():
    value = object()
    fields, pushes = branch_fields([BranchRequest(name="a", variables={"x": value, "y": 1}), {"labels": {"k": "v"}}])
    assert fields == [{"name": "a", "variables": {"y": 1}}, {"labels": {"k": "v"}, "variables": {}}]
    assert pushes == [{"x": value}, {}]
    assert branch_fields(3) == ([{"variables": {}}] * 3, [{}] * 3)
    assert len(branch_fields(2, [{"a": 1}, {"a": 2}])[0]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None,), "how many branches"),
        ((None, [{}], ["a", "b"]), r"different lengths: \[1, 2\]"),
        ((3, [{}, {}]), r"different lengths: \[2, 3\]"),
        (([{}], [{}]), "variables belong into it"),
        ((0,), "one at least"),
        ((-1,), "one at least"),
        (([],), "one at least"),
        ((None, [{"a b": 1}]), "'a b' is no name"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(arguments: Any, said: str):
    with pytest.raises(errors.InvalidRequestError, match=said):
        branch_fields(*arguments)


def test_a_request_does_not_grow_without_end():
    fields, pushes = branch_fields(None, [{"x": [0.5] * 1000} for _ in range(1000)])
    assert 10 < sum(not others for others in pushes) < 1000
    assert len(json.dumps(fields)) < 4 << 20
    assert all(("x" in field["variables"]) != bool(others) for field, others in zip(fields, pushes, strict=True))


def problem(detail: str, hint: str = "") -> errors.APIError:
    return errors.api_error("capacity", 503, detail, hint=hint)


def branch(index: int) -> Any:
    return SimpleNamespace(id=f"b{index}", branch_index=index)


def test_branch_error_says_how_many_and_why():
    reasons = {
        3: problem("memory is short", "fewer"),
        1: problem("memory is short", "fewer"),
        4: problem("The disk is full"),
    }
    error = errors.BranchError({2: branch(2), 0: branch(0)}, reasons)
    assert str(error) == (
        "3 of 5 branches could not be made; the 2 that could be stay open. "
        "branches 1, 3: memory is short; branch 4: The disk is full. Try: fewer."
    )
    assert [made.id for made in error.branches] == ["b0", "b2"]
    assert list(error.errors) == [1, 3, 4]
    assert error.total == 5


def test_branch_error_stays_short_however_many_there_are():
    same = errors.BranchError({}, {n: problem("full") for n in range(1000)})
    assert str(same) == "1000 of 1000 branches could not be made. branches 0, 1, 2, 3, 4, 5, 6, 7 and 992 more: full"
    different = errors.BranchError({}, {n: problem(f"full {n}") for n in range(1000)})
    assert str(different).endswith("branch 2: full 2; and 997 other reasons")


def test_branch_error_of_one_branch_is_its_reason():
    error = errors.BranchError({}, {0: problem("There is no room", "close some")})
    assert str(error) == "The branch could not be made: There is no room. Try: close some."


def test_branch_error_survives_pickling_without_its_handles():
    error = errors.BranchError({0: branch(0)}, {1: problem("full")})
    error.branches = [lambda: None]  # as little to be pickled as a connection
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.branches, copy.branch_ids) == (str(error), [], {0: "b0"})
    assert copy.errors[1].code == "capacity"
