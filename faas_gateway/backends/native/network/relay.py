"""Bytes between two sockets, both ways, by the event loop's callbacks: a task switch per piece would cost more.

All relays read into one buffer. What the other side does not take at once is kept, one piece for each direction, and
nothing more is read until it has gone: no relay holds more than that, whatever its two ends do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

READ_BYTES = 64 << 10


class Filter(Protocol):
    """Changes what passes in one direction. `finished`: nothing more will be passed on."""

    finished: bool

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on instead. Raises ValueError."""
        ...

    def end(self) -> None:
        """The source has ended. Raises ValueError when that is too early."""
        ...


class Relay:
    """One connection of a sandbox and its counterpart outside. It closes neither.

    Args:
        buffer: to read into, shared by all relays of a loop; `READ_BYTES` long.
        moved: is told of each piece: bytes to the outside, bytes to the sandbox.
        request, response: what the two directions go through. With the end of the response all ends.
    """

    def __init__(
        self,
        inner: socket.socket,
        outer: socket.socket,
        buffer: bytearray,
        moved: Callable[[int, int], None],
        request: Filter | None = None,
        response: Filter | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._last = self._loop.time()
        self._up = _Flow(self, inner, outer, buffer, request, lambda count: moved(count, 0))
        self._down = _Flow(self, outer, inner, buffer, response, lambda count: moved(0, count))
        self._watch: asyncio.TimerHandle | None = None

    @property
    def answered(self) -> bool:
        """Whether the sandbox has been sent anything."""
        return self._down.count > 0

    async def run(self, first: bytes, *, idle_s: float, half_open_s: float) -> None:
        """Pass bytes on until both sides have said their last, or the response is complete.

        Args:
            first: what the sandbox has sent already; goes through the filter.
            idle_s: longest time without a byte, seconds.
            half_open_s: the same after one side has ended its stream.

        Raises:
            OSError: a side broke off (TimeoutError: both were silent too long).
            ValueError: a filter did not take what came.
        """
        self._look(idle_s, half_open_s)
        try:
            self._up.begin(first)
            self._down.begin(b"")
            await self._done
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._up.stop()
            self._down.stop()

    def moved(self) -> None:
        self._last = self._loop.time()

    def ended(self) -> None:
        """One direction has come to its end."""
        answered = self._down.complete or (self._down.ended and self._down.filtered)
        if not self._done.done() and (answered or (self._up.ended and self._down.ended)):
            self._done.set_result(None)

    def failed(self, error: OSError | ValueError) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _look(self, idle_s: float, half_open_s: float) -> None:
        # one timer that looks now and then: to set one anew with each piece would cost more than the piece
        allowed = half_open_s if self._up.at_end or self._down.at_end else idle_s
        left = self._last + allowed - self._loop.time()
        if left <= 0:
            self.failed(TimeoutError("nothing came for too long"))
        else:
            self._watch = self._loop.call_later(min(left, half_open_s), self._look, idle_s, half_open_s)


class _Flow:
    """One direction. `at_end`: its source has ended; `ended`: and all of it has been passed on."""

    def __init__(
        self,
        relay: Relay,
        source: socket.socket,
        target: socket.socket,
        buffer: bytearray,
        passing: Filter | None,
        count: Callable[[int], None],
    ) -> None:
        self._relay = relay
        self._source = source
        self._target = target
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._filter = passing
        self._note = count
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self.count = 0
        self.at_end = self.ended = False

    @property
    def filtered(self) -> bool:
        return self._filter is not None

    @property
    def complete(self) -> bool:
        """Whether the filter has seen the end of its message, and all of it has been passed on."""
        return self._filter is not None and self._filter.finished and not self._kept

    def begin(self, first: bytes) -> None:
        self._loop.add_reader(self._source, self._readable)
        self._guarded(self._take, first)

    def stop(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)

    def _readable(self) -> None:
        self._guarded(self._read)

    def _writable(self) -> None:
        self._guarded(self._write)

    def _guarded(self, step: Callable[..., None], *args: bytes) -> None:
        try:
            step(*args)
        except BlockingIOError:
            return
        except (OSError, ValueError) as e:
            self.stop()
            self._relay.failed(e)

    def _read(self) -> None:
        size = self._source.recv_into(self._buffer)
        if size == 0:
            self._loop.remove_reader(self._source)
            self.at_end = True
            self._finish()
        elif self._filter is None:
            self._send(self._view[:size])
        elif self._filter.finished:  # what follows a message has no business here: it stays where it is
            self._loop.remove_reader(self._source)
        else:
            self._take(bytes(self._view[:size]))

    def _take(self, data: bytes) -> None:
        self._send(memoryview(data if self._filter is None else self._filter.feed(data)))
        if self.complete:
            self._relay.ended()

    def _send(self, data: memoryview) -> None:
        if not data:
            return
        try:
            sent = self._target.send(data)
        except BlockingIOError:
            sent = 0
        self._passed(sent)
        if sent < len(data):
            self._kept = bytes(data[sent:])
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._writable)

    def _write(self) -> None:
        sent = self._target.send(self._kept)
        self._passed(sent)
        self._kept = self._kept[sent:]
        if self._kept:
            return
        self._loop.remove_writer(self._target)
        if self.at_end:
            self._finish()
        else:
            self._loop.add_reader(self._source, self._readable)
        if self.complete:
            self._relay.ended()

    def _passed(self, size: int) -> None:
        if size:
            self.count += size
            self._relay.moved()
            self._note(size)

    def _finish(self) -> None:
        if self._kept:
            return
        self.ended = True
        if self._filter is None:
            self._target.shutdown(socket.SHUT_WR)
        else:  # a server may take the end of the stream after a request for a client that has gone: it is not passed on
            self._filter.end()
        self._relay.ended()
