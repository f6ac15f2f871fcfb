"""A real ipykernel of this very Python, driven as a notebook drives it."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent

Shown = list[tuple[str, dict[str, Any]]]


class Kernel:
    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.times: list[float] = []
        """When each message of the last run came, seconds since its start."""

    def run(self, code: str, *interrupt_after: float, deadline_s: float = 60) -> Shown:
        """Run a cell and return (message type, content) of what it showed, the reply last.

        Arguments: the code; seconds after the kernel began with it at which the stop button is pressed; seconds
        it may take.
        """
        request = self.client.execute(code)
        started, presses = time.monotonic(), list(interrupt_after)
        begun: float | None = None
        shown: Shown = []
        self.times = []
        while True:
            now = time.monotonic() - started
            assert now < deadline_s, shown
            if presses and begun is not None and now - begun >= presses[0]:
                presses.pop(0)
                self.manager.interrupt_kernel()
            try:
                message = self.client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "execute_input":
                begun = now
            if kind not in ("status", "execute_input"):
                shown.append((kind, content))
                self.times.append(time.monotonic() - started)
        return [*shown, ("reply", self.reply_to(request))]

    def reply_to(self, request: str) -> dict[str, Any]:
        """Return the content of the reply to a request; left-over replies to earlier ones are dropped."""
        while True:
            reply = self.client.get_shell_msg(timeout=20)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]

    def complete(self, code: str, cursor: int) -> dict[str, Any]:
        """Return the completion of code at a position."""
        return self.reply_to(self.client.complete(code, cursor))

    def ok(self, code: str, **more: Any) -> Shown:
        """Run a cell that has to succeed."""
        shown = self.run(code, **more)
        assert shown[-1][1]["status"] == "ok", shown
        return shown

    def value(self, code: str) -> str:
        """Run a cell and return its value as text."""
        (content,) = [content for kind, content in self.ok(code) if kind == "execute_result"]
        return content["data"]["text/plain"]


def kinds(shown: Shown) -> list[str]:
    return [kind for kind, _ in shown]


def text(shown: Shown, name: str = "stdout") -> str:
    return "".join(content["text"] for kind, content in shown if kind == "stream" and content["name"] == name)


@contextmanager
def kernel(folder: Path, env: Mapping[str, str], *, name: str = "test") -> Iterator[Kernel]:
    """Start a kernel with this environment; its id is `name`. It is shut down as Jupyter does, and ended."""
    # No folder of kernelspecs: then it is this interpreter, whatever the user has installed.
    manager = KernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True),
        transport="ipc",
        connection_file=str(folder / f"kernel-{name}.json"),
    )
    own = {"IPYTHONDIR": str(folder / "ipython"), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    manager.start_kernel(env={**own, **env}, cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()


def plain(coloured: str) -> str:
    """Return text without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", coloured)
