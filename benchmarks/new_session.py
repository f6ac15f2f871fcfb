"""A new session with the data packages imported, up to the answer of its first cell."""

from __future__ import annotations

import time
from collections.abc import Callable

from faas import SyncFaaSClient

from benchmarks.gateway import Gateway, gateway
from benchmarks.notebook import kernel
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median, percentile

BAR_MS, AIM_MS = 50.0, 20.0
PAUSE_S = 0.5
MODULES = ("numpy", "pandas", "matplotlib.pyplot", "sklearn")
CHECK = f"import sys\nprint(all(name in sys.modules for name in {MODULES}))"
IMPORTS = f"import {', '.join(MODULES)}"

PAUSED, IN_A_ROW, LOCAL = "session, after a pause", "session, back to back", "ipykernel start + imports"
WITH_IMPORT = "session, first cell imports them"


class NotImported(Exception):
    """A session did not have the modules that it promises."""


def run(plan: Plan) -> Report:
    seconds: dict[str, list[float]] = {PAUSED: [], IN_A_ROW: [], WITH_IMPORT: [], LOCAL: []}
    each = plan.times(6, 2)
    with gateway(plan.state) as running, SyncFaaSClient() as client:
        client.executions.create("python-ai").close()  # builds the layer and starts the warm process

        def session(first: str = "pass") -> float:
            return _session(client, first)

        for _ in range(plan.times(5, 1)):
            _samples(seconds[PAUSED], each, session, PAUSE_S)
            time.sleep(PAUSE_S)
            _samples(seconds[IN_A_ROW], each, session)
            _samples(seconds[WITH_IMPORT], each, lambda: session(IMPORTS), PAUSE_S)
            seconds[LOCAL].append(_local(running))
    ms = {way: [s * 1e3 for s in taken] for way, taken in seconds.items()}
    local, worst = median(ms[LOCAL]), max(median(ms[PAUSED]), median(ms[IN_A_ROW]))
    rows = [
        [way, f"{median(taken):.1f}", f"{percentile(taken, 99):.1f}", f"{median(taken) / local:.3f}", str(len(taken))]
        for way, taken in ms.items()
    ]
    return Report(
        name="new_session",
        work="new `python-ai` session, numpy, pandas, matplotlib, sklearn imported, first `pass` answered",
        bar=f"{BAR_MS:g} ms",
        aim=f"{AIM_MS:g} ms",
        measured=f"{median(ms[PAUSED]):.1f} ms after a pause, {median(ms[IN_A_ROW]):.1f} ms back to back",
        bar_met=worst <= BAR_MS,
        aim_met=worst <= AIM_MS,
        columns=["from the call to the first cell's answer", "p50 ms", "p99 ms", "ratio", "sessions"],
        rows=rows,
        numbers={
            "paused_p50_ms": median(ms[PAUSED]),
            "in_a_row_p50_ms": median(ms[IN_A_ROW]),
            "with_import_p50_ms": median(ms[WITH_IMPORT]),
            "local_p50_ms": local,
        },
        notes=[
            "Each session was asked whether the modules are in sys.modules. Back to back: the next is asked for as "
            "soon as the one before is closed. The verdict is on the slower of the two."
        ],
    )


def _samples(into: list[float], count: int, take: Callable[[], float], pause_s: float = 0.0) -> None:
    for _ in range(count):
        time.sleep(pause_s)
        into.append(take())


def _session(client: SyncFaaSClient, first: str) -> float:
    started = time.perf_counter()
    with client.executions.create("python-ai") as execution:
        answer = execution.execute(first)
        took = time.perf_counter() - started
        if answer.status != "success" or execution.execute(CHECK).stdout != "True\n":
            raise NotImported(f"{MODULES} are not all there: {answer}")
    return took


def _local(running: Gateway) -> float:
    started = time.perf_counter()
    with kernel(running.folder, {}, name=f"local-{time.monotonic_ns()}") as local:
        local.run(IMPORTS)
        return time.perf_counter() - started
