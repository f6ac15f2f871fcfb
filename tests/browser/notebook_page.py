"""A notebook in JupyterLab as a person has it in front of them: what they press, and what they see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_lab import JupyterLab
from playwright.sync_api import BrowserContext, Locator, Page, expect

#: How long a page and its kernel may take to come up on a busy machine, ms.
_READY_MS = 60_000
_DONE = re.compile(r"^\[\d+\]:$")

_TEXTS = """
(element) => {
  const channels = (color) => {
    const found = color.match(/^rgba?\\(([\\d.]+), ([\\d.]+), ([\\d.]+)(?:, ([\\d.]+))?\\)$/);
    if (!found) throw new Error(`not an RGB colour: ${color}`);
    return found.slice(1).map((value) => (value === undefined ? 1 : Number(value)));
  };
  const over = ([r, g, b, alpha], below) => [r, g, b].map((value, i) => value * alpha + below[i] * (1 - alpha));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = [];
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    if (!text) continue;
    const above = [];
    for (let node = walker.currentNode.parentElement; node; node = node.parentElement) {
      above.unshift(getComputedStyle(node));
    }
    const back = above.reduce((below, style) => over(channels(style.backgroundColor), below), [255, 255, 255]);
    const opacity = above.reduce((product, style) => product * Number(style.opacity), 1);
    const [r, g, b, alpha] = channels(above.at(-1).color);
    const pair = [over([r, g, b, alpha * opacity], back), back].map(luminance).sort((a, b) => a - b);
    texts.push([text, (pair[1] + 0.05) / (pair[0] + 0.05)]);
  }
  return texts;
}
"""

_COLORS = """
(image) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
}
"""


class NotebookPage:
    """One notebook, in a browser page of its own. Cells are counted from 0, text cells too."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.cells = page.locator(".jp-Notebook .jp-Cell")
        self._status = page.locator("#jp-main-statusbar")

    @classmethod
    def open(cls, context: BrowserContext, lab: JupyterLab, name: str) -> NotebookPage:
        """Open a notebook of the lab's folder and wait for its kernel."""
        page = context.new_page()
        page.goto(lab.url(name), timeout=_READY_MS)
        self = cls(page)
        self._status.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=_READY_MS)
        return self

    def menu(self, *path: str) -> None:
        """Choose an entry of the menu bar, by the name of its menu and its own; submenus stand between."""
        top, *below = path
        self.page.get_by_role("menubar").get_by_role("menuitem", name=top, exact=True).click()
        for name in below:
            # By label: an entry that opens a submenu has no role.
            self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()

    def write(self, index: int, text: str) -> None:
        """Type at the end of a cell."""
        self._editor(index).click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.type(text)

    def run(self, index: int, *, timeout_s: float = 60) -> None:
        """Run a cell and wait until it is done."""
        self.start(index)
        self.wait(index, timeout_s)

    def start(self, index: int) -> None:
        """Run a cell and do not wait for it."""
        self._editor(index).click()
        self.page.keyboard.press("Control+Enter")

    def wait(self, index: int, timeout_s: float = 60) -> None:
        """Wait until a cell is done: its prompt has a number."""
        expect(self.cells.nth(index).locator(".jp-InputPrompt")).to_have_text(_DONE, timeout=timeout_s * 1000)

    def stop(self) -> None:
        """Press the stop button."""
        self.page.get_by_role("button", name="Interrupt the kernel").click()

    def close(self) -> None:
        """Shut down the kernel and close the page."""
        self.menu("Kernel", "Shut Down Kernel")
        self._status.get_by_text("No Kernel").wait_for(timeout=_READY_MS)
        self.page.close()

    def theme(self, name: str) -> None:
        """Choose a theme of JupyterLab by its name, and wait until it is there."""
        self.menu("Settings", "Theme", name)
        light = "false" if "Dark" in name else "true"
        self.page.locator(f'body[data-jp-theme-light="{light}"][data-jp-theme-name="{name}"]').wait_for(
            state="attached"
        )
        self.page.mouse.move(0, 0)

    def prompt(self, index: int) -> str:
        return self.cells.nth(index).locator(".jp-InputPrompt").text_content() or ""

    def outputs(self, index: int) -> Locator:
        """The outputs of a cell; they are scrolled into view."""
        outputs = self.cells.nth(index).locator(".jp-OutputArea-output")
        if outputs.count():
            outputs.first.scroll_into_view_if_needed()
        return outputs

    def text(self, index: int) -> str:
        """What a cell has shown, as text."""
        return "\n".join(self.outputs(index).all_text_contents())

    def source(self, index: int) -> str:
        return "\n".join(self._editor(index).locator(".cm-line").all_text_contents())

    def states(self, index: int, timeout_s: float = 60) -> list[tuple[str, str]]:
        """Watch a running cell until it is done; return each (prompt, text of the outputs) that was to be seen."""
        script = """
        ([index, deadline]) => new Promise((resolve, reject) => {
          const cell = document.querySelectorAll(".jp-Notebook .jp-Cell")[index];
          const seen = [];
          const look = () => {
            const prompt = cell.querySelector(".jp-InputPrompt").textContent;
            const outputs = [...cell.querySelectorAll(".jp-OutputArea-output")].map((node) => node.textContent);
            const now = [prompt, outputs.join("\\n")];
            if (String(now) !== String(seen.at(-1))) seen.push(now);
            if (/\\d/.test(prompt)) { observer.disconnect(); resolve(seen); }
          };
          const observer = new MutationObserver(look);
          observer.observe(cell, {subtree: true, childList: true, characterData: true});
          setTimeout(() => { observer.disconnect(); reject(new Error(JSON.stringify(seen))); }, deadline);
          look();
        })
        """
        seen: list[list[str]] = self.page.evaluate(script, [index, timeout_s * 1000])
        return [(prompt, text) for prompt, text in seen]

    def screenshot(self, path: Path, of: Locator | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        (of or self.page).screenshot(path=path)

    def _editor(self, index: int) -> Locator:
        return self.cells.nth(index).locator(".cm-content")


def contrasts(element: Locator) -> list[tuple[str, float]]:
    """Return each text in the element with its contrast to what is behind it, as WCAG 2 computes it (1 to 21)."""
    texts: list[list[Any]] = element.evaluate(_TEXTS)
    return [(str(text), float(ratio)) for text, ratio in texts]


def colors(image: Locator) -> int:
    """Return how many colours an image has."""
    return int(image.evaluate(_COLORS))


def save_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook with these code cells for the kernel `python3`."""
    made: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(made, path)
