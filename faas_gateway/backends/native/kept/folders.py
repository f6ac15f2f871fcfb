"""Folders reached from a descriptor, one step at a time and never through a link.

A path is a tuple of names. Few descriptors are held at a time, whatever the depth.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence

from faas_gateway.backends.native.kept.terms import OPAQUE, WHITEOUT

Parts = tuple[str, ...]

OPEN_FOLDERS = 4
"""Kept open for each tree: a walk goes on below, or beside, one of the last."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def unlocked(name: str, folder: int, bits: int) -> Generator[None]:
    """Meanwhile the file or folder has the owner's `bits`. A link is never followed, nor is another inode changed."""
    fd = os.open(name, _LOOK, dir_fd=folder)
    try:
        mode = os.fstat(fd).st_mode
        place = f"/proc/self/fd/{fd}"  # chmod of the inode itself, wherever its name is by now
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "a link")
        os.chmod(place, stat.S_IMODE(mode) | bits)
        try:
            yield
        finally:
            os.chmod(place, stat.S_IMODE(mode))
    finally:
        os.close(fd)


def open_in(name: str, folder: int, flags: int, bits: int) -> int:
    """Open a file or folder that may be closed even to its owner."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:
        with unlocked(name, folder, bits):
            return os.open(name, flags, dir_fd=folder)


class Tree:
    """The folders below one, whose descriptor it takes over. Those looked at last stay open: the next lies near them.

    For an owner who is not root, folders that are closed to him are open while they are looked at.
    """

    def __init__(self, root: int, *, keep: int = OPEN_FOLDERS) -> None:
        self.root = root
        self._keep = keep
        self._open: dict[Parts, int] = {}

    def close(self) -> None:
        for fd in (*self._open.values(), self.root):
            os.close(fd)
        self._open.clear()

    @contextlib.contextmanager
    def at(self, parts: Sequence[str]) -> Generator[int]:
        """A descriptor of the folder at parts, to read it. Raises OSError (ELOOP or ENOTDIR at a link)."""
        place = tuple(parts)
        with contextlib.ExitStack() as closed:
            fd = self._enter(place, closed)
            try:
                yield fd
            finally:
                os.close(fd)

    def _enter(self, place: Parts, closed: contextlib.ExitStack) -> int:
        known = len(place)
        while known and place[:known] not in self._open:
            known -= 1
        fd = os.dup(self._open[place[:known]]) if known else os.open(".", _FOLDER, dir_fd=self.root)
        plain = True
        try:
            for name in place[known:]:
                following, is_plain = _step(name, fd, closed)
                os.close(fd)
                fd, plain = following, plain and is_plain
            if plain and place:
                self._remember(place, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _remember(self, place: Parts, fd: int) -> None:
        before = self._open.pop(place, None)
        self._open[place] = os.dup(fd) if before is None else before
        if len(self._open) > self._keep:
            os.close(self._open.pop(next(iter(self._open))))


def _step(name: str, folder: int, closed: contextlib.ExitStack) -> tuple[int, bool]:
    """Open a folder in a folder, and say whether it was open to us."""
    if os.geteuid() == 0:
        return os.open(name, _FOLDER, dir_fd=folder), True
    look = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=folder)
    mode = stat.S_IMODE(os.fstat(look).st_mode)
    if mode & 0o500 == 0o500:
        os.close(look)
        return os.open(name, _FOLDER, dir_fd=folder), True
    closed.callback(os.close, look)
    place = f"/proc/self/fd/{look}"
    os.chmod(place, mode | 0o500)
    closed.callback(os.chmod, place, mode)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False


def opened(path: str) -> int:
    """The root of a layer."""
    return os.open(path, _FOLDER)


def entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """What is in a folder, sorted by name, links not followed. What goes meanwhile is left out."""
    with os.scandir(folder) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            yield name, os.lstat(name, dir_fd=folder)


def attribute(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:  # there is none, or this file system has none at all
        return None


def is_opaque(folder: int) -> bool:
    return attribute(folder, OPAQUE) == b"y"


def is_whiteout(name: str, st: os.stat_result, folder: int) -> bool:
    """A device 0/0, or (Linux 6.7) an empty file that is marked as one."""
    if stat.S_ISCHR(st.st_mode):
        return st.st_rdev == 0
    if not stat.S_ISREG(st.st_mode) or st.st_size or attribute(folder, OPAQUE) != b"x":
        return False
    try:
        fd = open_in(name, folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o400)
    except OSError:
        return False
    try:
        return attribute(fd, WHITEOUT) is not None
    finally:
        os.close(fd)


def is_folder(st: os.stat_result) -> bool:
    return stat.S_ISDIR(st.st_mode)
