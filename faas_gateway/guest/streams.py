"""Standard output and error as pipes, with marks that keep them in order with the messages on the channel.

sys.stdout writes straight to the pipe: nothing is lost when the process dies, and what C code and child processes print
falls in line. Before each visible message the guest writes a mark into both pipes; the reader emits the message where
it finds the marks. The marks go through descriptors of our own, so code may close or redirect 1 and 2.
"""

from __future__ import annotations

import io
import os
import sys


class Standard:
    """The two pipes of a session."""

    def __init__(self, out: int, err: int, token: str) -> None:
        self._pipes = {1: _high(out), 2: _high(err)}
        self._identity = {fd: _identity(fd) for fd in self._pipes.values()}
        self._mark = f"\0\x1bfaas:{token}:".encode()
        self._ours: dict[int, io.TextIOWrapper] = {}

    def restore(self) -> None:
        """Put descriptors 1 and 2 and sys.stdout and sys.stderr back if code has closed them. A replacement stays."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            pipe = self._pipes[number]
            try:
                lost = _identity(number) is None
            except OSError:
                lost = True
            if lost:
                os.dup2(pipe, number)
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):
                setattr(sys, name, self._stream(number))

    def install(self) -> None:
        """Make the pipes the standard streams of this process."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._pipes[number], number)
            self._ours[number] = self._stream(number)
            setattr(sys, name, self._ours[number])
            setattr(sys, f"__{name}__", self._ours[number])

    def _stream(self, number: int) -> io.TextIOWrapper:
        raw = io.FileIO(number, "w", closefd=False)
        stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[arg-type]
        stream.mode = "w"  # type: ignore[misc]
        return stream

    def mark(self, sequence: int) -> None:
        data = self._mark + b"%08x\0" % sequence
        for pipe in self._pipes.values():
            os.write(pipe, data)


def _high(fd: int) -> int:
    """A copy of a descriptor above those that programs use by number."""
    import fcntl

    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return copy


def _identity(fd: int) -> tuple[int, int] | None:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino
