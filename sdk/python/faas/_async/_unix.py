"""HTTP/1.1 over a Unix socket for the async client.

httpcore looks through all of its connections and queued requests for each request, and for an async library it may
not find, which is 1.5 ms of CPU where a hundred branches are asked at once. This takes a tenth of it. It speaks to
our own gateway only: no TLS, no proxies, no upgrades.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

import httptools
import httpx

__all__ = ["UnixTransport"]

_KEPT_IDLE = 128
_KEPT_S = 60.0
_BUFFER_BYTES = 1 << 20
_QUEUE_FULL_WAIT_S = 0.005


class UnixTransport(httpx.AsyncBaseTransport):
    """The connections of one event loop to one socket. As many as there are requests at once; idle ones are kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body is read as it is asked for."""
        timeouts = cast("dict[str, float | None]", request.extensions.get("timeout", {}))
        connection = self._take() or await self._connect(timeouts.get("connect"))
        try:
            await connection.send(request, timeouts.get("write"))
            status, headers = await connection.head(timeouts.get("read"))
        except BaseException:
            connection.abort()
            raise
        return httpx.Response(status, headers=headers, stream=_Body(self, connection, timeouts.get("read")))

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # asyncio closes the sockets in the loop's next round

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer has been read, if it can take another request."""
        if not connection.reset():
            connection.abort()
            return
        self._idle.append(connection)
        oldest = time.monotonic() - _KEPT_S
        while self._idle and (len(self._idle) > _KEPT_IDLE or self._idle[0].idle_since < oldest):
            self._idle.popleft().abort()

    def forget(self, connection: _Connection) -> None:
        """Called once a connection is no more."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        return None

    async def _connect(self, seconds: float | None) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:  # too many open files
            raise httpx.ConnectError(str(error)) from error
        try:
            await self._reach(sock, seconds)
            _, connection = await loop.create_unix_connection(lambda: _Connection(self), sock=sock)
        except OSError as error:
            sock.close()
            raise httpx.ConnectError(str(error)) from error
        except BaseException:
            sock.close()
            raise
        self._open.add(connection)
        return connection

    async def _reach(self, sock: socket.socket, seconds: float | None) -> None:
        """A Unix socket connects at once, or says that the queue of its listener is full. There is no waiting."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                sock.connect(self._path)
            except BlockingIOError:
                if deadline is not None and time.monotonic() > deadline:
                    raise httpx.ConnectTimeout("the queue of connections is full") from None
                await asyncio.sleep(_QUEUE_FULL_WAIT_S)
            else:
                return


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Closed before its end, it takes its connection along."""

    def __init__(self, owner: UnixTransport, connection: _Connection, read_timeout: float | None) -> None:
        self._owner = owner
        self._connection: _Connection | None = connection
        self._read_timeout = read_timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (connection := self._connection) is not None and (data := await connection.read(self._read_timeout)):
            yield data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._owner.give_back(connection)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, owner: UnixTransport) -> None:
        self.idle_since = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._lost = False
        self._error: Exception | None = None
        self._writing_paused = False
        self._reading_paused = False
        self._begin()

    def _begin(self) -> None:
        self._asked = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._status = 0  # 0: the head is not there yet
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._complete = False
        self._kept_alive = False
        self._until_end = False  # the body ends with the connection
        self._sent_all = False

    # ---- what the transport asks for

    async def send(self, request: httpx.Request, seconds: float | None) -> None:
        """Send a request. An answer that refuses it, or a connection that breaks, ends the sending early."""
        self._asked = True
        head = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), request.url.raw_path)]
        chunked = False
        for name, value in request.headers.raw:
            if b"\n" in value or b"\r" in value:
                raise httpx.LocalProtocolError(f"a line break in the header {name.decode('latin-1')}")
            head.append(b"%s: %s\r\n" % (name, value))
            chunked = chunked or name.lower() == b"transfer-encoding"
        head.append(b"\r\n")
        unsent = b"".join(head)
        async for piece in cast("httpx.AsyncByteStream", request.stream):
            if not piece:
                continue
            unsent += b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
            if not await self._write(unsent, seconds):
                return
            unsent = b""
        self._sent_all = await self._write(unsent + (b"0\r\n\r\n" if chunked else b""), seconds)

    async def head(self, seconds: float | None) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Wait for status and headers."""
        while not self._status:
            self._raise_if_lost()
            await self._change(seconds, httpx.ReadTimeout)
        return self._status, self._headers

    async def read(self, seconds: float | None) -> bytes:
        """All of the body that is there, and at least something; b"" at its end."""
        while not self._pieces:
            if self._complete:
                return b""
            self._raise_if_lost()
            await self._change(seconds, httpx.ReadTimeout)
        pieces, self._pieces, self._buffered = self._pieces, [], 0
        if self._reading_paused and self._transport is not None and not self._lost:
            self._reading_paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def reset(self) -> bool:
        """Make ready for the next request; False where there can be none."""
        if self._lost or not (self._complete and self._kept_alive and self._sent_all) or self._reading_paused:
            return False
        self._begin()
        self.idle_since = time.monotonic()
        return True

    def usable(self) -> bool:
        """Whether an idle connection is still there: what can be read from it now is that it was closed."""
        if self._lost or self._transport is None or time.monotonic() - self.idle_since > _KEPT_S:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """Close at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            if not self._asked or self._complete:
                raise httptools.HttpParserError("an answer that nobody asked for")
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._kept_alive = False
            self._error = self._error or httpx.RemoteProtocolError(f"no HTTP: {error}")
            self.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._error is None and exc is not None:
            self._error = exc
        elif self._error is None and self._until_end:
            self._complete = True
        self._owner.forget(self)
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # ---- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            raise httptools.HttpParserError("two answers to one request")
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            self._headers = []
            return
        self._status = status
        self._kept_alive = self._parser.should_keep_alive()
        names = {name.lower() for name, _ in self._headers}
        self._until_end = not names & {b"content-length", b"transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > _BUFFER_BYTES and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True

    # ---- waiting

    async def _write(self, data: bytes, seconds: float | None) -> bool:
        """Write, and wait until the rest is small. False: it is of no use to write more."""
        assert self._transport is not None
        if self._lost or self._status >= 400 or self._transport.is_closing():
            return False
        self._transport.write(data)
        while self._writing_paused and not self._lost and self._status < 400:
            await self._change(seconds, httpx.WriteTimeout)
        return not self._lost and not self._writing_paused

    async def _change(self, seconds: float | None, late: type[httpx.TimeoutException]) -> None:
        """Wait until something has happened."""
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, _expire, waiter)
        try:
            if not await waiter:
                raise late("")
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def _raise_if_lost(self) -> None:
        if not self._lost and self._error is None:
            return
        if isinstance(self._error, httpx.RemoteProtocolError):
            raise self._error
        if self._error is not None:
            raise httpx.ReadError(str(self._error)) from self._error
        raise httpx.RemoteProtocolError("the connection was closed before the end of the answer")


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
