"""A real ipykernel, driven over its own protocol as a notebook drives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
Message = dict[str, Any]


class CellFailed(Exception):
    """A cell of a benchmark ended with an error."""


class Kernel:
    """One kernel and its client.

    Attributes:
        pid: of the kernel's process.
    """

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        provisioner: Any = manager.provisioner
        self.pid: int = provisioner.pid
        self._client = client

    def run(self, code: str, on_output: Callable[[Message], None] | None = None, deadline_s: float = 120.0) -> float:
        """Run a cell; returns the seconds from its request to both its reply and the kernel being idle again.

        Raises:
            CellFailed: it raised something, or did not end in time.
        """
        shell, iopub = self._client.shell_channel.socket, self._client.iopub_channel.socket
        poller = zmq.Poller()
        poller.register(shell, zmq.POLLIN)
        poller.register(iopub, zmq.POLLIN)
        started = time.perf_counter()
        request = self._client.execute(code)
        reply: Message | None = None
        idle = False
        while reply is None or not idle:
            ready = dict(poller.poll(1000))
            if time.perf_counter() - started > deadline_s:
                raise CellFailed(f"no end within {deadline_s:g} s: {code!r}")
            for socket in (iopub, shell):
                if socket not in ready:
                    continue
                message = self._receive(socket)
                if message["parent_header"].get("msg_id") != request:
                    continue
                if socket is shell:
                    reply = message["content"]
                elif message["msg_type"] == "status":
                    idle = message["content"]["execution_state"] == "idle"
                elif on_output is not None:
                    on_output(message)
        took = time.perf_counter() - started
        if reply["status"] != "ok":
            raise CellFailed(f"{code!r}: {reply.get('ename')}: {reply.get('evalue')}")
        return took

    def printed(self, code: str) -> tuple[float, int]:
        """Run a cell; returns its seconds and the characters that it printed, as the client received them."""
        count = 0

        def add(message: Message) -> None:
            nonlocal count
            if message["msg_type"] == "stream":
                count += len(message["content"]["text"])

        return self.run(code, add), count

    def _receive(self, socket: Any) -> Message:
        session = self._client.session
        _, parts = session.feed_identities(socket.recv_multipart())
        return session.deserialize(parts)


@contextmanager
def kernel(folder: Path, env: Mapping[str, str], name: str = "bench") -> Generator[Kernel]:
    """Start a kernel of this very Python with these environment variables; ended as Jupyter ends one."""
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
