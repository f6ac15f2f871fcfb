"""Several figures in one benchmark, each with a bar and an aim of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What is wanted of one figure, of which less is better.

    Attributes:
        work: what is done.
        unit: of the figure, bar and aim.
        bar: what must hold; None where it is only reported.
        aim: where to go; None where there is none beyond the bar.
    """

    work: str
    unit: str
    bar: float | None = None
    aim: float | None = None

    def judge(self, value: float) -> Judged:
        return Judged(self, value)


@dataclass(frozen=True)
class Judged:
    goal: Goal
    value: float

    @property
    def bar_met(self) -> bool:
        return self.goal.bar is None or self.value <= self.goal.bar

    @property
    def aim_met(self) -> bool:
        return self.bar_met and (self.goal.aim is None or self.value <= self.goal.aim)

    @property
    def verdict(self) -> str:
        """For a cell of a table; empty where nothing is wanted."""
        if self.goal.bar is None and self.goal.aim is None:
            return ""
        if not self.bar_met:
            return "bar not met"
        if not self.aim_met:
            return "aim not met" if self.goal.bar is None else "bar met"
        return "aim met" if self.goal.aim is not None else "bar met"

    def wanted(self) -> list[str]:
        """Two cells: bar and aim."""
        return ["" if limit is None else f"{limit:g}" for limit in (self.goal.bar, self.goal.aim)]


def limits(goals: Sequence[Goal], which: str) -> str:
    """All bars, or all aims, in words. `which`: bar or aim."""
    wanted = {"bar": [(g, g.bar) for g in goals], "aim": [(g, g.aim) for g in goals]}[which]
    return ", ".join(f"{goal.work} {limit:g} {goal.unit}" for goal, limit in wanted if limit is not None)


def found(judged: Sequence[Judged]) -> str:
    """What was measured, in words."""
    return ", ".join(f"{j.goal.work} {j.value:.3g} {j.goal.unit}" for j in judged)
