"""What a process holds that a fork does not simply copy: descriptors, shared memory, threads, other processes.

`look` is called just before the process goes dormant, and by a check that must change nothing. carry.py makes in each
child anew what is found here.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import descriptions, mappings, pairs, pools, runtimes
from .descriptions import Description
from .mappings import Mapping

pairs.watch()

COPY_LIMIT_BYTES = 1 << 30
"""Of all that every child would have to copy before it can answer: shared memory, and open files without a name."""

SHARED_MEMORY = "/dev/shm"
_OURS = ("faas-agent", "faas-init")
"""Agents of the gateway, by name; one that was forked a moment ago still has that of the init."""
_TERMINALS = ("/dev/pts/", "/dev/ptmx", "/dev/tty", "/dev/console")
_REMADE = {
    "file": ("file", "opened again at its place"),
    "folder": ("file", "opened again"),
    "deleted": ("file", "it has no name: each branch has a copy"),
    "memfd": ("file", "it has no name: each branch has a copy"),
}
_SILENT = ("pipe", "fifo", "eventfd", "timerfd", "signalfd", "eventpoll")
"""Made anew as they were: nothing is lost, and nothing is worth a line."""


@dataclass
class Inventory:
    """As of the moment when `look` was called."""

    descriptions: list[Description]
    mappings: list[Mapping]
    shared_memory: dict[str, int]
    """Files below /dev/shm: relative path to size, bytes."""
    losses: list[dict[str, Any]]
    pid: int = field(default_factory=os.getpid)
    held: dict[str, int] = field(default_factory=dict[str, int])
    """See carry.hold: names of /dev/shm to descriptors."""
    timers: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    """See carry.hold: which to seconds left and interval."""

    @property
    def can_fork(self) -> bool:
        return all(loss["effect"] != "portable_only" for loss in self.losses)


def look(ours: Collection[int], *, sandbox: bool = True) -> Inventory:
    """What there is besides the descriptors in `ours`. Changes nothing.

    sandbox: all that can be seen in /proc and /dev/shm is the session's; else only its children and what it has open.
    """
    opened = descriptions.opened(ours)
    shared = [m for m in mappings.shared() if not _is_fixed(m)]
    memory = _shared_memory(opened, shared, sandbox=sandbox)
    losses = [
        *_threads(),
        *_processes(sandbox=sandbox),
        *(loss for d in opened for loss in _description(d)),
        *(loss for m in shared for loss in _mapping(m)),
    ]
    mapped = {m.name for m in shared} | {d.path for d in opened}
    for name in memory:
        if f"{SHARED_MEMORY}/{name}" not in mapped:
            losses.append(_loss("file", f"{SHARED_MEMORY}/{name}", "each branch has a copy", "remade"))
    size = sum(d.size for d in opened if d.kind in ("deleted", "memfd")) + sum(memory.values())
    size += sum(m.size for m in shared if is_private(m))
    if size > COPY_LIMIT_BYTES:
        reason = f"{size >> 20} MB that every branch would copy; the limit is {COPY_LIMIT_BYTES >> 20} MB"
        losses.append(_loss("limit", "shared memory", reason, "portable_only"))
    return Inventory(opened, shared, memory, losses)


def is_private(mapping: Mapping) -> bool:
    """Whether a mapping's bytes have no file that a child could open: it gets a copy."""
    return mapping.deleted or not mapping.name.startswith("/") or mapping.name.startswith(("/memfd:", "/SYSV"))


def is_foreign(mapping: Mapping) -> bool:
    """Whether it is no memory at all: of a device, or of a kernel interface that a fork does not carry."""
    name = mapping.name
    if name.startswith("/dev/"):
        return not name.startswith((f"{SHARED_MEMORY}/", "/dev/zero"))
    return name.startswith(("/[", "anon_inode:", "socket:"))


