"""A cgroup of our own for an ordinary user, by the user's systemd.

Limits by cgroup v2 need a delegated group with no process beside its children. A login session's group is shared
with the notebook server and whatever else runs in it, so the launcher is started in a scope that systemd delegates
to it alone (https://systemd.io/CGROUP_DELEGATION/). Without a user's systemd there is none, and rlimits hold
instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

READY_S = 5.0


def scope_command() -> list[str]:
    """What to put before the launcher's command line; empty where it is of no use."""
    if os.geteuid() == 0 or not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    systemd_run = shutil.which("systemd-run")
    if not systemd_run or not runtime or not Path(runtime, "systemd", "private").exists():
        return []
    return [systemd_run, "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]


def scope_environment() -> dict[str, str]:
    """What systemd-run needs to find the user's systemd."""
    names = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    return {name: os.environ[name] for name in names if name in os.environ}
