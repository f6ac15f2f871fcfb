"""What the open descriptors of this process stand for, as /proc tells it."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from . import pairs

_DELETED = " (deleted)"
_F_SETSIG, _F_GETSIG = 10, 11
_HARMLESS_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_ANONYMOUS = re.compile(r"anon_inode:\[?(\w+)\]?")


@dataclass
class Description:
    """One open file description (open(2)), with every descriptor that refers to it.

    kind: file, deleted, memfd, folder, pipe, fifo, socket, eventfd, timerfd, signalfd, inotify, eventpoll, device, or
    what else the kernel calls it.
    """

    kind: str
    fds: dict[int, bool]
    """Number to: is it closed by exec?"""
    path: str
    inode: int
    flags: int
    offset: int = 0
    size: int = 0
    listens: bool = False
    pair: int = -1
    """Of a socket: a descriptor of its other end in this process."""
    waiting: bytes = b""
    """Of such a socket: what can be read from it."""
    info: dict[str, str] = field(default_factory=dict[str, str])
    locks: list[str] = field(default_factory=list[str])
    watched: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """Of an epoll instance: descriptor, events, data."""

    @property
    def fd(self) -> int:
        return next(iter(self.fds))

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)

    @property
    def status_flags(self) -> int:
        """What open(2) needs to give the same, without what would make, empty or refuse the file."""
        making = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_TMPFILE | os.O_CLOEXEC
        keep = self.flags & ~making
        return keep | os.O_DIRECTORY if self.kind == "folder" else keep


def opened(ours: Collection[int]) -> list[Description]:
    """All but ours and the devices that have no state. Changes nothing that can be seen."""
    found: list[Description] = []
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if number in ours:
            continue
        try:
            description = _describe(number)
        except OSError:
            continue  # the listing's own, or closed from another thread
        if description is None:
            continue
        same = next((d for d in found if _may_be_same(d, description) and _is_same(d.fd, number)), None)
        if same is None:
            found.append(description)
        else:
            same.fds.update(description.fds)
    _pair(found)
    return found


def _pair(found: list[Description]) -> None:
    by_fd = {fd: d for d in found if d.kind == "socket" for fd in d.fds}
    for a, b in pairs.opened() if by_fd else ():
        if a in by_fd and b in by_fd:
            by_fd[a].pair, by_fd[b].pair = b, a
            by_fd[a].waiting, by_fd[b].waiting = pairs.waiting(a), pairs.waiting(b)


def _describe(number: int) -> Description | None:
    path = os.readlink(f"/proc/self/fd/{number}")
    if path in _HARMLESS_DEVICES:
        return None
    about = os.fstat(number)
    description = Description(_kind(path, about), {number: True}, path, about.st_ino, 0, size=about.st_size)
    with open(f"/proc/self/fdinfo/{number}") as f:
        for line in f:
            _read_line(description, line)
    description.fds[number] = bool(description.flags & os.O_CLOEXEC)
    if description.kind in ("deleted", "memfd"):
        description.path = path.removesuffix(_DELETED)
    if description.kind == "socket":
        description.path, description.listens = _name_socket(number)
    return description


def _kind(path: str, about: os.stat_result) -> str:
    mode = about.st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        if path.startswith("/memfd:"):
            return "memfd"
        if stat.S_ISDIR(mode):
            return "folder"
        return "deleted" if path.endswith(_DELETED) and not os.path.lexists(path) else "file"
    if stat.S_ISFIFO(mode):
        return "pipe" if path.startswith("pipe:") else "fifo"
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    anonymous = _ANONYMOUS.match(path)
    return anonymous[1] if anonymous else path


def _read_line(description: Description, line: str) -> None:
    """Of /proc/PID/fdinfo (proc_pid_fdinfo(5))."""
    key, _, value = line.partition(":")
    value = value.strip()
    if key == "flags":
        description.flags = int(value, 8)
    elif key == "pos":
        description.offset = int(value)
    elif key == "lock":
        description.locks.append(value)
    elif key == "tfd":
        words = value.replace(":", " ").split()  # tfd: N events: M data: D pos: ...
        description.watched.append((int(words[0]), int(words[2], 16), int(words[4], 16)))
    else:
        description.info[key] = value


def _name_socket(number: int) -> tuple[str, bool]:
    """How a reader knows the socket, and whether it listens."""
    with pairs.borrowed(number) as sock:
        family = sock.family
        kind = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}.get(sock.type, str(int(sock.type)))
        listens = _asked(sock, socket.SO_ACCEPTCONN)
        own, peer = _address(sock.getsockname), "" if listens else _address(sock.getpeername)
    if family == socket.AF_UNIX:
        name = f"unix socket {own or peer}".rstrip()
        return (f"{name} (listening)" if listens else name), listens
    if listens:
        return f"{kind} {own} (listening)", True
    return (f"{kind} {own} to {peer}" if peer else f"{kind} {own}"), False


def _asked(sock: socket.socket, option: int) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, option))
    except OSError:
        return False


def _address(ask: Any) -> str:
    try:
        address = ask()
    except OSError:
        return ""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    text = os.fsdecode(address)
    return text.replace("\0", "@")


def _may_be_same(a: Description, b: Description) -> bool:
    mask = ~os.O_CLOEXEC
    return (a.inode, a.path, a.offset, a.flags & mask) == (b.inode, b.path, b.offset, b.flags & mask)


def _is_same(a: int, b: int) -> bool:
    """Whether two descriptors share their offset (kcmp(2) is refused in a sandbox).

    The signal of F_SETSIG belongs to the description and means nothing without O_ASYNC: it is set on one, looked for
    on the other and put back.
    """
    try:
        before = fcntl.fcntl(a, _F_GETSIG)
        mark = 1 if fcntl.fcntl(b, _F_GETSIG) != 1 else 2
        fcntl.fcntl(a, _F_SETSIG, mark)
        same = fcntl.fcntl(b, _F_GETSIG) == mark
        fcntl.fcntl(a, _F_SETSIG, before)
    except OSError:  # opened with O_PATH: it has no offset
        return False
    return same
