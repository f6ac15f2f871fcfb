"""What one run of a launcher holds on disk and of processes: its folder, and a box per sandbox. Standard library only.

STORE/runs/NAME/lock        held while the launcher lives: a folder whose lock is free is left over and is removed
STORE/runs/NAME/root        mount point of the base trees
STORE/runs/NAME/boxes/ID    upper and work directory of a sandbox
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import cgroups
import linux

_SMALL = 64


class Run:
    """The folder of one launcher. Making one removes those of launchers that were killed."""

    def __init__(self, store: str, host_uid: int) -> None:
        self.store = store
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._host_uid = host_uid
        runs = f"{store}/runs"
        os.makedirs(runs, exist_ok=True)
        _reclaim(runs)
        self.folder = f"{runs}/{self.name}"
        os.mkdir(self.folder)
        self._lock = os.open(f"{self.folder}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
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

    def close(self) -> None:
        remove(self.folder)
        os.close(self._lock)


def _reclaim(runs: str) -> None:
    for e in os.scandir(runs):
        try:
            lock = os.open(f"{e.path}/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # just being made, or not ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(lock)
        for group in _lines(f"{e.path}/cgroups"):
            cgroups.remove_tree(group)
        remove(e.path)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as f:
            return f.read().splitlines()
    except OSError:
        return []


def remove(path: str, *, limit: int | None = None) -> bool:
    """Remove a tree, also where user code took our rights to its folders away. False: more entries than the limit."""
    if limit is not None and _more_than(path, limit):
        return False

    def again(function: Callable[..., Any], failed: str, _info: Any) -> None:
        parent = os.path.dirname(failed)
        for folder in (parent, failed):
            try:
                if stat.S_ISDIR(os.lstat(folder).st_mode):
                    os.chmod(folder, 0o700, follow_symlinks=True)
            except OSError:
                return
        if function is os.rmdir or os.path.isdir(failed) and not os.path.islink(failed):
            shutil.rmtree(failed, ignore_errors=True)
        else:
            try:
                os.unlink(failed)
            except OSError:
                pass

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=again)
    else:
        shutil.rmtree(path, onerror=again)
    return True


def _more_than(path: str, limit: int) -> bool:
    count, stack = 0, [path]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            return True
        count += len(entries)
        if count > limit:
            return True
        stack += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    return False


class Box:
    """One sandbox as the launcher holds it."""

    def __init__(self, name: str, run: Run, template: str) -> None:
        self.name = name
        self.template = template
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

    def adopt(self, init: socket.socket, pid: int) -> None:
        self.init, self.init_pid = init, pid
        self.init_pidfd = os.pidfd_open(pid)

    def discard_files(self) -> None:
        if self._folder is not None:
            remove(self._folder)
            self._folder = None

    def kill(self) -> None:
        """End the init, and so every process of the sandbox (pid_namespaces(7))."""
        if self.init is not None:
            self.init.close()
            self.init = None
        if self.init_pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.init_pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

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
            if not remove(self._folder, limit=_SMALL):
                _remove_aside(self._folder)
            self._folder = None
        return True


def _remove_aside(folder: str) -> None:
    """A large tree is removed by a process of its own, so that other sandboxes need not wait for it."""
    if os.fork() == 0:
        try:
            linux.close_all_but([])  # ours must not outlive us in it: peers wait for their end of file
            remove(folder)
        finally:
            os._exit(0)
