"""Standard output and error as pipes, with marks that keep them in order with the messages on the channel.

What C code and child processes print goes into the same pipes and falls in line. Before each visible message the guest
writes a mark into both; the reader emits the message where it finds the marks. The marks go through descriptors of our
own, so code may close or redirect 1 and 2.

Ordinary printing is written at once. Code that prints faster than a reader could look is buffered for some
milliseconds, and a thread that lives only while such a cell runs sees to the rest of a burst: an idle guest has one
thread, as it must to be forked.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

BUFFER_BYTES = 64 << 10
WINDOW_S = 0.005
DIRECT_WRITES = 16
"""So many writes in one window go out at once; more of them are a burst."""


class Stream(io.TextIOWrapper):
    """sys.stdout or sys.stderr of a session."""

    mode: str = "w"  # type: ignore[assignment] - print and others ask for it

    def __init__(self, number: int, on_burst: Callable[[], None]) -> None:
        self._raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False), BUFFER_BYTES)
        self._on_burst = on_burst
        self._since = 0.0
        self._writes = 0
        # write_through: text goes on into the buffered writer at once, whose own lock makes flushing from a thread safe
        super().__init__(self._raw, "utf-8", "backslashreplace", write_through=True)

    def write(self, text: str, /) -> int:
        count = super().write(text)
        now = monotonic()
        if now - self._since > WINDOW_S:
            self._since, self._writes = now, 0
        elif self._writes == DIRECT_WRITES:
            # from here on to the end of the cell a write only fills the buffer, at the speed of C: print finds this
            # attribute before our method, and the thread writes out what nothing follows
            self.write = super().write
            self._on_burst()
        self._writes += 1
        if self._writes <= DIRECT_WRITES:
            self._raw.flush()
        return count

    def calm(self) -> None:
        """After a burst: written at once again."""
        with contextlib.suppress(AttributeError):
            del self.write

    def flush_bytes(self) -> None:
        """Write out what is buffered; code may have closed us."""
        with contextlib.suppress(ValueError, OSError):
            self._raw.flush()


class _Flusher:
    """Writes out bursts that nothing follows."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="faas-output", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(2 * WINDOW_S):
            self._flush()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(1.0)

    def forget(self) -> None:
        """In a forked child, which has no such thread."""
        self._thread = None


class Standard:
    """The two pipes of a session."""

    def __init__(self, out: int, err: int, token: str) -> None:
        self._pipes = {1: _high(out), 2: _high(err)}
        self._mark = f"\0\x1bfaas:{token}:".encode()
        self._streams: list[Stream] = []
        self._flusher = _Flusher(self.flush)

    def install(self) -> None:
        """Make the pipes the standard streams of this process."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._pipes[number], number)
            stream = self._stream(number)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.register_at_fork(before=self.flush, after_in_child=self._flusher.forget)
        _before_children(self.flush)

    def descriptors(self) -> set[int]:
        """Those that are ours and no open files of the user's."""
        return {1, 2, *self._pipes.values()}

    def rebind(self, out: int, err: int, token: str) -> None:
        """In a forked child: go on with pipes of its own, under the same stream objects and descriptors."""
        for number, fd in ((1, out), (2, err)):
            if _same(number, self._pipes[number]):
                os.dup2(fd, number)
            os.dup2(fd, self._pipes[number], inheritable=False)
            os.close(fd)
        self._mark = f"\0\x1bfaas:{token}:".encode()

    def release(self) -> None:
        """In a parent that is dormant for good: keep no end of the pipes."""
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        for number in self.descriptors():
            os.dup2(null, number, inheritable=number < 3)
        os.close(null)

    def restore(self) -> None:
        """Put 1, 2, sys.stdout and sys.stderr back where code has closed or redirected them in an earlier request.

        An object that code has put in the place of sys.stdout stays.
        """
        for number, name in ((1, "stdout"), (2, "stderr")):
            if not _same(number, self._pipes[number]):
                os.dup2(self._pipes[number], number)
            if _is_closed(getattr(sys, name, None)):
                setattr(sys, name, self._stream(number))

    def _stream(self, number: int) -> Stream:
        stream = Stream(number, self._flusher.start)
        self._streams = [s for s in self._streams if not _is_closed(s)] + [stream]
        return stream

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush_bytes()

    def settle(self) -> None:
        """At the end of a request: all is written, and the thread is gone."""
        self._flusher.stop()
        for stream in self._streams:
            stream.calm()
        self.flush()

    def mark(self, sequence: int) -> None:
        self.flush()
        data = self._mark + b"%08x\0" % sequence
        for pipe in self._pipes.values():
            os.write(pipe, data)


def _before_children(flush: Callable[[], None]) -> None:
    """What was printed before a child process starts comes before what the child prints.

    os.fork has a hook for that; these do not use it (subprocess forks in C).
    """

    def flushing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            flush()
            return function(*args, **kwargs)

        call.__name__ = call.__qualname__ = function.__name__
        return call

    for module, names in ((subprocess, ("_fork_exec",)), (os, ("system", "posix_spawn", "posix_spawnp"))):
        for name in names:
            if hasattr(module, name):
                setattr(module, name, flushing(getattr(module, name)))


def _is_closed(stream: Any) -> bool:
    try:
        return stream is None or bool(getattr(stream, "closed", False))
    except ValueError:  # detached
        return True


def _same(a: int, b: int) -> bool:
    try:
        return os.path.sameopenfile(a, b)
    except OSError:
        return False


def _high(fd: int) -> int:
    """A copy of a descriptor above those that programs use by number."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return copy
