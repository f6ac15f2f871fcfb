"""What this machine can do for sandboxes: each thing tried for real, in a process of its own.

`python -m faas_gateway.backends.native.probe [--json] [--state-dir FOLDER]` prints it.
"""

from __future__ import annotations

from pathlib import Path

from faas_gateway.backends.native.probe.check import Check, State
from faas_gateway.backends.native.probe.limits import check_cgroups
from faas_gateway.backends.native.probe.machine import check_disk, check_kernel, check_memory, check_python
from faas_gateway.backends.native.probe.restrictions import explain
from faas_gateway.backends.native.probe.tried import Trial, try_sandbox

__all__ = ["Check", "State", "explain", "run_checks", "unavailable"]


def run_checks(state_dir: Path) -> list[Check]:
    """Find out what this machine can do. Takes some 0.2 seconds, at most 6. Never raises.

    Args:
        state_dir: where the gateway keeps layers and the files of sandboxes; it need not exist yet.

    Returns:
        The checks, those that others build on first. Nothing is left behind, and state_dir is not made.
    """
    kernel = check_kernel()
    if not kernel.ok:
        return [kernel, check_python()]
    folder = _nearest(state_dir)
    disk = check_disk(folder, state_dir)
    trial = try_sandbox(folder if disk.ok else None)
    return [
        kernel,
        *_namespace_checks(trial),
        _overlay_check(trial, state_dir),
        trial.check("seccomp", "the filter of system calls is in force", "seccomp"),
        trial.check("pidfd", "processes are held by descriptor, not by number", "pidfd"),
        *_cgroup_checks(trial),
        check_memory(),
        disk,
        check_python(),
    ]


def unavailable(checks: list[Check]) -> Check | None:
    """The first check that makes sandboxes impossible, None when they work."""
    return next((check for check in checks if not check.ok), None)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists and can be seen."""
    return next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))


def _namespace_checks(trial: Trial) -> list[Check]:
    # what only root does, and so only then is tried
    first = tuple(step for step in ("root", "owner") if step in trial.steps)
    groups = ("groups",) if "groups" in trial.steps else ()
    who = trial.note("maps")
    return [
        trial.check("user namespaces", f"a sandbox's root is uid {who} outside", *groups, "user", "maps", "ids"),
        trial.check(
            "namespaces",
            "mount, net, ipc, uts, cgroup and pid",
            *("NEWNS", "NEWNET", "NEWIPC", "NEWUTS", "NEWCGROUP", "NEWPID"),
        ),
        trial.check(
            "mounts",
            "a root of its own with /proc, and read-only clones of the host's folders",
            *(*first, "mounts", "attributes", "proc", "pivot"),
        ),
        trial.check("nested namespaces", "each sandbox has a user namespace of its own", "nested"),
        trial.check("process numbers", "chosen: no two sessions share their random numbers", "pids"),
    ]


def _overlay_check(trial: Trial, state_dir: Path) -> Check:
    if trial.failed("overlay") and not trial.failed("overlay_tmpfs"):
        return Check(
            "overlay",
            "degraded",
            f"{state_dir} cannot hold an overlay's upper directory: files of sandboxes are kept in memory",
            "export FAAS_STATE_DIR=FOLDER, with a folder on ext4, xfs or btrfs",
        )
    return trial.check("overlay", f"files that sandboxes write are kept in {state_dir}", "overlay")


def _cgroup_checks(trial: Trial) -> list[Check]:
    version, *controllers = (trial.note("cgroups") or "0").split()
    return check_cgroups(int(version), frozenset(controllers))
