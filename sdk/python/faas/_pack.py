"""Local files on their way into a sandbox, a folder as a tar stream: never whole in memory."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["file_chunks", "tar_chunks"]

_CHUNK = 1 << 20


def file_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def tar_chunks(folder: Path) -> Iterator[bytes]:
    """A tar stream of what is in a folder, names relative to it. Sockets, FIFOs and devices are left out."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            yield from _member(path, path.relative_to(folder).as_posix())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(path: Path, name: str) -> Iterator[bytes]:
    status = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode) & 0o777
    info.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        yield _header(info)
    elif stat.S_ISLNK(status.st_mode):
        info.type = tarfile.SYMTYPE
        info.linkname = str(path.readlink())
        yield _header(info)
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            yield _header(info)
            # The header has promised a size: a file that changes meanwhile is cut or filled up to it.
            remaining = info.size
            while remaining:
                chunk = file.read(min(_CHUNK, remaining)) or bytes(min(_CHUNK, remaining))
                remaining -= len(chunk)
                yield chunk
        yield bytes(-info.size % tarfile.BLOCKSIZE)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
