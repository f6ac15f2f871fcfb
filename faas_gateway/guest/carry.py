"""In a forked child: make anew all that it would share with its relatives, so that none sees another's writes.

The child sees the same paths as its parent did, on file layers of its own. What inventory.py has found is opened,
copied or mapped again under the same numbers and at the same addresses; objects of the interpreter never notice.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from . import mappings, pairs, remake
from .descriptions import Description
from .inventory import SHARED_MEMORY, Inventory, is_foreign, is_private
from .mappings import Mapping
from .randomness import renew_identifiers, reseed, restore_random, save_random

__all__ = ["carry", "hold", "release", "reseed", "restore_random", "save_random", "unhold"]

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_BY_KIND = {
    "eventfd": remake.counter,
    "timerfd": remake.timer,
    "signalfd": remake.signals,
    "inotify": remake.watcher,
}


def hold(inventory: Inventory) -> None:
    """In the process that goes dormant: stop its alarms, and keep what is in /dev/shm for branches to come."""
    for which in _TIMERS:
        left, interval = signal.setitimer(which, 0)
        if left:
            inventory.timers[int(which)] = (left, interval)
    for name in inventory.shared_memory:
        with suppress(OSError):
            inventory.held[name] = os.open(f"{SHARED_MEMORY}/{name}", os.O_RDONLY | os.O_CLOEXEC)


def unhold(inventory: Inventory) -> None:
    """Undo `hold`: the process goes on."""
    for which, (left, interval) in inventory.timers.items():
        signal.setitimer(which, left, interval)
    for fd in inventory.held.values():
        os.close(fd)
    inventory.timers.clear()
    inventory.held.clear()


def release(inventory: Inventory) -> None:
    """In the dormant process, once the session goes on in a child: let go of its sockets, so that closing ends them."""
    for d in inventory.descriptions:
        if d.kind == "socket":
            _place(remake.dead_socket(), d)


def carry(inventory: Inventory, continuing: bool) -> dict[str, list[Any]]:
    """Make the child's descriptors and mappings its own; before any code of the user's runs in it.

    continuing: the session itself, which keeps its sockets. Returns fields of a receipt. What cannot be made is
    reported lost; descriptors are /dev/null then. Calls must not come from a thread.
    """
    return _Carrier(inventory, continuing).run()


def _place(new: int, d: Description) -> None:
    """Put a new descriptor in the place of all that a description had."""
    for fd, closes in d.fds.items():
        os.dup2(new, fd, inheritable=not closes)
    os.close(new)


class _Carrier:
    def __init__(self, inventory: Inventory, continuing: bool) -> None:
        self._inventory = inventory
        self._continuing = continuing
        self._copies: dict[tuple[str, int], tuple[int, int]] = {}
        """Name and inode of what has no path to the descriptor of its copy, and the seals that it shall have."""
        self._reopened: list[str] = []
        self._copied: list[str] = []
        self._remapped: list[str] = []
        self._closed: list[str] = []
        self._lost: list[dict[str, Any]] = []

    def run(self) -> dict[str, list[Any]]:
        found = self._inventory
        self._share_memory()
        self._pipes([d for d in found.descriptions if d.kind in ("pipe", "fifo")])
        if not self._continuing:
            self._socket_pairs()
        for d in found.descriptions:
            if d.kind not in ("pipe", "fifo", "eventpoll") and d.pair < 0:
                self._attempt(d)
        for m in found.mappings:
            self._map(m)
        for d in found.descriptions:
            if d.kind == "eventpoll":  # last: it is told of the new ones
                _place(remake.poller(d), d)
        for fd, seals in self._copies.values():
            if seals:
                with suppress(OSError):
                    remake.add_seals(fd, seals)
            os.close(fd)
        for fd in found.held.values():
            os.close(fd)
        found.held.clear()
        self._locks()  # after the last close of any of these files, which would take a lock away again
        for which, (left, interval) in found.timers.items():
            signal.setitimer(which, left, interval)
        renew_identifiers()
        return {
            "reopened_files": self._reopened,
            "copied_files": self._copied,
            "remapped": self._remapped,
            "closed_connections": self._closed,
            "lost_processes": [loss["name"] for loss in found.losses if loss["kind"] == "process"],
            "lost": self._lost,
        }

    def _lose(self, kind: str, name: str, reason: str) -> None:
        self._lost.append({"kind": kind, "name": name[:500], "reason": reason, "effect": "lost"})

    def _attempt(self, d: Description) -> None:
        try:
            self._remake(d)
        except OSError as e:
            self._nothing(d, e.strerror or str(e))

    def _nothing(self, d: Description, reason: str) -> None:
        self._lose("file", d.path, reason)
        _place(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), d)

    def _remake(self, d: Description) -> None:
        if d.kind in ("file", "folder"):
            self._reopen(d)
        elif d.kind in ("deleted", "memfd"):
            copy = self._copy_of(d.path, d.inode, d.fd)
            new = remake.reopen(copy, d.status_flags)
            os.lseek(new, d.offset, os.SEEK_SET)
            _place(new, d)
            self._copied.append(d.path)
        elif d.kind == "socket":
            if not self._continuing:
                _place(remake.dead_socket(), d)
                self._closed.append(d.path)
        elif d.kind in _BY_KIND:
            _place(_BY_KIND[d.kind](d), d)
            if d.kind == "inotify":
                self._lose("file", "inotify", "what it watches is lost: watch it again")
        else:
            self._nothing(d, "it cannot be forked")

    def _reopen(self, d: Description) -> None:
        own = f"/proc/{self._inventory.pid}/"
        path = "/proc/self/" + d.path.removeprefix(own) if d.path.startswith(own) else d.path
        new = os.open(path, d.status_flags | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if d.kind == "file" and os.fstat(new).st_size != d.size:
                raise OSError("another file is at its place")
            if not d.flags & os.O_PATH:
                os.set_blocking(new, not d.flags & os.O_NONBLOCK)
                os.lseek(new, d.offset, os.SEEK_SET)
        except OSError:
            os.close(new)
            raise
        _place(new, d)
        self._reopened.append(d.path)

    def _copy_of(self, name: str, inode: int, fd: int | None) -> int:
        """The child's copy of a file without a path: from a descriptor, or else from memory that is mapped."""
        key = (name, inode)
        if key in self._copies:
            return self._copies[key][0]
        if name.startswith("/memfd:") or not name.startswith("/") or fd is None:
            copy = remake.memory_file(os.path.basename(name).removeprefix("memfd:"))
        else:
            copy = remake.unnamed_file(os.path.dirname(name))
        try:
            if fd is not None:
                remake.copy_content(fd, copy)
            else:
                self._copy_mapped(name, inode, copy)
        except OSError:
            os.close(copy)
            raise
        self._copies[key] = (copy, remake.seals(fd) if fd is not None and name.startswith("/memfd:") else 0)
        return copy

    def _copy_mapped(self, name: str, inode: int, target: int) -> None:
        parts = [m for m in self._inventory.mappings if (m.name, m.inode) == (name, inode)]
        os.ftruncate(target, max(m.offset + m.size for m in parts))
        for m in parts:
            mappings.write_out(m, target)

    def _share_memory(self) -> None:
        """A /dev/shm of its own: the files that were there, as files that no relative has mapped."""
        for name in self._inventory.shared_memory:
            path = f"{SHARED_MEMORY}/{name}"
            fresh = f"{os.path.dirname(path)}/.{os.urandom(8).hex()}"
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                source = self._source(name, path)
                try:
                    new = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                    try:
                        remake.copy_content(source, new)
                        os.fchmod(new, os.fstat(source).st_mode & 0o7777)
                    finally:
                        os.close(new)
                finally:
                    os.close(source)
                os.rename(fresh, path)
            except OSError as e:
                with suppress(OSError):
                    os.unlink(fresh)
                self._lose("file", path, e.strerror or str(e))

    def _source(self, name: str, path: str) -> int:
        if name in self._inventory.held:
            return os.dup(self._inventory.held[name])
        for d in self._inventory.descriptions:
            if d.path == path and d.kind == "file":
                return os.dup(d.fd)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _pipes(self, ends: list[Description]) -> None:
        for inode in dict.fromkeys(d.inode for d in ends):
            group = [d for d in ends if d.inode == inode]
            reader = next((d.fd for d in group if d.reads), None)
            path = group[0].path if group[0].kind == "fifo" else ""
            try:
                read, write = remake.pipe(reader, group[0].fd, path)
            except OSError as e:
                for d in group:
                    self._nothing(d, e.strerror or str(e))
                continue
            for d in group:
                _place(remake.reopen(read if d.reads else write, d.status_flags), d)
            os.close(read)
            os.close(write)

    def _socket_pairs(self) -> None:
        by_fd = {fd: d for d in self._inventory.descriptions if d.pair >= 0 for fd in d.fds}
        for first in self._inventory.descriptions:
            second = by_fd.get(first.pair)
            if second is None or first.fd > second.fd:
                continue  # each pair once
            made = pairs.make(first.waiting, second.waiting)
            for d, new in zip((first, second), made, strict=True):
                os.set_blocking(new, not d.flags & os.O_NONBLOCK)
                _place(new, d)

    def _map(self, m: Mapping) -> None:
        name = m.name or "shared memory"
        if is_foreign(m):
            self._lose("mapping", name, "memory of a kernel interface that does not follow a fork")
            mappings.cover(m)
            return
        try:
            if is_private(m):
                fd = next((d.fd for d in self._inventory.descriptions if (d.path, d.inode) == (m.name, m.inode)), None)
                mappings.map_again(m, self._copy_of(m.name, m.inode, fd))
            else:
                self._map_file(m)
        except OSError as e:
            self._lose("mapping", name, f"no longer written to its file: {e.strerror or e}")
            self._map_copy(m)
        else:
            if m.is_writable or is_private(m):
                self._remapped.append(name)

    def _map_file(self, m: Mapping) -> None:
        fd = os.open(m.name, (os.O_RDWR if m.is_writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            mappings.map_again(m, fd)
        finally:
            os.close(fd)

    def _map_copy(self, m: Mapping) -> None:
        """The bytes at least, in memory that belongs to nothing."""
        copy = remake.memory_file("mapping")
        try:
            os.ftruncate(copy, m.offset + m.size)
            mappings.write_out(m, copy)
            mappings.map_again(m, copy)
        finally:
            os.close(copy)

    def _locks(self) -> None:
        for d in self._inventory.descriptions:
            for line in d.locks:
                try:
                    remake.lock(d.fd, line)
                except OSError as e:
                    self._lose("file", d.path, f"its lock: {e.strerror or e}")
