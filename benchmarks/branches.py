"""Branches of a live snapshot of 1 GB: how long until they have answered, what they take, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
from faas import Execution, FaaSClient
from faas.types import Snapshot

from benchmarks import branch_engine, data, engine
from benchmarks.gateway import Gateway, gateway, pss_bytes
from benchmarks.goals import Goal, Judged, found, limits
from benchmarks.plain_fork import WAY, PlainFork, plain_fork
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median

FIRST = Goal("first branch answered", "ms", 30, 10)
EIGHT = Goal("8 branches answered", "ms", 150, 60)
HUNDRED = Goal("100 branches answered", "ms", 1000, 500)
ENGINE = Goal("100 branches, engine alone", "ms", None, 250)
IDLE = Goal("PSS of an idle branch", "MB", 15, 3)
USED = Goal("PSS after a first request", "MB", 25, 10)
BACK = Goal("processes and networks as before, after closing", "s", 10)
FLAT = Goal("cost of one of 500, times that of one of 50", "times", 1.5)
CURVE = (1, 8, 10, 50, 100, 200, 500)
PEERS = (1, 8, 100)
SETTLE_S = 2.0
BACK_S = 60.0
QUOTED = (
    "For comparison, measured elsewhere on a machine with 2 processors and quoted here: first branch pytalo 10 ms, "
    "CRIU 820 ms, docker commit + run 1,000 ms; 8 branches pytalo 101 ms, docker commit + 8 runs 2,680 ms."
)


@dataclass
class _Taken:
    """Samples, seconds, by the number of branches."""

    answered: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    plain: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    moved: list[float] = field(default_factory=list[float])
    """A new session that is given the data of another."""
    back: list[float] = field(default_factory=list[float])
    idle_mb: float = 0.0
    used_mb: float = 0.0


def run(plan: Plan) -> Report:
    mb, taken = plan.times(1024, 64), _Taken()
    curve = CURVE if not plan.quick else (1, 8, 10)
    many = max(count for count in curve if count <= 100)
    with plain_fork(data.arrays(mb)) as plain, gateway(plan.state) as running:
        anyio.run(_measure, plan, running, plain, data.arrays(mb), curve, many, taken)
    alone = anyio.run(branch_engine.seconds, plan.state, data.arrays(mb), many, plan.times(5, 1))
    judged = _judge(taken, curve, many, median(alone))
    goals = [one.goal for one in judged]
    return Report(
        name="branches",
        work="branches of a session with 1 GB of arrays, from the SDK call to the last answer",
        bar=limits(goals, "bar"),
        aim=limits(goals, "aim"),
        measured=found(judged),
        bar_met=all(one.bar_met for one in judged),
        aim_met=all(one.aim_met for one in judged),
        columns=["", "measured", "", "bar", "aim", "verdict", "runs"],
        rows=[
            *([j.goal.work, f"{j.value:.3g}", j.goal.unit, *j.wanted(), j.verdict, ""] for j in judged),
            *_curve_rows(taken),
            *_docker_rows(plan.times(3, 1)),
        ],
        numbers=_numbers(taken, alone),
        notes=[
            "Branches are asked for with one `snapshots.restore`, and then each a cell, all at once; every answer is "
            "looked at. Engine alone: the same through the backend, without gateway, HTTP and SDK. As "
            "before: as with the snapshot and before its branches, once they are closed and it is deleted.",
            QUOTED,
            *([f"A smoke run: {mb} MB and {many} branches stand for 1 GB and 100."] if plan.quick else []),
        ],
    )


async def _measure(
    plan: Plan, running: Gateway, plain: PlainFork, code: str, curve: Sequence[int], many: int, taken: _Taken
) -> None:
    async with FaaSClient() as client, await data.opened(client, code) as session:
        snapshot = await session.snapshot(portable="never")
        await _close((await _answered(client, snapshot, 1))[1])
        await asyncio.sleep(SETTLE_S)
        for round_number in range(plan.times(5, 1)):
            for count in curve:
                if count > 100 and round_number >= 3:
                    continue
                seconds, branches = await _answered(client, snapshot, count)
                taken.answered.setdefault(count, []).append(seconds)
                await _close(branches)
                await asyncio.sleep(SETTLE_S)
                if count in PEERS:
                    taken.plain.setdefault(count, []).append(plain.fork(count)[1])
            taken.moved.append(await _move(client, session))
        await snapshot.delete()
        await _memory(running, client, session, many, taken)


async def _answered(client: FaaSClient, snapshot: Snapshot, count: int) -> tuple[float, list[Execution]]:
    started = time.perf_counter()
    branches: list[Execution] = []
    if count == 1:
        branches.append(await client.snapshots.restore(snapshot))
    else:
        branches += await client.snapshots.restore(snapshot, count)
    await asyncio.gather(*map(data.ask, branches))
    return time.perf_counter() - started, branches


async def _close(branches: Sequence[Execution]) -> None:
    await asyncio.gather(*(branch.close() for branch in branches))


async def _move(client: FaaSClient, session: Execution) -> float:
    """What one does without snapshots: take the data out of a session, and into a new one."""
    started = time.perf_counter()
    big = await session.variables.pull("big")
    async with await client.executions.create(data.ENVIRONMENT) as other:
        await other.variables.push(big=big, x="hello")
        await data.ask(other)
        return time.perf_counter() - started


async def _memory(running: Gateway, client: FaaSClient, session: Execution, count: int, taken: _Taken) -> None:
    snapshot = await session.snapshot(portable="never")
    await asyncio.sleep(SETTLE_S)
    census, before = _Census.of(running), pss_bytes(running.family())
    branches = await client.snapshots.branch(snapshot, count)
    await asyncio.sleep(SETTLE_S)
    idle = pss_bytes(running.family())
    await asyncio.gather(*map(data.ask, branches))
    await asyncio.sleep(SETTLE_S)
    used = pss_bytes(running.family())
    taken.idle_mb, taken.used_mb = (idle - before) / count / 1e6, (used - before) / count / 1e6
    present = _Census.of(running)
    await _close(branches)
    await snapshot.delete()
    taken.back.append(await _until_back(running, census, present))


@dataclass(frozen=True)
class _Census:
    """Processes of a gateway, and the network namespaces that they are in or hold open."""

    processes: frozenset[tuple[int, float]]
    networks: frozenset[str]

    @classmethod
    def of(cls, running: Gateway) -> _Census:
        processes: set[tuple[int, float]] = set()
        networks: set[str] = set()
        for process in running.family():
            with suppress(psutil.Error):
                processes.add((process.pid, process.create_time()))
            networks |= _networks(Path(f"/proc/{process.pid}"))
        return cls(frozenset(processes), frozenset(networks))

    def is_back(self, before: _Census, present: _Census) -> bool:
        """Whether there are no more than before, and none that were present have escaped from the gateway.

        Counted, since one that is made ahead for the next branch is another than the one that the last has taken.
        """
        for pid, created in present.processes - self.processes:
            with suppress(psutil.Error):
                if psutil.Process(pid).create_time() == created:
                    return False
        fewer = len(self.processes) <= len(before.processes)
        return fewer and len(self.networks) <= len(before.networks)


def _networks(folder: Path) -> set[str]:
    found: set[str] = set()
    with suppress(OSError):  # it has ended, or does not let this user look
        for link in (folder / "ns" / "net", *(folder / "fd").iterdir()):
            with suppress(OSError):
                found.add(os.readlink(link))
    return {name for name in found if name.startswith("net:")}


async def _until_back(running: Gateway, before: _Census, present: _Census) -> float:
    started = time.perf_counter()
    while not (now := _Census.of(running)).is_back(before, present):
        if time.perf_counter() - started > BACK_S:
            left = f"{len(now.processes)} processes and {len(now.networks)} network namespaces"
            was = f"{len(before.processes)} and {len(before.networks)}"
            raise data.WrongAnswer(f"{BACK_S:g} s after branches were closed there are {left}, before {was}")
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


def _judge(taken: _Taken, curve: Sequence[int], many: int, alone: float) -> list[Judged]:
    ms = {count: median(samples) * 1e3 for count, samples in taken.answered.items()}
    last = max(curve)
    return [
        FIRST.judge(ms[1]),
        EIGHT.judge(ms[8]),
        HUNDRED.judge(ms[many]),
        ENGINE.judge(alone * 1e3),
        IDLE.judge(taken.idle_mb),
        USED.judge(taken.used_mb),
        BACK.judge(max(taken.back)),
        FLAT.judge(ms[last] / last / (ms[many if many < 50 else 50] / min(many, 50))),
    ]


def _curve_rows(taken: _Taken) -> list[list[str]]:
    rows: list[list[str]] = []
    for count, samples in taken.answered.items():
        rows.append(_curve_row(f"curve, {count} branches", count, samples))
    for count, samples in taken.plain.items():
        rows.append(_curve_row(f"{WAY}, {count}", count, samples))
    moved = f"{median(taken.moved) * 1e3:.0f}"
    rows.append(["new session, variables.pull and .push", moved, "ms", "", "", "", str(len(taken.moved))])
    return rows


def _curve_row(work: str, count: int, samples: Sequence[float]) -> list[str]:
    ms = median(samples) * 1e3
    return [work, f"{ms:.0f}", f"ms, {ms / count:.1f} each", "", "", "", str(len(samples))]


def _docker_rows(rounds: int) -> list[list[str]]:
    works = {count: f"docker commit + {count} docker run, files only" for count in (1, 8)}
    image = engine.image()
    if image is None:
        return [[work, engine.NONE, "", "", "", "", ""] for work in works.values()]
    rows: list[list[str]] = []
    with engine.container(image) as name:
        for count, work in works.items():
            taken = [engine.commit_and_run_seconds(name, count) for _ in range(rounds)]
            rows.append(_curve_row(work, count, taken))
    return rows


def _numbers(taken: _Taken, alone: Sequence[float]) -> dict[str, float]:
    curve = {f"answered_{count}_ms": median(samples) * 1e3 for count, samples in taken.answered.items()}
    plain = {f"plain_{count}_ms": median(samples) * 1e3 for count, samples in taken.plain.items()}
    others = {
        "engine_ms": median(alone) * 1e3,
        "idle_mb": taken.idle_mb,
        "used_mb": taken.used_mb,
        "back_s": max(taken.back),
        "moved_ms": median(taken.moved) * 1e3,
    }
    return curve | plain | others
