"""The file format of portable variables: framed blocks, so that a variable that fails midway spoils no other.

    magic, then blocks: tag (1 byte), length (u64, little endian), payload

    H  JSON: what is to come            P  a piece of a record's pickle
    R  JSON: a record begins            B  a buffer that its pickle refers to, before the piece that does
    N  JSON: a whole record by itself   C  JSON: the record is whole        A  the record was given up
    E  the end

Large payloads go from their memory into the descriptor, and back into the memory in which they stay. Standard library
only.
"""

from __future__ import annotations

import errno
import io
import select
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from json import dumps, loads  # by name: code of the user may replace them in the module
from os import writev
from typing import Any

MAGIC = b"faas variables 1\n"
PIECE_BYTES = 1 << 20
MARK_LIMIT_BYTES = 64 << 20
WRITE_S = 120.0
"""How long a reader that takes nothing is waited for, where the descriptor does not block."""

HEADER, BEGIN, NOTE, PICKLE, BUFFER, COMMIT, ABORT, END = b"H", b"R", b"N", b"P", b"B", b"C", b"A", b"E"
_HEAD = struct.Struct("<cQ")


class FormatProblem(Exception):
    """What is read is not, or not wholly, what a `Writer` wrote."""


class RecordEnded(Exception):
    """A pickle wants more than its record holds."""


