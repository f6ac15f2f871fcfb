"""Which sockets are the two ends of one pair: the kernel does not tell, so what makes pairs is watched.

Event loops wake themselves through such pairs; in a branch they get a new one.
"""

from __future__ import annotations

import functools
import socket
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

_known: list[tuple[weakref.ref[socket.socket], weakref.ref[socket.socket]]] = []
_WAITING_BYTES = 1 << 20


def watch() -> None:
    """Note from now on what `socket.socketpair` returns. Calling it again does nothing."""
    original: Any = socket.socketpair
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def socketpair(*args: Any, **kwargs: Any) -> tuple[socket.socket, socket.socket]:
        a, b = original(*args, **kwargs)
        _known[:] = [pair for pair in _known if pair[0]() is not None and pair[1]() is not None]
        _known.append((weakref.ref(a), weakref.ref(b)))
        return a, b

    socket.socketpair = socketpair


def opened() -> Iterator[tuple[int, int]]:
    """Descriptors of the stream pairs whose both ends are open here."""
    for first, second in _known:
        a, b = first(), second()
        if a is not None and b is not None and a.fileno() >= 0 and b.fileno() >= 0 and a.type == socket.SOCK_STREAM:
            yield a.fileno(), b.fileno()


@contextmanager
def borrowed(fd: int) -> Generator[socket.socket]:
    """A socket object for a descriptor that stays open; its flags stay as they are."""
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)  # else the object would make the socket a non-blocking one
    try:
        sock = socket.socket(fileno=fd)
    finally:
        socket.setdefaulttimeout(default)
    try:
        yield sock
    finally:
        sock.detach()


def waiting(fd: int) -> bytes:
    """What can be read from a socket; it stays there."""
    try:
        with borrowed(fd) as sock:
            return sock.recv(_WAITING_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return b""


def make(to_first: bytes, to_second: bytes) -> tuple[int, int]:
    """A new pair in which these bytes wait."""
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    for sock, data in ((b, to_first), (a, to_second)):
        if data:
            sock.send(data)
    return a.detach(), b.detach()
