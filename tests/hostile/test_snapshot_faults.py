"""Snapshots when something dies, is missing, is too large or is asked for wrongly."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from faas import SyncExecution, errors
from live import wait_until
from relatives import Family, family
from rings import Ring, Victim

pytestmark = [pytest.mark.usefixtures("unharmed"), pytest.mark.xdist_group("hostile-snapshot-faults")]


@pytest.fixture
def relatives(ring: Ring) -> Iterator[Family]:
    with family(ring) as made:
        yield made


@pytest.fixture
def source(relatives: Family) -> Victim:
    victim = relatives.open(memory_mb=256, pids=32)
    victim.value("x = 41; open('f', 'w').write('base')")
    return victim


def guests(victim: Victim) -> list[psutil.Process]:
    return [p for p in victim.look() if not p.name().startswith("faas-")]


# ---- deaths -----------------------------------------------------------------------------------------------
def test_a_source_killed_meanwhile_is_an_error_or_a_snapshot(relatives: Family, source: Victim) -> None:
    source.value("import os; os.register_at_fork(before=lambda: __import__('time').sleep(1))")
    found = guests(source)
    killer = threading.Timer(0.4, lambda: [p.kill() for p in found])
    killer.start()
    begun = time.monotonic()
    with pytest.raises((errors.StartError, errors.ExecutionEndedError)) as caught:
        relatives.snapshot(source)
    killer.join()
    assert time.monotonic() - begun < 10
    assert str(caught.value)
    wait_until(lambda: source.end_code() == "died", 5)


@pytest.mark.parametrize("whose", ["dormant process", "init"])
def test_a_dormant_process_killed_from_outside(relatives: Family, source: Victim, whose: str) -> None:
    """Without a portable form the error says so; with one the restore comes from it, and says so."""
    found = source.look() if whose == "init" else set(guests(source))
    snapshot = relatives.snapshot(source, portable="now")
    for process in found:
        if process.is_running():
            process.kill()
    wait_until(lambda: "live" not in relatives.client.snapshots.get(snapshot).forms, 10, "the loss to be known")
    (restored,) = relatives.branch(snapshot)
    assert restored.execution.restored_from == "portable"
    assert restored.value("print(x, open('f').read())") == "41 base"
    if whose == "dormant process":
        assert source.value("print(x)") == "41", "the session goes on"
    else:
        source.seen.clear()
        wait_until(lambda: source.end_code() is not None, 10, "what lived below that init to have ended")


def test_a_dormant_process_killed_without_a_portable_form(relatives: Family, source: Victim) -> None:
    found = guests(source)
    snapshot = relatives.snapshot(source)
    for process in found:
        process.kill()
    wait_until(lambda: not any(p.is_running() for p in found), 10)
    with pytest.raises(errors.SnapshotGoneError) as caught:
        relatives.branch(snapshot)
    assert caught.value.hint
    assert source.value("print(x)") == "41"


@pytest.mark.parametrize("end", ["close", "os._exit(3)", "os.kill(0, 9)", "import ctypes; ctypes.string_at(0)"])
def test_the_end_of_a_source_is_not_that_of_its_relatives(relatives: Family, source: Victim, end: str) -> None:
    snapshot = relatives.snapshot(source)
    (before,) = relatives.branch(snapshot)
    below = relatives.snapshot(before)
    if end == "close":
        source.execution.close()
    else:
        source.cell(f"import os; {end}", timeout=20)
        assert source.end_code() == "died"
    for member in (before, *relatives.branch(snapshot), *relatives.branch(below)):
        assert member.value("print(x, open('f').read())") == "41 base"


# ---- asked for wrongly ------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [0, -1, 10**6, 2**40])
def test_a_number_of_branches_that_is_none(relatives: Family, source: Victim, count: int) -> None:
    snapshot = relatives.snapshot(source)
    begun = time.monotonic()
    with pytest.raises((errors.InvalidRequestError, ValueError)):
        relatives.client.snapshots.restore(snapshot, count)
    assert time.monotonic() - begun < 5


def test_a_snapshot_that_is_unknown_or_deleted(relatives: Family, source: Victim) -> None:
    for wrong in ("snap_none", "../x", "x" * 5000):
        with pytest.raises(errors.FaaSError) as caught:
            relatives.client.snapshots.restore(wrong)
        assert not isinstance(caught.value, errors.InternalError)
    snapshot = relatives.snapshot(source)
    (branch,) = relatives.branch(snapshot)
    relatives.client.snapshots.delete(snapshot)
    for call in (relatives.client.snapshots.restore, relatives.client.snapshots.get, relatives.client.snapshots.delete):
        with pytest.raises((errors.UnknownSnapshotError, errors.BranchError)):
            call(snapshot)
    assert branch.value("print(x)") == "41", "what came of it goes on"


def test_one_that_runs_is_waited_for_and_no_longer_than_said(relatives: Family, source: Victim) -> None:
    stream = source.execution.stream("import time; print('begun', flush=True); time.sleep(2); x = 42")
    assert next(stream).text.startswith("begun")
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineError, match="run"):
        relatives.snapshot(source, timeout=0.5)
    assert 0.4 < time.monotonic() - begun < 1.5
    snapshot = relatives.snapshot(source, timeout=20)
    assert [event.text for event in stream if event.text.strip()] == []
    assert stream.result.status == "success"
    assert relatives.branch(snapshot)[0].value("print(x)") == "42"


def test_one_deleted_while_its_branches_are_made(relatives: Family, source: Victim) -> None:
    """Each branch is whole or an error; nothing of the snapshot is left."""
    snapshot = relatives.snapshot(source)
    deleting = threading.Timer(0.05, lambda: relatives.client.snapshots.delete(snapshot))
    deleting.start()
    made: list[object] = []
    with contextlib.suppress(errors.UnknownSnapshotError, errors.SnapshotGoneError):
        made = list(relatives.client.snapshots.restore(snapshot, 20, return_exceptions=True))
    deleting.join()
    for one in made:
        if isinstance(one, SyncExecution):
            assert relatives.adopt(one).value("print(x)") == "41"
        else:
            assert isinstance(one, errors.FaaSError)
            assert not isinstance(one, errors.InternalError)


# ---- limits -----------------------------------------------------------------------------------------------
def test_a_fork_bomb_in_a_branch_is_its_own(relatives: Family, source: Victim) -> None:
    snapshot = relatives.snapshot(source)
    bomber, other = relatives.branch(snapshot, 2)
    bomber.cell(
        "import os, time\nuntil = time.monotonic() + 2\nwhile time.monotonic() < until:\n"
        "    try: os.fork()\n    except OSError: time.sleep(0.01)\nos._exit(0)",
        timeout=10,
    )
    for member in (other, source, *relatives.branch(snapshot)):
        assert member.value("import subprocess; print(x, subprocess.run(['true']).returncode)") == "41 0"


def test_a_branch_that_fills_its_disk_or_memory(relatives: Family) -> None:
    source = relatives.open(memory_mb=256, pids=32, disk_mb=32)
    source.value("x = 41")
    snapshot = relatives.snapshot(source)
    full, greedy, other = relatives.branch(snapshot, 3)
    writing = full.cell("f = open('big', 'wb')\nfor _ in range(200): f.write(bytes(1 << 20)); f.flush()", timeout=30)
    assert writing.status == "error"
    eating = greedy.cell("eaten = bytearray(1 << 30)\nfor i in range(0, len(eaten), 4096): eaten[i] = 1", timeout=30)
    assert eating.error is not None
    assert eating.error.code == "oom"
    for member in (other, source, *relatives.branch(snapshot)):
        assert member.value("print(x, open('g', 'w').write('1' * 1000))") == "41 1000"


# ---- many generations -------------------------------------------------------------------------------------
def test_thirty_generations_deep_no_relative_is_listed_or_read(relatives: Family, source: Victim) -> None:
    """Deeper than namespaces nest (26 here) relatives share a pid namespace and a user namespace. What remains is that
    who guesses a number there can signal it."""
    source.value(
        """
