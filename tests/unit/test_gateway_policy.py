"""Limits merge, the queue, how requests end, the catalogue, the error table."""

from __future__ import annotations

import dataclasses

import anyio
import anyio.lowlevel
import pytest
from faas.errors import ERROR_BY_CODE
from faas.types import SHIPPED_ENVIRONMENTS, Resources
from hypothesis import given
from hypothesis import strategies as st

from faas_gateway import errors
from faas_gateway.backends import base
from faas_gateway.backends.base import Ended, Reply
from faas_gateway.errors import BACKEND_ERRORS, CapacityError, GatewayError, from_backend, suggest
from faas_gateway.managers import outcomes
from faas_gateway.managers.catalogue import CATALOGUE
from faas_gateway.managers.limits import MIN_INODES, merge_resources, to_limits
from faas_gateway.managers.turns import Turns

RESOURCES = st.builds(
    Resources,
    cpus=st.none() | st.floats(0.1, 64),
    memory_mb=st.none() | st.integers(32, 1000),
    pids=st.none() | st.integers(4, 100),
    timeout_s=st.none() | st.floats(0.1, 100),
)


@given(RESOURCES | st.none(), RESOURCES, RESOURCES)
def test_the_first_given_limit_wins(request: Resources | None, environment: Resources, default: Resources) -> None:
    merged = merge_resources(request, environment, default)
    for name in ("cpus", "memory_mb", "pids", "timeout_s"):
        given_values = [getattr(layer, name) for layer in (request, environment, default) if layer is not None]
        assert getattr(merged, name) == next((v for v in given_values if v is not None), None)


def test_limits_are_in_the_backends_units() -> None:
    limits = to_limits(Resources(cpus=1.5, memory_mb=64, disk_mb=10_240, pids=9, open_files=99, cpu_time_s=3))
    assert limits == base.Limits(
        cpus=1.5,
        memory_bytes=64 << 20,
        disk_bytes=10_240 << 20,
        disk_inodes=655_360,
        pids=9,
        open_files=99,
        cpu_time_s=3,
    )
    assert to_limits(Resources(disk_mb=1)).disk_inodes == MIN_INODES
    assert to_limits(Resources()) == base.Limits()


async def _take_turns(count: int, leave_early: set[int]) -> list[int]:
    turns, order = Turns(limit=100), list[int]()

    async def take(number: int) -> None:
        turn = turns.enter()
        try:
            if number in leave_early and not turn.is_ours:
                return
            await turn.wait()
            order.append(number)
            await anyio.lowlevel.checkpoint()
        finally:
            turn.leave()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(take, number)
    assert turns.holder is None
    return order


@given(st.integers(1, 20), st.sets(st.integers(1, 20)))
def test_turns_come_in_order_and_none_is_lost(count: int, leave_early: set[int]) -> None:
    order = anyio.run(_take_turns, count, leave_early)
    assert order == sorted(order)
    assert set(range(count)) - leave_early <= set(order)


def test_a_cancelled_place_in_the_queue_is_given_back() -> None:
    async def main() -> None:
        turns = Turns(limit=10)
        first, second, third = turns.enter(), turns.enter(), turns.enter()
        with anyio.move_on_after(0.01):
            await second.wait()
        second.leave()
        first.leave()
        with anyio.fail_after(1):
            await third.wait()
        third.leave()
        third.leave()
        assert turns.holder is None

    anyio.run(main)


def test_one_more_than_the_queue_holds_is_refused() -> None:
    turns = Turns(limit=2)
    places = [turns.enter() for _ in range(3)]
    with pytest.raises(CapacityError):
        turns.enter()
    places[0].leave()
    turns.enter()


def reply(status: str = "ok", **fields: object) -> Reply:
    return dataclasses.replace(Reply("ok"), status=status, **fields)


def outcome(given_reply: Reply, cause: outcomes.Cause | None = None, interrupted: bool = False) -> outcomes.Outcome:
    return outcomes.from_reply(given_reply, cause=cause, why="why", interrupted=interrupted)


def test_an_exception_is_an_error_with_its_traceback() -> None:
    found = outcome(reply("error", ename="ValueError", evalue="bad", traceback=("a", "b\ud800")))
    assert (found.status, found.exit_code) == ("error", 1)
    assert found.error is not None
    assert found.error.code == "exception"
    assert found.error.traceback[0] == "a"
    found.error.model_dump_json()


