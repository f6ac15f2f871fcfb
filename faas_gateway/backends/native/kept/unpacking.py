"""A tar stream into a folder of our own. The stream is hostile: it names no place outside, and takes what is allowed.

Every place is reached from the folder's descriptor, one name at a time and never through a link; what is made is a
file, a folder, a link or a whiteout, belongs to whom we say and has no setuid bit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from typing import Any

from faas_gateway.backends.native.kept.folders import Parts, Tree
from faas_gateway.backends.native.kept.packing import CHUNK_BYTES, XATTR_PAX
from faas_gateway.backends.native.kept.terms import (
    LITERAL,
    OCI_OPAQUE,
    OCI_WHITEOUT,
    OPAQUE,
    OVERLAY,
    ImportLimits,
    InvalidLayer,
    LayerTooLarge,
)

HEADER_LIMIT_BYTES = 512 << 10
"""Of all headers of one member together: tarfile reads them into memory."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_LIMIT = 255
_TARGET_LIMIT = 4095


class Source:
    """A descriptor as tarfile wants it: read forward only, headers within a limit, contents by `data`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self.header_left = HEADER_LIMIT_BYTES
        self.last = b""
        """What was read last as a header."""

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        if position < self._at:
            raise InvalidLayer("a header points backwards")
        while position > self._at:
            if not self.data(min(CHUNK_BYTES, position - self._at)):
                raise InvalidLayer("the stream ends too early")

    def read(self, size: int) -> bytes:
        """For headers."""
        self.header_left -= size
        if size < 0 or self.header_left < 0:
            raise InvalidLayer("a header is too large")
        found = bytearray()
        while len(found) < size:
            data = self.data(size - len(found))
            if not data:
                break
            found += data
        self.last = bytes(found)
        return self.last

    def data(self, size: int) -> bytes:
        data = os.read(self._fd, size)
        self._at += len(data)
        return data


def unpack(fd: int, root: Tree, owner: int | None, limits: ImportLimits) -> None:
    """Unpack a stream into the folder root. Raises InvalidLayer, LayerTooLarge or OSError."""
    source = Source(fd)
    unpacking = _Unpacking(root, owner, limits, source)
    try:
        tar = tarfile.TarFile(fileobj=source, mode="r", errorlevel=2)  # type: ignore[arg-type] - see Source
        while True:
            source.header_left = HEADER_LIMIT_BYTES
            member = tar.next()
            if member is None:
                break
            tar.members.clear()  # type: ignore[attr-defined] - it would gather them all
            unpacking.add(member)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as e:
        raise InvalidLayer(f"not a layer: {e}") from e
    if source.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes whatever is no header for the end
        raise InvalidLayer("the stream ends too early, or has something else in it")
    unpacking.finish()


class _Unpacking:
    def __init__(self, root: Tree, owner: int | None, limits: ImportLimits, source: Source) -> None:
        self._root = root
        self._owner = owner
        self._limits = limits
        self._source = source
        self._bytes_left = limits.size_bytes
        self._entries_left = limits.entries
        self._folders: dict[Parts, tuple[int, int]] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.name)
        if not parts:
            return  # the root folder itself
        self._count()
        try:
            with contextlib.ExitStack() as held:
                self._put(self._parent(parts[:-1], held), parts, member)
        except OSError as e:
            if e.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise InvalidLayer(f"{member.name[:200]!r} lies below what is no folder") from e

    def _parent(self, parts: Parts, held: contextlib.ExitStack) -> int:
        """The folder to put something in; what is missing of it is made."""
        try:
            return held.enter_context(self._root.at(parts))
        except FileNotFoundError:
            self._make_folders(parts)
        return held.enter_context(self._root.at(parts))

    def _put(self, parent: int, parts: Parts, member: tarfile.TarInfo) -> None:
        name = parts[-1]
        literal = LITERAL in member.pax_headers
        if name == OCI_OPAQUE and not literal:
            if len(parts) == 1:
                raise InvalidLayer("a layer that hides all below it")
            os.setxattr(parent, OPAQUE, b"y")
        elif name.startswith(OCI_WHITEOUT) and not literal:
            self._whiteout(parent, name[len(OCI_WHITEOUT) :])
        elif member.isdir():
            self._folder(parent, parts, member)
        elif member.isreg():
            self._file(parent, name, member)
        elif member.issym():
            self._link(parent, name, member)
        elif member.islnk():
            self._hard_link(parent, name, member)
        else:
            raise InvalidLayer(f"{member.name[:200]!r} is neither a file nor a folder nor a link")

    def finish(self) -> None:
        """Modes and times of folders, the deepest first: what is put into one changes both."""
        for parts in sorted(self._folders, key=len, reverse=True):
            mode, mtime = self._folders[parts]
            with self._root.at(parts) as fd:
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime, mtime))

    def _count(self) -> None:
        self._entries_left -= 1
        if self._entries_left < 0:
            raise LayerTooLarge(f"more than {self._limits.entries} entries")

    def _parts(self, path: str) -> Parts:
        names = [name for name in path.split("/") if name not in ("", ".")]
        if path.startswith("/") or ".." in names or "\0" in path:
            raise InvalidLayer(f"a path that leads out: {path[:200]!r}")
        if len(names) > self._limits.depth:
            raise LayerTooLarge(f"deeper than {self._limits.depth} folders")
        if any(len(os.fsencode(name)) > _NAME_LIMIT for name in names):
            raise InvalidLayer("a name that is too long")
        return tuple(names)

    def _make_folders(self, parts: Parts) -> None:
        """Those that the stream puts something into without having named them."""
        for depth in range(1, len(parts) + 1):
            with self._root.at(parts[: depth - 1]) as parent:
                try:
                    os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
                except FileExistsError:
                    continue
                self._count()
                self._own(parent, parts[depth - 1])

    def _whiteout(self, parent: int, name: str) -> None:
        if name in ("", ".", ".."):
            raise InvalidLayer("a whiteout of nothing")
        self._clear(parent, name)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        self._own(parent, name)

    def _folder(self, parent: int, parts: Parts, member: tarfile.TarInfo) -> None:
        name = parts[-1]
        if not _is_folder(parent, name):
            self._clear(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent)
            self._own(parent, name)
        with self._root.at(parts) as fd:
            _set_attributes(fd, member)
        self._folders[parts] = (member.mode & 0o1777, _mtime_ns(member))

    def _file(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if not 0 <= member.size <= self._limits.size_bytes:
            raise LayerTooLarge(f"{member.name[:200]!r} has more than {self._limits.size_bytes} bytes")
        holes: Any = member
        pieces: list[tuple[int, int]] = [(0, member.size)] if holes.sparse is None else holes.sparse
        self._clear(parent, name)
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            end = 0
            for start, size in pieces:
                if start < end or size < 0 or start + size > member.size:
                    raise InvalidLayer("holes that are none")
                end = start + size
                self._bytes_left -= size
                if self._bytes_left < 0:
                    raise LayerTooLarge(f"more than {self._limits.size_bytes} bytes")
                self._fill(fd, start, end)
            os.ftruncate(fd, member.size)
            if self._owner is not None:
                os.fchown(fd, self._owner, self._owner)
            _set_attributes(fd, member)
            os.fchmod(fd, member.mode & 0o777)
            mtime = _mtime_ns(member)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _fill(self, fd: int, start: int, end: int) -> None:
        while start < end:
            data = self._source.data(min(CHUNK_BYTES, end - start))
            if not data:
                raise InvalidLayer("the stream ends too early")
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, start)
                start += written
                view = view[written:]

    def _link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        target = member.linkname
        if not target or "\0" in target or len(os.fsencode(target)) > _TARGET_LIMIT:
            raise InvalidLayer("a link to nowhere")
        self._clear(parent, name)
        os.symlink(target, name, dir_fd=parent)
        self._own(parent, name)
        mtime = _mtime_ns(member)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.linkname)
        if not parts or parts == self._parts(member.name):
            raise InvalidLayer("a hard link to itself")
        *folder, target = parts
        try:
            with self._root.at(folder) as source:
                kind = os.lstat(target, dir_fd=source).st_mode
                if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
                    raise InvalidLayer("a hard link to what is no file")
                self._clear(parent, name)
                os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise InvalidLayer("a hard link to what was not there before it") from e

    def _clear(self, parent: int, name: str) -> None:
        """Make way for an entry that is named twice: the last one counts. A folder does not give way."""
        if _is_folder(parent, name):
            raise InvalidLayer("something else in the place of a folder")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)

    def _own(self, parent: int, name: str) -> None:
        if self._owner is not None:
            os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)


def _is_folder(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False


def _mtime_ns(member: tarfile.TarInfo) -> int:
    """With all the digits that a pax header has; within what every file system takes."""
    whole, _, part = member.pax_headers.get("mtime", "").partition(".")
    if whole.isascii() and whole.isdecimal() and (not part or (part.isascii() and part.isdecimal())):
        found = int(whole) * 10**9 + int(f"{part[:9]:0<9}")
    else:
        found = int(member.mtime * 10**9)
    return max(0, min(found, (1 << 33) * 10**9))


def _set_attributes(fd: int, member: tarfile.TarInfo) -> None:
    """The user's own; a file system that takes none, or no more, goes without."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix(XATTR_PAX)
        if name == key or not name.startswith("user.") or name.startswith(OVERLAY) or "\0" in name:
            continue
        try:
            os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
        except OSError as e:
            if e.errno not in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                raise
