"""The cell magic as a person meets it: a real JupyterLab, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_lab import JupyterLab
from live import ROOT, LiveGateway
from notebook_page import NotebookPage, colors, contrasts
from playwright.sync_api import BrowserContext, expect

#: The first use of python-ai installs its packages, if no test before has.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = ROOT / "notebooks" / "quickstart.ipynb"
TRACEBACK = "Traceback (most recent call last)"
#: WCAG 2, level AA, text of normal size.
READABLE = 4.5
SHELL = "shell-in-the-browser"

Open = Callable[..., NotebookPage]


@pytest.fixture(scope="module")
def quickstart(
    lab: JupyterLab, context: BrowserContext, gateway: LiveGateway, pictures: Path
) -> Iterator[NotebookPage]:
    """The quickstart after "Run All Cells"."""
    # Other tests execute it too, at the same gateway: the session with a name needs another one here.
    source = SOURCE.read_text()
    assert source.count("--name shell") == 1
    (lab.notebooks / SOURCE.name).write_text(source.replace("--name shell", f"--name {SHELL}"))
    notebook = NotebookPage.open(context, lab, SOURCE.name)
    notebook.menu("Run", "Run All Cells")
    try:
        notebook.wait(at("session"), timeout_s=400)
    finally:
        notebook.screenshot(pictures / "quickstart-end.png")
    yield notebook
    notebook.close()
    with gateway.client() as client:
        client.executions.cancel(SHELL)


def at(name: str) -> int:
    """Return where the quickstart's cell of this id is."""
    notebook: Any = nbformat.read(SOURCE, as_version=4)
    return [cell.id for cell in notebook.cells].index(name)


def test_the_quickstart_shows_a_table_of_its_data(quickstart: NotebookPage, pictures: Path):
    outputs = quickstart.outputs(at("first"))
    table = outputs.locator("table")
    assert "178 wines, 13 measurements of each" in quickstart.text(at("first"))
    expect(table.locator("tbody tr")).to_have_count(6)
    expect(table.get_by_role("columnheader", name="flavanoids", exact=True)).to_be_visible()
    quickstart.screenshot(pictures / "quickstart-table.png")


@pytest.mark.parametrize("name", ["plot", "evaluate"])
def test_the_quickstart_shows_its_figures(name: str, quickstart: NotebookPage, pictures: Path):
    image = quickstart.outputs(at(name)).locator("img")
    expect(image).to_have_count(1)
    size = image.evaluate("(image) => [image.naturalWidth, image.naturalHeight, image.width]")
    assert size[0] > 900
    assert size[1] > 350
    assert size[2] > 600, "it is shown in a readable size"
    assert colors(image) > 100
    quickstart.screenshot(pictures / f"quickstart-{name}.png")


def test_the_quickstart_prints_the_accuracy_of_each_model(quickstart: NotebookPage):
    found = re.findall(r"^(.+?) +(\d+\.\d)%$", quickstart.text(at("train")), re.MULTILINE)
    assert [name for name, _ in found] == ["decision tree", "random forest", "logistic regression"]
    assert all(80 < float(accuracy) <= 100 for _, accuracy in found)


def test_the_deliberate_error_is_shown_once_and_names_its_lines(quickstart: NotebookPage, pictures: Path):
    outputs = quickstart.outputs(at("error"))
    expect(outputs).to_have_count(1)
    trace = outputs.text_content() or ""
    assert trace.count(TRACEBACK) == 1
    assert "----> 5 sweetness(" in trace
    assert '----> 3     return wine["sugar"]' in trace
    assert trace.rstrip().endswith("KeyError: 'sugar'")
    assert "faas_magics" not in trace
    quickstart.screenshot(pictures / "quickstart-error.png")


def test_nothing_but_the_deliberate_error_fails(quickstart: NotebookPage):
    # JupyterLab shows errors and stderr alike; nothing is expected there either.
    errors = quickstart.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    expect(errors).to_have_count(1)
    expect(errors).to_contain_text(TRACEBACK)
    assert "178 wines are still here" in quickstart.text(at("after-error"))


