"""A cell that prints without a pause: how fast its output comes through, and what it costs in memory."""

from __future__ import annotations

import time
from contextlib import ExitStack

from faas import SyncExecution, SyncFaaSClient

from benchmarks.gateway import PeakMemory, gateway
from benchmarks.notebook import Kernel, kernel
from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import interleaved, median

AIM_TIMES = 3.0
LINE_BYTES = 100
BOUND_MB = 96
"""Growth that counts as bounded, MB, whatever is printed: the gateway keeps 16 MiB of text for the result, and has it
a few times over while it encodes it; the kernel's ZeroMQ queue to its client holds up to 1,000 messages of 64 kB."""

LOCAL, REMOTE, STREAM = "local cell in ipykernel", "%%faas cell", "SDK, execution.stream"


class OutputLost(Exception):
    """Not every character that was printed has arrived."""


def run(plan: Plan) -> Report:
    lines = plan.times(500_000, 50_000)
    size = lines * LINE_BYTES
    code = f"line = 'x' * {LINE_BYTES - 1}\nfor _ in range({lines}):\n    print(line)"
    growth: dict[str, list[float]] = {"gateway": [], "kernel": []}
    with ExitStack() as stack:
        running = stack.enter_context(gateway(plan.state))
        notebook = stack.enter_context(kernel(running.folder, running.env))
        client = stack.enter_context(SyncFaaSClient())
        execution = stack.enter_context(client.executions.create("python"))
        notebook.run("%load_ext faas_magics")
        notebook.run("%%faas\nprint(1)")
        execution.execute("print(1)")

        def remote() -> float:
            peaks = {"gateway": PeakMemory(running.process.pid), "kernel": PeakMemory(notebook.pid)}
            took = _cell(notebook, f"%%faas\n{code}", size)
            for name, peak in peaks.items():
                growth[name].append(peak.growth_bytes() / 1e6)
            return took

        ways = {
            LOCAL: lambda: _cell(notebook, code, size),
            REMOTE: remote,
            STREAM: lambda: _stream(execution, code, size),
        }
        samples = interleaved(plan.times(5, 1), ways)
    speed = {way: size / median(taken) / 1e6 for way, taken in samples.items()}
    ratio = speed[REMOTE] / speed[LOCAL]
    bounded = max(map(max, growth.values())) <= BOUND_MB
    rows = [
        [way, f"{speed[way]:.1f}", f"{median(taken):.2f}", f"{speed[way] / speed[LOCAL]:.2f}", str(len(taken))]
        for way, taken in samples.items()
    ]
    peak = {name: max(values) for name, values in growth.items()}
    return Report(
        name="stdout",
        work=f"{size / 1e6:g} MB of stdout in {LINE_BYTES}-byte lines",
        bar="local ipykernel's speed, bounded memory",
        aim=f"{AIM_TIMES:g} times that",
        measured=f"{speed[REMOTE]:.1f} MB/s, {ratio:.2f} times local",
        bar_met=ratio >= 1 and bounded,
        aim_met=ratio >= AIM_TIMES and bounded,
        columns=["every character counted at the client", "MB/s", "median s", "ratio", "runs"],
        rows=rows,
        numbers={
            "local_mb_per_s": speed[LOCAL],
            "faas_mb_per_s": speed[REMOTE],
            "stream_mb_per_s": speed[STREAM],
            "gateway_growth_mb": peak["gateway"],
            "kernel_growth_mb": peak["kernel"],
        },
        notes=[
            f"Resident memory rose during a %%faas cell by at most {peak['gateway']:.1f} MB in the gateway and "
            f"{peak['kernel']:.1f} MB in the notebook's kernel (bounded: at most {BOUND_MB} MB each)."
        ],
    )


def _cell(notebook: Kernel, code: str, size: int) -> float:
    took, count = notebook.printed(code)
    return _complete(took, count, size)


def _stream(execution: SyncExecution, code: str, size: int) -> float:
    started = time.perf_counter()
    count = sum(len(event.text) for event in execution.stream(code))
    return _complete(time.perf_counter() - started, count, size)


def _complete(took: float, count: int, size: int) -> float:
    if count != size:
        raise OutputLost(f"{count} characters arrived, {size} were printed")
    return took
