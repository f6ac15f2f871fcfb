"""How a sandbox ends: what its exit status tells, and having the launcher give back what it held."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

import anyio

from faas_gateway.backends.base import Ended, Limits, StartFailed
from faas_gateway.backends.native.link import Launcher, LauncherGone
from faas_gateway.guest import framing

CLOSE_S = 15.0
BUSY_S = 0.1
_SIGNAL_PROCESS_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9


async def close_box(launcher: Launcher, box: str) -> None:
    """Have the launcher give back what a sandbox held; again while it is too busy to hear of it."""
    with anyio.move_on_after(CLOSE_S):
        while True:
            try:
                (await launcher.call("close", CLOSE_S, box=box)).close()
            except LauncherGone:
                return
            except StartFailed:
                await anyio.sleep(BUSY_S)
            else:
                return


def out_of_memory(limits: Limits) -> Ended:
    limit = f"{limits.memory_bytes >> 20} MB" if limits.memory_bytes else "the machine's memory"
    return Ended(
        "oom",
        f"the sandbox went over its memory limit ({limit})",
        "Use less memory, or open one with a higher limit.",
    )


def how_it_died(status: int | None) -> Ended:
    if status is None or status == -signal.SIGKILL:
        return Ended("died", "the interpreter was killed", "Start a new session; its variables are gone.")
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return Ended("died", f"the interpreter crashed ({name})", "Start a new session; its variables are gone.")
    if status == framing.BROKEN_STATUS:
        return Ended(
            "died",
            "the interpreter broke: the code replaced or closed something that it stands on (stderr has the error)",
            "Start a new session; its variables are gone.",
        )
    return Ended(
        "died",
        f"the code ended its own interpreter (exit status {status})",
        "Start a new session; its variables are gone.",
    )


def signal_group(pidfd: int, number: int) -> None:
    """Send a signal to a process's group, as a terminal does; to the process alone before Linux 6.9."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(424), pidfd, number, None, _SIGNAL_PROCESS_GROUP) < 0:
        if ctypes.get_errno() == errno.EINVAL:
            signal.pidfd_send_signal(pidfd, number)
        elif ctypes.get_errno() != errno.ESRCH:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "pidfd_send_signal")
