"""File operations inside a sandbox. Links lead nowhere else: the process sees the sandbox's files only.

FIFOs, sockets and devices are neither read nor packed. Standard library only.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tarfile
from typing import Any

import framing
import removal

LISTING_LIMIT = 100_000


def entry(path: str) -> dict[str, Any]:
    """What `FileEntry` holds, of the thing at path itself (a link is reported as a link)."""
    st = os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    name = os.path.basename(path.rstrip("/")) or path
    return {
        "path": path,
        "name": name,
        "type": kinds.get(stat.S_IFMT(st.st_mode), "other"),
        "size": st.st_size,
        "mode": stat.S_IMODE(st.st_mode),
        "mtime": st.st_mtime,
    }


def listing(path: str) -> list[dict[str, Any]]:
    """The entries of a folder, sorted by name; of anything else, the one."""
    if not os.path.isdir(path):
        return [entry(path)]
    found: list[dict[str, Any]] = []
    for name in sorted(os.listdir(path)):
        if len(found) == LISTING_LIMIT:
            raise OSError(errno.E2BIG, f"more than {LISTING_LIMIT} entries")
        try:
            found.append(entry(name if path in ("", ".") else f"{path.rstrip('/')}/{name}"))
        except FileNotFoundError:
            continue  # it went between the two calls
    return found


def delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        if not removal.remove(path):
            shutil.rmtree(path)  # says why not
    else:
        os.unlink(path)


def settle_script(path: str, state: str) -> None:
    """After a shell request: its script goes, and the state it wrote takes the old one's place if it is whole."""
    if os.path.lexists(path):
        os.unlink(path)
    try:
        fd = os.open(f"{state}.new", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # the shell was killed, or replaced itself: the state is that of the request before
    with os.fdopen(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        f.seek(max(0, os.fstat(fd).st_size - 16))
        whole = f.read().endswith(b"# whole\n")
    if whole:
        os.replace(f"{state}.new", state)
    else:
        os.unlink(f"{state}.new")


def read(conn: socket.socket, path: str) -> None:
    """Send a file's bytes, or a folder as a tar stream; the first frame says which."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            framing.send(conn, {"type": "file", "size": os.fstat(fd).st_size})
            while chunk := os.read(fd, framing.CHUNK_BYTES):
                framing.send(conn, {}, chunk)
        elif stat.S_ISDIR(mode):
            framing.send(conn, {"type": "directory"})
            sender: Any = _Sender(conn)  # a tar stream is only written to
            with tarfile.open(fileobj=sender, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                tar.add(path, arcname=".", filter=_only_plain)
        else:
            raise OSError(errno.EINVAL, "neither a file nor a folder")
    finally:
        os.close(fd)
    framing.send(conn, {"end": True})


def _only_plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isreg() or member.isdir() or member.issym() or member.islnk() else None


class _Sender:
    """The write side of a tar stream."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn

    def write(self, data: bytes) -> int:
        framing.send(self._conn, {}, data)
        return len(data)


class _Receiver:
    """The read side: the bodies of frames up to the one that says `end`."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._left = b""
        self._ended = False

    def next(self) -> bytes:
        """The next piece, empty at the end. Raises OSError when the sender broke off."""
        if self._ended:
            return b""
        frame = framing.receive(self._conn)
        if frame is None:
            raise OSError(errno.ECONNABORTED, "the upload broke off")
        if frame[0].get("end"):
            self._ended = True
            return b""
        return frame[1]

    def read(self, size: int) -> bytes:
        parts, have = [self._left], len(self._left)
        while have < size:
            piece = self.next()
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._left = data[size:]
        return data[:size]


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is not a folder") from None


def write(conn: socket.socket, path: str, *, untar: bool) -> None:
    """Write what comes to path, folders made; whole or not at all. With untar, unpack it into the folder at path."""
    source = _Receiver(conn)
    if untar:
        _make_folder(path)
        readable: Any = source  # and only read from
        try:
            with tarfile.open(fileobj=readable, mode="r|") as tar:
                for member in tar:
                    if _only_plain(member):
                        tar.extract(member, path, set_attrs=True)
        except tarfile.TarError as e:
            raise OSError(errno.EINVAL, f"not a tar archive: {e}") from None
        while source.next():
            pass  # padding after the archive's end
        return
    folder = os.path.dirname(path)
    if folder:
        _make_folder(folder)
    if os.path.isdir(path):
        raise OSError(errno.EISDIR, "is a folder")
    partial = os.path.join(folder, f".{os.path.basename(path)[:200]}.{os.getpid()}.part")
    try:
        with open(partial, "xb", buffering=0) as f:
            while piece := source.next():
                view = memoryview(piece)
                while view:
                    view = view[f.write(view) :]
        if os.path.exists(path):
            os.chmod(partial, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(partial, path)
    except BaseException:
        if os.path.lexists(partial):
            os.unlink(partial)
        raise
