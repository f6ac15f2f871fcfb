"""Restoring: many branches at once, each with what was asked for it, as many as fit."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from faas.types import ExecutionInfo
from snapshot_gateway import Opened, opened

from faas_gateway.backends.base import Ended
from faas_gateway.errors import (
    DeadlineError,
    InvalidRequestError,
    NotTransferableError,
    SnapshotGoneError,
    UnknownSnapshotError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as gateway:
        yield gateway


async def test_branches_know_their_number_and_what_they_came_from(live: Opened) -> None:
    execution = await live.open(env_vars={"KEPT": "yes"})
    await live.run(execution, "set x 1")
    found = await live.snapshot(execution)
    page = await live.restore(found.id, 3, labels={"a": "b"}, env_vars={"MORE": "1"}, reseed=True, ttl_s=100)
    assert (page.snapshot_id, page.form, page.notes) == (found.id, "live", [])
    for index, item in enumerate(page.items):
        info = item.execution
        assert info is not None
        assert (info.snapshot_id, info.branch_index, info.restored_from) == (found.id, index, "live")
        assert info.labels == {"a": "b"}
        assert info.receipt is not None
        assert info.receipt.notes == ["copied"]
        branch = live.execution(page, index)
        said = await live.run(branch, "show x\nenv FAAS_BRANCH_INDEX\nenv FAAS_SNAPSHOT_ID\nenv KEPT\nenv MORE")
        assert said == f"1\n{index}\n{found.id}\nyes\n1"
        assert live.backend.open[branch.terms.id].reseeded
        assert branch.terms.ttl_s == 100
    assert (await live.get(found.id)).branches == 3
    stored = await live.gateway.executions.list(status=None, environment=None, labels={}, cursor=None, limit=10)
    assert [i.branch_index for i in stored.items] == [2, 1, 0, None]


async def test_an_ended_branch_is_remembered_with_its_snapshot(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        found = await live.snapshot(await live.open())
        branch = live.execution(await live.restore(found.id))
    async with opened(tmp_path) as live:
        info: ExecutionInfo = await live.gateway.executions.get(branch.terms.id)
        assert (info.snapshot_id, info.branch_index, info.restored_from) == (found.id, 0, "live")


async def test_each_branch_has_its_own_name_variables_and_labels(live: Opened) -> None:
    found = await live.snapshot(await live.open())
    await live.open(name="taken")
    page = await live.branch(
        found.id,
        {"name": "left", "variables": {"x": [1, 2], "y": "a"}, "labels": {"side": "l"}},
        {"name": "taken"},
        {"name": "left"},
        {"variables": {"x": None}},
    )
    assert await live.run(live.execution(page, 0), "show x\nshow y") == "[1, 2]\n'a'"
    assert await live.run(live.execution(page, 3), "show x") == "None"
    assert live.execution(page, 0).terms.labels == {"side": "l"}
    for index in (1, 2):
        problem = page.items[index].problem
        assert problem is not None
        assert problem.code == "name_taken"
    assert (await live.gateway.executions.open_execution("left")).terms.branch_index == 0


async def test_variables_that_cannot_be_set_are_refused_before_anything_is_made(live: Opened) -> None:
    found = await live.snapshot(await live.open())
    with pytest.raises(InvalidRequestError, match="not-a-name"):
        await live.branch(found.id, {}, {"variables": {"not-a-name": 1}})
    shell = await live.snapshot(await live.open(environment="alpine-fast"))
    with pytest.raises(NotTransferableError, match="shell"):
        await live.branch(shell.id, {"variables": {"x": 1}})
    assert len(live.backend.open) == 2


async def test_as_many_as_fit_are_made_and_the_others_say_why(live: Opened) -> None:
    found = await live.snapshot(await live.open())
    live.backend.faults.branches_fit = 2
    page = await live.restore(found.id, 4)
    problems = [item.problem.code if item.problem else None for item in page.items]
    assert problems == [None, None, "start_failed", "start_failed"]
    assert page.items[3].problem is not None
    assert "no memory" in page.items[3].problem.detail


async def test_the_gateways_capacity_holds_for_branches(tmp_path: Path) -> None:
    async with opened(tmp_path, max_live=3) as live:
        found = await live.snapshot(await live.open())
        page = await live.restore(found.id, 4)
        codes = [item.problem.code if item.problem else None for item in page.items]
        assert codes == [None, None, "capacity", "capacity"]
        await live.execution(page).end(Ended("closed", "done"))
        assert (await live.restore(found.id)).items[0].execution is not None


async def test_a_hundred_branches_are_one_call_and_quick(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    found = await live.snapshot(execution)
    started = time.monotonic()
    page = await live.restore(found.id, 100)
    took = time.monotonic() - started
    assert all(item.execution is not None for item in page.items)
    assert took < 1
    async with anyio.create_task_group() as group:
        for index in range(100):
            group.start_soon(live.run, live.execution(page, index), "show x")


async def test_a_client_that_leaves_while_branches_are_made_leaves_none(live: Opened) -> None:
    execution = await live.open()
    found = await live.snapshot(execution)
    live.backend.faults.branch_s = 0.1
    with anyio.move_on_after(0.03) as scope:
        await live.branch(found.id, {"name": "b"})
    assert scope.cancelled_caught
    live.backend.faults.branch_s = 0
    await live.until(lambda: list(live.backend.open) == [execution.terms.id])
    assert (await live.branch(found.id, {"name": "b"})).items[0].execution is not None


async def test_branching_has_a_deadline(tmp_path: Path) -> None:
    async with opened(tmp_path, freeze_deadline_s=0.1) as live:
        found = await live.snapshot(await live.open())
        live.backend.faults.branch_s = 5
        with anyio.fail_after(3), pytest.raises(DeadlineError, match="1 branches"):
            await live.restore(found.id)


async def test_unknown_and_deleted_snapshots_are_told_apart_from_those_that_are_gone(live: Opened) -> None:
    with pytest.raises(UnknownSnapshotError):
        await live.restore("never-was")
    execution = await live.open()
    found = await live.snapshot(execution, name="n")
    live.backend.frozen[found.id].die("it was killed from outside")
    await live.until(lambda: not live.backend.frozen)
    for key in (found.id, "n"):
        with pytest.raises(SnapshotGoneError, match="killed from outside"):
            await live.restore(key)
    await live.gateway.snapshots.delete("n")
    with pytest.raises(UnknownSnapshotError):
        await live.restore(found.id)


async def test_a_live_form_that_died_is_replaced_by_the_portable_one(live: Opened) -> None:
    execution = await live.open(env_vars={"A": "1"})
    await live.run(execution, "set x 1\nwrite f.txt text")
    found = await live.snapshot(execution, portable="now")
    assert found.forms == ["live", "portable"]
    live.backend.frozen[found.id].die("it was killed")
    page = await live.restore(found.id, 2)
    assert page.form == "portable"
    assert "it was killed" in page.notes[0]
    for index in range(2):
        branch = live.execution(page, index)
        assert await live.run(branch, "show x\ncat f.txt\nenv A\nenv FAAS_BRANCH_INDEX") == f"1\ntext\n1\n{index}"
        assert branch.terms.restored_from == "portable"
    assert (await live.get(found.id)).forms == ["portable"]
    with pytest.raises(SnapshotGoneError, match="live form") as caught:
        await live.restore(found.id, form="live")
    assert "other form" in caught.value.hint


async def test_the_form_can_be_chosen(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1\nopaque lock")
    found = await live.snapshot(execution, portable="now")
    page = await live.restore(found.id, form="portable", reseed=True)
    assert page.form == "portable"
    branch = live.execution(page)
    assert live.backend.open[branch.terms.id].reseeded
    assert branch.terms.receipt is not None
    assert [loss.name for loss in branch.terms.receipt.lost] == ["lock"]
    assert (await live.restore(found.id)).form == "live"
    only_live = await live.snapshot(execution)
    with pytest.raises(SnapshotGoneError, match="portable"):
        await live.restore(only_live.id, form="portable")


async def test_a_hundred_generations_of_branches(live: Opened) -> None:
    execution = await live.open()
    for generation in range(100):
        await live.run(execution, f"set x {generation}\nwrite f{generation % 3}.txt {generation}")
        found = await live.snapshot(execution)
        assert found.depth == generation
        following = live.execution(await live.restore(found.id))
        await execution.end(Ended("closed", "done"))
        await live.gateway.snapshots.delete(found.id)
        execution = following
    assert await live.run(execution, "show x\ncat f0.txt") == "99\n99"
    assert not live.backend.frozen
