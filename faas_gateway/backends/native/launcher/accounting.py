"""What a sandbox uses, as its own init sees it. For machines where no cgroup counts it. Standard library only."""

from __future__ import annotations

import os
import resource
import stat
import time
from typing import Any

ENTRY_LIMIT = 5_000_000
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
    for path in ("/tmp", "/dev/shm"):
        st = os.statvfs(path)
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


def _disk(upper: int, walk_s: float) -> tuple[int, int, bool]:
    """Allocated bytes and entries below the upper directory; hard links count once."""
    deadline, total, entries = time.monotonic() + walk_s, 0, 0
    linked: set[int] = set()
    stack = [os.dup(upper)]
    while stack:
        folder = stack.pop()
        try:
            with os.scandir(folder) as found:
                for e in found:
                    try:
                        st = e.stat(follow_symlinks=False)
                        if stat.S_ISDIR(st.st_mode):
                            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                            if len(stack) < 1000:
                                stack.append(os.open(e.name, flags, dir_fd=folder))
                    except OSError:
                        continue
                    entries += 1
                    if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
                        if st.st_ino in linked:
                            continue
                        linked.add(st.st_ino)
                    total += st.st_blocks * 512
        finally:
            os.close(folder)
        if time.monotonic() > deadline or entries > ENTRY_LIMIT:
            for fd in stack:
                os.close(fd)
            return total, entries, True
    return total, entries, False
