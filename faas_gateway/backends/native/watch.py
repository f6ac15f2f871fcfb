"""Limits that no kernel mechanism holds here: looked at a few times a second while something runs, seldom when not.

Disk: over the limit, every process of the sandbox loses the right to write (RLIMIT_FSIZE 0, so the code gets an
ordinary error); well over it, or without inodes, the sandbox ends. Memory is watched only where no cgroup counts
it.
"""

from __future__ import annotations

import anyio

from faas_gateway.backends.base import Ended, FileProblem
from faas_gateway.backends.native.agents import AgentGone
from faas_gateway.backends.native.limits import DEFAULT_INODES
from faas_gateway.backends.native.session import NativeSandbox, out_of_memory

IDLE_S, TICK_S = 10.0, 0.25
WALK_S = 0.5
SLACK_BYTES = 64 << 20


async def watch(sandbox: NativeSandbox) -> None:
    """Watch until the sandbox ends."""
    idle = 0.0
    while True:
        await anyio.sleep(TICK_S)
        idle = 0.0 if sandbox.busy else idle + TICK_S
        if sandbox.busy or idle >= IDLE_S:
            idle = 0.0
            ended = await _look(sandbox)
            if ended is not None:
                await sandbox.kill(ended)
                return


async def _look(sandbox: NativeSandbox) -> Ended | None:
    limits, group = sandbox.limits, sandbox.group
    grouped = group is not None and "memory" in group.folders
    cpu = group.cpu_s() if group is not None else None
    if limits.disk_bytes or not grouped or (limits.cpu_time_s and cpu is None):
        try:
            counted = await sandbox.count(WALK_S if limits.disk_bytes else 0.0)
        except (AgentGone, FileProblem, TimeoutError):
            return None  # ending, or its processes are used up: the next look tells
        cpu = float(counted["cpu"]) if cpu is None else cpu
        if not grouped and limits.memory_bytes and counted["memory"] > limits.memory_bytes:
            return out_of_memory(limits)
        ended = _disk(sandbox, int(counted["disk"]), int(counted["entries"]), blocked=bool(counted["blocked"]))
        if ended is not None:
            return ended
    if limits.cpu_time_s and cpu is not None and cpu > limits.cpu_time_s:
        return Ended(
            "cpu_time",
            f"the sandbox used up its {limits.cpu_time_s:g} s of CPU time",
            "Open a new session with a higher cpu_time_s.",
        )
    return None


def _disk(sandbox: NativeSandbox, used: int, entries: int, *, blocked: bool) -> Ended | None:
    limits = sandbox.limits
    sandbox.writes_blocked = blocked
    inodes = limits.disk_inodes or DEFAULT_INODES
    if limits.disk_bytes and used > limits.disk_bytes + max(limits.disk_bytes // 4, SLACK_BYTES):
        what = f"{used >> 20} MB written, the limit is {limits.disk_bytes >> 20} MB"
    elif entries > inodes:
        what = f"{entries} files, the limit is {inodes}"
    else:
        return None
    return Ended(
        "disk_full",
        f"the sandbox went far over its disk limit: {what}",
        "Write less, or open one with more disk_mb.",
    )
