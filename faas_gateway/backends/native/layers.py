"""Read-only layers on disk, each named by the digest of all that went into it, each built once.

A layer is a folder laid out as it appears in a sandbox. It is built under a name of its own and renamed when whole,
so a build that is killed leaves nothing that could be taken for a layer.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from faas_gateway.backends.native.identity import HOST_UID

BUILD_LOCK_S = 1800.0


def digest(*parts: Any) -> str:
    """A name for content: SHA-256 of the parts as JSON, 16 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class LayerStore:
    """The folder `layers` of the backend's store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks: dict[str, anyio.Lock] = {}

    def path(self, name: str) -> Path:
        return self.root / name

    def has(self, name: str) -> bool:
        return self.path(name).is_dir()

    @asynccontextmanager
    async def building(self, name: str) -> AsyncGenerator[Path | None]:
        """Give a folder to build in, or None when the layer is there. It becomes the layer if the block succeeds.

        Builders of the same layer wait for one another, in this process and in others.
        """
        async with self._locks.setdefault(name, anyio.Lock()):
            if self.has(name):
                yield None
                return
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root / f".{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                with anyio.fail_after(BUILD_LOCK_S):
                    while not _try_lock(lock):
                        await anyio.sleep(0.2)
                if self.has(name):
                    yield None
                    return
                self._drop_unfinished(name)
                folder = self.root / f".{name}.{secrets.token_hex(4)}.part"
                folder.mkdir(mode=0o755)
                try:
                    yield folder
                    await anyio.to_thread.run_sync(_settle, folder)
                    folder.rename(self.path(name))
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
            finally:
                os.close(lock)

    def _drop_unfinished(self, name: str) -> None:
        """What a killed build has left: we hold the layer's lock, so nobody works on it."""
        for left in self.root.glob(f".{name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle(folder: Path) -> None:
    """Make everything readable for whoever the sandbox runs as, whatever the umask of the build was, and its own: what
    a session installs goes where the packages of its environment are (into its own files; a layer is never written to).
    """
    owner = HOST_UID if os.geteuid() == 0 else -1
    for path in _walk(folder):
        st = path.lstat()
        if owner >= 0:
            try:
                os.chown(path, owner, owner, follow_symlinks=False)
            except OSError:  # no such user in our user namespace: sandboxes cannot be that one either
                owner = -1
        if path.is_symlink():
            continue
        wanted = (st.st_mode | 0o444 | (0o111 if st.st_mode & 0o100 else 0)) & 0o7755
        if wanted != st.st_mode & 0o7777:
            path.chmod(wanted)


def _walk(folder: Path) -> Iterator[Path]:
    yield folder
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(root, name)


@contextmanager
def rebased_scripts(folder: Path, old: str, new: str) -> Generator[None]:
    """After the block, scripts in `bin` that start with `#!old` start with `#!new`."""
    yield
    for script in (folder / "bin").glob("*"):
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if data.startswith(f"#!{old}".encode()):
            script.write_bytes(b"#!" + new.encode() + data[2 + len(old) :])
