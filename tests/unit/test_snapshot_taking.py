"""Taking snapshots: the session stands still for it, goes on in another sandbox, and nothing is left when it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from faas.types import CheckInput, ExecuteInput, RunInput, ScriptSnapshotCreate
from snapshot_gateway import Opened, opened, silent

from faas_gateway.backends.base import CannotFork, Ended, SandboxEnded, StartFailed
from faas_gateway.errors import (
    DeadlineError,
    ExecutionEndedError,
    InvalidRequestError,
    NameTakenError,
    ScriptFailedError,
    UnknownEnvironmentError,
    UnknownSnapshotError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as gateway:
        yield gateway


async def test_a_snapshot_says_what_it_is_of_and_what_the_fork_did(live: Opened) -> None:
    execution = await live.open(labels={"a": "b"}, resources={"memory_mb": 100})
    await live.run(execution, "set x 1", "req-of-the-cell")
    found = await live.snapshot(execution, name="first", labels={"team": "red"})
    assert (found.name, found.execution_id, found.request_id) == ("first", execution.terms.id, "req-of-the-cell")
    assert (found.forms, found.portable_status, found.depth, found.parent_id) == (["live"], "none", 0, None)
    assert (found.environment, found.language, found.labels) == ("python", "python", {"team": "red"})
    assert found.resources.memory_mb == 100
    assert found.receipt.reseeded == ["ssl"]
    assert found.receipt.lost[0].name == "helper"
    assert found.expires_at is not None
    assert (await live.get("first")).id == found.id
    assert (await live.get(found.id)).memory_bytes == 1 << 20


async def test_the_session_goes_on_after_it_and_the_snapshot_stays_as_it_was(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1\nwrite data.txt before")
    found = await live.snapshot(execution)
    await live.run(execution, "set x 2\nwrite data.txt after")
    branch = live.execution(await live.restore(found.id))
    assert await live.run(branch, "show x\ncat data.txt") == "1\nbefore"
    assert await live.run(execution, "show x\ncat data.txt") == "2\nafter"
    await live.run(branch, "set x 3")
    assert await live.run(execution, "show x") == "2"


async def test_snapshots_of_a_lineage_name_their_parents(live: Opened) -> None:
    execution = await live.open()
    first = await live.snapshot(execution)
    second = await live.snapshot(execution)
    assert (second.parent_id, second.depth) == (first.id, 1)
    branch = live.execution(await live.restore(first.id))
    third = await live.snapshot(branch)
    assert (third.parent_id, third.depth) == (first.id, 1)
    assert third.execution_id == branch.terms.id


async def test_requests_that_were_queued_before_run_in_the_sandbox_that_follows(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.freeze_s = 0.1
    async with anyio.create_task_group() as group:
        first = execution.execute(ExecuteInput(code="stubborn 0.1"))
        group.start_soon(live.snapshot, execution)
        await anyio.sleep(0.02)
        queued = [execution.execute(ExecuteInput(code="set x 5\nshow x")) for _ in range(3)]
        variables = await execution.access.list_variables()
    assert [v.name for v in variables] == ["x"]
    for request in (first, *queued):
        await request.done.wait()
        assert request.result is not None
        assert request.result.status == "success"


async def test_commands_and_files_wait_while_it_is_frozen(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.freeze_s = 0.1
    said: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(live.snapshot, execution)
        await anyio.sleep(0.03)
        assert execution.slot.is_changing

        async def write() -> None:
            await execution.access.write_file("a.txt", _once(b"text"), untar=False)
            said.append(await live.command(execution, "cat a.txt"))

        group.start_soon(write)
        await anyio.sleep(0.03)
        assert not said
        await execution.refresh_usage()
    assert said == ["text"]


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


async def test_a_cell_that_runs_on_is_named_within_the_timeout(live: Opened) -> None:
    execution = await live.open()
    request = execution.execute(ExecuteInput(code="sleep 10", request_id="the-long-one"))
    with pytest.raises(DeadlineError, match=r"cell is running.*the-long-one"):
        await live.snapshot(execution, timeout=0.1)
    assert execution.sandbox is live.backend.open[execution.terms.id]
    await request.interrupt()
    await live.snapshot(execution, timeout=5)


async def test_a_command_beside_is_waited_for_and_named(live: Opened) -> None:
    execution = await live.open()
    command = execution.run(RunInput(command=["stubborn 0.4"], request_id="beside-1"))
    await anyio.sleep(0.02)
    with pytest.raises(DeadlineError, match=r"command 'stubborn 0.4' .request beside-1"):
        await live.snapshot(execution, timeout=0.1)
    check = await live.gateway.snapshots.check(CheckInput(execution_id=execution.terms.id))
    assert check.live
    assert "beside-1" in check.losses[0].name
    await live.snapshot(execution, timeout=5)
    assert command.done.is_set()


async def test_names_are_taken_once_and_free_after_a_failure(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.freeze_fails = True
    with pytest.raises(StartFailed, match="No space"):
        await live.snapshot(execution, name="n")
    live.backend.faults.freeze_fails = False
    found = await live.snapshot(execution, name="n")
    with pytest.raises(NameTakenError):
        await live.snapshot(execution, name="n")
    with pytest.raises(InvalidRequestError, match="looks like an id"):
        await live.snapshot(execution, name=found.id)
    await live.gateway.snapshots.delete("n")
    assert (await live.snapshot(execution, name="n")).id != found.id


async def test_what_cannot_be_forked_takes_the_portable_way_and_says_why(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1\nopaque lock\nwrite a.txt text\nunforkable a thread of its own runs")
    check = await live.gateway.snapshots.check(CheckInput(execution_id=execution.terms.id))
    assert not check.live
    assert check.losses[0].effect == "portable_only"
    found = await live.snapshot(execution, portable="later")
    assert (found.forms, found.portable_status) == (["portable"], "ready")
    assert found.excluded[0].name == "lock"
    assert found.receipt.lost[0].reason == "a thread of its own runs"
    assert "portable way" in found.notes[0]
    page = await live.restore(found.id)
    assert page.form == "portable"
    assert "a thread of its own runs" in page.notes[0]
    assert await live.run(live.execution(page), "show x\ncat a.txt") == "1\ntext"
    assert await live.run(execution, "show x") == "1"


async def test_what_cannot_be_forked_is_an_error_where_no_portable_form_is_wanted(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "unforkable threads")
    with pytest.raises(CannotFork, match="threads"):
        await live.snapshot(execution, portable="never")
    assert await live.run(execution, "print on") == "on"


async def test_a_full_disk_on_the_portable_way_leaves_nothing(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1\nunforkable threads")
    live.backend.faults.disk_full = True
    with pytest.raises(StartFailed, match="No space"):
        await live.snapshot(execution, portable="now")
    live.backend.faults.disk_full = False
    assert await live.run(execution, "show x") == "1"
    assert not list(live.gateway.settings.snapshots_dir.glob("*"))
    assert not live.backend.home.layers


async def test_a_source_that_dies_while_it_is_frozen_is_reported_with_the_cause(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.freeze_dies = True
    with pytest.raises(SandboxEnded, match="the interpreter was killed"):
        await live.snapshot(execution, name="n")
    await execution.closed.wait()
    assert execution.ended is not None
    assert execution.ended.code == "died"
    with pytest.raises(ExecutionEndedError, match="died"):
        await live.snapshot(execution, name="n")
    with pytest.raises(UnknownSnapshotError):
        await live.get("n")


async def test_a_session_that_is_ended_while_it_is_frozen_ends_and_leaves_its_snapshot(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    live.backend.faults.freeze_s = 0.1
    taken: list[str] = []

    async def take() -> None:
        try:
            taken.append((await live.snapshot(execution)).id)
        except SandboxEnded as exc:
            taken.append(exc.ended.code)

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.sleep(0.03)
        with anyio.fail_after(5):
            await execution.end(Ended("closed", "its owner"))
    assert execution.closed.is_set()
    assert taken == ["closed"]
    assert not live.backend.open


async def test_snapshots_outlive_their_source(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    found = await live.snapshot(execution)
    await execution.end(Ended("closed", "its owner"))
    assert await live.run(live.execution(await live.restore(found.id)), "show x") == "1"


async def test_a_client_that_leaves_while_it_is_taken_leaves_no_snapshot(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    live.backend.faults.freeze_s = 0.1
    with anyio.move_on_after(0.03) as scope:
        await live.snapshot(execution, name="n")
    assert scope.cancelled_caught
    assert not live.backend.frozen
    with pytest.raises(UnknownSnapshotError):
        await live.get("n")
    assert await live.run(execution, "show x") == "1"
    again = await live.snapshot(execution, name="n")
    assert again.parent_id is None


async def test_freezing_that_never_ends_has_a_deadline_and_ends_the_session(tmp_path: Path) -> None:
    async with opened(tmp_path, freeze_deadline_s=0.1) as live:
        execution = await live.open()
        live.backend.faults.freeze_s = 5
        with anyio.fail_after(3), pytest.raises(DeadlineError, match="was ended"):
            await live.snapshot(execution)
        await execution.closed.wait()
        assert execution.ended is not None
        assert execution.ended.code == "lost"


async def test_a_script_makes_a_snapshot_whose_branches_run_its_language(live: Opened) -> None:
    body = ScriptSnapshotCreate(script="write tool.txt made", name="base", env_vars={"A": "1"}, portable="never")
    found = await live.gateway.snapshots.create_from_script(body, silent)
    assert (found.name, found.environment, found.language, found.network) == ("base", "python", "shell", "full")
    assert not live.backend.open
    page = await live.restore("base")
    branch = live.execution(page)
    assert (branch.terms.language, branch.terms.network) == ("shell", "full")
    assert await live.run(branch, "cat tool.txt\nenv A") == "made\n1"


async def test_a_script_that_fails_leaves_nothing_and_shows_the_end_of_its_output(live: Opened) -> None:
    body = ScriptSnapshotCreate(script="print one\neprint two\nexit 3", name="base")
    with pytest.raises(ScriptFailedError) as caught:
        await live.gateway.snapshots.create_from_script(body, silent)
    assert "exit code 3" in caught.value.detail
    assert caught.value.detail.endswith("one\ntwo\n")
    with pytest.raises(UnknownSnapshotError):
        await live.get("base")
    assert not live.backend.open
    slow = ScriptSnapshotCreate(script="stubborn 5", timeout=0.1)
    with pytest.raises(ScriptFailedError, match="timeout"):
        await live.gateway.snapshots.create_from_script(slow, silent)
    with pytest.raises(UnknownEnvironmentError):
        await live.gateway.snapshots.create_from_script(ScriptSnapshotCreate(script="", environment="no"), silent)


async def test_a_language_the_environment_has_not_is_refused(live: Opened) -> None:
    with pytest.raises(InvalidRequestError, match="language"):
        await live.open(environment="alpine-fast", language="python")
    execution = await live.open(environment="python", language="shell")
    assert execution.terms.language == "shell"
    assert live.backend.open[execution.terms.id].spec.language == "shell"
