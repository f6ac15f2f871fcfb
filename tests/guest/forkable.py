"""A guest in a plain process that forks between two requests: run by test_fork.py, in the guest's own interpreter.

python forkable.py FOLDER CONTROL CHANNEL STDOUT STDERR          the last four are descriptors

Each message on CONTROL carries the descriptors of a channel and two pipes. The idle guest then forks; the child
answers on those, the parent goes on with its own. What the guest was like just before is sent back as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
import threading
from typing import Any

FOLDER = sys.argv[1]
sys.path.insert(0, FOLDER)
forking, main, requests, shell, streams = (
    importlib.import_module(f"faas_guest.{name}") for name in ("forking", "main", "requests", "shell", "streams")
)
sys.path.remove(FOLDER)


class ForkOrder(SystemExit):
    """Leaves the running loop, as a kill of the process would, but is caught in time."""


class Forkable(requests.Session):  # type: ignore[name-defined, misc]
    control: socket.socket

    async def _serve(self) -> None:
        asyncio.get_running_loop().add_reader(self.control, _order)
        await super()._serve()


def _order() -> None:
    raise ForkOrder


def state() -> dict[str, Any]:
    names = []
    for number in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{number}/comm") as f:
            names.append(f.read().strip())
    return {"python_threads": len(threading.enumerate()), "threads": len(names), "openblas": _openblas_threads()}


def _openblas_threads() -> int:
    """Of all loaded OpenBLAS together; each ends its own at a fork and starts them again."""
    threadpoolctl: Any = importlib.import_module("threadpoolctl")
    return sum(i["num_threads"] - 1 for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas")


def serve(kernel: Any, control: socket.socket, channel: int, out: int, err: int) -> None:
    while True:
        standard = streams.Standard(out, err, "0" * 16)
        standard.install()
        session = Forkable(kernel, socket.socket(fileno=channel), standard)
        session.control = control
        while True:
            try:
                session.run()
            except ForkOrder:
                _data, fds, _flags, _address = socket.recv_fds(control, 1, 3)
            forking.prepare_fork()
            before = state()
            pid = os.fork()
            if pid == 0:
                channel, out, err = fds
                session._channel.close()
                control.close()
                control, nobody = socket.socketpair()  # a child takes no orders
                nobody.detach()
                break
            for fd in fds:
                os.close(fd)
            control.send(json.dumps({**before, "pid": pid}).encode())


if __name__ == "__main__":
    k = shell.make_kernel()
    main.warm_up(k)
    forking.forget_loops()
    numbers = [int(n) for n in sys.argv[2:]]
    serve(k, socket.socket(fileno=numbers[0]), *numbers[1:])
