"""The sync client is the async one."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import faas
import pytest
from faas._async import _io as async_io
from faas._async.snapshots import SnapshotManager
from faas._sync import _io as sync_io
from faas._sync.snapshots import SyncSnapshotManager

ROOT = Path(__file__).resolve().parents[2]


def test_generating_again_changes_nothing():
    script = ROOT / "scripts" / "generate_sync.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_trace_of_async_is_left():
    for path in (ROOT / "sdk" / "python" / "faas" / "_sync").glob("*.py"):
        code = [line for line in path.read_text().splitlines()[2:] if "faas/_async" not in line]
        for word in ("async", "await", "anyio", "aclose", "Async"):
            assert not [line for line in code if re.search(rf"\b{word}\b", line)], path.name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (faas.FaaSClient, faas.SyncFaaSClient),
        (faas.Execution, faas.SyncExecution),
        (faas.SnapshotHandle, faas.SyncSnapshotHandle),
        (SnapshotManager, SyncSnapshotManager),
    ],
)
def test_both_sides_have_the_same_methods_and_arguments(ours: type, theirs: type):
    def public(cls: type) -> dict[str, list[str]]:
        return {
            {"aclose": "close"}.get(name, name): list(inspect.signature(value).parameters)
            for name, value in vars(cls).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }

    assert public(ours) == public(theirs)


def test_the_parts_by_hand_have_the_same_names():
    assert async_io.__all__ == sync_io.__all__
