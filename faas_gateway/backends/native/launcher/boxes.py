"""What one run of a launcher holds on disk and of processes: its folder, and a box per sandbox. Standard library only.

STORE/runs/NAME             locked while the launcher lives: one whose lock is free is left over and is removed
STORE/runs/NAME/root        mount point of the base trees
STORE/runs/NAME/boxes/ID    upper and work directory of a sandbox
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import signal
import socket
import time
from collections.abc import Sequence

import cgroups
import linux
import removal

_SMALL = 64
_GROUPS_S = 10.0


class Run:
    """The folder of one launcher. Making one removes those of launchers that were killed."""

    def __init__(self, store: str, host_uid: int) -> None:
        self.store = store
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._host_uid = host_uid
        runs = f"{store}/runs"
        os.makedirs(runs, exist_ok=True)
        self.folder = f"{runs}/{self.name}"
        making = _lock(runs)
        try:
            _reclaim(runs)
            os.mkdir(self.folder)
            self._held = _lock(self.folder)
        finally:
            os.close(making)
        os.mkdir(f"{self.folder}/boxes")

    def note_groups(self, groups: cgroups.Cgroups) -> None:
        """Write down where our groups are, for whoever has to clean up after us."""
        with open(f"{self.folder}/cgroups", "w") as f:
            f.writelines(f"{folder}\n" for folder in groups.folders())

    def make_box(self, name: str) -> str:
        """Make a box's folder; returns its path below the store."""
        path = f"{self.folder}/boxes/{name}"
        os.mkdir(path)
        if self._host_uid:
            os.chown(path, self._host_uid, self._host_uid)
        return os.path.relpath(path, self.store)

    def remove_box(self, relative: str) -> None:
        """Remove a folder that `make_box` has made."""
        removal.remove(f"{self.store}/{relative}")

    def close(self) -> None:
        removal.remove(self.folder)
        os.close(self._held)


def _lock(folder: str, *, wait: bool = True) -> int:
    """Lock a folder itself (flock(2)): there is no lock file that could go before the rest. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _reclaim(runs: str) -> None:
    """Remove what killed launchers have left. The caller holds the lock of `runs`: nobody is just making a folder."""
    for e in os.scandir(runs):
        with contextlib.suppress(OSError):  # it lives, or is not ours
            os.close(_lock(e.path, wait=False))
            _remove_aside(e.path, _lines(f"{e.path}/cgroups"))


def _lines(path: str) -> list[str]:
    try:
        with open(path) as f:
            return f.read().splitlines()
    except OSError:
        return []


class Box:
    """One sandbox as the launcher holds it."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = self.made_as = name
        self.init: socket.socket | None = None
        self.init_pid = 0
        self.init_pidfd = -1
        self.group: cgroups.Group | None = None
        self.enforced: dict[str, str] = {}
        self._run = run
        self._folder: str | None = None

    def make(self) -> str:
        relative = self._run.make_box(self.name)
        self._folder = f"{self._run.store}/{relative}"
        return relative

    def rename(self, name: str) -> None:
        """Name it, and its folder, after what it is now for. What is mounted from the folder stays mounted."""
        assert self._folder is not None
        folder = f"{os.path.dirname(self._folder)}/{name}"
        os.rename(self._folder, folder)
        self.name, self._folder = name, folder

    def adopt(self, init: socket.socket, pid: int) -> None:
        self.init, self.init_pid = init, pid
        self.init_pidfd = os.pidfd_open(pid)

    def discard_files(self) -> None:
        if self._folder is not None:
            removal.remove(self._folder)
            self._folder = None

    def kill(self) -> None:
        """End the init, and so every process of the sandbox (pid_namespaces(7))."""
        if self.init is not None:
            self.init.close()
            self.init = None
        if self.init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_pidfd, signal.SIGKILL)

    def ended(self) -> bool:
        if self.init_pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self.init_pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.ended()

    def release(self) -> bool:
        """Give back group and files; False while something of it still lives."""
        if not self.ended():
            return False
        if self.group is not None and not self.group.remove():
            return False
        self.group = None
        if self.init_pidfd >= 0:
            os.close(self.init_pidfd)
            self.init_pidfd = -1
        if self._folder is not None:
            if not removal.remove(self._folder, limit=_SMALL):
                _remove_aside(self._folder)
            self._folder = None
        return True


def _remove_aside(folder: str, groups: Sequence[str] = ()) -> None:
    """Remove a large tree by a process of its own, so that other sandboxes need not wait for it.

    With control groups, those first: their last processes may only just be ending.
    """
    if os.fork() == 0:
        try:
            linux.close_all_but([])  # ours must not outlive us in it: peers wait for their end of file
            deadline = time.monotonic() + _GROUPS_S
            while any(os.path.isdir(group) for group in groups) and time.monotonic() < deadline:
                for group in groups:
                    cgroups.remove_tree(group)
                time.sleep(0.02)
            removal.remove(folder)
        finally:
            os._exit(0)
