"""What a sandbox uses, as its own init sees it. For machines where no cgroup counts it. Standard library only."""

from __future__ import annotations

import os
import resource
import stat
import time
from typing import Any

ENTRY_LIMIT = 5_000_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TICK = os.sysconf("SC_CLK_TCK")


def usage(upper: int, walk_s: float, disk_bytes: int | None) -> dict[str, Any]:
    """Memory (PSS and tmpfs, bytes), CPU (seconds), processes, disk (bytes and entries).

    The walk over the written files stops after walk_s seconds: `disk_partial` then says that there is more. Over
    disk_bytes every process of the sandbox loses the right to write to files, until it is below again: `blocked`.
    """
    memory, cpu, processes, pids = _processes()
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    disk, entries, partial = _disk(upper, walk_s) if walk_s > 0 else (0, 0, False)
    blocked = disk_bytes is not None and disk > disk_bytes
    if disk_bytes is not None and walk_s > 0:
        _let_write(pids, 0 if blocked else disk_bytes)
    st = os.statvfs("/dev/shm")
    memory += (st.f_blocks - st.f_bfree) * st.f_frsize
    return {
        "memory": memory,
        "cpu": cpu + reaped.ru_utime + reaped.ru_stime,
        "processes": processes,
        "disk": disk,
        "entries": entries,
        "disk_partial": partial,
        "blocked": blocked,
    }


def _let_write(pids: list[int], file_bytes: int) -> None:
    for pid in pids:
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (min(file_bytes, hard) if hard >= 0 else file_bytes, hard))
        except OSError:
            continue  # it ended meanwhile


def _processes() -> tuple[int, float, int, list[int]]:
    memory, cpu, pids, me = 0, 0.0, list[int](), os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, me):
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                fields = f.read().rsplit(b")", 1)[1].split()
            with open(f"/proc/{name}/smaps_rollup", "rb") as f:
                for line in f:
                    if line.startswith(b"Pss:"):
                        memory += int(line.split()[1]) << 10
                        break
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
        cpu += sum(int(fields[i]) for i in (11, 12, 13, 14)) / _TICK  # utime, stime and those of reaped children
        pids.append(int(name))
    return memory, cpu, len(pids), pids


class _LostError(Exception):
    """User code moved the folder in which the walk stands."""


def _disk(upper: int, walk_s: float) -> tuple[int, int, bool]:
    """Allocated bytes and entries below the upper directory, and whether there may be more; hard links count once."""
    deadline = time.monotonic() + walk_s
    while True:
        count = _Count()
        try:
            whole = _walk(upper, count, deadline)
        except _LostError:
            whole = False
        if whole or time.monotonic() > deadline:
            return count.bytes, count.entries, not whole


class _Count:
    def __init__(self) -> None:
        self.bytes = self.entries = 0
        self._linked: set[int] = set()

    def folder(self, fd: int) -> list[str]:
        """Count what is in a folder; returns the names of the folders among it."""
        below: list[str] = []
        with os.scandir(fd) as found:
            for e in found:
                try:
                    st = e.stat(follow_symlinks=False)
                except OSError:
                    continue  # it went meanwhile
                self.entries += 1
                if stat.S_ISDIR(st.st_mode):
                    below.append(e.name)
                elif st.st_nlink > 1:
                    if st.st_ino in self._linked:
                        continue
                    self._linked.add(st.st_ino)
                self.bytes += st.st_blocks * 512
        return below


def _walk(upper: int, count: _Count, deadline: float) -> bool:
    """Count all folders, one descriptor open at a time however deep and wide the tree is. False: out of time."""
    fd = os.dup(upper)
    try:
        above: list[tuple[tuple[int, int], list[str]]] = [(_identity(fd), count.folder(fd))]
        while above:
            if time.monotonic() > deadline or count.entries > ENTRY_LIMIT:
                return False
            if above[-1][1]:
                try:
                    below = os.open(above[-1][1].pop(), _FOLDER, dir_fd=fd)
                except OSError:
                    continue  # it went meanwhile
                os.close(fd)
                fd = below
                above.append((_identity(fd), count.folder(fd)))
            elif len(above) == 1:
                return True
            else:
                above.pop()
                try:
                    parent = os.open("..", _FOLDER, dir_fd=fd)
                except OSError:
                    raise _LostError from None
                os.close(fd)
                fd = parent
                if _identity(fd) != above[-1][0]:
                    raise _LostError
        return True
    finally:
        os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino
