"""Limits that no kernel mechanism holds here: looked at a few times a second while something runs, seldom when not.

Disk: over the limit, every process of the sandbox loses the right to write (RLIMIT_FSIZE 0, so the code gets an
ordinary error); well over it, or without inodes, the sandbox ends. Memory is watched only where no cgroup counts
it.
"""

from __future__ import annotations

import anyio

from faas_gateway.backends.base import Ended, FileProblem, StartFailed
from faas_gateway.backends.native.agents import AgentGone
from faas_gateway.backends.native.endings import out_of_memory
from faas_gateway.backends.native.limits import DEFAULT_INODES
from faas_gateway.backends.native.session import NativeSandbox

IDLE_S, TICK_S = 10.0, 0.25
WALK_S, LONGEST_WALK_S = 0.5, 8.0
COUNT_S, UNCOUNTED_S = 3.0, 6.0
LOOKS_PER_S = 20
"""At all sandboxes together: with more than five of them each is looked at less often than every TICK_S."""
SLACK_BYTES = 64 << 20
QUIET_CPU = 0.02
"""A session that runs no request is left alone while it has one process, and that takes less of a processor."""


class Pace:
    """How often each of many sandboxes is looked at: so that looking at them never is what the machine does."""

    def __init__(self) -> None:
        self._watched = 0

    async def watch(self, sandbox: NativeSandbox) -> None:
        """Watch until the sandbox ends."""
        self._watched += 1
        try:
            await _Watch(sandbox, self).run()
        finally:
            self._watched -= 1

    @property
    def interval_s(self) -> float:
        return max(TICK_S, self._watched / LOOKS_PER_S)


class _Watch:
    def __init__(self, sandbox: NativeSandbox, pace: Pace) -> None:
        self._sandbox = sandbox
        self._pace = pace
        self._walk_s = WALK_S
        self._cpu_s = 0.0
        self._looked_at = anyio.current_time()
        self._quiet = True
        self._begun = 0
        self._took_s = 0.0
        self._missed_since: float | None = None

    async def run(self) -> None:
        while True:
            await self._rest()
            started = anyio.current_time()
            if self._is_due(started):
                ended = await self._look()
                self._took_s = anyio.current_time() - started if self._missed_since is None else 0.0
                if ended is not None:
                    await self._sandbox.kill(ended)
                    return

    async def _rest(self) -> None:
        """Until the next look; later, when more sandboxes come meanwhile, or counting very many files takes long."""
        since = anyio.current_time()
        while (left := since + max(self._pace.interval_s, 2 * self._took_s) - anyio.current_time()) > 0:
            await anyio.sleep(left)

    def _is_due(self, now: float) -> bool:
        ran = self._sandbox.begun != self._begun
        self._begun = self._sandbox.begun
        return bool(ran or self._sandbox.busy or not self._quiet or now - self._looked_at >= IDLE_S)

    async def _look(self) -> Ended | None:
        sandbox = self._sandbox
        limits, group, busy = sandbox.limits, sandbox.group, sandbox.busy
        grouped = group is not None and "memory" in group.folders
        cpu_s = group.cpu_s() if group is not None else None
        processes = group.processes() if group is not None else None
        if limits.disk_bytes or not grouped or cpu_s is None or processes is None:
            try:
                with anyio.fail_after(COUNT_S + self._walk_s):
                    counted = await sandbox.count(self._walk_s if limits.disk_bytes else 0.0)
            except (FileProblem, StartFailed):
                return None  # its processes are used up, or the launcher is busy or gone, just now
            except (AgentGone, TimeoutError):
                return None if sandbox.is_freezing else self._not_counted()
            self._missed_since = None
            cpu_s = float(counted["cpu"]) if cpu_s is None else cpu_s
            processes = int(counted["processes"])
            if not grouped and limits.memory_bytes and counted["memory"] > limits.memory_bytes:
                return out_of_memory(limits)
            ended = _disk(sandbox, int(counted["disk"]), int(counted["entries"]), blocked=bool(counted["blocked"]))
            if ended is None and counted["disk_partial"]:
                ended = self._too_many_files()
            if ended is not None:
                return ended
        else:
            processes -= 1  # its init
        if limits.cpu_time_s and cpu_s > limits.cpu_time_s:
            return Ended(
                "cpu_time",
                f"the sandbox used up its {limits.cpu_time_s:g} s of CPU time",
                "Open a new session with a higher cpu_time_s.",
            )
        now = anyio.current_time()
        used = (cpu_s - self._cpu_s) / max(now - self._looked_at, 0.01)
        self._quiet = not busy and processes <= 1 and used < QUIET_CPU
        self._cpu_s, self._looked_at = cpu_s, now
        return None

    def _not_counted(self) -> Ended | None:
        """The sandbox is just ending, or its code ends or stops what counts; then it may not go on for long."""
        now = anyio.current_time()
        self._missed_since = self._missed_since or now
        if now - self._missed_since < UNCOUNTED_S:
            return None
        return Ended(
            "killed",
            "what the sandbox uses could not be counted: its code ends or stops the processes that do it",
            "Leave the processes named faas-agent alone.",
        )

    def _too_many_files(self) -> Ended | None:
        """What could not be counted in time gets more of it; in the end nobody may hide behind many files."""
        if self._walk_s < LONGEST_WALK_S:
            self._walk_s = min(2 * self._walk_s, LONGEST_WALK_S)
            return None
        return Ended(
            "disk_full",
            f"the sandbox has more files than can be counted in {LONGEST_WALK_S:.0f} s",
            "Keep fewer files, or pack them.",
        )


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
