"""The gateway's end of the launcher: calls with answers and descriptors, and events.

The socket is read by a callback of the running asyncio loop, since a call and its answer are the hot path of starting a
sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from faas_gateway.backends.base import StartFailed
from faas_gateway.backends.native import scope
from faas_gateway.guest import wire

log = logging.getLogger(__name__)

_NATIVE = Path(__file__).parent
_PATH = (_NATIVE / "launcher", _NATIVE / "seccomp", _NATIVE.parents[1] / "guest")
READY_S = 20.0
GIVEN_UP_S = 2.0


class LauncherGone(StartFailed):
    """The launcher has ended, and every sandbox with it."""


class LauncherError(StartFailed):
    """A call inside the launcher or a sandbox's init failed: `errno`, and what it was about."""

    def __init__(self, m: dict[str, Any]) -> None:
        where = m["where"]
        super().__init__(f"{where}: {m['error']}" if where else m["error"])
        self.errno: int = m["errno"]
        self.where: str = where


class Answer:
    """What the launcher answered; descriptors that are not taken are closed."""

    def __init__(self, message: dict[str, Any], fds: list[int]) -> None:
        self.message = message
        self.fds = fds

    def take(self) -> list[int]:
        """The descriptors, owned by the caller from now on."""
        taken, self.fds = self.fds, []
        return taken

    def close(self) -> None:
        for fd in self.take():
            os.close(fd)


class Launcher:
    """One launcher process. `start` it, `call` it, `aclose` it: that ends every sandbox it made."""

    def __init__(self, store: Path, host_uid: int, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._store = store
        self._host_uid = host_uid
        self._on_event = on_event
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._abandoned: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready: asyncio.Future[dict[str, Any]] | None = None

    @property
    def alive(self) -> bool:
        return self._socket is not None

    async def start(self) -> dict[str, Any]:
        """Start the process; returns what it says of this machine. Raises StartFailed."""
        prefix = scope.scope_command()
        if prefix:
            try:
                return await self._start([*prefix, "/usr/bin/env", "-i"], scope.scope_environment(), scope.READY_S)
            except StartFailed:
                log.warning("systemd-run gave no scope: limits fall back to rlimits")
        return await self._start([], {}, READY_S)

    async def _start(self, prefix: list[str], env: dict[str, str], ready_s: float) -> dict[str, Any]:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        base = getattr(sys, "_base_executable", None) or sys.executable
        # every init is a fork of the launcher and shows its command line in the sandbox: nothing of the host is on it
        command = [*prefix, base, "-I", "-S", "-B", "-c", "import os; exec(os.read(0, 65536))"]
        start = f"import sys; sys.path[:0] = {[str(f) for f in _PATH]!r}\n"
        start += f"import launcher; launcher.main({far.fileno()}, {str(self._store)!r}, {self._host_uid})\n"
        read, write = os.pipe()
        os.write(write, start.encode())
        os.close(write)
        # its own session: a terminal's Ctrl-C is not for it
        self._process = subprocess.Popen(
            command, env=env, stdin=read, pass_fds=[far.fileno()], start_new_session=True, cwd="/"
        )
        os.close(read)
        far.close()
        self._socket = near
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        loop.add_reader(near, self._readable)
        try:
            with anyio.fail_after(ready_s):
                return await self._ready
        except TimeoutError:
            await self.aclose(GIVEN_UP_S)
            raise StartFailed("the launcher did not get ready") from None
        except BaseException:
            await self.aclose(GIVEN_UP_S)
            raise

    async def call(self, op: str, timeout: float, fds: list[int] | None = None, **arguments: Any) -> Answer:
        """Ask for something and wait for the answer, at most timeout seconds. Raises LauncherError, LauncherGone."""
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        made = arguments["box"] if op in ("new", "branch") else None
        try:
            self._send({"op": op, "call": number, **arguments}, fds)
            with anyio.fail_after(timeout):
                answer = await future
        except TimeoutError:
            self._abandon(number, future, made)
            raise StartFailed(f"the launcher did not answer {op} within {timeout:.0f} s") from None
        except BaseException:
            self._abandon(number, future, made)
            raise
        finally:
            self._calls.pop(number, None)
        if "error" in answer.message:
            answer.close()
            raise LauncherError(answer.message)
        return answer

    def _abandon(self, number: int, future: asyncio.Future[Answer], box: str | None) -> None:
        """Nobody waits for this answer any more: the box that it may tell of is to be closed when it comes."""
        if not future.done() or future.cancelled():
            if box is not None:
                self._abandoned[number] = box
        elif future.exception() is None:
            future.result().close()
            if box is not None:
                self._close_box(box)

    def _close_box(self, box: str) -> None:
        with contextlib.suppress(StartFailed):  # it has ended, and the box with it
            self._send({"op": "close", "call": next(self._numbers), "box": box}, None)

    def post(self, op: str, fds: list[int], **arguments: Any) -> None:
        """Send something that has no answer."""
        self._send({"op": op, **arguments}, fds)

    def _send(self, message: dict[str, Any], fds: list[int] | None) -> None:
        if self._socket is None:
            raise LauncherGone("the process that makes sandboxes has ended")
        try:
            wire.send(self._socket, message, fds)
        except BlockingIOError:
            raise StartFailed("the launcher is too busy to take another request") from None
        except OSError as e:
            if e.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise LauncherGone("the process that makes sandboxes has ended") from None
            raise

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            received = wire.receive(self._socket)
        except BlockingIOError:
            return
        m = received.message
        if m is None:
            self._gone()
        elif "call" in m and "event" not in m and m["call"] in self._calls:
            future = self._calls[m["call"]]
            if not future.done():
                future.set_result(Answer(m, received.take()))
        elif m.get("call") in self._abandoned:
            self._close_box(self._abandoned.pop(m["call"]))
        elif m.get("event") == "ready":
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(m)
        elif "event" in m:
            self._on_event(m)
        received.close()  # of a caller that has given up: closing its descriptors ends the sandbox's guest

    def _gone(self) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for future in (*self._calls.values(), *([self._ready] if self._ready else [])):
            if not future.done():
                future.set_exception(LauncherGone("the process that makes sandboxes has ended"))
        self._on_event({"event": "launcher_gone"})

    async def aclose(self, seconds: float = 10.0) -> None:
        """End the launcher and wait until it has cleaned up; kill it after that many seconds."""
        process, self._process = self._process, None
        self._gone()
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(seconds):
                while process.poll() is None:
                    await anyio.sleep(0.005)
                return
            process.kill()
            process.wait()
