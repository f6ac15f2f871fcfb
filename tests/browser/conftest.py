"""JupyterLab and a browser for the tests of this folder, started once per file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from jupyter_lab import JupyterLab, browser, chromium, jupyterlab
from live import ROOT
from notebook_page import NotebookPage, save_notebook
from playwright.sync_api import BrowserContext, sync_playwright

#: Screenshots, for people; git does not see this folder.
PICTURES = ROOT / "build" / "browser"


@pytest.fixture(scope="module")
def lab(gateway_env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    if chromium() is None:
        missing = "Chromium is not installed: sudo apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with jupyterlab(tmp_path_factory.mktemp("jupyterlab"), gateway_env) as lab:
        yield lab


@pytest.fixture(scope="module")
def context(lab: JupyterLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    # Per file, and not per run: while Playwright is there, its event loop is this thread's.
    with sync_playwright() as playwright, browser(playwright, tmp_path_factory.mktemp("chromium")) as chrome:
        yield chrome.new_context(viewport={"width": 1400, "height": 900})


@pytest.fixture
def open_notebook(
    lab: JupyterLab, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """Call it with the code of the cells. At the end the page is photographed, and its kernel shut down."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    opened: list[NotebookPage] = []

    def open_notebook(*cells: str) -> NotebookPage:
        file = f"{name}-{len(opened)}.ipynb"
        save_notebook(lab.notebooks / file, cells)
        opened.append(NotebookPage.open(context, lab, file))
        return opened[-1]

    yield open_notebook
    for page in opened:
        page.screenshot(PICTURES / f"{name}.png")
        page.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    return PICTURES
