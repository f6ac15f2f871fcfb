"""Files that come out of a sandbox, written to disk as they arrive. What comes is hostile.

tarfile's own extraction is not used: before Python 3.11.4 it has no filter, and later ones could be led out
of the folder by long paths (CVE-2025-4517). Here a path is walked part by part and no link is ever followed,
by O_NOFOLLOW of open(2), so there is nothing to be led through.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import threading
import uuid
from pathlib import Path
from typing import Protocol

from faas.errors import UnsafeArchiveError

__all__ = ["MAX_BYTES", "MAX_MEMBERS", "FileWriter", "Sink", "TarExtractor"]

MAX_BYTES = 16 << 30
MAX_MEMBERS = 1_000_000
_MAX_DEPTH = 128
_MAX_EXTENDED_HEADER = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Sink(Protocol):
    """Takes a download in pieces. `close` without `finish` gives up what is not whole."""

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class FileWriter:
    """Writes one file beside its final name, and moves it there when it is whole."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._temporary = path.parent / f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.part"
        self._left = max_bytes
        self._lock = threading.Lock()  # a cancelled caller closes while its thread may still be writing
        self._file = self._temporary.open("xb")

    def feed(self, data: bytes) -> None:
        with self._lock:
            self._left -= len(data)
            if self._left < 0:
                raise UnsafeArchiveError(f"The file for {self._path} is larger than the limit, and was given up")
            self._file.write(data)

    def finish(self) -> None:
        with self._lock:
            self._file.close()
            self._temporary.replace(self._path)

    def close(self) -> None:
        with self._lock:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class TarExtractor:
    """Extracts a tar stream into a folder, fed in pieces of any size.

    Files, folders, symbolic links that stay inside, and hard links are made; FIFOs and devices are skipped.
    Refused are paths and links that leave it, sparse files, and what exceeds the limits. No set-id bits.

    Raises (from all methods):
        UnsafeArchiveError: what came is refused, or is no tar stream.
        OSError: the disk does not take it.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._left = max_bytes
        self._members_left = max_members
        self._buffer = bytearray()
        self._extended: dict[str, str] = {}
        self._extension: tarfile.TarInfo | None = None
        self._size = 0  # what is left of the current member's data
        self._padding = 0
        self._out = -1
        self._mtime = 0.0
        self._ended = False
        self._lock = threading.Lock()
        # The folder itself is the user's own path, which may well lead through links.
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        with self._lock:
            if self._root < 0:
                return
            self._buffer += data
            while self._step():
                pass

    def finish(self) -> None:
        """Say that the stream has ended."""
        with self._lock:
            if not self._ended:
                raise UnsafeArchiveError(f"The folder for {self._folder} did not come whole")

    def close(self) -> None:
        """Give back the descriptors. Files that are whole stay. Idempotent."""
        with self._lock:
            self._close_file()
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

    def _step(self) -> bool:
        """Use what is in the buffer for one thing; False when more is needed."""
        buffer = self._buffer
        if self._ended:
            buffer.clear()
            return False
        if self._extension is not None:
            whole = self._extension.size + -self._extension.size % _BLOCK
            if len(buffer) < whole:
                return False
            self._extend(self._extension, bytes(buffer[: self._extension.size]))
            self._extension = None
            del buffer[:whole]
            return True
        if self._size:
            piece = buffer[: self._size]
            if not piece:
                return False
            if self._out >= 0:
                _write_all(self._out, piece)
            self._size -= len(piece)
            del buffer[: len(piece)]
            if not self._size:
                self._close_file()
            return True
        if self._padding:
            skipped = min(self._padding, len(buffer))
            self._padding -= skipped
            del buffer[:skipped]
            return skipped > 0
        if len(buffer) < _BLOCK:
            return False
        header = bytes(buffer[:_BLOCK])
        del buffer[:_BLOCK]
        self._header(header)
        return True

    def _header(self, header: bytes) -> None:
        if not any(header):
            self._ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise UnsafeArchiveError(f"The folder for {self._folder} came as a damaged tar stream") from error
        self._members_left -= 1  # extended headers count too: they cost memory and time all the same
        if self._members_left < 0:
            raise self._refusal("it has more members than the limit")
        if info.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        ):
            if not 0 <= info.size <= _MAX_EXTENDED_HEADER:
                raise self._refusal("it has an extended header out of bounds")
            self._extension = info
            return
        self._apply_extended(info)
        if info.size < 0 or (info.size and not info.isreg()):
            raise self._refusal(f"{info.name!r} has an impossible size")
        self._left -= info.size
        if self._left < 0:
            raise self._refusal("it is larger than the limit")
        self._size = info.size
        self._padding = -info.size % _BLOCK
        self._make(info)
        if not self._size:
            self._close_file()

    def _extend(self, info: tarfile.TarInfo, data: bytes) -> None:
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self._extended["path"] = _text(data.split(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            self._extended["linkpath"] = _text(data.split(b"\0")[0])
        elif info.type == tarfile.XHDTYPE:
            # Records are "LENGTH KEY=VALUE\n", LENGTH counting itself (pax, POSIX.1-2001).
            while data:
                length, _, _ = data.partition(b" ")
                if not (length.isdigit() and len(length) < 8 and len(length) < int(length) <= len(data)):
                    raise self._refusal("it has a damaged extended header")
                record, data = data[len(length) + 1 : int(length) - 1], data[int(length) :]
                key, _, value = record.partition(b"=")
                self._extended[_text(key)] = _text(value)

    def _apply_extended(self, info: tarfile.TarInfo) -> None:
        extended, self._extended = self._extended, {}
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extended):
            raise self._refusal(f"{info.name!r} is a sparse file")
        info.name = extended.get("path", info.name)
        info.linkname = extended.get("linkpath", info.linkname)
        try:
            info.size = int(extended.get("size", info.size))
            info.mtime = float(extended.get("mtime", info.mtime))
        except ValueError:
            raise self._refusal(f"{info.name!r} has an impossible size or time") from None

    def _make(self, info: tarfile.TarInfo) -> None:
        parts = self._parts(info.name)
        if not parts:
            return  # the folder itself
        if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            return
        parent = self._open_folder(parts[:-1])
        try:
            name = parts[-1]
            if info.isdir():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=parent)
                os.close(self._open_in(parent, name, info.name))
                return
            self._remove(parent, name, info.name)
            if info.isreg():
                mode = (info.mode & 0o755) | 0o600
                self._out = os.open(name, _NEW_FILE, mode, dir_fd=parent)
                self._mtime = info.mtime
            elif info.issym():
                self._check_link(info, depth=len(parts) - 1)
                os.symlink(info.linkname, name, dir_fd=parent)
            else:
                self._hard_link(info, parent, name)
        finally:
            os.close(parent)

    def _parts(self, path: str) -> list[str]:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise self._refusal(f"the path {path!r} leaves it")
        if len(parts) > _MAX_DEPTH:
            raise self._refusal(f"a path is deeper than {_MAX_DEPTH} folders")
        return parts

    def _open_folder(self, parts: list[str]) -> int:
        current = os.dup(self._root)
        for part in parts:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
                following = self._open_in(current, part, "/".join(parts))
            finally:
                os.close(current)
            current = following
        return current

    def _open_in(self, parent: int, name: str, path: str) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except NotADirectoryError:  # a link too: O_DIRECTORY with O_NOFOLLOW gives ENOTDIR for it
            raise self._refusal(f"the path {path!r} leads through something that is no folder") from None

    def _remove(self, parent: int, name: str, path: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            raise self._refusal(f"{path!r} would replace a folder") from None

    def _check_link(self, info: tarfile.TarInfo, depth: int) -> None:
        """Only leading `..`, and no more of them than the link is deep, so that no chain gets out."""
        parts = [part for part in info.linkname.split("/") if part not in ("", ".")]
        up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
        if info.linkname.startswith("/") or up > depth or ".." in parts[up:] or "\0" in info.linkname:
            raise self._refusal(f"the link {info.name!r} to {info.linkname!r} leaves it")

    def _hard_link(self, info: tarfile.TarInfo, parent: int, name: str) -> None:
        target = self._parts(info.linkname)
        if not target:
            raise self._refusal(f"the link {info.name!r} names no file")
        folder = self._open_folder(target[:-1])
        try:
            if not stat.S_ISREG(os.stat(target[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                raise self._refusal(f"the link {info.name!r} names no file")
            os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise self._refusal(f"the link {info.name!r} names no file") from None
        finally:
            os.close(folder)

    def _close_file(self) -> None:
        if self._out >= 0:
            with contextlib.suppress(OverflowError, ValueError):  # may be absurd
                os.utime(self._out, (self._mtime, self._mtime))
            os.close(self._out)
            self._out = -1

    def _refusal(self, reason: str) -> UnsafeArchiveError:
        return UnsafeArchiveError(
            f"The folder for {self._folder} was refused: {reason}",
            hint="download the files that you need one by one; what came before is there",
        )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
