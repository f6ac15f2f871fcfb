"""A copy of a live upper directory. Processes of its sandbox may write, rename and link in it at the same time.

Every place is reached from the folder's descriptor, one name at a time and never through a link; what a name leads to
is looked at again once it is open. What changes meanwhile is copied as it was found.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from faas_gateway.backends.native.kept import folders
from faas_gateway.backends.native.kept.folders import Parts, Tree
from faas_gateway.backends.native.kept.packing import data_of
from faas_gateway.backends.native.kept.terms import CopyLimits, LayerTooLarge, Skipped

_FICLONE = 0x40049409
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_TO_UPPER = ("user.overlay.origin", "user.overlay.impure", "user.overlay.nlink", "user.overlay.upper")
"""What overlayfs notes of an upper directory in use; a layer that lies below has no need of it."""


def copy(source: Tree, target: Tree, owner: int | None, limits: CopyLimits) -> list[Skipped]:
    """Copy the folder source into the empty one target. Returns what is left out.

    Raises LayerTooLarge, and OSError where nothing can be written.
    """
    copying = _Copying(source, target, owner, limits)
    copying.run()
    return copying.skipped


class _Copying:
    def __init__(self, source: Tree, target: Tree, owner: int | None, limits: CopyLimits) -> None:
        self._source = source
        self._target = target
        self._owner = owner
        self._limits = limits
        self._bytes_left = limits.size_bytes
        self._entries_left = limits.entries
        self._links: dict[tuple[int, int], Parts] = {}
        self._reflinks = True
        self.skipped: list[Skipped] = []

    def run(self) -> None:
        waiting: list[Parts] = [()]
        copied: list[tuple[Parts, os.stat_result]] = [((), os.fstat(self._source.root))]
        while waiting:
            parts = waiting.pop()
            below = self._folder(parts)
            copied += below
            waiting += [place for place, _ in below]
        for parts, st in reversed(copied):
            with self._target.at(parts) as fd:
                os.fchmod(fd, stat.S_IMODE(st.st_mode) & 0o1777)
                os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))

    def _skip(self, parts: Parts, reason: str) -> None:
        self.skipped.append(Skipped("/" + "/".join(parts), reason))

    def _folder(self, parts: Parts) -> list[tuple[Parts, os.stat_result]]:
        """Copy what is in a folder; returns the folders in it, which are made, and empty."""
        below: list[tuple[Parts, os.stat_result]] = []
        with contextlib.ExitStack() as held:
            try:
                source = held.enter_context(self._source.at(parts))
            except OSError as e:  # it was moved, or something else is there
                self._skip(parts, f"changed meanwhile: {e.strerror}")
                return []
            target = held.enter_context(self._target.at(parts))
            self._attributes(source, target)
            for name, st in folders.entries(source):
                self._entries_left -= 1
                if self._entries_left < 0:
                    raise LayerTooLarge(f"more than {self._limits.entries} entries")
                place = (*parts, name)
                if not stat.S_ISDIR(st.st_mode):
                    self._entry(source, target, place, st)
                elif len(place) > self._limits.depth:
                    self._skip(place, f"deeper than {self._limits.depth} folders")
                else:
                    os.mkdir(name, 0o700, dir_fd=target)
                    self._own(target, name)
                    below.append((place, st))
        return below

    def _entry(self, source: int, target: int, place: Parts, st: os.stat_result) -> None:
        name = place[-1]
        key = (st.st_dev, st.st_ino)
        if st.st_nlink > 1 and key in self._links:
            *folder, earlier = self._links[key]
            with self._target.at(folder) as fd:
                os.link(earlier, name, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
            return
        try:
            if stat.S_ISREG(st.st_mode):
                self._file(source, target, name)
            elif stat.S_ISLNK(st.st_mode):
                self._link(source, target, name, st)
            elif stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
                self._own(target, name)
            else:
                self._skip(place, "neither a file nor a folder nor a link")
                return
        except _Changed as e:
            self._skip(place, str(e))
        else:
            self._links[key] = place

    def _link(self, source: int, target: int, name: str, st: os.stat_result) -> None:
        try:
            to = os.readlink(name, dir_fd=source)
        except OSError as e:
            raise _Changed(f"changed meanwhile: {e.strerror}") from e
        os.symlink(to, name, dir_fd=target)
        self._own(target, name)
        os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, source: int, target: int, name: str) -> None:
        with contextlib.ExitStack() as held:
            try:
                fd = folders.open_in(name, source, _READ, 0o400)
            except OSError as e:
                raise _Changed(f"changed meanwhile: {e.strerror}") from e
            held.callback(os.close, fd)
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                raise _Changed("changed meanwhile: is no file any more")
            out = os.open(name, _CREATE, 0o600, dir_fd=target)
            held.callback(os.close, out)
            self._contents(fd, out, st)
            self._attributes(fd, out)
            if self._owner is not None:
                os.fchown(out, self._owner, self._owner)
            os.fchmod(out, stat.S_IMODE(st.st_mode) & 0o1777)
            os.utime(out, ns=(st.st_atime_ns, st.st_mtime_ns))

    def _contents(self, fd: int, out: int, st: os.stat_result) -> None:
        self._bytes_left -= min(st.st_size, st.st_blocks * 512)
        if self._bytes_left < 0:
            raise LayerTooLarge(f"more than {self._limits.size_bytes} bytes")
        if self._reflinks and st.st_size:
            try:
                fcntl.ioctl(out, _FICLONE, fd)
            except OSError:
                self._reflinks = False  # this file system has none, or these are two of them
            else:
                return
        for start, end in data_of(fd, st.st_size):
            self._piece(fd, out, start, end)
        os.ftruncate(out, st.st_size)

    def _piece(self, fd: int, out: int, start: int, end: int) -> None:
        while start < end:
            try:
                done = os.copy_file_range(fd, out, end - start, start, start)
            except OSError as e:
                if e.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                os.lseek(out, start, os.SEEK_SET)
                done = os.sendfile(out, fd, start, end - start)
            if not done:
                return  # it has become shorter meanwhile
            start += done

    def _attributes(self, source: int, target: int) -> None:
        try:
            names = os.listxattr(source)
        except OSError:
            return  # a file system that has none
        for name in names:
            value = folders.attribute(source, name)
            if name.startswith("user.") and name not in _OWN_TO_UPPER and value is not None:
                os.setxattr(target, name, value)

    def _own(self, target: int, name: str) -> None:
        if self._owner is not None:
            os.chown(name, self._owner, self._owner, dir_fd=target, follow_symlinks=False)


class _Changed(Exception):
    """An entry is not what it was a moment before, or cannot be read."""
