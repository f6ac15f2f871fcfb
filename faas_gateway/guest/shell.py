"""IPython's kernel with our channel in place of ZeroMQ: one thread, no sockets, no queue.

A stock ipykernel runs 13 threads and cannot be forked into a working kernel. Here the session hands each message to
`emit`, and the requests are called by hand (see requests.py).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.session import Session
from traitlets.config import Config

Emit = Callable[[dict[str, Any], list[bytes]], None]


class ChannelSession(Session):
    """`send` hands the message over instead of writing it to a ZeroMQ socket."""

    emit: Emit | None = None

    def send(  # type: ignore[override]
        self,
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Any = None,
        metadata: Any = None,
    ) -> Any:
        if isinstance(msg_or_type, dict):
            msg: dict[str, Any] = msg_or_type  # type: ignore[assignment]
            buffers = buffers or msg.get("buffers")
        else:
            make: Any = self.msg  # type: ignore[misc]
            msg = make(msg_or_type, content=content, parent=parent, header=header, metadata=metadata)
        if self.emit is not None and stream is not None:
            self.emit(msg, [bytes(b) for b in buffers or ()])
        return msg


class Shell(ZMQInteractiveShell):
    def enable_gui(self, gui: Any = None) -> None:
        self.active_eventloop = gui  # the base class starts an event loop of that toolkit; there is no display here


class _Here:
    """Stands for the thread of the shell channel: the only one there is."""

    parent_thread = threading.main_thread()


class Kernel(IPythonKernel):
    @property
    def _supports_kernel_subshells(self) -> bool:
        return False

    def _abort_queues(self, subshell_id: Any = None) -> None:
        pass  # the gateway holds the queue

    @contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Generator[None]:
        """Around a cell that awaits: code that runs is interrupted as any, code that waits is cancelled.

        The base class relies on other threads to wake its loop up, and there are none here.
        """
        loop = asyncio.get_running_loop()

        def interrupt(*_args: object) -> None:
            running = asyncio.current_task(loop)
            if running is not future:
                loop.call_soon_threadsafe(future.cancel)
            if running is not None:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def raw_input(self, prompt: str = "") -> str:
        raise RuntimeError("input() is not available in a sandboxed cell: give the value in the code, or with --in")

    def getpass(self, prompt: str = "", stream: Any = None, *, echo_char: str | None = None) -> str:
        raise RuntimeError("getpass() is not available in a sandboxed cell: give the value in the code, or with --in")


def make_kernel() -> Kernel:
    """The process's kernel, with its history in memory only."""
    config = Config()
    config.HistoryManager.enabled = False
    session = ChannelSession(key=b"")
    kernel = Kernel.instance(session=session, iopub_socket="iopub", shell_class=Shell, config=config)
    kernel.log = logging.getLogger("faas.guest")
    kernel.log.setLevel(logging.CRITICAL)
    kernel.shell_channel_thread = _Here()
    return kernel
