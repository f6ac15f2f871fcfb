"""Messages with descriptors between the gateway, the launcher, the inits and the warm guests.

One SOCK_SEQPACKET datagram a message: JSON and SCM_RIGHTS. These peers are ours, but a datagram from inside a
sandbox is bounded all the same. Standard library only.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from typing import Any

MESSAGE_LIMIT_BYTES = 128 << 10
_FIT_BYTES = 96 << 10
_FIT_TEXT, _FIT_NUMBER, _FIT_DEPTH = 500, 1 << 53, 4
_MAX_FDS = 64
_MAX_ERRNO, _EIO, _EBADMSG = 4096, 5, 74
_CRED = struct.Struct("3i")

Message = dict[str, Any]


def pair(*, credentials: bool = False) -> tuple[socket.socket, socket.socket]:
    """A connected pair; with credentials the first end learns the sender's pid as it sees it itself."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if credentials:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return near, far


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Send one message; raises OSError when the peer is gone or, on a non-blocking socket, its queue is full."""
    data = json.dumps(message).encode()
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise ValueError("message too large")
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


def failure(error: OSError) -> Message:
    """An error as a message: what failed and why."""
    return {"error": error.strerror or str(error), "errno": error.errno or 0, "where": str(error.filename or "")}


def error(message: Message) -> OSError:
    """The error that such a message stands for."""
    number, where = message.get("errno"), message.get("where")
    known = isinstance(number, int) and 0 <= number < _MAX_ERRNO
    return OSError(
        number if known else _EIO, str(message.get("error"))[:_FIT_TEXT], str(where or "")[:_FIT_TEXT] or None
    )


class Malformed(OSError):
    """What came is no message: user code runs in the peer."""

    def __init__(self) -> None:
        super().__init__(_EBADMSG, "a process in which user code runs sent something that is no message")


def fit(value: Any) -> Any:
    """A value with its texts, lists and depth cut to what fits into a message beside other things."""
    for items in (1000, 100, 10, 1):
        cut = _cut(value, items, _FIT_DEPTH)
        if len(json.dumps(cut)) <= _FIT_BYTES:
            return cut
    return None


def _cut(value: Any, items: int, depth: int) -> Any:
    if isinstance(value, str):
        return value[:_FIT_TEXT]
    if isinstance(value, int):
        return value if abs(value) < _FIT_NUMBER else 0
    if isinstance(value, float):
        return value
    if isinstance(value, dict) and depth:
        pairs: list[tuple[Any, Any]] = list(value.items())[:items]  # type: ignore[misc]
        return {str(k)[:_FIT_TEXT]: _cut(v, items, depth - 1) for k, v in pairs}
    if isinstance(value, list) and depth:
        return [_cut(v, items, depth - 1) for v in value[:items]]  # type: ignore[misc]
    return None


class Received:
    """One message with what came along; `message` is None at end of file. Descriptors not taken are closed."""

    def __init__(self, message: Message | None, fds: list[int], pid: int) -> None:
        self.message = message
        self.fds = fds
        self.pid = pid

    def take(self, count: int | None = None) -> list[int]:
        """The first descriptors, owned by the caller from now on."""
        count = len(self.fds) if count is None else count
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    def close(self) -> None:
        for fd in self.take():
            os.close(fd)


def receive(sock: socket.socket) -> Received:
    """The next message. ECONNRESET counts as end of file: the peer went with our messages unread. Raises Malformed."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(
            MESSAGE_LIMIT_BYTES,
            socket.CMSG_SPACE(_MAX_FDS * 4) + socket.CMSG_SPACE(_CRED.size),
            socket.MSG_CMSG_CLOEXEC,
        )
    except ConnectionResetError:
        data, ancillary = b"", []
    fds, pid = array.array("i"), 0
    for level, kind, value in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
        elif kind == socket.SCM_CREDENTIALS:
            pid = _CRED.unpack(value)[0]
    received = Received(None, list(fds), pid)
    if data:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            received.close()
            raise Malformed
        received.message = message
    return received
