"""The quickstart notebook, executed by `scripts/demo.py` as `make demo` does, and what came of each cell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook_demo import demo, figure, text, value
from notebook_kernel import ROOT, plain

SOURCE = ROOT / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(
    gateway_env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Any, Path]:
    folder = tmp_path_factory.mktemp("quickstart")
    before = SOURCE.read_bytes()
    done = demo(folder, gateway_env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert SOURCE.read_bytes() == before
    notebook: Any = nbformat.read(folder / "demo" / "quickstart.ipynb", as_version=4)
    return done, {cell.id: cell for cell in notebook.cells}, folder / "demo"


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_data_are_loaded_and_shown_as_a_table(executed: Any):
    _, cells, _ = executed
    assert "178 wines, 13 measurements of each" in text(cells["first"])
    assert "<table" in value(cells["first"])["text/html"]
    assert re.search(r"Barbera +13\.15", value(cells["explore"])["text/plain"])


def test_the_sandbox_has_a_directory_of_its_own_and_no_network(executed: Any):
    _, cells, _ = executed
    assert "working directory: /workspace []" in text(cells["inside"])
    assert "network: Network is unreachable" in text(cells["inside"])
    assert "keys and tokens in sight: []" in text(cells["inside"])


def test_both_figures_are_pngs_of_a_good_size(executed: Any):
    done, cells, folder = executed
    for number, name in enumerate(["plot", "evaluate"], start=1):
        image = figure(cells[name])
        assert image.startswith(b"\x89PNG\r\n")
        width, height = int.from_bytes(image[16:20]), int.from_bytes(image[20:24])
        assert width > 900
        assert height > 350
        assert len(image) > 15_000
        assert (folder / f"figure-{number}.png").read_bytes() == image
        assert f"[figure: {width}x{height} PNG -> {folder}/figure-{number}.png]" in done.stdout


def test_the_models_are_trained_and_ranked(executed: Any):
    _, cells, _ = executed
    found = re.findall(r"^(.+?) +(\d+\.\d)%$", text(cells["train"]), re.MULTILINE)
    assert [name for name, _ in found] == ["decision tree", "random forest", "logistic regression"]
    assert all(80 < float(score) <= 100 for _, score in found)


def test_files_are_in_the_workspace(executed: Any):
    _, cells, _ = executed
    assert re.search(r"/workspace/evaluation\.png +\d", text(cells["files"]))
    assert re.search(r"/workspace/wines\.csv +\d", text(cells["files"]))


def test_data_frames_travel_out_and_in(executed: Any):
    _, cells, _ = executed
    assert "DataFrame with 3 models; best: logistic regression" in text(cells["local"])
    assert "mystery wine" in value(cells["in"])["text/plain"]


def test_the_deliberate_error_points_at_the_lines_of_its_cell(executed: Any):
    _, cells, _ = executed
    (error,) = cells["error"].outputs
    trace = plain("\n".join(error.traceback))
    assert error.ename == "KeyError"
    assert "----> 5 sweetness(" in trace
    assert "----> 3     return wine" in trace
    assert "178 wines are still here" in value(cells["after-error"])["text/plain"]


def test_the_shell_cell_and_the_overview_show(executed: Any):
    _, cells, _ = executed
    assert "1 + 2 + ... + 100 = 5050" in text(cells["shell"])
    (overview,) = cells["session"].outputs
    assert "session 'default'" in overview.data["text/plain"]
    assert "session 'shell'" in overview.data["text/plain"]


def test_the_demo_says_how_long_each_cell_took_and_where_to_go_next(executed: Any):
    done, cells, _ = executed
    code = [cell for cell in cells.values() if cell.cell_type == "code"]
    assert len(re.findall(rf"^\[\d+/{len(code)}\] \d+\.\d\d s$", done.stdout, re.MULTILINE)) == len(code)
    assert f"All {len(code)} cells ran" in done.stdout
    assert "make lab" in done.stdout
    assert "\x1b[" not in done.stdout


def test_the_demo_leaves_no_session_behind(executed: Any, gateway_env: Mapping[str, str]):
    from faas import SyncFaaSClient

    with SyncFaaSClient(endpoint=f"unix://{gateway_env['FAAS_RUNTIME_DIR']}/gateway.sock") as client:
        (shell, *_) = [info for info in client.executions.list() if info.name == "shell"]
    assert shell.status == "terminated"


def test_the_source_has_no_outputs_or_all_of_them():
    notebook: Any = nbformat.read(SOURCE, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))


def test_a_demo_without_a_gateway_says_what_to_do_and_exits_with_1(tmp_path: Path):
    done = demo(tmp_path, {"FAAS_ENDPOINT": f"unix://{tmp_path}/none.sock"})
    assert done.returncode == 1
    assert "The demo stopped: cell 2 failed with SessionError" in done.stdout
    assert "faas doctor" in done.stdout