import os
from faas_guest import linux
def reached():
    linux.raise_capabilities(*linux.ENTERING)
    near = {n for n in range(1, 5001)} | {n for n in range(os.getpid() - 300, os.getpid() + 300) if n > 0}
    found = {n for n in os.listdir("/proc") if n.isdigit()} - {"1", str(os.getpid())}
    found = {n for n in found if open(f"/proc/{n}/comm").read() != "faas-agent\\n"}
    opened = set()
    for n in near - {os.getpid()}:
        for name in ("root", "mem", "environ", "ns/mnt", "fd", "maps"):
            try: os.close(os.open(f"/proc/{n}/{name}", os.O_RDONLY))
            except OSError: continue
            if open(f"/proc/{n}/comm").read() != "faas-agent\\n": opened.add((n, name))
    try: os.kill(-1, 9)
    except PermissionError: return found, opened
"""
    )
    last = relatives.snapshot(source)
    for _ in range(29):
        last = relatives.snapshot(source)
    first, second = relatives.branch(last, 2)
    assert "shared" in (first.execution.receipt.isolation if first.execution.receipt else "")
    for member in (source, first, second):
        assert member.value("print(reached(), x)") == "(set(), set()) 41"
    source.execution.close()
    assert second.value("print(x)") == "41"
    assert relatives.branch(last)[0].value("print(x)") == "41"
