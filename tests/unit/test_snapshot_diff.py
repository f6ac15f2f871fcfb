"""What differs between two snapshots: variables by digest, files by type, size and time; live and portable alike."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from snapshot_gateway import Opened, opened

from faas_gateway.managers.snapshot_diff import compare_files

pytestmark = pytest.mark.anyio


async def two(live: Opened, portable: str) -> tuple[str, str]:
    execution = await live.open()
    await live.run(execution, "set same 1\nset changed [1]\nset gone 5\nopaque lock\nwrite a.txt one\nwrite b.txt same")
    before = await live.snapshot(execution, portable=portable)
    await execution.access.delete_file("a.txt")
    await live.run(execution, "set changed [2]\nset new 7\nwrite c.txt three")
    del live.backend.open[execution.terms.id].state.variables["gone"]
    after = await live.snapshot(execution, portable=portable)
    return before.id, after.id


@pytest.mark.parametrize("portable", ["never", "now"])
async def test_variables_and_files_that_differ_are_named(tmp_path: Path, portable: str) -> None:
    async with opened(tmp_path) as live:
        before, after = await two(live, portable)
        if portable == "now":
            for snapshot in (before, after):
                live.backend.frozen[snapshot].die("so that the portable form is looked at")
            await live.until(lambda: not live.backend.frozen)
        found = await live.gateway.snapshots.diff(before, after)
        assert [(e.name, e.change) for e in found.variables] == [
            ("changed", "changed"),
            ("gone", "removed"),
            ("new", "added"),
        ]
        assert found.variables[0].before == "list: [1]"
        assert found.variables[0].after == "list: [2]"
        assert [(e.name, e.change) for e in found.files] == [
            ("/workspace/a.txt", "removed"),
            ("/workspace/c.txt", "added"),
        ]
        if portable == "never":  # what has no portable form is in neither, where that is looked at
            assert "lock" in found.notes[0]
        assert len(live.backend.open) == 1
        same = await live.gateway.snapshots.diff(after, after)
        assert (same.variables, same.files) == ([], [])
        back = await live.gateway.snapshots.diff(after, before)
        assert [e.change for e in back.variables] == ["changed", "added", "removed"]


async def test_a_client_that_leaves_leaves_no_hidden_sandbox(tmp_path: Path) -> None:
    async with opened(tmp_path) as live:
        before, after = await two(live, "never")
        live.backend.faults.branch_s = 0.2
        with anyio.move_on_after(0.05) as scope:
            await live.gateway.snapshots.diff(before, after)
        assert scope.cancelled_caught
        assert len(live.backend.open) == 1


def test_folders_differ_only_when_they_come_or_go() -> None:
    before = {"/w": ("directory", 0, 1.0), "/w/a": ("file", 1, 1.0), "/w/d": ("deleted", 0, 0.0)}
    after = {"/w": ("directory", 0, 2.0), "/w/a": ("file", 1, 2.0), "/w/new": ("directory", 0, 1.0)}
    assert [(e.name, e.change, e.before, e.after) for e in compare_files(before, after)] == [
        ("/w/a", "changed", "file, 1 bytes", "file, 1 bytes"),
        ("/w/new", "added", "", "directory"),
    ]
