"""A small event loop: callbacks on readable descriptors, and generators that wait for a message with a deadline.

The launcher cannot use asyncio: every init is a fork of it and inherits what it has imported. Standard library only.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Generator

import wire


class Readable:
    """A descriptor to wait for that is not a socket of messages, such as a pidfd."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


Wait = tuple[socket.socket | Readable, float]
Task = Generator[Wait, wire.Received, None]


class DeadlinePassed(OSError):
    """The peer did not answer in time."""


def pause(seconds: float) -> Generator[Wait, wire.Received, None]:
    """Let others go on."""
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.suppress(DeadlinePassed):
        yield ours, seconds


class Loop:
    """Runs until `stopping` is set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._waiting: dict[int, tuple[Task, socket.socket | Readable, float]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.stopping = False

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + seconds, callback))

    def start(self, task: Task) -> None:
        """Run a generator; it yields (socket, seconds) and gets the socket's next message, or an empty one."""
        self._advance(task, None, None)

    def _advance(self, task: Task, value: wire.Received | None, error: OSError | None) -> None:
        try:
            if error is not None:
                sock, seconds = task.throw(error)
            elif value is None:
                sock, seconds = next(task)
            else:
                sock, seconds = task.send(value)
        except StopIteration:
            return
        self._waiting[sock.fileno()] = (task, sock, time.monotonic() + seconds)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while not self.stopping:
            now = time.monotonic()
            due = [deadline for _, _, deadline in self._waiting.values()] + [at for at, _ in self._timers]
            # one at a time: a callback may close a descriptor, and its number may be another's by the next
            for fd, _events in self._epoll.poll(max(0.0, min(due) - now) if due else -1, 1):
                self._ready(fd)
            self._expire()

    def _ready(self, fd: int) -> None:
        if fd in self._callbacks:
            self._callbacks[fd]()
        elif fd in self._waiting:
            task, sock, _ = self._waiting.pop(fd)
            self._epoll.unregister(fd)
            try:
                received = wire.receive(sock) if isinstance(sock, socket.socket) else wire.Received(None, [], 0)
            except OSError as e:
                self._advance(task, None, e)
            else:
                self._advance(task, received, None)

    def _expire(self) -> None:
        now = time.monotonic()
        for fd, (task, _sock, deadline) in list(self._waiting.items()):
            if deadline <= now:
                del self._waiting[fd]
                self._epoll.unregister(fd)
                self._advance(task, None, DeadlinePassed(110, "no answer in time"))
        due = [callback for at, callback in self._timers if at <= now]
        self._timers = [(at, callback) for at, callback in self._timers if at > now]
        for callback in due:
            callback()
