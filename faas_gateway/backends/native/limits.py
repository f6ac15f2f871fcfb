"""From one `Limits` object to what the launcher sets, and what that amounts to on this machine."""

from __future__ import annotations

import math
from typing import Any

from faas_gateway.backends.base import Limits

DEFAULT_INODES = 200_000
RESERVED_PROCESSES = 8
"""Processes beyond the limit for the agents of a sandbox whose own are used up."""


def launcher_arguments(limits: Limits, has_memory_group: bool) -> dict[str, Any]:
    """The arguments of the launcher's call `new`."""
    memory = limits.memory_bytes
    inodes = limits.disk_inodes or DEFAULT_INODES
    return {
        "sizes": {
            "disk_bytes": limits.disk_bytes or (1 << 30),
            "tmpfs_bytes": max(16 << 20, (memory or (2 << 30)) // 2),
            "inodes": inodes,
        },
        "agent_rlimits": _rlimits(limits, RESERVED_PROCESSES),
        "guest_rlimits": _rlimits(limits, 0),
        # a cgroup counts the whole sandbox; without one, each process is held by its private memory
        "rlimit_memory_bytes": None if has_memory_group else memory,
        "memory_bytes": memory,
        "pids": limits.pids + RESERVED_PROCESSES if limits.pids else None,
        "cpus": limits.cpus,
        "threads": math.ceil(limits.cpus) if limits.cpus else None,
    }


def command_rlimits(limits: Limits, has_memory_group: bool) -> dict[str, list[int]]:
    """For a command in the sandbox: as the guest's, and its memory."""
    found = _rlimits(limits, 0)
    if limits.memory_bytes and not has_memory_group:
        found["RLIMIT_DATA"] = [limits.memory_bytes] * 2
    return found


def _rlimits(limits: Limits, spare: int) -> dict[str, list[int]]:
    found = {"RLIMIT_CORE": [0, 0]}
    if limits.pids:
        # counted per user namespace since Linux 5.14, and every sandbox has its own: a limit of the sandbox
        found["RLIMIT_NPROC"] = [limits.pids + spare] * 2
    if limits.open_files:
        found["RLIMIT_NOFILE"] = [limits.open_files] * 2
    if limits.disk_bytes:
        found["RLIMIT_FSIZE"] = [limits.disk_bytes] * 2
    if limits.cpu_time_s:
        found["RLIMIT_CPU"] = [math.ceil(limits.cpu_time_s) + 1] * 2
    return found


def enforcement(limits: Limits, by_group: dict[str, str], files: str) -> tuple[dict[str, str], list[str]]:
    """Which mechanism holds each limit, and what is weaker than it could be, in words."""
    found: dict[str, str] = {}
    degraded: list[str] = []
    if limits.memory_bytes:
        found["memory_mb"] = by_group.get("memory_mb", "rlimit per process, sum watched")
        if "memory_mb" not in by_group:
            degraded.append(
                "memory: held per process and checked a few times a second, as no cgroup can be had here (faas doctor)"
            )
    if limits.pids:
        found["pids"] = by_group.get("pids", "rlimit")
    if limits.cpus:
        found["cpus"] = by_group.get("cpus", "affinity")
        if "cpus" not in by_group:
            degraded.append("cpus: whole cores by affinity, since no cgroup can be had here (faas doctor)")
    if limits.disk_bytes:
        found["disk_mb"] = "tmpfs" if files == "tmpfs" else "rlimit per file, sum watched"
    if files == "tmpfs":
        degraded.append("files: kept in memory, since no overlay can be mounted on the state directory (faas doctor)")
    if limits.open_files:
        found["open_files"] = "rlimit"
    if limits.cpu_time_s:
        found["cpu_time_s"] = "rlimit per process, sum watched"
    found["timeout_s"] = found["output_mb"] = "gateway"
    return found, degraded
