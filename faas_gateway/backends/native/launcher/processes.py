"""Processes told apart by their mount namespace, which no code in a sandbox can change. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal

ROUNDS = 20


def number_inside(pid: int) -> int:
    """The number of a process in its own pid namespace; 0 when it has ended (NSpid in proc(5))."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[-1]) for line in f if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return 0


def is_in_tree(pid: int, tree: int) -> bool:
    """Whether a process, of which somebody holds a pidfd, is in the mount namespace with that inode."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == tree
    except OSError:
        return False


def kill_in_tree(tree: int) -> bool:
    """Kill every process in the mount namespace with that inode. True: there may be more, which were just forked.

    All are stopped first, so that none can go on forking while the others are found. The launcher may look at each: it
    owns their user namespaces.
    """
    for _ in range(ROUNDS):
        found = _in_tree(tree)
        if not found:
            return False
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
    return True


def _in_tree(tree: int) -> list[int]:
    found: list[int] = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):  # it has just ended
            if entry.name.isdigit() and is_in_tree(int(entry.name), tree) and _is_alive(entry.name):
                found.append(int(entry.name))
    return found


def _is_alive(pid: str) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