def test_the_quickstart_shows_what_the_shell_printed(quickstart: NotebookPage):
    assert "1 + 2 + ... + 100 = 5050" in quickstart.text(at("shell"))


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_the_overview_is_readable_in_each_theme(theme: str, quickstart: NotebookPage, pictures: Path):
    quickstart.theme(theme)
    panel = quickstart.outputs(at("session"))
    texts = contrasts(panel)
    assert {"environment", "limits", "session 'default' (private to this notebook)"} <= {text for text, _ in texts}
    assert [(text, ratio) for text, ratio in texts if ratio < READABLE] == []
    assert panel.evaluate("(node) => node.scrollWidth <= node.clientWidth"), "nothing is cut off"
    quickstart.screenshot(pictures / f"overview-{theme.split()[-1].lower()}.png")


def test_printed_lines_appear_while_the_cell_runs(open_notebook: Open):
    notebook = open_notebook(
        "%load_ext faas_magics",
        "%%faas --env python\nimport time\nfor n in range(8):\n    print('line', n)\n    time.sleep(0.3)",
    )
    notebook.run(0)
    notebook.start(1)
    states = notebook.states(1)
    lines = [text.count("line") for prompt, text in states if prompt == "[*]:"]
    assert lines == sorted(lines)
    assert len(set(lines)) >= 4, states
    assert 1 <= min(filter(None, lines)) < 8, states
    assert [line for line in notebook.text(1).splitlines() if "line" in line] == [f"line {n}" for n in range(8)]


def test_the_stop_button_interrupts_the_cell_and_keeps_the_session(open_notebook: Open):
    notebook = open_notebook(
        "%load_ext faas_magics",
        "%%faas --env python\nimport time\nkept = 41\nprint('asleep')\nfor _ in range(60):\n    time.sleep(60)",
        "%%faas\nkept + 1",
    )
    notebook.menu("Run", "Run All Cells")
    expect(notebook.cells.nth(1).get_by_text("asleep", exact=True)).to_be_visible(timeout=60_000)
    notebook.stop()
    notebook.wait(1, timeout_s=15)
    shown = notebook.text(1)
    assert shown.count(TRACEBACK) == 1
    assert len(re.findall(r"^KeyboardInterrupt", shown, re.MULTILINE)) == 2, "the traceback's first and last line"
    assert "----> 6     time.sleep(60)" in shown
    assert notebook.prompt(2) == "[ ]:", "Run All ends with the stopped cell"
    notebook.run(2)
    assert notebook.text(2).split() == ["42"]


def test_an_error_ends_run_all_and_looks_as_a_local_one(open_notebook: Open):
    failing = "def third(numbers):\n    return numbers[2] / 2\n\nthird([0.5, 1])"
    notebook = open_notebook(
        "%load_ext faas_magics", f"%%faas --env python\n{failing}", f"# %%faas --env python\n{failing}"
    )
    notebook.menu("Run", "Run All Cells")
    notebook.wait(1)
    remote = notebook.outputs(1).last.inner_html()
    assert notebook.text(1).count(TRACEBACK) == 1
    assert "IndexError: list index out of range" in notebook.text(1)
    notebook.run(2)
    assert notebook.prompt(2) == "[3]:", "Run All left it out"
    local = notebook.outputs(2).last.inner_html()
    assert remote == local.replace("In[3]", "In[2]")


def test_tab_completes_options_and_environments(open_notebook: Open):
    cases = [
        ("%%faas --en", "--env", "%%faas --env"),
        ("%%faas --env python-", "python-ai", "%%faas --env python-ai"),
        ("%%faas --env=alp", "alpine-fast", "%%faas --env=alpine-fast"),
    ]
    notebook = open_notebook("%load_ext faas_magics", *[""] * len(cases))
    notebook.run(0)
    offers = notebook.page.locator(".jp-Completer .jp-Completer-item")
    for index, (typed, offered, result) in enumerate(cases, start=1):
        notebook.write(index, typed)
        notebook.page.keyboard.press("Tab")
        expect(offers.locator(".jp-Completer-match")).to_have_text([offered])
        notebook.page.keyboard.press("Enter")
        expect(offers).to_be_hidden()
        assert notebook.source(index) == result


def test_a_slow_start_shows_its_progress_in_one_line(own_gateway: LiveGateway, open_notebook: Open):
    notebook = open_notebook(
        f"import os\nos.environ.update({own_gateway.env!r})\n%load_ext faas_magics",
        "%%faas --env python\nprint('hello')",
    )
    notebook.run(0)
    notebook.start(1)
    states = notebook.states(1)
    steps = [text for _, text in states if re.search(r"^python session: .+ \(\d+\.\d s\)$", text)]
    assert steps, states
    assert re.fullmatch(r"python session ready in \d+\.\d s\nhello\n", notebook.text(1))
