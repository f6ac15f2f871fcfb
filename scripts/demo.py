"""Execute notebooks/quickstart.ipynb, or another notebook, and show it in the terminal: `make demo`.

The executed notebook and its figures go to build/demo (or --output DIR); the source stays as it is. The exit
status is 1 if a cell failed that should not have.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import shutil
import struct
import sys
import tempfile
import textwrap
import time
import uuid
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "quickstart.ipynb"
#: The first use of python-ai installs its packages.
CELL_TIMEOUT_S = 1800
MAX_LINES = 60
WHERE_NEXT = """\
Where to go next
  make lab                    the same notebook in JupyterLab, to play with
  {notebook}
                              the notebook as it was just executed
  README.md                   what the sandbox protects from, and what it does not
  .venv/bin/faas doctor       what this machine can do, and how to mend what is degraded
"""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Screen:
    """Writes to the terminal; colours, and lines that are rewritten, only where there is one."""

    def __init__(self) -> None:
        self.tty = sys.stdout.isatty()
        self._colors = self.tty and not os.environ.get("NO_COLOR")
        self._at_start = True
        self._update = ""

    def style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors else text

    def write(self, text: str) -> None:
        self.settle()
        text = text if self._colors else _ANSI.sub("", text)
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._at_start = text.endswith("\n")

    def line(self, text: str = "") -> None:
        self.settle()
        self.write(("" if self._at_start else "\n") + text + "\n")

    def update(self, text: str) -> None:
        """Show a line that replaces the one before it; without a terminal only the last of them is shown."""
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write("\r\x1b[2K" + text[:width])
            sys.stdout.flush()
        self._update = text

    def settle(self) -> None:
        text, self._update = self._update, ""
        if text:
            sys.stdout.write(("\r\x1b[2K" if self.tty else "") + text + "\n")
            self._at_start = True


class Demo(NotebookClient):
    """Runs the notebook and shows each output when it comes."""

    screen: Screen
    folder: Path
    figures: int = 0

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        output = super().process_message(msg, cell, cell_index)
        content = msg["content"]
        match msg["msg_type"]:
            case "stream":
                self.screen.write(content["text"])
            case "display_data" | "execute_result":
                self.show(content["data"], live="display_id" in content.get("transient", {}))
            case "update_display_data":
                self.screen.update(str(content["data"].get("text/plain", "")))
            case "error":
                self.screen.line("\n".join(content["traceback"]))
            case _:
                pass
        return output

    def show(self, data: dict[str, Any], *, live: bool) -> None:
        if "image/png" in data:
            image = base64.b64decode(data["image/png"])
            width, height = struct.unpack(">II", image[16:24])
            self.figures += 1
            path = self.folder / f"figure-{self.figures}.png"
            path.write_bytes(image)
            self.screen.line(f"[figure: {width}x{height} PNG -> {shown(path)}]")
            return
        text = str(data.get("text/plain", f"[{', '.join(data)}]"))
        if live:
            self.screen.update(text)
            return
        lines = text.splitlines()
        self.screen.line("\n".join(lines[:MAX_LINES]))
        if len(lines) > MAX_LINES:
            self.screen.line(f"... {len(lines) - MAX_LINES} lines more")


async def run(screen: Screen, source: Path, target: Path) -> int:
    notebook: Any = nbformat.read(source, as_version=4)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("figure-*.png"):
        old.unlink()
    executed = target / source.name
    kernel = uuid.uuid4().hex[:12]
    with tempfile.TemporaryDirectory(prefix="faas-demo-") as folder:
        # Without folders of kernelspecs it is the kernel of this very Python. Unix sockets open no port.
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True),
            transport="ipc",
            connection_file=str(Path(folder, f"kernel-{kernel}.json")),
        )
        demo = Demo(
            notebook,
            km=manager,
            timeout=CELL_TIMEOUT_S,
            record_timing=False,
            resources={"metadata": {"path": str(source.parent)}},
        )
        demo.screen, demo.folder = screen, target
        try:
            async with demo.async_setup_kernel():
                problem = await execute(demo, screen)
        except DeadKernelError:
            problem = "the kernel of the notebook died"
        finally:
            nbformat.write(notebook, executed)
            if manager.has_kernel:
                await manager.shutdown_kernel()
            if any("--name" in cell.source and cell.get("execution_count") for cell in notebook.cells):
                end_sessions(kernel)
    if problem:
        screen.line()
        screen.line(screen.style("31", f"The demo stopped: {problem}"))
        screen.line("`.venv/bin/faas doctor` says what this machine lacks, and the command that mends it.")
        return 1
    screen.line()
    screen.write(WHERE_NEXT.format(notebook=shown(executed)))
    return 0


async def execute(demo: Demo, screen: Screen) -> str:
    """Execute the cells in order and return what went wrong, if anything did."""
    cells = demo.nb.cells
    total = sum(cell.cell_type == "code" for cell in cells)
    number = 0
    begun = time.monotonic()
    heading = ""
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for title in re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)[:1]:
                heading = title
        if cell.cell_type != "code":
            continue
        number += 1
        if heading:
            screen.line()
            screen.line(screen.style("1", heading))
            heading = ""
        screen.line()
        screen.line(screen.style("2", textwrap.indent(short(cell.source), "    ")))
        started = time.monotonic()
        try:
            await demo.async_execute_cell(cell, index)
        except CellTimeoutError:
            return f"cell {number} did not end within {CELL_TIMEOUT_S} s"
        except CellExecutionError as error:
            return f"cell {number} failed with {error.ename}, see above"
        took = f"[{number}/{total}] {time.monotonic() - started:.2f} s"
        screen.line(screen.style("2", took))
        expected = "raises-exception" in cell.metadata.get("tags", [])
        if expected and not any(output.output_type == "error" for output in cell.outputs):
            return f"cell {number} should have failed and did not"
    screen.line()
    screen.line(screen.style("32", f"All {total} cells ran, in {time.monotonic() - begun:.1f} s."))
    return ""


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def short(source: str) -> str:
    lines = source.splitlines()
    return "\n".join(lines if len(lines) <= 14 else [*lines[:12], f"... {len(lines) - 12} lines more"])


def end_sessions(kernel: str) -> None:
    """End what the notebook left open for others to join: the demo is over."""
    from faas import FaaSError, SyncFaaSClient

    try:
        with SyncFaaSClient() as client:
            for info in client.executions.list(label=f"notebook:{kernel}"):
                client.executions.cancel(info.id)
    except FaaSError:
        pass  # no gateway, no sessions


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute a notebook and show it.")
    default = ROOT / "build" / "demo"
    parser.add_argument("notebook", type=Path, nargs="?", default=SOURCE, help=f"default: {shown(SOURCE)}")
    parser.add_argument("--output", type=Path, metavar="DIR", default=default, help=f"default: {shown(default)}")
    options = parser.parse_args()
    try:
        return asyncio.run(run(Screen(), options.notebook.resolve(), options.output.resolve()))
    except KeyboardInterrupt:
        print("\nThe demo was interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
