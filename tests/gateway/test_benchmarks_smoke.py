"""The benchmarks still measure something: the cheap ones are run, briefly, against gateways of their own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import results  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from benchmarks.stats import interleaved, median, percentile  # noqa: E402


def report(*, bar_met: bool = True, aim_met: bool = False) -> Report:
    return Report(
        name="example",
        work="an example",
        bar="10 ms",
        aim="8 ms",
        measured="9 ms",
        bar_met=bar_met,
        aim_met=aim_met,
        columns=["way", "p50 ms"],
        rows=[["ours", "9.0"], ["theirs", "5.0"]],
        numbers={"ours_ms": 9.0},
    )


@pytest.mark.slow
def test_cheap_benchmarks_give_sane_numbers(tmp_path: Path) -> None:
    kept = ROOT / "benchmarks" / "RESULTS.md"
    before = kept.read_bytes() if kept.exists() else None
    command = [sys.executable, "-m", "benchmarks", "warm_cell", "stdout", "one_shots", "--quick"]
    command += ["--state-dir", str(tmp_path / "state"), "--json", str(tmp_path / "numbers.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"warm_cell", "stdout", "one_shots"}
    cell, stdout, shots = numbers["warm_cell"], numbers["stdout"], numbers["one_shots"]
    assert 0 < cell["local_p50_ms"] < cell["faas_p50_ms"] < 2000
    assert all(0.1 < stdout[f"{way}_mb_per_s"] < 10_000 for way in ("local", "faas", "stream"))
    assert 0 <= stdout["gateway_growth_mb"] < 200
    assert shots.pop("errors") == 0
    assert len(shots) == 6
    assert all(0.1 < per_second < 2000 for per_second in shots.values())
    for line in ("local cell in ipykernel", "%%faas cell", "alpine-fast", "bar 30/s"):
        assert line in done.stdout
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert not list((tmp_path / "state").glob("native/runs/*"))


def test_unknown_benchmark_names_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "warp"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "warp" in done.stderr
    assert "warm_cell" in done.stderr


def test_page_shows_a_missed_bar_and_a_busy_machine() -> None:
    page = results.document([report(bar_met=False)], {"example": 3.0})
    assert "| an example | 10 ms | 8 ms | 9 ms | **not met** | not met |" in page
    assert "other work has disturbed these numbers" in page
    assert "| theirs | 5.0 |" in page


def test_page_does_not_name_the_machine() -> None:
    page = results.document([report()], {"example": 0.1})
    assert "Bar met, aim not met." in page
    for secret in (platform.node(), str(ROOT), os.path.expanduser("~")):
        assert secret not in page


def test_samples_are_taken_in_turn() -> None:
    taken: list[str] = []

    def way(name: str) -> float:
        taken.append(name)
        return len(taken)

    samples = interleaved(2, {"a": lambda: way("a"), "b": lambda: way("b")})
    assert taken == ["a", "b", "a", "b"]
    assert samples == {"a": [1, 3], "b": [2, 4]}


def test_percentiles_are_samples() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert (percentile(samples, 99), percentile(samples, 50), percentile([7.0], 99)) == (99.0, 50.0, 7.0)
    assert median([3.0, 1.0, 2.0]) == 2.0
