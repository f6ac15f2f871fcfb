"""Taking a session of 1 GB back to an earlier cell."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import anyio
from faas import FaaSClient
from faas.types import ExecutionResult

from benchmarks import data
from benchmarks.gateway import gateway
from benchmarks.goals import Goal
from benchmarks.plain_fork import WAY, PlainFork, plain_fork
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median, percentile

REWIND = Goal("rewind and first answer", "ms", 50, 20)
CELLS = 5
PAUSE_S = 0.5
"""Nobody goes back at once: the checkpoint of the last cell is there by then."""
#: Of the cells, this is gone back to: behind it some more have changed the data.
BACK_TO = 1
OURS, CELL, AGAIN = (
    "execution.rewind + first answer",
    "a cell, its checkpoint included",
    "run the cells again, new session",
)
QUOTED = "For comparison, measured elsewhere on a machine with 2 processors and quoted here: kishu 16,800 ms."


def run(plan: Plan) -> Report:
    code = data.arrays(plan.times(1024, 64))
    seconds: dict[str, list[float]] = {way: [] for way in (OURS, CELL, AGAIN, WAY)}
    with ExitStack() as stack:
        plain = stack.enter_context(plain_fork(code))
        stack.enter_context(gateway(plan.state))
        anyio.run(_measure, code, plain, plan.times(5, 2), seconds)
    ms = {way: [s * 1e3 for s in taken] for way, taken in seconds.items()}
    judged = REWIND.judge(median(ms[OURS]))
    return Report(
        name="rewind",
        work="rewind of a session with 1 GB of arrays to an earlier cell, up to its first answer",
        bar=f"{REWIND.bar:g} ms",
        aim=f"{REWIND.aim:g} ms",
        measured=f"{judged.value:.1f} ms",
        bar_met=judged.bar_met,
        aim_met=judged.aim_met,
        columns=["", "p50 ms", "p99 ms", "ratio", "runs"],
        rows=[
            [way, f"{median(t):.1f}", f"{percentile(t, 99):.1f}", f"{median(t) / judged.value:.2f}", str(len(t))]
            for way, t in ms.items()
        ],
        numbers={
            "rewind_p50_ms": judged.value,
            "cell_p50_ms": median(ms[CELL]),
            "again_p50_ms": median(ms[AGAIN]),
            "plain_p50_ms": median(ms[WAY]),
        },
        notes=[
            'The session is opened with checkpoint="every-request"; each cell in between changes the data and a file, '
            "and the state after the rewind is looked at. The plain fork is a child that was put aside and answers.",
            QUOTED,
        ],
    )


async def _measure(code: str, plain: PlainFork, rounds: int, seconds: dict[str, list[float]]) -> None:
    async with FaaSClient() as client, await data.opened(client, code, checkpoint="every-request") as session:
        for _ in range(rounds):
            requests: list[ExecutionResult] = []
            for number in range(CELLS):
                started = time.perf_counter()
                cell = f"n = {number}; big[0][0] = n; k = open('file', 'w').write(str(n))"
                requests.append(data.succeeded(await session.execute(cell)))
                seconds[CELL].append(time.perf_counter() - started)
            await asyncio.sleep(PAUSE_S)
            started = time.perf_counter()
            await session.rewind(requests[BACK_TO])
            await data.ask(session)
            seconds[OURS].append(time.perf_counter() - started)
            result = data.succeeded(await session.execute("print(n, int(big[0][0]), open('file').read())"))
            if result.stdout != " ".join([str(BACK_TO)] * 3) + "\n":
                raise data.WrongAnswer(repr(result.stdout))
            seconds[WAY].append(plain.fork(1)[1])
            seconds[AGAIN].append(await _again(client, code))


async def _again(client: FaaSClient, code: str) -> float:
    started = time.perf_counter()
    async with await data.opened(client, code) as session:
        await data.ask(session)
        return time.perf_counter() - started
