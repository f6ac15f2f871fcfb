"""Make docs/images/quickstart.png: cells of the quickstart, executed in a real JupyterLab.

Needs Chromium (sudo apt-get install chromium) and what `make install` sets up.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]

from jupyter_lab import browser, chromium, jupyterlab  # noqa: E402
from live import LiveGateway  # noqa: E402
from notebook_page import NotebookPage  # noqa: E402

SOURCE = ROOT / "notebooks" / "quickstart.ipynb"
TARGET = ROOT / "docs" / "images" / "quickstart.png"
#: Ids of the cells in the picture, which is as high as they are.
CELLS = ("first", "plot")
WINDOW = ViewportSize(width=1040, height=1400)
#: Pixels of the picture per pixel of the page, so that text is sharp on finer screens too.
SCALE = 1.5
MAX_BYTES = 300_000
INSTALL_S = 1800


def take(folder: Path, target: Path) -> None:
    gateway = LiveGateway(folder / "gateway")
    try:
        with gateway.client() as client:
            # Installed beforehand: the picture shows what every start but the very first looks like.
            client.execute("import matplotlib.pyplot, sklearn", "python-ai")
        with (
            sync_playwright() as playwright,
            browser(playwright, folder / "chromium") as chrome,
            jupyterlab(folder / "jupyterlab", gateway.env) as lab,
        ):
            notebook: Any = nbformat.read(SOURCE, as_version=4)
            cells = {cell.id: cell for cell in notebook.cells}
            notebook.cells = [cells[name] for name in ("load", *CELLS)]
            nbformat.write(notebook, lab.notebooks / SOURCE.name)
            page = NotebookPage.open(chrome.new_context(viewport=WINDOW, device_scale_factor=SCALE), lab, SOURCE.name)
            shot = folder / "shot.png"
            picture(page, shot)
            page.close()
        with Image.open(shot) as image:
            target.parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    finally:
        gateway.stop()


def picture(page: NotebookPage, target: Path) -> None:
    """Run the cells and photograph the notebook, from its toolbar to the end of the last of them."""
    page.page.keyboard.press("Control+b")  # no file browser
    last = len(CELLS)
    for index in range(last + 1):
        page.run(index, timeout_s=INSTALL_S)
    page.menu("View", "Collapse Selected Code")
    # An empty cell after it takes over what marks the selected one.
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("b")
    page.cells.nth(0).scroll_into_view_if_needed()
    page.page.mouse.move(0, 0)
    panel = page.page.locator(".jp-NotebookPanel").bounding_box()
    output = page.cells.nth(last).locator(".jp-OutputArea").bounding_box()
    assert panel is not None
    assert output is not None
    bottom = output["y"] + output["height"]
    page.page.screenshot(
        path=target,
        clip={"x": panel["x"], "y": panel["y"], "width": panel["width"], "height": bottom - panel["y"]},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="FILE", default=TARGET)
    options = parser.parse_args()
    if chromium() is None:
        print("Chromium is needed: sudo apt-get install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="faas-screenshots-") as folder:
        take(Path(folder), options.output)
    size = options.output.stat().st_size
    print(f"{options.output}: {size:,} bytes")
    if size > MAX_BYTES:
        print(f"That is more than {MAX_BYTES:,} bytes: show less of it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
