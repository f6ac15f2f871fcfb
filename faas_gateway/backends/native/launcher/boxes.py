"""What one run of a launcher holds on disk and of processes: its folder, and a box per sandbox. Standard library only.

STORE/runs/NAME             locked while the launcher lives: one whose lock is free is left over and is removed
STORE/runs/NAME/root        mount point of the base trees
STORE/runs/NAME/boxes/ID    upper and work directory of a sandbox
STORE/kept/ID               the same, of a snapshot that is to outlast the run
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence

import cgroups
import linux
import processes
import removal
import wire

_SMALL = 64
_ROOM = ("sizes", "agent_rlimits", "listen", "guest")
"""What a room is made by: an order that agrees in it may have one that was made ahead."""
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
        self._kept: dict[str, Layer] = {}

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

    def move(self, layer: Layer, folder: str) -> None:
        """Move a layer to another place below the store; what is mounted from it stays mounted."""
        os.rename(f"{self.store}/{layer.folder}", f"{self.store}/{folder}")
        layer.folder = folder

    def kept(self, folder: str) -> Layer:
        """The layer in a folder below the store that outlasts us; drop it when it is no longer used."""
        layer = self._kept.get(folder)
        if layer is None:
            layer = self._kept[folder] = Layer(folder, kept=True)
            layer.users = 0
        return layer

    def note_kept(self, layer: Layer) -> None:
        self._kept[layer.folder] = layer

    def unkeep(self, folder: str) -> bool:
        """Remove a kept layer with its last user. False: it has none, and is for the caller to remove."""
        layer = self._kept.pop(folder, None)
        if layer is None or not layer.users:
            return False
        layer.kept = False
        return True

    def holds_files(self, layer: Layer, files: str) -> bool:
        """False for an upper directory with nothing in it. One in memory cannot be seen from here."""
        if files != "overlay":
            return True
        with os.scandir(f"{self.store}/{layer.upper}") as found:
            return next(found, None) is not None

    def drop(self, layer: Layer) -> None:
        """One user less; the last takes the files with it, unless they are kept."""
        layer.users -= 1
        if layer.users or layer.kept:
            if layer.kept and not layer.users:
                self._kept.pop(layer.folder, None)
            return
        folder = f"{self.store}/{layer.folder}"
        if not removal.remove(folder, limit=_SMALL):
            _remove_aside(folder)

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


class Layer:
    """The upper directory of one sandbox, and once that is frozen a lower one of others."""

    def __init__(self, folder: str, *, kept: bool = False) -> None:
        self.folder = folder
        """Below the store."""
        self.name = ""
        """What it is called once it is kept."""
        self.kept = kept
        """It outlasts us: whoever asked for that removes it."""
        self.users = 1
        self.mounting = 0
        """Sandboxes whose init mounts it just now, by its path: it must not be moved meanwhile."""

    @property
    def upper(self) -> str:
        return f"{self.folder}/u"


class Guest:
    """A guest that was forked and waits to be let go: our ends of its channel and pipes, and its pidfd."""

    def __init__(self, ready: socket.socket, token: str) -> None:
        self._ready = ready
        self._token = token
        self.fds: list[int] = []
        self.said: wire.Message = {}
        """What it says of itself: it may be hostile."""

    def let_go(self, fds: list[int]) -> wire.Message:
        """Its descriptors go to fds. Raises OSError when it has ended."""
        wire.send(self._ready, {"go": True})
        self._ready.close()
        fds += self.fds
        self.fds = []
        return {**self.said, "token": self._token}

    def close(self) -> None:
        """One that was not let go ends."""
        self._ready.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Room:
    """Namespaces of a sandbox with nobody in them but its init, and perhaps a guest that waits.

    others: descriptors that its caller gets.
    """

    def __init__(
        self,
        box: Box,
        source: Box | None,
        order: wire.Message,
        names: list[str],
        namespaces: list[int],
        others: list[int],
    ) -> None:
        self.box = box
        self.source = source
        self.names = names
        self.namespaces = namespaces
        self._others = others
        self.guest: Guest | None = None
        self._order = {key: order[key] for key in _ROOM}

    def serves(self, order: wire.Message) -> bool:
        if self.guest is not None and (order.get("reseed") or self.box.guest_ended()):
            return False
        return all(order[key] == value for key, value in self._order.items()) and not self.box.ended()

    def take_others(self) -> list[int]:
        taken, self._others = self._others, []
        return taken

    def close(self) -> None:
        for fd in (*self.namespaces, *self.take_others()):
            os.close(fd)
        self.namespaces = []
        if self.guest is not None:
            self.guest.close()


class Box:
    """One sandbox as the launcher holds it.

    A frozen one has `control`, the socket to its dormant guest, and perhaps boxes below it, which need its init.
    Where namespaces may nest no deeper, a box is `beside`: in the pid and user namespaces of the one that it is below.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        below: Box | None = None,
        lowers: Sequence[Layer] = (),
        *,
        beside: bool = False,
    ) -> None:
        self.name = self.made_as = name
        self.init: socket.socket | None = None
        self.init_pid = 0
        self.init_pidfd = -1
        self.guest_pid = 0
        self.guest_pidfd = -1
        self.group: cgroups.Group | None = None
        self.enforced: dict[str, str] = {}
        self.control: socket.socket | None = None
        self.files = ""
        self.beside = beside
        self.tree = -1
        """Its mount namespace, by which the processes of a box that is beside others are told apart. Held open until
        they have ended, or its number could be another's."""
        self.user = -1
        """Its user namespace, where it is not shared."""
        self.unreported = 0
        """Guests forked by its dormant one, of whose end that has not told."""
        self.next_user = -1
        """One below it, made ahead for the next sandbox there."""
        self.depth = 0 if below is None else below.depth + (not beside)
        self.below = below
        self.children: set[Box] = set()
        self.rooms: list[Room] = []
        """Made ahead for branches."""
        self.ending = self.ended_by_owner = False
        self.layer: Layer | None = None
        self.lowers = list(lowers)
        for layer in self.lowers:
            layer.users += 1
        if below is not None:
            below.children.add(self)
        self._run = run

    def take_room(self, m: wire.Message) -> Room | None:
        """One that was made ahead for such an order, or None."""
        for room in self.rooms:
            if room.serves(m):
                self.rooms.remove(room)
                return room
        return None

    def make(self) -> str:
        """Make its folder; returns the path below the store."""
        self.layer = Layer(self._run.make_box(self.name))
        return self.layer.folder

    def rename(self, name: str) -> None:
        """Name it, and its folder, after what it is now for. What is mounted from the folder stays mounted."""
        assert self.layer is not None
        folder = f"{os.path.dirname(self.layer.folder)}/{name}"
        self._run.move(self.layer, folder)
        self.name = name

    def adopt(self, init: socket.socket, pid: int) -> None:
        self.init, self.init_pid = init, pid
        self.init_pidfd = os.pidfd_open(pid)

    def adopt_guest(self, pid: int) -> None:
        self.guest_pid, self.guest_pidfd = pid, os.pidfd_open(pid)

    def branch_layers(self) -> list[Layer]:
        """What lies under a branch of this frozen box: its own files, where there are any, on top of its lower ones."""
        assert self.layer is not None
        return [self.layer, *self.lowers] if self._run.holds_files(self.layer, self.files) else self.lowers

    def discard_files(self) -> None:
        if self.layer is not None:
            self._run.drop(self.layer)
            self.layer = None

    def kill(self) -> None:
        """End the init, and so every process of the sandbox and of those below it (pid_namespaces(7))."""
        for sock in (self.init, self.control):
            if sock is not None:
                sock.close()
        self.init = self.control = None
        if self.init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_pidfd, signal.SIGKILL)
        self._kill_in_tree()

    def _kill_in_tree(self) -> bool:
        """Kill what lives in a box that is beside others. True: perhaps not all."""
        return self.tree >= 0 and processes.kill_in_tree(os.fstat(self.tree).st_ino)

    def kill_guest(self) -> None:
        """End the guest and what else lives in the sandbox; the init stays for the boxes below it."""
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.guest_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.guest_pidfd, signal.SIGKILL)
        self.clear(keep=0)

    def clear(self, keep: int) -> None:
        """End what lives in the sandbox but its init and the process of that number inside."""
        beside = self.beside or any(child.beside for child in self.children)
        if self.init is not None and not beside:
            with contextlib.suppress(OSError):
                wire.send(self.init, {"op": "clear", "keep": keep})

    def ended(self) -> bool:
        return self.init_pidfd < 0 or linux.has_ended(self.init_pidfd)

    def guest_ended(self) -> bool:
        return self.guest_pidfd < 0 or linux.has_ended(self.guest_pidfd)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.ended()

    def release(self) -> bool:
        """Give back group and files; False while something of it still lives."""
        if not self.ended() or self._kill_in_tree():
            return False
        if self.group is not None and not self.group.remove():
            return False
        self.group = None
        for fd in (self.init_pidfd, self.guest_pidfd, self.tree, self.user, self.next_user):
            if fd >= 0:
                os.close(fd)
        self.init_pidfd = self.guest_pidfd = self.tree = self.user = self.next_user = -1
        self.discard_files()
        for layer in self.lowers:
            self._run.drop(layer)
        self.lowers.clear()
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
