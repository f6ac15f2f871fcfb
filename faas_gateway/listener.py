"""The gateway's Unix socket: one gateway at a time per folder, whatever was left behind by the one before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from pathlib import Path

BACKLOG = 1024
POLL_S = 0.05


class ClaimError(Exception):
    """The folder cannot be claimed; the message says who has it and what to do."""


class Claim:
    """An flock that is held for the process's life; it goes with the process, however that ends.

    Args:
        path: of the lock file, which is never deleted: a deleted one could be locked twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)

    def take(self, note: str) -> bool:
        """Take the lock, and leave a note for who comes next; False when another process has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, note.encode(), 0)
        return True

    def note(self) -> str:
        """What the holder left."""
        return os.pread(self._fd, 4096, 0).decode(errors="replace").strip()

    def close(self) -> None:
        os.close(self._fd)


class Listener:
    """The listening socket and the claims that make it ours. Made by `listen`."""

    def __init__(self, path: Path, sock: socket.socket, claims: list[Claim]) -> None:
        self._path = path
        self.sock = sock
        self._claims = claims
        self._withdrawn = False

    def withdraw(self) -> None:
        """Take the socket's name away, so that no new client finds it. Idempotent."""
        if not self._withdrawn:
            self._withdrawn = True
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def close(self) -> None:
        """Withdraw, and let the next gateway have the folder."""
        self.withdraw()
        self.sock.close()
        for claim in self._claims:
            claim.close()


def listen(path: Path, state_dir: Path, deadline_s: float) -> Listener | None:
    """Claim the folders of the socket and of the state, and listen.

    Args:
        path: of the socket.
        state_dir: of the gateway; two gateways with one state would take each other's sandboxes for lost.
        deadline_s: how long a gateway that is just ending is waited for, seconds.

    Returns:
        The listener, or None when a gateway answers on the socket already.

    Raises:
        ClaimError: another gateway has a folder.
        OSError: a folder cannot be written.
    """
    runtime = Claim(path.parent / "gateway.pid-lock")
    state: Claim | None = None
    try:
        note = f"pid {os.getpid()}, socket {path}"
        until = time.monotonic() + deadline_s
        while not runtime.take(note):
            if _accepts(path):
                runtime.close()
                return None
            if time.monotonic() > until:
                raise ClaimError(f"another gateway ({runtime.note()}) neither answers nor ends: end that process")
            time.sleep(POLL_S)
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = Claim(state_dir / "gateway.pid-lock")
        while not state.take(note):
            if time.monotonic() > until:
                raise ClaimError(
                    f"the state in {state_dir} is in use by another gateway ({state.note()}): set FAAS_RUNTIME_DIR "
                    "to the folder of its socket to use it, or FAAS_STATE_DIR to another folder"
                )
            time.sleep(POLL_S)
        return Listener(path, _bind(path), [runtime, state])
    except BaseException:
        with contextlib.suppress(OSError):
            runtime.close()
        if state is not None:
            state.close()
        raise


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


def _bind(path: Path) -> socket.socket:
    """A listening socket of mode 0600. It gets its name when it is ready: nobody finds one that refuses."""
    _remove_stale(path)
    temporary = path.with_suffix(".new")
    _remove_stale(temporary)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(os.fspath(temporary))
        temporary.chmod(0o600)
        sock.listen(BACKLOG)
        temporary.rename(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ClaimError(f"{path} is there and is not a socket: remove it")
        path.unlink()
    except FileNotFoundError:
        return
