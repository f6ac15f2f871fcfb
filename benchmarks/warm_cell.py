"""A cell that does nothing, in a session that is there: what `%%faas` adds to every cell."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import engine
from benchmarks.gateway import gateway
from benchmarks.notebook import kernel
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import interleaved, median, percentile

BAR_MS, AIM_MS, AIM_ADDED_MS = 10.0, 8.0, 3.0


def run(plan: Plan) -> Report:
    with ExitStack() as stack:
        running = stack.enter_context(gateway(plan.state))
        notebook = stack.enter_context(kernel(running.folder, running.env))
        ways = {
            "local cell in ipykernel": lambda: notebook.run("pass"),
            "%%faas cell": lambda: notebook.run("%%faas\npass"),
        }
        found = engine.image()
        if found is not None:
            container = stack.enter_context(engine.container(found))
            ways["docker exec"] = lambda: engine.exec_seconds(container)
        notebook.run("%load_ext faas_magics")
        interleaved(plan.times(20, 3), ways)
        samples = interleaved(plan.times(300, 20), ways)
    ms = {way: [s * 1e3 for s in taken] for way, taken in samples.items()}
    local, remote = (median(ms[way]) for way in list(ways)[:2])
    rows = [
        [way, f"{median(taken):.1f}", f"{percentile(taken, 99):.1f}", f"{median(taken) / local:.1f}", str(len(taken))]
        for way, taken in ms.items()
    ]
    if found is None:
        rows.append(["docker exec", engine.NONE, "", "", ""])
    return Report(
        name="warm_cell",
        work="warm `%%faas` cell with `pass`, p50",
        bar=f"{BAR_MS:g} ms",
        aim=f"{AIM_MS:g} ms, or local ipykernel + {AIM_ADDED_MS:g} ms",
        measured=f"{remote:.1f} ms (local {local:.1f} ms)",
        bar_met=remote <= BAR_MS,
        aim_met=remote <= AIM_MS or remote - local <= AIM_ADDED_MS,
        columns=["from execute_request to reply and idle", "p50 ms", "p99 ms", "ratio", "cells"],
        rows=rows,
        numbers={"local_p50_ms": local, "faas_p50_ms": remote},
    )
