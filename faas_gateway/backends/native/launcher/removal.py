"""Taking away what a sandbox has left on disk, whatever user code did to it. Standard library only.

No depth, no mode and no name stops it: folders are opened relative to descriptors, their contents are moved up one
level before they go, so that neither a path nor the recursion gets long, and closed folders (the kernel's own
work directory of an overlay is one) are opened first. Nothing of the sandbox runs any more, so nobody races with us.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str, *, limit: int | None = None) -> bool:
    """Remove the tree at path. False: it is still there, since it has more entries than the limit, or cannot go."""
    try:
        top = _open(path, None)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        budget = itertools.repeat(None) if limit is None else iter([None] * limit)
        if not _empty(top, budget):
            return False
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return not os.path.lexists(path)


def _open(name: str, folder: int | None) -> int:
    try:
        fd = os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o700)
    return fd


def _empty(top: int, budget: Iterator[None]) -> bool:
    """Remove all that is in a folder; each removed entry costs one of the budget."""
    token = secrets.token_hex(6)
    fresh = (f".gone-{token}-{n}" for n in itertools.count())
    while names := _names(top):  # again, for what was moved up meanwhile
        for name in names:
            if next(budget, False) is False or not _drop(top, name, fresh, budget):
                return False
    return True


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return [e.name for e in found]


def _drop(top: int, name: str, fresh: Iterator[str], budget: Iterator[None]) -> bool:
    """Remove one entry of top, and of a folder all but its own folders, which move up into top."""
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
            os.unlink(name, dir_fd=top)
            return True
        folder = _open(name, top)
        try:
            for child in _names(folder):
                if next(budget, False) is False:
                    return False
                if stat.S_ISDIR(os.lstat(child, dir_fd=folder).st_mode):
                    os.close(_open(child, folder))  # a folder that is closed to us does not move either
                    os.rename(child, next(fresh), src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(child, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)
    except FileNotFoundError:
        pass  # somebody else is at it too
    except OSError:
        return False
    return True
