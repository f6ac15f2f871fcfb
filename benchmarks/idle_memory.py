"""What a session that waits for its next cell takes of the machine's memory."""

from __future__ import annotations

from contextlib import ExitStack

import psutil
from faas import SyncFaaSClient

from benchmarks.gateway import gateway, pss_bytes, settle
from benchmarks.new_session import IMPORTS
from benchmarks.notebook import kernel
from benchmarks.plan import Plan
from benchmarks.report import Report

BAR_MB, AIM_MB = 25.0, 10.0
SETTLE_S = 2.0


def run(plan: Plan) -> Report:
    sessions, kernels = plan.times(20, 3), plan.times(4, 1)
    with ExitStack() as stack:
        running = stack.enter_context(gateway(plan.state))
        client = stack.enter_context(SyncFaaSClient())
        with client.executions.create("python-ai") as first:
            first.execute("pass")
        settle(SETTLE_S)
        before = pss_bytes(running.family())
        for _ in range(sessions):
            stack.enter_context(client.executions.create("python-ai")).execute("pass")
        settle(SETTLE_S)
        after = pss_bytes(running.family())
        locals_: list[psutil.Process] = []
        for number in range(kernels):
            notebook = stack.enter_context(kernel(running.folder, {}, name=f"idle-{number}"))
            notebook.run(IMPORTS)
            locals_.append(psutil.Process(notebook.pid))
        settle(SETTLE_S)
        local = pss_bytes(locals_) / kernels / 1e6
    each = (after - before) / sessions / 1e6
    return Report(
        name="idle_memory",
        work="an idle session: (PSS with N − PSS before) / N",
        bar=f"{BAR_MB:g} MB",
        aim=f"{AIM_MB:g} MB",
        measured=f"{each:.1f} MB",
        bar_met=each <= BAR_MB,
        aim_met=each <= AIM_MB,
        columns=["after its one cell", "MB each", "ratio", "N"],
        rows=[
            ["ipykernel with the same imports", f"{local:.1f}", "1.00", str(kernels)],
            ["python-ai session", f"{each:.1f}", f"{each / local:.2f}", str(sessions)],
        ],
        numbers={"session_mb": each, "local_mb": local, "before_mb": before / 1e6},
        notes=[
            "Proportional set size of the gateway, its launcher, the warm processes and all in the sandboxes; before "
            f"the first of the N sessions, with the warm process running, that was {before / 1e6:.0f} MB."
        ],
    )
