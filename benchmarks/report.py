"""What a benchmark found: its table, and whether bar and aim are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Report:
    """One benchmark's outcome.

    Attributes:
        name: of the benchmark.
        work: what was measured, for the overview.
        bar: what must hold, in words.
        aim: where to go, in words.
        measured: what was found, in words.
        bar_met: whether the bar holds.
        aim_met: whether the aim is reached.
        columns: heads of the table.
        rows: its cells, as text.
        numbers: the figures behind it, for programs; each name ends in its unit.
        notes: what a reader has to know.
    """

    name: str
    work: str
    bar: str
    aim: str
    measured: str
    bar_met: bool
    aim_met: bool
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: dict[str, float]
    notes: Sequence[str] = field(default=())

    @property
    def verdict(self) -> str:
        if not self.bar_met:
            return "bar not met"
        return "bar met, aim met" if self.aim_met else "bar met, aim not met"

    def text(self) -> str:
        """The table for a terminal."""
        lines = [f"{self.name}: {self.work}", *("  " + line for line in aligned(self.columns, self.rows))]
        lines += [f"  bar {self.bar}; aim {self.aim}; measured {self.measured}: {self.verdict}"]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The same table in Markdown."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(row)} |" for row in (columns, rule, *rows)]
