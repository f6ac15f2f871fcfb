"""What the control groups of this machine can limit for a sandbox as a whole, and how to get the rest."""

from __future__ import annotations

import os
from pathlib import Path

from faas_gateway.backends.native.probe.check import Check

V2_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
LIMITS = (
    ("memory limit", "memory", "each process has its own limit and the total is watched from outside"),
    ("process limit", "pids", "the user namespace counts the processes (RLIMIT_NPROC)"),
    ("CPU limit", "cpu", "CPU time is bounded, shares of a core are not"),
)
SCOPE = "systemd-run --user --scope -p Delegate=yes jupyter lab"
DELEGATE = (
    "sudo mkdir -p /etc/systemd/system/user@.service.d &&"
    " printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n'"
    " | sudo tee /etc/systemd/system/user@.service.d/delegate.conf &&"
    " sudo systemctl daemon-reload"
)


def check_cgroups(version: int, controllers: frozenset[str]) -> list[Check]:
    """One check for each limit.

    Args:
        version: of the control groups that could be made: 1, 2, or 0 when none could.
        controllers: those that were in force in them.
    """
    checks: list[Check] = []
    for name, controller, instead in LIMITS:
        if controller in controllers:
            checks.append(Check(name, "ok", f"by cgroup v{version}"))
        else:
            checks.append(Check(name, "degraded", f"no cgroup for it: {instead}", _remedy(controller)))
    return checks


def _remedy(controller: str) -> str:
    root = os.geteuid() == 0
    if os.path.exists(V2_CONTROLLERS):
        if root:
            return "docker run --cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw ... (it is read-only here)"
        manager = Path(f"/sys/fs/cgroup/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service")
        if not manager.is_dir():
            return "sudo loginctl enable-linger $USER (then log in again), or run the gateway as root"
        return SCOPE if controller in _words(manager / "cgroup.controllers") else DELEGATE
    if root:
        return "mount the controllers writable: docker run --privileged ..., or a machine with cgroup v2"
    return (
        "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1 on the kernel command line),"
        " or run the gateway as root"
    )


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
