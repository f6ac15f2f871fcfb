"""The portable form: written in the background, there after a restart, given back when no snapshot needs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from snapshot_gateway import Opened, opened

from faas_gateway.backends.base import Ended
from faas_gateway.errors import SnapshotGoneError, UnknownSnapshotError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as gateway:
        yield gateway


async def test_it_is_written_in_the_background_without_the_source(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1\nopaque lock")
    found = await live.snapshot(execution, portable="later")
    assert (found.portable_status, found.forms) == ("pending", ["live"])
    assert await live.run(execution, "set x 2\nshow x") == "2"
    found = await live.until_portable(found.id)
    assert found.forms == ["live", "portable"]
    assert found.portable_bytes > 0
    assert [(loss.name, loss.kind) for loss in found.excluded] == [("lock", "variable")]
    assert list(live.backend.open) == [execution.terms.id]  # the hidden branch is closed
    page = await live.restore(found.id, form="portable")
    assert await live.run(live.execution(page), "show x") == "1"


async def test_a_shell_session_needs_its_files_only(live: Opened) -> None:
    execution = await live.open(environment="alpine-fast")
    await live.run(execution, "write a.txt text")
    found = await live.snapshot(execution, portable="now")
    assert found.forms == ["live", "portable"]
    assert found.portable_bytes == 0
    page = await live.restore(found.id, form="portable")
    assert await live.run(live.execution(page), "cat a.txt") == "text"


async def test_what_is_portable_is_there_after_a_restart_and_what_was_live_only_says_that_it_was(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as live:
        execution = await live.open(env_vars={"A": "1"}, resources={"memory_mb": 77})
        await live.run(execution, "set x 1\nwrite f.txt text")
        kept = await live.snapshot(execution, name="kept", portable="now", labels={"l": "1"})
        gone = await live.snapshot(execution, name="gone")
    async with opened(tmp_path) as live:
        found = await live.get("kept")
        assert (found.id, found.forms, found.labels, found.expires_at) == (kept.id, ["portable"], {"l": "1"}, None)
        assert (found.resources.memory_mb, found.receipt.reseeded) == (77, ["ssl"])
        for key in (gone.id, "gone"):
            with pytest.raises(SnapshotGoneError, match="live only, and the gateway stopped"):
                await live.get(key)
        page = await live.restore("kept", 2)
        assert page.form == "portable"
        for index in range(2):
            assert await live.run(live.execution(page, index), "show x\ncat f.txt\nenv A") == "1\ntext\n1"
        again = await live.snapshot(live.execution(page), name="gone")
        assert (again.parent_id, again.depth) == (kept.id, 0)


async def test_a_gateway_that_was_killed_leaves_rows_that_say_what_became_of_their_snapshots(tmp_path: Path) -> None:
    async with opened(tmp_path, portable_delay_s=100) as live:
        execution = await live.open()
        pending = await live.snapshot(execution, portable="later")
        whole = await live.snapshot(execution, portable="now")
        broken = await live.snapshot(execution, portable="now")
        store = live.gateway.settings.snapshots_dir
        (store / broken.id / "variables.bin").unlink()
        (store / "snap_of_nobody").mkdir()
        live.backend.home.add("a-layer-of-nobody", {})
    async with opened(tmp_path) as live:
        with pytest.raises(SnapshotGoneError, match="gateway stopped"):
            await live.get(pending.id)
        with pytest.raises(SnapshotGoneError, match="missing"):
            await live.get(broken.id)
        assert (await live.get(whole.id)).forms == ["portable"]
        assert [p.name for p in store.iterdir()] == [whole.id]
        assert sorted(live.backend.home.kept_names()) == sorted({whole.id, pending.id})  # its parent's layer too


async def test_layers_go_when_the_last_snapshot_that_needs_them_is_deleted(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "write a.txt 1")
    first = await live.snapshot(execution, portable="now")
    await live.run(execution, "write b.txt 2")
    second = await live.snapshot(execution, portable="now")
    await live.gateway.snapshots.delete(first.id)
    page = await live.restore(second.id, form="portable")
    assert await live.run(live.execution(page), "cat a.txt\ncat b.txt") == "1\n2"
    await live.gateway.snapshots.delete(second.id)
    assert not live.backend.home.kept_names()
    assert not list(live.gateway.settings.snapshots_dir.iterdir())
    assert await live.run(live.execution(page), "cat a.txt") == "1"
    with pytest.raises(UnknownSnapshotError):
        await live.gateway.snapshots.delete(second.id)


async def test_a_full_disk_fails_the_portable_form_and_leaves_the_live_one(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    live.backend.faults.disk_full = True
    found = await live.snapshot(execution, portable="now")
    assert (found.portable_status, found.forms) == ("failed", ["live"])
    assert found.portable_error == "the disk of the gateway is full"
    assert await live.run(live.execution(await live.restore(found.id)), "show x") == "1"
    assert not list(live.gateway.settings.snapshots_dir.glob("*/*"))


async def test_a_restore_goes_first_and_the_writing_is_begun_again(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    live.backend.faults.capture_s = 0.3
    found = await live.snapshot(execution, portable="later")
    await live.until(lambda: len(live.backend.open) == 2)  # the hidden branch is there
    started = time.monotonic()
    await live.restore(found.id)
    assert time.monotonic() - started < 0.2
    assert not list(live.gateway.settings.snapshots_dir.glob("*/*.part"))
    assert (await live.get(found.id)).portable_status == "pending"
    assert (await live.until_portable(found.id)).portable_status == "ready"


async def test_one_is_written_at_a_time(live: Opened) -> None:
    executions = [await live.open() for _ in range(3)]
    live.backend.faults.capture_s = 0.1
    for execution in executions:
        await live.snapshot(execution, portable="later")
    most = 0
    page = await live.gateway.snapshots.list(checkpoints=False, cursor=None, limit=10)
    with anyio.fail_after(5):
        while any(item.portable_status == "pending" for item in page.items):
            most = max(most, len(live.backend.open) - 3)
            await anyio.sleep(0.01)
            page = await live.gateway.snapshots.list(checkpoints=False, cursor=None, limit=10)
    assert most == 1
    assert all(item.portable_status == "ready" for item in page.items)


async def test_deleting_while_it_is_written_leaves_nothing(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.capture_s = 5
    found = await live.snapshot(execution, portable="later")
    await live.until(lambda: len(live.backend.open) == 2)
    await live.gateway.snapshots.delete(found.id)
    await live.until(lambda: len(live.backend.open) == 1)
    assert not list(live.gateway.settings.snapshots_dir.glob("*"))
    assert not live.backend.home.kept_names()
    live.backend.faults.capture_s = 0
    again = await live.snapshot(execution, portable="later")
    assert (await live.until_portable(again.id)).portable_status == "ready"


async def test_a_client_that_leaves_while_it_is_written_now_leaves_nothing(live: Opened) -> None:
    execution = await live.open()
    live.backend.faults.capture_s = 5
    with anyio.move_on_after(0.1) as scope:
        await live.snapshot(execution, portable="now")
    assert scope.cancelled_caught
    assert list(live.backend.open) == [execution.terms.id]
    assert not live.backend.frozen
    assert not live.backend.home.kept_names()
    assert (await live.gateway.snapshots.list(checkpoints=True, cursor=None, limit=10)).items == []


async def test_a_gateway_that_stops_finishes_what_is_being_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        live.backend.faults.capture_s = 0.3
        found = await live.snapshot(await live.open(), portable="later")
        await live.until(lambda: len(live.backend.open) == 2)
    async with opened(tmp_path) as live:
        assert (await live.get(found.id)).forms == ["portable"]


async def test_a_gateway_that_stops_does_not_wait_for_ever(tmp_path: Path) -> None:
    started = time.monotonic()
    async with opened(tmp_path, stop_deadline_s=1) as live:
        live.backend.faults.capture_s = 30
        found = await live.snapshot(await live.open(), portable="later")
        await live.until(lambda: len(live.backend.open) == 2)
        await live.gateway.executions.shutdown()
        await live.gateway.snapshots.shutdown()
        live.backend.open.clear()  # the hidden branch ends with the backend, as the process would
    assert time.monotonic() - started < 5
    async with opened(tmp_path) as live:
        with pytest.raises(SnapshotGoneError, match="gateway stopped"):
            await live.get(found.id)


async def test_a_gateway_with_a_live_only_snapshot_is_not_idle(live: Opened) -> None:
    execution = await live.open()
    found = await live.snapshot(execution)
    await execution.end(Ended("closed", "done"))
    await live.until(lambda: live.gateway.executions.reservations.unclosed == 0)
    assert not live.gateway.executions.is_idle
    await live.gateway.snapshots.delete(found.id)
    assert live.gateway.executions.is_idle
