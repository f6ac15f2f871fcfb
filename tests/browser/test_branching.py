"""The notebook about branches in a real JupyterLab: as it comes, and after "Run All Cells"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_lab import JupyterLab
from live import ROOT
from notebook_page import NotebookPage, colors
from playwright.sync_api import BrowserContext, expect

#: The first use of python-ai installs its packages, if no test before has.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = ROOT / "notebooks" / "branching.ipynb"
MODELS = 8


def at(name: str) -> int:
    """Return where the cell of this id is."""
    notebook: Any = nbformat.read(SOURCE, as_version=4)
    return [cell.id for cell in notebook.cells].index(name)


@pytest.fixture(scope="module")
def branching(lab: JupyterLab, context: BrowserContext, pictures: Path) -> Iterator[NotebookPage]:
    """The notebook after "Run All Cells"."""
    notebook: Any = nbformat.read(SOURCE, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # those of the run that was saved
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, lab.notebooks / SOURCE.name)
    page = NotebookPage.open(context, lab, SOURCE.name)
    page.menu("Run", "Run All Cells")
    try:
        page.wait(at("end"), timeout_s=400)
    finally:
        page.screenshot(pictures / "branching-end.png")
    yield page
    page.close()


def test_it_shows_the_table_of_all_models(branching: NotebookPage, pictures: Path):
    rows = branching.outputs(at("train")).locator("tbody tr")
    expect(rows).to_have_count(MODELS)
    expect(rows.first).to_contain_text("support vectors")
    branching.screenshot(pictures / "branching-table.png")


def test_it_shows_the_figure_of_the_winners_branch(branching: NotebookPage, pictures: Path):
    image = branching.outputs(at("compare")).locator("img")
    expect(image).to_have_count(1)
    assert image.evaluate("(image) => image.width") > 600, "it is shown in a readable size"
    assert colors(image) > 100
    image.scroll_into_view_if_needed()
    branching.screenshot(pictures / "branching-figure.png")


def test_no_cell_fails_or_warns(branching: NotebookPage):
    remarks = branching.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    expect(remarks).to_have_count(0)
    assert "a model: False" in branching.text(at("apart"))
    assert "model.joblib prepared.npz" in branching.text(at("go-on"))