def test_an_exit_code_is_an_error_with_that_code() -> None:
    found = outcome(reply("error", exit_code=3))
    assert (found.status, found.exit_code, found.error and found.error.code) == ("error", 3, "exit_code")


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_request_past_its_timeout_has_status_timeout(status: str) -> None:
    found = outcome(reply(status), cause="timeout")
    assert (found.status, found.exit_code) == ("timeout", 124)
    assert found.error is not None
    assert "kept" in found.error.hint
    assert "timeout" in found.error.hint


def test_a_timeout_that_cost_the_session_says_so() -> None:
    found = outcomes.from_ended(Ended("killed", "x"), cause="timeout", why="why")
    assert found.status == "timeout"
    assert found.error is not None
    assert "ended" in found.error.hint


def test_an_interrupted_request_is_cancelled_only_if_it_failed() -> None:
    failed = outcome(reply("error", ename="KeyboardInterrupt", traceback=("t",)), interrupted=True)
    assert (failed.status, failed.error and failed.error.code) == ("cancelled", "cancelled")
    assert failed.error is not None
    assert failed.error.traceback == ["t"]
    assert outcome(reply("ok"), interrupted=True).status == "success"


@pytest.mark.parametrize("code", ["oom", "died", "disk_full", "cpu_time", "killed", "lost"])
def test_a_sandbox_that_ends_is_an_error_with_its_code_and_a_hint(code: str) -> None:
    found = outcomes.from_ended(Ended(code, "reason"), cause=None, why="")
    assert found.status == "error"
    assert found.error is not None
    assert (found.error.code, found.error.evalue) == (code, "reason")
    assert found.error.hint


@pytest.mark.parametrize("code", ["expired", "idle", "something new"])
def test_other_ends_are_reported_as_killed(code: str) -> None:
    found = outcomes.from_ended(Ended(code, "reason"), cause=None, why="")
    assert found.error is not None
    assert found.error.code == "killed"


def test_the_catalogue_has_the_shipped_environments() -> None:
    assert sorted(shipped.recipe.name for shipped in CATALOGUE) == list(SHIPPED_ENVIRONMENTS)
    assert all(shipped.recipe.base_image == "host" and shipped.notes for shipped in CATALOGUE)
    assert [s.recipe.name for s in CATALOGUE if s.takes_interpreter] == ["notebook"]


def all_errors() -> list[type[GatewayError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, GatewayError)]


def test_every_error_has_a_code_that_the_sdk_knows_and_stands_in_the_tree() -> None:
    codes = {kind.code: kind.status for kind in all_errors() if kind is not GatewayError}
    assert set(codes) == set(ERROR_BY_CODE)
    for code, status in codes.items():
        assert f"{status} {code}" in (errors.__doc__ or "")


def test_every_error_of_a_backend_has_one_of_ours() -> None:
    backend_errors = {
        value
        for value in vars(base).values()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and value.__module__.startswith("faas_gateway.backends")
    }
    assert backend_errors == set(BACKEND_ERRORS)


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (base.SandboxEnded(Ended("oom", "too much")), "execution_ended"),
        (base.BackendUnavailable("no namespaces", "sysctl x"), "sandbox_unavailable"),
        (base.BuildFailed("pip", "last line"), "build_failed"),
        (base.StartFailed("clone"), "start_failed"),
        (base.NotTransferable("a lock"), "not_transferable"),
        (base.UnknownVariable("x"), "unknown_variable"),
        (base.FileProblem(2, "x: not there"), "unknown_file"),
        (base.FileProblem(20, "x: no folder"), "unknown_file"),
        (base.FileProblem(28, "x: full"), "file_error"),
    ],
)
def test_backend_errors_become_problems(exc: Exception, code: str) -> None:
    problem = from_backend(exc).problem()
    assert problem.code == code
    assert problem.detail


def test_the_remedy_of_a_machine_without_sandboxes_is_the_hint() -> None:
    assert from_backend(base.BackendUnavailable("no namespaces", "sysctl x")).hint == "sysctl x"


def test_the_end_of_a_build_is_in_its_problem() -> None:
    detail = from_backend(base.BuildFailed("pip install", "x" * 10_000 + "THE END")).detail
    assert detail.endswith("THE END")
    assert len(detail) < 5000


def test_what_is_no_error_of_a_backend_passes() -> None:
    with pytest.raises(ZeroDivisionError):
        from_backend(ZeroDivisionError())


def test_suggestions_name_the_nearest() -> None:
    assert "'python-ai'" in suggest("python_ai", SHIPPED_ENVIRONMENTS)
    assert suggest("zzzzz", SHIPPED_ENVIRONMENTS) == ""
