"""Live snapshots keep within a cap and expire; none is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from faas.types import SnapshotUpdate
from snapshot_gateway import Opened, opened

from faas_gateway.errors import CapacityError, SnapshotGoneError

pytestmark = pytest.mark.anyio

MIB = 1 << 20
#: Room for two of the fake backend's, which take 1 MiB each.
TWO: dict[str, Any] = {"snapshots_memory_bytes": 2 * MIB, "snapshots_look_s": 0.05}


async def looked_at(live: Opened, *snapshots: str) -> None:
    for snapshot in snapshots:
        with anyio.fail_after(5):
            while not (await live.get(snapshot)).memory_bytes:
                await anyio.sleep(0.01)


async def test_the_oldest_is_made_portable_and_its_live_form_let_go(tmp_path: Path) -> None:
    async with opened(tmp_path, **TWO) as live:
        execution = await live.open()
        await live.run(execution, "set x 1")
        named = await live.snapshot(execution, name="named")
        old = await live.snapshot(execution)
        await looked_at(live, named.id)
        new = await live.snapshot(execution)
        await live.until(lambda: len(live.backend.frozen) < 3)
        found = await live.get(old.id)
        assert (found.forms, found.portable_status, found.memory_bytes) == (["portable"], "ready", 0)
        assert "make room" in found.notes[-1]
        assert (await live.get(named.id)).forms == ["live"]
        page = await live.restore(old.id)
        assert page.form == "portable"
        assert "make room" in page.notes[0]
        assert await live.run(live.execution(page), "show x") == "1"
        assert new.id != old.id


async def test_what_cannot_be_made_portable_stays_and_new_ones_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, **TWO) as live:
        execution = await live.open()
        live.backend.faults.disk_full = True
        first, second = await live.snapshot(execution), await live.snapshot(execution)
        await looked_at(live, first.id, second.id)
        with pytest.raises(CapacityError, match="2 MiB of the 2 MiB") as caught:
            await live.snapshot(execution)
        assert "Delete some" in caught.value.hint
        await anyio.sleep(0.2)
        assert sorted(live.backend.frozen) == sorted([first.id, second.id])
        live.backend.faults.disk_full = False
        third = await live.snapshot(execution)
        assert third.forms == ["live"]
        assert (await live.get(first.id)).forms == ["portable"]


async def test_kept_and_named_ones_make_no_room(tmp_path: Path) -> None:
    async with opened(tmp_path, **TWO) as live:
        execution = await live.open()
        kept = await live.snapshot(execution)
        assert (await live.gateway.snapshots.update(kept.id, SnapshotUpdate(keep=True))).expires_at is None
        named = await live.snapshot(execution, name="n")
        await looked_at(live, kept.id, named.id)
        with pytest.raises(CapacityError):
            await live.snapshot(execution)
        assert len(live.backend.frozen) == 2


async def test_the_oldest_checkpoints_go_first_and_the_session_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, **TWO) as live:
        execution = await live.open(checkpoint="every-request")
        for number in range(4):
            await live.run(execution, f"set x {number}", f"request-{number}")
            await anyio.sleep(0.1)
        assert len(execution.checkpoints) < 5
        await live.until(lambda: len(live.backend.frozen) < 3)
        assert "make room" in " ".join(execution.checkpoint_notes)


async def test_a_live_form_expires_and_the_portable_one_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, live_expiry_s=0.2, snapshots_look_s=0.05) as live:
        execution = await live.open()
        both = await live.snapshot(execution, portable="now")
        never = await live.snapshot(execution)
        kept = await live.snapshot(execution)
        await live.gateway.snapshots.update(kept.id, SnapshotUpdate(keep=True))
        await live.until(lambda: list(live.backend.frozen) == [kept.id])
        for snapshot in (both, never):
            found = await live.get(snapshot.id)
            assert (found.forms, found.expires_at) == (["portable"], None)
            assert "expired" in found.notes[-1]
        assert (await live.get(kept.id)).forms == ["live"]


async def test_one_that_expires_and_cannot_be_made_portable_says_both(tmp_path: Path) -> None:
    async with opened(tmp_path, live_expiry_s=0.1, snapshots_look_s=0.05) as live:
        live.backend.faults.disk_full = True
        found = await live.snapshot(await live.open())
        await live.until(lambda: not live.backend.frozen)
        with anyio.fail_after(5):
            while (await live.gateway.snapshots.list(checkpoints=True, cursor=None, limit=1)).items:
                await anyio.sleep(0.01)
        with pytest.raises(SnapshotGoneError, match=r"expired.*disk of the gateway is full"):
            await live.get(found.id)
