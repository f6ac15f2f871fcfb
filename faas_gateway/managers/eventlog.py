"""The output of one request as server-sent events: written once, followed by any number of readers from any event.

Events are encoded when they are appended, and readers copy bytes. An event's id is the position of its end in the
log, so resuming after it is a seek. The first bytes stay in memory; a log that grows goes to an unlinked file, so a
request may print without end while the gateway's memory stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import anyio

from faas_gateway.managers.spool import open_spool, write_at

CHUNK_BYTES = 256 << 10
_END = b"\n\n"


class LogFullError(Exception):
    """The spool file could not be written (no space, most likely)."""


class BadPositionError(Exception):
    """The position is not the end of an event of this log."""


class EventLog:
    """Append-only server-sent events.

    Args:
        spool_dir: folder of the file that a long log goes to; made when needed.
        memory_bytes: how much stays in memory before that.
        chunk_bytes: what a reader gets at most at a time.
    """

    def __init__(self, spool_dir: Path, memory_bytes: int = 256 << 10, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._spool_dir = spool_dir
        self._memory_bytes = memory_bytes
        self._chunk_bytes = chunk_bytes
        self._file: IO[bytes] | None = None
        self._filed = 0
        self._tail = bytearray()
        self._more: anyio.Event | None = None
        self._closed = False
        self._discarded = False
        self._readers = 0

    @property
    def size(self) -> int:
        """Bytes of all events; also the id of the last one."""
        return self._filed + len(self._tail)

    @property
    def closed(self) -> bool:
        return self._closed

    def append(self, event: str, data: bytes, *, last: bool = False) -> int:
        """Add one event and wake the readers.

        Args:
            event: its name.
            data: its data, without line breaks (encoded JSON has none).
            last: keep it in memory where the file cannot be written: the end of a log must always fit.

        Returns:
            The event's id.

        Raises:
            LogFullError: the spool file cannot be written; the event is not in the log.
        """
        if self._closed:
            raise ValueError("the log is closed")
        rest = b"\nevent: %b\ndata: %b\n\n" % (event.encode(), data)
        # The id counts its own digits: at most one more than the position without them would have.
        base = self.size + len(b"id: ") + len(rest)
        digits = len(str(base))
        end = base + digits
        if len(str(end)) > digits:
            end += 1
        if not last and len(self._tail) and len(self._tail) + (end - self.size) > self._memory_bytes:
            self._spill()
        self._tail += b"id: %d" % end
        self._tail += rest
        self._wake()
        return end

    def close(self) -> None:
        """No more events come: readers end when they have read all. Idempotent."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """Close, and give the bytes back as soon as no reader needs them. Idempotent."""
        self._discarded = True
        self.close()
        self._release()

    def check(self, after: int) -> None:
        """Raise BadPositionError unless `after` is 0 or the id of an event."""
        if after == 0:
            return
        if after < 2 or after > self.size or self._read(after - 2, 2) != _END:
            raise BadPositionError(after)

    async def follow(self, after: int = 0, *, silence_s: float | None = None) -> AsyncIterator[bytes]:
        """All bytes after a position, until the log is closed and read to its end.

        Args:
            after: 0, or the id of the last event that the reader has.
            silence_s: yield b"" whenever nothing came for so long, seconds; None waits without end.

        Raises:
            BadPositionError: `after` is not the end of an event.
        """
        self.check(after)
        position = after
        self._readers += 1
        try:
            while True:
                while position < self.size:
                    chunk = self._read(position, self._chunk_bytes)
                    position += len(chunk)
                    yield chunk
                if self._closed:
                    return
                if self._more is None:
                    self._more = anyio.Event()
                more = self._more
                with anyio.move_on_after(silence_s) as waited:
                    await more.wait()
                if waited.cancelled_caught:
                    yield b""
        finally:
            self._readers -= 1
            self._release()

    def _read(self, position: int, count: int) -> bytes:
        if position < self._filed and self._file is not None:
            return os.pread(self._file.fileno(), min(count, self._filed - position), position)
        start = position - self._filed
        return bytes(memoryview(self._tail)[start : start + count])

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = open_spool(self._spool_dir)
            with memoryview(self._tail) as view:
                write_at(self._file, view, self._filed)
        except OSError as exc:
            raise LogFullError(exc.strerror or "write failed") from exc
        self._filed += len(self._tail)
        self._tail.clear()

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None

    def _release(self) -> None:
        if self._discarded and self._readers == 0:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._tail.clear()
            self._filed = 0
