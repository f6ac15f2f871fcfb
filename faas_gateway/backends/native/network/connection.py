"""One connection of a sandbox to the proxy: understood, judged, connected, passed on. Everything has its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import anyio

from faas_gateway.backends.native.network import http, outside, socks
from faas_gateway.backends.native.network.hosts import BadHost, Host
from faas_gateway.backends.native.network.policy import Policy, Refused, Resolve
from faas_gateway.backends.native.network.relay import Relay

T = TypeVar("T")

_READ_BYTES = 4096
_FAREWELL_BYTES = 64 << 10
_FAREWELL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Deadlines of one connection, seconds."""

    handshake_s: float = 15.0
    """From the connection to the end of the request's head, or of SOCKS' two messages."""

    connect_s: float = 30.0
    """For looking up the name and connecting to it."""

    idle_s: float = 600.0
    """Longest silence on both sides: a git server may think for minutes."""

    half_open_s: float = 120.0
    """The same once one side has said its last."""


class Owner(Protocol):
    """The sandbox whose connection it is."""

    @property
    def policy(self) -> Policy: ...
    @property
    def resolve(self) -> Resolve: ...
    @property
    def timing(self) -> Timing: ...
    @property
    def buffer(self) -> bytearray: ...
    def moved(self, sent: int, received: int) -> None: ...
    def refused(self, reason: str) -> None: ...
    def failed(self) -> None: ...


class _Gone(Exception):
    """The sandbox has closed the connection before it asked for anything."""


async def serve_http(owner: Owner, sock: socket.socket) -> None:
    """Serve one connection to the HTTP proxy. It is left open."""
    try:
        request, rest = await _handshake(owner, _read_http(sock))
        outer = await _connect(owner, request.host, request.port)
    except _Gone:
        return
    except Refused as e:
        await _farewell(sock, http.answer(403, str(e), f"faas: {e}"))
    except (http.BadMessage, BadHost) as e:
        owner.failed()
        await _farewell(sock, http.answer(400, str(e), f"faas: {e}"))
    except OSError as e:
        owner.failed()
        status, text = (504, "no connection in time") if isinstance(e, TimeoutError) else (502, _text(e))
        await _farewell(sock, http.answer(status, text, f"faas: {text}"))
    else:
        with outer:
            await _pass_http(owner, sock, outer, request, rest)


async def serve_socks(owner: Owner, sock: socket.socket) -> None:
    """Serve one connection to the SOCKS5 proxy. It is left open."""
    try:
        request = await _handshake(owner, _read_socks(sock))
        outer = await _connect(owner, request.host, request.port)
    except _Gone:
        return
    except Refused:
        await _farewell(sock, socks.reply(socks.NOT_ALLOWED))
    except socks.BadRequest as e:
        owner.failed()
        await _farewell(sock, e.answer)
    except OSError as e:
        owner.failed()
        await _farewell(sock, socks.reply(socks.code_of(e)))
    else:
        with outer:
            await _pass(owner, sock, outer, socks.reply(socks.DONE), b"")


async def _handshake(owner: Owner, reading: Coroutine[Any, Any, T]) -> T:
    """Raises _Gone also where the sandbox is too slow: whoever holds connections open is owed no answer."""
    try:
        with anyio.fail_after(owner.timing.handshake_s):
            return await reading
    except OSError:
        owner.failed()
        raise _Gone from None


async def _read_http(sock: socket.socket) -> tuple[http.Request, bytes]:
    """A request, and what came behind its head."""
    loop, data = asyncio.get_running_loop(), b""
    while (end := data.find(b"\r\n\r\n") + 4) < 4:
        if len(data) > http.HEAD_BYTES:
            raise http.BadMessage("the headers are too long")
        piece = await loop.sock_recv(sock, _READ_BYTES)
        if not piece:
            raise _Gone
        data += piece
    if end > http.HEAD_BYTES:
        raise http.BadMessage("the headers are too long")
    return http.parse_request(data[:end]), data[end:]


async def _read_socks(sock: socket.socket) -> socks.Request:
    greeting = await _read_sized(sock, socks.greeting_size)
    if not socks.takes_no_authentication(greeting):
        raise socks.BadRequest(socks.NO_METHOD, "no authentication is asked for here")
    await asyncio.get_running_loop().sock_sendall(sock, socks.ACCEPTED)
    return socks.parse_request(await _read_sized(sock, socks.request_size))


async def _read_sized(sock: socket.socket, size_of: Callable[[bytes], int]) -> bytes:
    """Read exactly one message; `size_of` tells its size as soon as it can be told from its beginning."""
    loop, data = asyncio.get_running_loop(), b""
    while not data or len(data) < size_of(data):
        piece = await loop.sock_recv(sock, size_of(data) - len(data) if data else 1)
        if not piece:
            raise _Gone
        data += piece
    return data


async def _connect(owner: Owner, host: Host, port: int) -> socket.socket:
    """Raises Refused, which is counted, and OSError."""
    with anyio.fail_after(owner.timing.connect_s):
        try:
            addresses = await owner.policy.addresses(host, port, owner.resolve)
        except Refused as e:
            owner.refused(str(e))
            raise
        return await outside.connect(addresses, port)


async def _pass_http(
    owner: Owner, sock: socket.socket, outer: socket.socket, request: http.Request, rest: bytes
) -> None:
    if not request.head:
        await _pass(owner, sock, outer, b"HTTP/1.1 200 Connection established\r\n\r\n", rest)
        return
    relay = Relay(sock, outer, owner.buffer, owner.moved, request.body, http.Response(request.method))
    try:
        with anyio.fail_after(owner.timing.connect_s):
            await asyncio.get_running_loop().sock_sendall(outer, request.head)
        await relay.run(rest, idle_s=owner.timing.idle_s, half_open_s=owner.timing.half_open_s)
    except (OSError, ValueError) as e:
        owner.failed()
        if relay.answered:
            return
        text = str(e) if isinstance(e, ValueError) else _text(e)
        await _farewell(sock, http.answer(502, text, f"faas: {text}"))
    else:
        await _farewell(sock, b"")


async def _pass(owner: Owner, sock: socket.socket, outer: socket.socket, yes: bytes, first: bytes) -> None:
    try:
        with anyio.fail_after(owner.timing.handshake_s):
            await asyncio.get_running_loop().sock_sendall(sock, yes)
        relay = Relay(sock, outer, owner.buffer, owner.moved)
        await relay.run(first, idle_s=owner.timing.idle_s, half_open_s=owner.timing.half_open_s)
    except OSError:  # either side may break off: the other sees the end of the stream
        return


async def _farewell(sock: socket.socket, last: bytes) -> None:
    """Say the last word in a way that it arrives: to close with something unread would take it back (RFC 9112, 9.6)."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), anyio.fail_after(_FAREWELL_S):
        await loop.sock_sendall(sock, last)
        sock.shutdown(socket.SHUT_WR)
        left = _FAREWELL_BYTES
        while left > 0 and (piece := await loop.sock_recv(sock, _READ_BYTES)):
            left -= len(piece)


def _text(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    # not strerror of the error: asyncio writes the address there
    return os.strerror(error.errno) if error.errno else "the connection failed"
