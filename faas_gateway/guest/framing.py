"""Frames on a stream socket between the gateway and what runs in a sandbox: lengths, JSON, bytes.

    u32 length of the JSON, u32 length of the bytes, JSON, bytes          (little endian)

Standard library only: the guests and the agents use it too.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from json import dumps, loads  # by name: code of the user may replace them in the module
from typing import Any

HEADER = struct.Struct("<II")
JSON_LIMIT_BYTES = 64 << 20
BODY_LIMIT_BYTES = 64 << 20
CHUNK_BYTES = 256 << 10
BROKEN_STATUS, NO_MEMORY_STATUS = 70, 71
"""Exit status of a guest that cannot go on (EX_SOFTWARE and EX_OSERR of sysexits.h)."""


def pack(message: dict[str, Any], body: bytes | memoryview = b"") -> bytes:
    data = dumps(message).encode()
    return HEADER.pack(len(data), len(body)) + data + bytes(body)


def send(sock: socket.socket, message: dict[str, Any], body: bytes | memoryview = b"") -> None:
    sock.sendall(pack(message, body))


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next frame of a blocking socket; None at end of file. Raises ValueError for a frame over the limits."""
    header = _exactly(sock, HEADER.size)
    if header is None:
        return None
    json_length, body_length = HEADER.unpack(header)
    if json_length > JSON_LIMIT_BYTES or body_length > BODY_LIMIT_BYTES:
        raise ValueError("frame too large")
    data = _exactly(sock, json_length)
    body = _exactly(sock, body_length) if body_length else b""
    if data is None or body is None:
        return None
    return loads(data), body


def receive_fds(sock: socket.socket, count: int) -> list[int]:
    """Descriptors that follow a frame, with one byte for them to travel on. Raises OSError when they do not come."""
    data, fds, _flags, _address = socket.recv_fds(sock, 1, count)
    if not data or len(fds) != count:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EPROTO, "the descriptors did not come")
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    try:
        data = sock.recv(size, socket.MSG_WAITALL)
        while data and len(data) < size:  # a signal may cut MSG_WAITALL short
            more = sock.recv(size - len(data), socket.MSG_WAITALL)
            if not more:
                return None
            data += more
    except ConnectionResetError:
        return None
    return data if len(data) == size else None
