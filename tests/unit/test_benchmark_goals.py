"""Figures of one benchmark, each against its own bar and aim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.goals import Goal, found, limits


@pytest.mark.parametrize(
    ("bar", "aim", "value", "verdict"),
    [
        (20, 10, 25, "bar not met"),
        (20, 10, 20, "bar met"),
        (20, 10, 10, "aim met"),
        (None, 10, 11, "aim not met"),
        (None, 10, 9, "aim met"),
        (20, None, 9, "bar met"),
        (None, None, 9, ""),
    ],
)
def test_verdicts(bar: float | None, aim: float | None, value: float, verdict: str) -> None:
    judged = Goal("a thing", "ms", bar, aim).judge(value)
    assert judged.verdict == verdict
    assert judged.bar_met == (verdict != "bar not met")
    assert judged.aim_met == (aim is None or value <= aim)


def test_words_leave_out_what_is_not_wanted() -> None:
    goals = [Goal("first", "ms", 30, 10), Goal("engine", "ms", None, 250), Goal("gone", "s", 10)]
    assert limits(goals, "bar") == "first 30 ms, gone 10 s"
    assert limits(goals, "aim") == "first 10 ms, engine 250 ms"
    assert found([goals[0].judge(16.04)]) == "first 16 ms"