class Writer:
    """Gathers small writes into pieces of a mebibyte; what is larger is written from where it lies."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pickle = bytearray()
        self._out = bytearray(MAGIC)
        self.size_bytes = 0
        self.broken: OSError | None = None
        """Set once the descriptor failed: there is no way on then."""

    def mark(self, tag: bytes, about: Any = None) -> None:
        """Write a block of JSON, after all that came before it."""
        self._flush_pickle()
        data = b"" if about is None else dumps(about).encode()
        self._put(_HEAD.pack(tag, len(data)) + data)

    def write(self, data: Any, /) -> int:
        """A piece of the current record's pickle: this is the pickler's file."""
        size = len(data)
        if size >= PIECE_BYTES:
            self._flush_pickle()
            self._put(_HEAD.pack(PICKLE, size))
            self._put(data)
        else:
            self._pickle += data
            if len(self._pickle) >= PIECE_BYTES:
                self._flush_pickle()
        return size

    def buffer(self, data: memoryview) -> None:
        self._put(_HEAD.pack(BUFFER, data.nbytes))
        self._put(data)

    def buffer_of(self, size: int, chunks: Iterable[Any]) -> None:
        """A buffer of that many bytes that comes in chunks. Whatever they raise, the block is filled up."""
        self._put(_HEAD.pack(BUFFER, size))
        left = size
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")[:left]
                self._put(view)
                left -= view.nbytes
        finally:
            while left and self.broken is None:
                filler = bytes(min(left, PIECE_BYTES))
                self._put(filler)
                left -= len(filler)

    def finish(self) -> None:
        self.mark(END)
        self._write_out()

    def _flush_pickle(self) -> None:
        if self._pickle:
            data, self._pickle = self._pickle, bytearray()
            self._put(_HEAD.pack(PICKLE, len(data)))
            self._put(data)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        if self.broken is not None:
            raise self.broken
        if len(data) + len(self._out) < PIECE_BYTES:
            self._out += data
        else:
            self._write_out(data)

    def _write_out(self, data: bytes | bytearray | memoryview = b"") -> None:
        parts = [memoryview(self._out), memoryview(data)]
        try:
            while parts:
                try:
                    written = writev(self._fd, parts)
                except BlockingIOError:
                    self._wait()
                    continue
                self.size_bytes += written
                while parts and written >= parts[0].nbytes:
                    written -= parts.pop(0).nbytes
                if parts:
                    parts[0] = parts[0][written:]
        except OSError as e:
            self.broken = e
            raise
        self._out = bytearray()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(WRITE_S * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"nothing was read for {WRITE_S:.0f} s")


class Reader:
    """Reads blocks one after another."""

    def __init__(self, fd: int) -> None:
        self._file = io.BufferedReader(io.FileIO(fd, "rb", closefd=False), PIECE_BYTES)
        self.size_bytes = len(MAGIC)
        if self._file.read(len(MAGIC)) != MAGIC:
            raise FormatProblem("these are no variables of a session, or of a version that is not known here")

    def next(self) -> tuple[bytes, int]:
        """The next block's tag and length; its payload is the caller's to read, in full."""
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise FormatProblem("the file ends too early")
        tag, size = _HEAD.unpack(head)
        self.size_bytes += len(head) + size
        return tag, size

    def json(self, size: int) -> Any:
        if size > MARK_LIMIT_BYTES:
            raise FormatProblem("a mark is too large")
        data = self._file.read(size)
        if len(data) < size:
            raise FormatProblem("the file ends too early")
        try:
            return loads(data) if data else {}
        except ValueError as e:
            raise FormatProblem("a mark cannot be read") from e

    def into(self, view: memoryview) -> None:
        """Fill the view."""
        while view:
            count = self._file.readinto(view)
            if not count:
                raise FormatProblem("the file ends too early")
            view = view[count:]

    def skip(self, size: int) -> None:
        scratch = bytearray(min(size, PIECE_BYTES))
        while size:
            count = min(size, len(scratch))
            self.into(memoryview(scratch)[:count])
            size -= count


class RecordReader:
    """One record, from after its R to its C or A: the unpickler's file, and the buffers that it asks for."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._left = 0
        self._buffers: deque[Any] = deque()
        self._lacking: BaseException | None = None
        self.end: tuple[bytes, Any] | None = None

    def more(self) -> bool:
        """Whether another pickle follows."""
        while not self._left and self.end is None:
            self._advance()
        return self.end is None

    def drain(self) -> tuple[bytes, Any]:
        """Skip to the record's end, and say what that is."""
        self._buffers.clear()
        while self.end is None:
            self._reader.skip(self._left)
            self._left = 0
            self._advance(keep=False)
        return self.end

    def _advance(self, *, keep: bool = True) -> None:
        tag, size = self._reader.next()
        if tag == PICKLE:
            self._left = size
        elif tag == BUFFER:
            if keep and self._lacking is None:
                try:
                    place = _room(size)
                except (MemoryError, ValueError, OverflowError) as e:
                    self._lacking = e  # the pickle will ask for it; what follows in the file is still to be found
                else:
                    self._reader.into(memoryview(place).cast("B"))
                    self._buffers.append(place)
                    return
            self._reader.skip(size)
        elif tag in (COMMIT, ABORT):
            self.end = (tag, self._reader.json(size))
        else:
            raise FormatProblem(f"a block {tag!r} inside a record")

    def readinto(self, view: Any, /) -> int:
        target = memoryview(view).cast("B")
        size = target.nbytes
        while target:
            if not self.more():
                raise RecordEnded("the record ends too early")
            count = min(self._left, target.nbytes)
            self._reader.into(target[:count])
            self._left -= count
            target = target[count:]
        return size

    def read(self, size: int, /) -> bytes:
        data = bytearray(min(size, PIECE_BYTES))
        if size <= PIECE_BYTES:
            self.readinto(data)
            return bytes(data)
        parts: list[bytes] = []  # a length that is not true must not cost its memory
        while size:
            part = bytearray(min(size, PIECE_BYTES))
            self.readinto(part)
            parts.append(bytes(part))
            size -= len(part)
        return b"".join(parts)

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.read(1)
        return bytes(line)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next buffer, in memory that is the value's own."""
        while not self._buffers:
            if self._lacking is not None:
                raise self._lacking
            if self._left or not self.more():
                raise RecordEnded("a buffer is missing")
        return self._buffers.popleft()


def _room(size: int) -> Any:
    """Memory that is not written to twice, where numpy can give it."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and size >= 4096:
        return numpy.empty(size, "u1")
    return bytearray(size)
