"""Bytes between a pipe, whose other end a sandbox holds, and a file: moved by the kernel, in a worker thread.

The other end is hostile: it may send too much, too slowly, nothing, or never end.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Callable
from time import monotonic

import anyio
import anyio.to_thread

PIPE_BYTES = 1 << 20
"""What a pipe for this should hold (F_SETPIPE_SZ), and what is moved at once."""

FLUSH_BYTES = 32 << 20
"""So much at a time is handed on to the disk while more comes: fsync then has little left to wait for."""

SILENCE_S = 60.0
TOTAL_S = 3600.0


_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE = 2


class TransferProblem(Exception):
    """The other end does not do its part."""


class TransferTooLarge(TransferProblem):
    """More came than may."""


class TransferStalled(TransferProblem):
    """Nothing moved for too long, or all of it took too long."""


async def receive(
    pipe_fd: int, file_fd: int, limit_bytes: int, *, silence_s: float = SILENCE_S, total_s: float = TOTAL_S
) -> int:
    """Move what comes out of a pipe into a file, from its position on, until the pipe ends; then fsync.

    The file must not be open for appending. Returns the bytes; both descriptors stay the caller's, and are not in use
    any more when this returns or raises. Cancelling takes effect at once. Raises TransferTooLarge, TransferStalled, and
    OSError, such as ENOSPC.
    """

    def work(wait: _Wait) -> int:
        total = flushed = 0
        start = os.lseek(file_fd, 0, os.SEEK_CUR)
        while wait.ready(pipe_fd, select.POLLIN):
            # one byte more than may come tells too much from just enough
            moved = _splice(pipe_fd, file_fd, min(PIPE_BYTES, limit_bytes - total + 1))
            if moved == 0:
                os.fsync(file_fd)
                return total
            total += max(0, moved)
            if total > limit_bytes:
                raise TransferTooLarge(f"more than {limit_bytes} bytes")
            if total - flushed >= FLUSH_BYTES:  # a hint: what comes of it is seen at fsync
                _libc.sync_file_range(file_fd, start + flushed, total - flushed, _SYNC_FILE_RANGE_WRITE)
                flushed = total
        return total

    return await _in_thread(work, silence_s, total_s)


async def send(
    file_fd: int, pipe_fd: int, *, offset: int = 0, silence_s: float = SILENCE_S, total_s: float = TOTAL_S
) -> int:
    """Move a file, from offset to its end, into a pipe. Returns the bytes. As `receive` otherwise.

    Raises TransferStalled, and BrokenPipeError when nobody reads any more.
    """

    def work(wait: _Wait) -> int:
        at, end = offset, os.fstat(file_fd).st_size
        while at < end and wait.ready(pipe_fd, select.POLLOUT):  # once all is sent, the reader may have gone
            moved = _splice(file_fd, pipe_fd, PIPE_BYTES, at)
            if moved == 0:
                break
            at += max(0, moved)
        return at - offset

    return await _in_thread(work, silence_s, total_s)


def _splice(source: int, target: int, count: int, offset: int | None = None) -> int:
    """Bytes moved, 0 at the end, -1 when nothing could be moved just now."""
    try:
        return os.splice(source, target, count, offset, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        return -1


class _Wait:
    """Waits for a pipe, but no longer than the deadlines, and not past `stop`."""

    def __init__(self, silence_s: float, total_s: float) -> None:
        self._silence_s = silence_s
        self._end = monotonic() + total_s
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ready(self, fd: int, event: int) -> bool:
        """True when the pipe is ready, False when stopped. Raises TransferStalled."""
        left = self._end - monotonic()
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._stop, select.POLLIN)
        found = dict(poll.poll(max(0.0, min(self._silence_s, left)) * 1000))
        if not found or left <= 0:
            silent = left > self._silence_s
            raise TransferStalled(f"nothing moved for {self._silence_s:.0f} s" if silent else "it took too long in all")
        if self._stop in found:
            return False
        if event == select.POLLOUT and found[fd] & select.POLLERR:
            raise BrokenPipeError(errno.EPIPE, "nobody reads the pipe any more")
        return True

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        os.close(self._stop)


async def _in_thread(work: Callable[[_Wait], int], silence_s: float, total_s: float) -> int:
    """Run work in a thread; when cancelled, stop it, and wait until it has."""
    wait = _Wait(silence_s, total_s)
    outcome: list[int | Exception] = []
    done = anyio.Event()

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            try:
                outcome.append(await anyio.to_thread.run_sync(work, wait))
            except (TransferProblem, OSError) as e:
                outcome.append(e)
            finally:
                done.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            try:
                await done.wait()
            finally:
                wait.stop()
    finally:
        wait.close()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
