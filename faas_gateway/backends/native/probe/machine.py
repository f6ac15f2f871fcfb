"""The checks that need no trial: kernel, interpreter, room."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from faas_gateway.backends.native.probe import restrictions
from faas_gateway.backends.native.probe.check import Check

KERNEL = (5, 12)
MACHINES = ("x86_64", "aarch64")
GIB = 1 << 30
ENOUGH_MEMORY = 1 * GIB
ENOUGH_DISK = 2 * GIB


def check_kernel() -> Check:
    """Linux, recent enough to mount without root (overlay: 5.11, mount_setattr: 5.12)."""
    name, release, machine = platform.system(), platform.release(), platform.machine()
    what = f"{name} {release} on {machine}"
    if name != "Linux":
        return Check("kernel", "missing", f"{what}: sandboxes are made of Linux namespaces", "use a Linux machine")
    if restrictions.is_wsl1(release):
        return Check("kernel", "missing", *restrictions.explain(38, "unshare"))
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) < KERNEL:
        needed = ".".join(map(str, KERNEL))
        return Check("kernel", "missing", f"{what} is too old", f"boot a kernel of {needed} or later")
    if machine not in MACHINES:
        return Check("kernel", "missing", f"{what}: no seccomp filter for it", f"use {' or '.join(MACHINES)}")
    return Check("kernel", "ok", what)


def check_python() -> Check:
    """The interpreter that serves, and that the environments are built with."""
    what = f"Python {platform.python_version()} at {sys.executable}"
    if importlib.util.find_spec("pip") is None:
        return Check(
            "Python",
            "degraded",
            f"{what} has no pip: environments with packages of their own cannot be built",
            f"{sys.executable} -m ensurepip",
        )
    return Check("Python", "ok", f"{what}, pip {importlib.metadata.version('pip')}")


def check_memory() -> Check:
    """The machine's memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    what = f"{total / GIB:.1f} GiB"
    if total < ENOUGH_MEMORY:
        return Check("memory", "degraded", f"{what}: little for data work", "use a machine with more memory")
    return Check("memory", "ok", what)


def check_disk(folder: Path, shown: Path) -> Check:
    """Room in the state directory.

    Args:
        folder: one that exists, on the disk where the state will be.
        shown: the state directory itself.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", "missing", f"{shown}: {error.strerror}", f"ls -ld {shown}")
    what = f"{free / GIB:.1f} GiB free in {shown}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("disk", "missing", f"{folder} is not writable", f"sudo chown {os.geteuid()} {folder}")
    if free < ENOUGH_DISK:
        return Check("disk", "degraded", f"{what}: environments need room", f"du -xh {shown} | sort -h | tail")
    return Check("disk", "ok", what)