def _is_fixed(mapping: Mapping) -> bool:
    """Whether nobody can ever write there: a file of the system's, on a file system that is read-only."""
    if mapping.is_writable or mapping.deleted or not mapping.name.startswith("/"):
        return False
    try:
        return bool(os.statvfs(mapping.name).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _loss(kind: str, name: str, reason: str, effect: str = "lost") -> dict[str, Any]:
    return {"kind": kind, "name": name[:500], "reason": reason, "effect": effect}


def _threads() -> Iterator[dict[str, Any]]:
    idle = pools.idle_threads()
    for thread in threading.enumerate():
        if thread is threading.main_thread() or not os.path.exists(f"/proc/self/task/{thread.native_id}"):
            continue  # the second: a stand-in for a thread of a library's that once called Python and has ended
        if thread.ident in idle:
            yield _loss("thread", thread.name, "its pool is idle: it starts again with the next work", "remade")
        else:
            yield _loss("thread", thread.name, "a thread cannot be forked: join it first", "portable_only")
    for owner, names in runtimes.unforkable().items():
        some = ", ".join(sorted(set(names))[:4])
        reason = f"{len(names)} thread{'s' * (len(names) > 1)} of its own ({some}), which a fork would end"
        yield _loss("library", owner, reason, "portable_only")


def _processes(*, sandbox: bool) -> Iterator[dict[str, Any]]:
    children = pools.children()
    others = set(children)
    if sandbox:
        others |= {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, os.getpid()}
    if not others:
        return
    idle = pools.idle_processes()
    tree = os.readlink("/proc/self/ns/mnt")
    for pid in sorted(others):
        try:
            with open(f"/proc/{pid}/stat") as f:
                comm, _, rest = f.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
            ended = rest.split()[0] in ("Z", "X")
            if ended and pid not in children:
                continue  # whoever started it asks, or pid 1 does
            with contextlib.suppress(PermissionError):
                if not ended and os.readlink(f"/proc/{pid}/ns/mnt") != tree:
                    continue  # of a branch that is in the same pid namespace, where none deeper could be made
        except OSError:
            continue  # it ended meanwhile
        if comm in _OURS:
            continue
        name = f"{pid}: {command or comm}"
        if ended:
            yield _loss("process", name, "it ended, and how was not asked for: that is lost")
        elif pid in idle:
            yield _loss("process", name, "its pool is idle: it starts again with the next work", "remade")
        else:
            yield _loss("process", name, "it does not follow a fork: end it first", "portable_only")


def _description(d: Description) -> Iterator[dict[str, Any]]:
    name = d.path
    if d.kind in _SILENT:
        return
    if d.kind in _REMADE:
        kind, reason = _REMADE[d.kind]
        yield _loss(kind, name, reason, "remade")
    elif d.kind == "socket" and d.pair < 0:
        yield _loss("connection", name, "the session keeps it; in a branch it is closed")
    elif d.kind == "socket":
        yield _loss("connection", "socket pair", "both ends are ours: made anew", "remade")
    elif d.kind == "inotify":
        yield _loss("file", "inotify", "what it watches is lost: watch it again")
    elif d.kind == "device" and not name.startswith(_TERMINALS):
        yield _loss("file", name, "an open device cannot be forked: close it first", "portable_only")
    else:
        yield _loss("file", name, "closed: it cannot be forked")


def _mapping(m: Mapping) -> Iterator[dict[str, Any]]:
    name = m.name or "shared memory"
    if is_foreign(m):
        if name.startswith("/dev/"):
            yield _loss("mapping", name, "memory of a device cannot be forked", "portable_only")
        else:
            yield _loss("mapping", name, "memory of a kernel interface that does not follow a fork")
    elif m.is_writable or is_private(m):
        yield _loss("mapping", name, f"{m.size} bytes of shared memory: each branch has its own", "remade")


def _shared_memory(opened: list[Description], shared: list[Mapping], *, sandbox: bool) -> dict[str, int]:
    """Regular files below /dev/shm: relative path to size, bytes."""
    found: dict[str, int] = {}
    if sandbox:
        for folder, _, names in os.walk(SHARED_MEMORY):
            for name in names:
                path = f"{folder}/{name}"
                with contextlib.suppress(OSError):
                    about = os.lstat(path)
                    if stat.S_ISREG(about.st_mode):
                        found[path.removeprefix(f"{SHARED_MEMORY}/")] = about.st_size
        return found
    paths = [d.path for d in opened if d.kind == "file"] + [m.name for m in shared if not m.deleted]
    for path in paths:
        if path.startswith(f"{SHARED_MEMORY}/"):
            with contextlib.suppress(OSError):
                found[path.removeprefix(f"{SHARED_MEMORY}/")] = os.stat(path).st_size
    return found
