"""RESULTS.md: written by a complete run, never by hand."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from benchmarks import machine
from benchmarks.report import Report, markdown


def document(reports: Sequence[Report], loads: Mapping[str, float]) -> str:
    """The page. `loads`: what else the machine did when each benchmark began, runnable processes per CPU."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    overview = [
        [r.work, r.bar, r.aim, r.measured, "met" if r.bar_met else "**not met**", "met" if r.aim_met else "not met"]
        for r in reports
    ]
    lines = [
        "# Benchmarks: results",
        "",
        "Written by `make bench` (`python -m benchmarks`), which measures everything anew and replaces this page. Each",
        "number stands beside what a user would use instead, taken in the same run, in turn.",
        "",
        f"Measured on {today}.",
        "",
        *markdown(["machine", ""], [[name, value] for name, value in machine.facts().items()]),
        "",
        *markdown(["work", "bar", "aim", "measured", "bar", "aim"], overview),
        "",
    ]
    for report in reports:
        lines += [f"## {report.name}", "", f"`python -m benchmarks {report.name}`: {report.work}.", ""]
        lines += [*markdown(report.columns, report.rows), "", *report.notes, ""]
        lines += [f"{report.verdict.capitalize()}. {_busy(loads[report.name])}", ""]
    return "\n".join(lines)


def _busy(load: float) -> str:
    text = f"Load when it began: {load:.1f} runnable processes per CPU"
    return text + (", so other work has disturbed these numbers." if load > machine.BUSY_LOAD else ".")
