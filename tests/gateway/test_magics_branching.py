"""The notebook about branches, executed by `scripts/demo.py`, and what came of each cell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import Any

import nbformat
import pytest
from faas import SyncFaaSClient
from notebook_demo import demo, figure, text, value
from notebook_kernel import ROOT

SOURCE = ROOT / "notebooks" / "branching.ipynb"
MODELS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def executed(
    gateway_env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Any]:
    folder = tmp_path_factory.mktemp("branching")
    before = SOURCE.read_bytes()
    done = demo(folder, gateway_env, SOURCE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert SOURCE.read_bytes() == before
    notebook: Any = nbformat.read(folder / "demo" / "branching.ipynb", as_version=4)
    return done, {cell.id: cell for cell in notebook.cells}


@pytest.fixture
def cells(executed: tuple[subprocess.CompletedProcess[str], Any]) -> Any:
    return executed[1]


def test_the_snapshot_is_a_live_one_and_says_how_long_the_session_stood_still(cells: Any):
    assert "5,990 digits to learn from, 599 for the test, 8 models" in text(cells["prepare"])
    (shown,) = re.findall(r"python-ai live>: the session stood still for (\d+) ms", text(cells["snapshot"]))
    assert 0 < int(shown) < 10_000


def test_each_model_is_trained_in_a_branch_of_its_own(cells: Any):
    assert re.match(rf"{MODELS} branches in \d+ ms", text(cells["branch"]))
    found = dict(re.findall(r"^(\w[\w ]+?) +(\d+\.\d)%$", text(cells["train"]), re.MULTILINE))
    assert len(found) == MODELS
    assert all(75 < float(accuracy) <= 100 for accuracy in found.values())
    table = value(cells["train"])["text/plain"]
    assert set(re.findall(r"^([a-z]\w+ \w+|naive Bayes) +0\.\d{3}", table, re.MULTILINE)) == set(found)


def test_the_winner_goes_on_in_its_branch(cells: Any):
    assert "The winner is support vectors, branch 4" in text(cells["winner"])
    image = figure(cells["compare"])
    assert image.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(image[16:20]) > 900
    assert len(image) > 15_000
    after = text(cells["go-on"])
    read, written = (re.findall(r"\d", re.search(rf"{name}: *(.*)", after)[1]) for name in ("read", "written"))  # type: ignore[index]
    assert len(read) == len(written) == 20
    assert sum(a == b for a, b in zip(read, written, strict=True)) >= 18
    assert "files:   model.joblib prepared.npz" in after


def test_neither_branches_nor_a_spoilt_session_change_the_snapshot(cells: Any):
    assert "a model: False | files: ['prepared.npz']" in text(cells["apart"])
    (mean,) = re.findall(r"mean of all pixels (\d\.\d+) \| files: \['prepared.npz'\]", text(cells["rescued"]))
    assert float(mean) > 0.2


def test_no_cell_warns(cells: Any):
    outputs = [output for cell in cells.values() for output in cell.get("outputs", ())]
    found = [o.text for o in outputs if o.get("name") == "stderr"] + [o for o in outputs if o.output_type == "error"]
    assert found == []


def test_it_leaves_neither_sessions_nor_snapshots(executed: Any, gateway_env: Mapping[str, str]):
    done, cells = executed
    (made,) = re.findall(r"snap_\w+", text(cells["snapshot"]))
    with SyncFaaSClient(endpoint=f"unix://{gateway_env['FAAS_RUNTIME_DIR']}/gateway.sock") as client:
        assert made not in {snapshot.id for snapshot in client.snapshots.list()}
        ended = [info for info in client.executions.list() if info.snapshot_id == made]
        assert len(ended) == MODELS + 1
        assert {info.status for info in ended} == {"terminated"}
    assert "All 14 cells ran" in done.stdout


def test_the_source_has_the_outputs_of_a_run():
    notebook: Any = nbformat.read(SOURCE, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert figure(next(cell for cell in code if cell.id == "compare"))
