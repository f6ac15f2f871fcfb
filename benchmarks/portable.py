"""The portable form of a session of 1 GB: how fast it is written, what that takes, and what the session feels of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from faas import Execution, FaaSClient, SnapshotHandle

from benchmarks import data
from benchmarks.gateway import Gateway, gateway, pss_bytes
from benchmarks.goals import Goal, found, limits
from benchmarks.peers import installed
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.save_and_load import SavedAndLoaded, dill_session
from benchmarks.stats import median, percentile

#: The bar is a share of the speed of the disk; in times that is its inverse.
SHARE = 0.7
WRITTEN = Goal("time, times write + fsync of the same bytes", "times", 1 / SHARE)
EXTRA = Goal("extra memory", "MB", 100)
BLOCKED = Goal("a cell of the source meanwhile, times one before", "times", 3)
LOOK_S, PAUSE_S, CELLS = 0.1, 0.01, 50
BLOCK = 1 << 20
QUOTED = "For comparison, measured elsewhere on a machine with 2 processors and quoted here: dill 2,300 + 5,520 ms."


@dataclass
class _Taken:
    """Samples of all rounds: seconds, bytes."""

    written_s: list[float] = field(default_factory=list[float])
    disk_s: list[float] = field(default_factory=list[float])
    restored_s: list[float] = field(default_factory=list[float])
    extra: list[int] = field(default_factory=list[int])
    before_s: list[float] = field(default_factory=list[float])
    meanwhile_s: list[float] = field(default_factory=list[float])
    dill: list[SavedAndLoaded] = field(default_factory=list[SavedAndLoaded])
    size: int = 0


def run(plan: Plan) -> Report:
    code, taken = data.arrays(plan.times(1024, 64)), _Taken()
    peer = installed(plan.state, "dill")
    with gateway(plan.state) as running:
        for _ in range(plan.times(5, 1)):
            anyio.run(_round, plan, running, code, taken)
            if isinstance(peer, Path):
                taken.dill.append(dill_session(peer, code, plan.state / "dill.pkl"))
    judged = [
        WRITTEN.judge(median(taken.written_s) / median(taken.disk_s)),
        EXTRA.judge(median(taken.extra) / 1e6),
        BLOCKED.judge(median(taken.meanwhile_s) / median(taken.before_s)),
    ]
    goals = [one.goal for one in judged]
    return Report(
        name="portable",
        work=f"portable snapshot of 1 GB of arrays, {SHARE:.0%} of the speed of write + fsync",
        bar=limits(goals, "bar"),
        aim="the same",
        measured=found(judged),
        bar_met=all(one.bar_met for one in judged),
        aim_met=all(one.bar_met for one in judged),
        columns=["", "p50", "worst", "", "runs"],
        rows=[*_rows(taken, judged[0].value), *_dill_rows(taken, peer)],
        numbers={
            "written_ms": median(taken.written_s) * 1e3,
            "disk_ms": median(taken.disk_s) * 1e3,
            "restored_ms": median(taken.restored_s) * 1e3,
            "extra_mb": median(taken.extra) / 1e6,
            "cell_before_ms": median(taken.before_s) * 1e3,
            "cell_meanwhile_ms": median(taken.meanwhile_s) * 1e3,
        },
        notes=[
            f'execution.snapshot(portable="now"), the file of {taken.size / 1e6:.0f} MB on the disk when it returns; '
            "the live snapshot before it included. Extra memory: PSS of gateway, launcher and all sandboxes, at its "
            f"highest of a look each {LOOK_S * 1e3:g} ms, over that after the live snapshot alone.",
            QUOTED,
        ],
    )


async def _round(plan: Plan, running: Gateway, code: str, taken: _Taken) -> None:
    async with FaaSClient() as client, await data.opened(client, code) as session:
        for _ in range(CELLS):
            taken.before_s.append(await _cell(session))
        live = await session.snapshot(portable="never")
        with _highest(running) as growth:
            snapshot = await _write(session, taken)
        taken.extra.append(growth[0])
        taken.size = snapshot.portable_bytes
        taken.disk_s.append(await asyncio.to_thread(_write_and_sync, plan.state / "written", taken.size))
        started = time.perf_counter()
        async with await snapshot.restore(form="portable") as other:
            await data.ask(other)
            taken.restored_s.append(time.perf_counter() - started)
        await live.delete()
        await snapshot.delete()


async def _write(session: Execution, taken: _Taken) -> SnapshotHandle:
    """Snapshot, with cells of the source meanwhile."""
    started = time.perf_counter()
    writing = asyncio.create_task(session.snapshot(portable="now"))
    while not writing.done():
        took = await _cell(session)
        if not writing.done():
            taken.meanwhile_s.append(took)
        await asyncio.sleep(PAUSE_S)
    snapshot = await writing
    taken.written_s.append(time.perf_counter() - started)
    if snapshot.portable_status != "ready":
        raise data.WrongAnswer(f"no portable form: {snapshot.portable_error}")
    return snapshot


async def _cell(session: Execution) -> float:
    started = time.perf_counter()
    await data.ask(session)
    return time.perf_counter() - started


@contextmanager
def _highest(running: Gateway) -> Generator[list[int]]:
    """The growth of the memory of a gateway's family meanwhile, bytes, in the list at the end."""
    before = pss_bytes(running.family())
    growth, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            growth[0] = max(growth[0], pss_bytes(running.family()) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()


def _write_and_sync(file: Path, size: int) -> float:
    """Write so many bytes that do not compress, and have them on the disk."""
    block = os.urandom(BLOCK)
    started = time.perf_counter()
    try:
        with file.open("wb", buffering=0) as f:
            for _ in range(size // BLOCK):
                f.write(block)
            f.write(block[: size % BLOCK])
            os.fsync(f.fileno())
        return time.perf_counter() - started
    finally:
        file.unlink(missing_ok=True)


def _rows(taken: _Taken, times: float) -> list[list[str]]:
    extra = [each / 1e6 for each in taken.extra]
    return [
        _row('snapshot(portable="now")', taken.written_s, f"ms, {times:.2f} of the next"),
        _row("write + fsync of as many bytes", taken.disk_s, "ms"),
        _row('restore(form="portable") + first answer', taken.restored_s, "ms"),
        ["extra memory meanwhile", f"{median(extra):.0f}", f"{max(extra):.0f}", "MB", str(len(extra))],
        _row("a cell of the source before", taken.before_s, "ms"),
        _row("a cell of the source meanwhile", taken.meanwhile_s, "ms"),
    ]


def _dill_rows(taken: _Taken, peer: Path | str) -> list[list[str]]:
    if isinstance(peer, str):
        return [["dill", peer, "", "", ""]]
    extra = [each.extra_bytes / 1e6 for each in taken.dill]
    return [
        _row("dill.dump_module + fsync", [each.save_s for each in taken.dill], "ms, the session waits"),
        _row("dill.load_module in a new Python + first answer", [each.load_s for each in taken.dill], "ms"),
        ["extra memory of dill.dump_module", f"{median(extra):.0f}", f"{max(extra):.0f}", "MB", str(len(extra))],
    ]


def _row(work: str, seconds: list[float], unit: str) -> list[str]:
    ms = [s * 1e3 for s in seconds]
    return [work, f"{median(ms):.1f}", f"{percentile(ms, 100):.1f}", unit, str(len(ms))]
