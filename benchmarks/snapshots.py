"""How long a session stands still while a live snapshot is taken of it, by what it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import anyio
from faas import FaaSClient

from benchmarks import data, engine
from benchmarks.gateway import gateway
from benchmarks.goals import Goal, Judged, found, limits
from benchmarks.plain_fork import WAY, PlainFork, plain_fork
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median

QUOTED = (
    "For comparison, measured elsewhere on a machine with 2 processors and quoted here, for 1 GB: pytalo (a plain "
    "fork) 44 to 58 ms, CRIU 670 ms, gVisor 2,180 ms, kishu 10,000 ms."
)


@dataclass
class _Held:
    """One kind of session."""

    goal: Goal
    code: Callable[[int], str]
    files: str = ""
    in_memory: bool = True
    """Whether a plain Python has the same to copy."""
    stopped_ms: list[float] = field(default_factory=list[float])
    call_ms: list[float] = field(default_factory=list[float])
    plain_ms: list[float] = field(default_factory=list[float])


def _kinds(plan: Plan) -> list[_Held]:
    tenth, large = plan.times(1, 10), plan.times(1024, 16)
    files = data.FILES.format
    return [
        _Held(Goal("1 GB of arrays", "ms", 20, 10), data.arrays),
        _Held(Goal("1 GB in arrays of 1 MB", "ms"), data.small_arrays),
        _Held(Goal("1 GB of small objects", "ms", 60, 40), data.objects),
        _Held(Goal("arrays, 1,000 files", "ms", 40, 20), data.arrays, files(count=1000 // tenth), False),
        _Held(Goal("arrays, 10,000 files", "ms", None, 100), data.arrays, files(count=10_000 // tenth), False),
        _Held(Goal("arrays, a 1 GB file", "ms", None, 50), data.arrays, data.LARGE_FILE.format(mb=large), False),
    ]


def run(plan: Plan) -> Report:
    mb, rounds = plan.times(1024, 64), plan.times(5, 2)
    kinds = _kinds(plan)
    with gateway(plan.state):
        for kind in kinds:
            with ExitStack() as stack:
                plain = stack.enter_context(plain_fork(kind.code(mb))) if kind.in_memory else None
                anyio.run(_measure, kind, kind.code(mb) + kind.files, plain, rounds)
    committed = _committed(rounds)
    judged = [kind.goal.judge(median(kind.stopped_ms)) for kind in kinds]
    goals = [kind.goal for kind in kinds]
    rows = [_row(kind, one) for kind, one in zip(kinds, judged, strict=True)]
    rows.append(["docker commit, files only, of an empty container", *committed, *[""] * 5])
    return Report(
        name="snapshots",
        work="live snapshot: how long the source stands still",
        bar=limits(goals, "bar"),
        aim=limits(goals, "aim"),
        measured=found(judged),
        bar_met=all(one.bar_met for one in judged),
        aim_met=all(one.aim_met for one in judged),
        columns=["the session holds", "stopped ms", "call ms", f"{WAY}: ms", "bar", "aim", "", "runs"],
        rows=rows,
        numbers={
            f"{kind.goal.work.replace(',', '').replace(' ', '_')}_{what}": median(taken)
            for kind in kinds
            for what, taken in (("stopped_ms", kind.stopped_ms), ("call_ms", kind.call_ms))
        },
        notes=[
            "Stopped: from the last moment in which the source could run code to the first in which it can again, as "
            "`receipt.stopped_s` has it; call: `execution.snapshot()`, its caller waiting. Medians. numpy asks for "
            "huge pages only for arrays of 4 MB and more, which a fork copies the tables of much faster.",
            QUOTED,
        ],
    )


async def _measure(kind: _Held, code: str, plain: PlainFork | None, rounds: int) -> None:
    async with FaaSClient() as client, await data.opened(client, code) as session:
        for _ in range(rounds):
            started = time.perf_counter()
            snapshot = await session.snapshot()
            kind.call_ms.append((time.perf_counter() - started) * 1e3)
            assert snapshot.receipt.stopped_s is not None
            kind.stopped_ms.append(snapshot.receipt.stopped_s * 1e3)
            await data.ask(session)
            await snapshot.delete()
            if plain is not None:
                kind.plain_ms.append(plain.fork(1)[0] * 1e3)


def _row(kind: _Held, judged: Judged) -> list[str]:
    plain = f"{median(kind.plain_ms):.1f}" if kind.plain_ms else ""
    stopped, call = median(kind.stopped_ms), median(kind.call_ms)
    times = [f"{stopped:.1f}", f"{call:.1f}", plain]
    return [kind.goal.work, *times, *judged.wanted(), judged.verdict, str(len(kind.stopped_ms))]


def _committed(rounds: int) -> list[str]:
    """What an engine's way to keep files takes, as cells `stopped` and `call`."""
    image = engine.image()
    if image is None:
        return [engine.NONE, ""]
    with engine.container(image) as name:
        taken = [engine.commit_seconds(name) for _ in range(rounds)]
    return ["", f"{median(taken) * 1e3:.0f}"]
