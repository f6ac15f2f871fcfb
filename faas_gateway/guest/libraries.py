"""The mappings of loaded libraries, merged: a fork copies each mapping by itself, and a library comes as five.

Header, code and constants of a library become one mapping, its relocated constants and its data another: half as many
in all, and a fork in little more than half the time. What that gives away, constants that cannot be executed and
relocations that cannot be written, protects a program from its input; here the program is the user's own.
"""

from __future__ import annotations

import ctypes

from . import mappings, runtimes
from .mappings import Area

_libc = ctypes.CDLL(None)
_READ, _WRITE, _EXECUTE = 1, 2, 4
_seen: list[str] = []


def _goes_on_in(area: Area, other: Area) -> bool:
    """The other one is next to it in memory and in the same file."""
    near = area.end == other.start and area.offset + area.end - area.start == other.offset
    return near and (area.device, area.inode) == (other.device, other.inode)


def merge() -> int:
    """Merge what can be merged of the libraries that were loaded since the last time; returns how many were changed.

    A mapping that the kernel does not let us change stays as it is.
    """
    global _seen
    loaded = runtimes.libraries()
    if loaded is _seen:
        return 0
    _seen = loaded
    segments = [area for area in mappings.areas() if area.inode]
    changed = 0
    for at, segment in enumerate(segments):
        if segment.mode != "r--p":
            continue
        before = segments[at - 1] if at and _goes_on_in(segments[at - 1], segment) else None
        after = segments[at + 1] if at + 1 < len(segments) and _goes_on_in(segment, segments[at + 1]) else None
        if after is not None and after.mode == "rw-p":
            wanted = _READ | _WRITE
        elif "r-xp" in (before and before.mode, after and after.mode):
            wanted = _READ | _EXECUTE
        else:
            continue
        size = ctypes.c_size_t(segment.end - segment.start)
        changed += _libc.mprotect(ctypes.c_void_p(segment.start), size, wanted) == 0
    return changed
