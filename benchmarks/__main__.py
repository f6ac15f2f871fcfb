"""`python -m benchmarks [name ...] [--quick]`: run benchmarks, print their tables, keep the results."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks import machine, results
from benchmarks.plan import STATE, Plan
from benchmarks.report import Report

NAMES = (
    "warm_cell",
    "new_session",
    "one_shots",
    "stdout",
    "idle_memory",
    "snapshots",
    "branches",
    "rewind",
    "portable",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for. Returns 1 when a bar is not met (a smoke run has no verdict), else 0."""
    options = _parser().parse_args(argv)
    plan = Plan(quick=options.quick, state=options.state_dir.resolve())
    reports: list[Report] = []
    loads: dict[str, float] = {}
    for name in options.names or NAMES:
        loads[name] = machine.load()
        if loads[name] > machine.BUSY_LOAD and not plan.quick:
            print(f"This machine is busy ({loads[name]:.1f} runnable processes per CPU): {name} will come out slow")
        report: Report = importlib.import_module(f"benchmarks.{name}").run(plan)
        print(report.text(), end="\n\n", flush=True)
        reports.append(report)
    if options.json is not None:
        options.json.write_text(json.dumps({report.name: report.numbers for report in reports}, indent=2))
    if not options.names and not plan.quick:
        RESULTS.write_text(results.document(reports, loads))
        print(f"written: benchmarks/{RESULTS.name}")
    return int(not plan.quick and not all(report.bar_met for report in reports))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="name", type=_name, help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="a smoke run: few repetitions, RESULTS.md stays")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--state-dir", type=Path, default=STATE, metavar="DIR", help="where built packages are kept")
    return parser


def _name(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"there is no benchmark {text!r}, but {', '.join(NAMES)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
