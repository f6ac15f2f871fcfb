"""Which limits hold: the request's, else the environment's, else the gateway's; then in the backend's units."""

from __future__ import annotations

from faas.types import Resources

from faas_gateway.backends.base import Limits
from faas_gateway.settings import MIB

#: One inode per 16 KiB of disk: without a limit of their own, empty files use up kernel memory.
INODES_PER_DISK_MB = 64
MIN_INODES = 16_384


def merge_resources(*layers: Resources | None) -> Resources:
    """The first value that is given, limit by limit; layers from the strongest to the weakest."""
    merged: dict[str, object] = {}
    for layer in layers:
        if layer is not None:
            for name, value in layer.model_dump(exclude_none=True).items():
                merged.setdefault(name, value)
    return Resources.model_validate(merged)


def to_limits(resources: Resources) -> Limits:
    """What the backend enforces; wall time and output are the gateway's to watch."""
    disk_mb = resources.disk_mb
    return Limits(
        cpus=resources.cpus,
        memory_bytes=None if resources.memory_mb is None else resources.memory_mb * MIB,
        disk_bytes=None if disk_mb is None else disk_mb * MIB,
        disk_inodes=None if disk_mb is None else max(MIN_INODES, disk_mb * INODES_PER_DISK_MB),
        pids=resources.pids,
        open_files=resources.open_files,
        cpu_time_s=resources.cpu_time_s,
    )
