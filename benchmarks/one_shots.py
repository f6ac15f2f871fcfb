"""One-shot executions, each in a sandbox of its own, as many as go in half a minute."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from faas import FaaSClient
from faas.errors import FaaSError

from benchmarks import engine
from benchmarks.gateway import Gateway, gateway
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median, percentile

BAR_PER_S, AIM_PER_S = 30.0, 100.0
AT_ONCE = 4
OTHERS_AT_ONCE = (2, 8)
CODES = {"alpine-fast": ("echo hi", "hi\n"), "python": ("print(1)", "1\n")}


@dataclass
class Burst:
    """What came of running something over and over for some seconds."""

    way: str
    at_once: int
    seconds: float = 0.0
    took_s: list[float] = field(default_factory=list[float])
    errors: int = 0
    gateway_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.took_s) / self.seconds

    def row(self) -> list[str]:
        ms = [s * 1e3 for s in self.took_s]
        return [
            self.way,
            str(self.at_once),
            f"{self.per_s:.1f}",
            f"{median(ms):.1f}",
            f"{percentile(ms, 99):.1f}",
            str(len(ms)),
            str(self.errors),
        ]


def run(plan: Plan) -> Report:
    main_s, other_s = plan.seconds(30, 1), plan.seconds(10, 0.5)
    bursts: list[Burst] = []
    with gateway(plan.state) as running:
        for environment in CODES:
            anyio.run(_burst, environment, 2, 0.5, running)  # warm-up
        for environment in CODES:
            bursts.append(anyio.run(_burst, environment, AT_ONCE, main_s, running))
        for at_once in OTHERS_AT_ONCE:
            for environment in CODES:
                bursts.append(anyio.run(_burst, environment, at_once, other_s, running))
    main = bursts[: len(CODES)]
    beside = [anyio.run(_beside, "subprocess python -I -c 'print(1)', no sandbox", _subprocess_once, other_s)]
    found = engine.image()
    if found is not None:

        async def docker_once() -> bool:
            await anyio.to_thread.run_sync(engine.run_seconds, found)
            return True

        beside.append(anyio.run(_beside, f"docker run --rm {found}", docker_once, main_s))
    rows = [burst.row() for burst in [*bursts, *beside]]
    if found is None:
        rows.append(["docker run --rm", engine.NONE, "", "", "", "", ""])
    slowest = min(main, key=lambda burst: burst.per_s)
    clean = not any(burst.errors for burst in bursts)
    return Report(
        name="one_shots",
        work=f"fresh one-shot executions, each its own sandbox, sustained {main_s:g} s",
        bar=f"{BAR_PER_S:g}/s",
        aim=f"{AIM_PER_S:g}/s",
        measured=", ".join(f"{burst.per_s:.1f}/s {burst.way}" for burst in main),
        bar_met=slowest.per_s >= BAR_PER_S and clean,
        aim_met=slowest.per_s >= AIM_PER_S and clean,
        columns=["environment", "at once", "per second", "p50 ms", "p99 ms", "runs", "errors"],
        rows=rows,
        numbers={f"{burst.way.replace('-', '_')}_{burst.at_once}_per_s": burst.per_s for burst in bursts}
        | {"errors": float(sum(burst.errors for burst in bursts))},
        notes=[
            f"The verdict is on the slower environment with {AT_ONCE} at once; every output was compared. CPU of the "
            "gateway process per run: "
            + ", ".join(f"{b.way} {b.gateway_cpu_s / max(1, len(b.took_s)) * 1e3:.1f} ms" for b in main)
            + "."
        ],
    )


async def _burst(environment: str, at_once: int, seconds: float, running: Gateway) -> Burst:
    code, expected = CODES[environment]
    async with FaaSClient() as client:

        async def once() -> bool:
            try:
                result = await client.execute(code, environment)
            except FaaSError:
                return False
            return result.status == "success" and result.stdout == expected

        before = running.process.cpu_times()
        burst = await _repeat(Burst(environment, at_once), once, seconds)
        after = running.process.cpu_times()
    burst.gateway_cpu_s = after.user + after.system - before.user - before.system
    return burst


async def _beside(way: str, once: Callable[[], Awaitable[bool]], seconds: float) -> Burst:
    return await _repeat(Burst(way, AT_ONCE), once, seconds)


async def _repeat(burst: Burst, once: Callable[[], Awaitable[bool]], seconds: float) -> Burst:
    started = time.perf_counter()
    end = started + seconds

    async def worker() -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            if await once():
                burst.took_s.append(time.perf_counter() - began)
            else:
                burst.errors += 1

    async with anyio.create_task_group() as group:
        for _ in range(burst.at_once):
            group.start_soon(worker)
    burst.seconds = time.perf_counter() - started
    return burst


async def _subprocess_once() -> bool:
    done = await anyio.run_process([sys.executable, "-I", "-c", "print(1)"], stderr=subprocess.DEVNULL, check=False)
    return done.stdout == b"1\n"
