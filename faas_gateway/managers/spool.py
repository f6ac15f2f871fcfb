"""Bytes that are kept for later: small ones in memory, large ones in a file without a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO


def open_spool(folder: Path) -> IO[bytes]:
    """An empty file that goes with its descriptor. Its owner closes it. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def write_at(file: IO[bytes], data: memoryview, position: int) -> None:
    """Write all of it, or raise OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:], position + done)


class SpooledBytes:
    """Immutable bytes.

    Args:
        data: what to keep.
        folder: of the file that large data goes to.
        memory_bytes: how much is small.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, data: bytes, folder: Path, memory_bytes: int) -> None:
        self.size = len(data)
        self._data = data
        self._file: IO[bytes] | None = None
        if self.size > memory_bytes:
            file = open_spool(folder)
            try:
                write_at(file, memoryview(data), 0)
            except OSError:
                file.close()
                raise
            self._file, self._data = file, b""

    def read(self) -> bytes:
        if self._file is None:
            return self._data
        return os.pread(self._file.fileno(), self.size, 0)

    def close(self) -> None:
        """Give the bytes back. Idempotent."""
        self._data = b""
        if self._file is not None:
            self._file.close()
            self._file = None
