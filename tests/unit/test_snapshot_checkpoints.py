"""Checkpoints: one after each request, a ring of them, and the way back, files included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from faas.types import ExecuteInput, RewindInput, RunInput, SnapshotUpdate
from snapshot_gateway import Opened, opened

from faas_gateway.backends.base import Ended
from faas_gateway.errors import DeadlineError, ExecutionEndedError, NoCheckpointError, UnknownRequestError
from faas_gateway.managers.execution import LiveExecution

pytestmark = pytest.mark.anyio


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as gateway:
        yield gateway


async def open_with(live: Opened, **body: Any) -> LiveExecution:
    return await live.open(checkpoint="every-request", **body)


async def rewind(live: Opened, execution: LiveExecution, request_id: str, timeout: float = 5) -> None:
    await live.gateway.snapshots.rewind(execution.terms.id, RewindInput(request_id=request_id, timeout=timeout))


async def cells(live: Opened, execution: LiveExecution, *numbers: int) -> None:
    for number in numbers:
        await live.run(execution, f"set x {number}\nwrite f.txt {number}", f"request-{number}")


async def test_a_session_is_taken_back_to_any_request_and_goes_on_from_there(live: Opened) -> None:
    execution = await open_with(live)
    await cells(live, execution, 1, 2, 3)
    await live.run(execution, "print x", "request-4")
    assert live.gateway.executions.describe(execution).checkpoints == [
        "start", "request-1", "request-2", "request-3", "request-4",
    ]  # fmt: skip
    before = execution.sandbox.id
    await rewind(live, execution, "request-2")
    assert await live.run(execution, "show x\ncat f.txt") == "2\n2"
    assert execution.sandbox.id != before
    await live.until(lambda: list(live.backend.open) == [execution.sandbox.id])
    assert execution.status == "idle"
    await execution.end(Ended("closed", "done"))
    await live.until(lambda: not live.backend.frozen)


async def test_later_checkpoints_stay_until_another_history_begins(live: Opened) -> None:
    execution = await open_with(live)
    await cells(live, execution, 1, 2, 3)
    await rewind(live, execution, "request-1")
    await rewind(live, execution, "request-3")
    assert await live.run(execution, "show x", "request-4") == "3"
    await rewind(live, execution, "request-1")
    await live.run(execution, "set x 9", "request-5")
    assert execution.checkpoints[:3] == ["start", "request-1", "request-5"]
    with pytest.raises(UnknownRequestError) as caught:
        await rewind(live, execution, "request-3")
    assert "request-5" in caught.value.hint
    await rewind(live, execution, "start")
    assert await live.run(execution, "cat f.txt") == "no file"


async def test_the_ring_keeps_the_newest(live: Opened) -> None:
    execution = await open_with(live, checkpoints_kept=2)
    await cells(live, execution, 1, 2, 3)
    await live.until(lambda: execution.checkpoints == ["request-2", "request-3"])
    await live.until(lambda: len(live.backend.frozen) == 2)
    with pytest.raises(UnknownRequestError):
        await rewind(live, execution, "request-1")


async def test_the_next_request_waits_for_the_checkpoint_and_the_answer_does_not(live: Opened) -> None:
    execution = await open_with(live)
    await live.until(lambda: execution.checkpoints == ["start"])
    live.backend.faults.freeze_s = 0.2
    first = execution.execute(ExecuteInput(code="set x 1", request_id="request-1"))
    second = execution.execute(ExecuteInput(code="show x", request_id="request-2"))
    await first.done.wait()
    assert execution.checkpoints == ["start"]
    assert second.started_at is None
    await second.done.wait()
    assert execution.checkpoints == ["start", "request-1"]


async def test_checkpoints_are_hidden_and_can_become_snapshots(live: Opened) -> None:
    execution = await open_with(live, checkpoints_kept=2)
    await cells(live, execution, 1, 2)
    await live.until(lambda: execution.checkpoints == ["request-1", "request-2"] and len(live.backend.frozen) == 2)
    manager = live.gateway.snapshots
    assert (await manager.list(checkpoints=False, cursor=None, limit=10)).items == []
    shown = (await manager.list(checkpoints=True, cursor=None, limit=10)).items
    assert [item.request_id for item in shown] == ["request-2", "request-1"]
    assert all(item.checkpoint and item.parent_id is None for item in shown)
    named = await manager.update(shown[1].id, SnapshotUpdate(name="good"))
    assert (named.checkpoint, named.name) == (False, "good")
    await cells(live, execution, 3, 4, 5)
    assert await live.run(live.execution(await live.restore("good")), "show x") == "1"
    await rewind(live, execution, "request-1")
    assert await live.run(execution, "show x") == "1"
    taken = await live.snapshot(execution)
    assert taken.parent_id == named.id


async def test_a_request_without_a_checkpoint_says_why(live: Opened) -> None:
    execution = await open_with(live)
    await live.run(execution, "unforkable a thread runs", "request-1")
    await live.run(execution, "forkable", "request-2")
    await live.until(lambda: execution.checkpoints == ["start", "request-2"])
    assert "request-1: the session cannot be forked alive as it is" in execution.checkpoint_notes[0]
    assert execution.checkpoint_notes[0] in live.gateway.executions.describe(execution).notes
    with pytest.raises(NoCheckpointError, match="a thread runs"):
        await rewind(live, execution, "request-1")


async def test_a_command_that_runs_on_costs_a_checkpoint_and_not_the_session(live: Opened) -> None:
    execution = await open_with(live)
    execution.run(RunInput(command=["stubborn 1.5"], request_id="a-command"))
    await live.run(execution, "set x 1", "request-1")
    assert await live.run(execution, "show x", "request-2") == "1"
    with pytest.raises(NoCheckpointError, match="stubborn"):
        await rewind(live, execution, "request-1")


async def test_rewinding_waits_for_what_runs_and_no_longer_than_it_may(live: Opened) -> None:
    execution = await open_with(live)
    await cells(live, execution, 1, 2)
    running = execution.execute(ExecuteInput(code="sleep 10", request_id="request-3"))
    with pytest.raises(DeadlineError, match="request-3"):
        await rewind(live, execution, "request-1", timeout=0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(rewind, live, execution, "request-1")
        await anyio.sleep(0.02)
        queued = execution.execute(ExecuteInput(code="show x", request_id="request-4"))
        await running.interrupt()
    await queued.done.wait()
    assert b'"stdout":"1' in queued.read_result()


async def test_without_checkpoints_there_is_a_hint_and_snapshots_of_its_own_can_be_gone_back_to(live: Opened) -> None:
    execution = await live.open()
    await cells(live, execution, 1)
    with pytest.raises(NoCheckpointError, match="opened without checkpoints") as caught:
        await rewind(live, execution, "request-1")
    assert "every-request" in caught.value.hint
    found = await live.snapshot(execution)
    await cells(live, execution, 2)
    await rewind(live, execution, "request-1")
    assert await live.run(execution, "show x") == "1"
    branch = live.execution(await live.restore(found.id))
    await live.run(branch, "set x 7")
    await rewind(live, branch, "request-1")
    assert await live.run(branch, "show x") == "1"
    other = await live.open()
    with pytest.raises(NoCheckpointError):
        await rewind(live, other, "request-1")


async def test_a_portable_snapshot_can_be_gone_back_to(live: Opened) -> None:
    execution = await live.open()
    await cells(live, execution, 1)
    await live.run(execution, "unforkable threads", "request-2")
    await live.snapshot(execution, portable="later")
    await live.run(execution, "set x 5", "request-3")
    await rewind(live, execution, "request-2")
    assert await live.run(execution, "show x\ncat f.txt") == "1\n1"


async def test_a_rewind_that_fails_leaves_the_session_as_it_was(live: Opened) -> None:
    execution = await open_with(live)
    await cells(live, execution, 1, 2)
    await live.until(lambda: len(execution.checkpoints) == 3)
    live.backend.faults.branches_fit = 0
    with pytest.raises(Exception, match="no memory for another branch"):
        await rewind(live, execution, "request-1")
    live.backend.faults.branches_fit = None
    assert await live.run(execution, "show x") == "2"
    live.backend.faults.branch_s = 0.3
    with anyio.move_on_after(0.05):
        await rewind(live, execution, "request-1")
    assert await live.run(execution, "show x") == "2"
    assert len(live.backend.open) == 1


async def test_an_ended_session_is_not_rewound_and_its_ring_is_given_back(live: Opened) -> None:
    execution = await open_with(live)
    await cells(live, execution, 1)
    request = execution.execute(ExecuteInput(code="end died gone", request_id="request-2"))
    await request.done.wait()
    await execution.closed.wait()
    with pytest.raises(ExecutionEndedError):
        await rewind(live, execution, "request-1")
    await live.until(lambda: not live.backend.frozen)


@pytest.mark.parametrize("checkpoint", ["none", "every-request"])
async def test_a_session_that_ends_while_it_is_rewound_leaves_nothing(live: Opened, checkpoint: str) -> None:
    execution = await live.open(checkpoint=checkpoint)
    await cells(live, execution, 1)
    if checkpoint == "none":
        await live.snapshot(execution)
    await cells(live, execution, 2)
    live.backend.faults.branch_s = 0.1
    ends: list[str] = []

    async def go_back() -> None:
        try:
            await rewind(live, execution, "request-1")
        except ExecutionEndedError as exc:
            ends.append(exc.detail)

    async with anyio.create_task_group() as group:
        group.start_soon(go_back)
        await anyio.sleep(0.03)
        await execution.end(Ended("closed", "its owner"))
    assert "its owner" in ends[0]
    assert not live.backend.open
