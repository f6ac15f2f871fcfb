"""Descriptors of the kernel's made anew: the same kind and state, and shared with no other process.

Each function returns new descriptors, closed by exec, and leaves the old ones as they are: a relative uses them too.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
import sys
import termios
from contextlib import suppress

from .descriptions import Description

_PIPE_SIZE_SET, _PIPE_SIZE_GET = 1031, 1032
_SEALS_ADD, _SEALS_GET = 1033, 1034
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_SPLICE_NONBLOCK = 2
_EFD_SEMAPHORE = 1
_EPOLL_ADD = 1
_EPOLL_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "@IQ")  # packed on x86-64 only, epoll_ctl(2)
_SIGSET_BYTES = 128
_COPY_BYTES = 1 << 26

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def reopen(fd: int, flags: int) -> int:
    """A further description of what fd refers to."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def unnamed_file(folder: str) -> int:
    """A file without a name, in folder if it can be there."""
    for place in (folder, "/tmp"):
        with suppress(OSError):
            return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(OSError):
            path = f"{place}/.{os.urandom(8).hex()}"
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            os.unlink(path)
            return fd
    return memory_file("unnamed")


def memory_file(name: str) -> int:
    return os.memfd_create(name[:200], _MFD_CLOEXEC | _MFD_ALLOW_SEALING)


def seals(fd: int) -> int:
    """Of a memfd; 0 for any other file."""
    with suppress(OSError):
        return fcntl.fcntl(fd, _SEALS_GET)
    return 0


def add_seals(fd: int, wanted: int) -> None:
    fcntl.fcntl(fd, _SEALS_ADD, wanted)


def copy_content(source: int, target: int) -> None:
    """Make target hold what source holds, holes included, without moving the offset of source. Raises OSError."""
    own = reopen(source, os.O_RDONLY)
    try:
        size = os.fstat(own).st_size
        os.ftruncate(target, size)
        at = 0
        while at < size:
            try:
                start = os.lseek(own, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            at = os.lseek(own, start, os.SEEK_HOLE)
            os.lseek(target, start, os.SEEK_SET)
            while start < at:
                count = os.sendfile(target, own, start, min(at - start, _COPY_BYTES))
                if not count:
                    return
                start += count
    finally:
        os.close(own)


def pipe(old_read: int | None, size_of: int, path: str = "") -> tuple[int, int]:
    """Both ends of a new pipe, or of the FIFO at path, with the bytes that wait in the old one."""
    if path:
        read = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        write = os.dup(read)
    else:
        read, write = os.pipe2(os.O_CLOEXEC)
    try:
        with suppress(OSError):  # over the user's share of pipe buffers: then it is smaller
            fcntl.fcntl(write, _PIPE_SIZE_SET, fcntl.fcntl(size_of, _PIPE_SIZE_GET))
        if old_read is not None:
            waiting = struct.unpack("i", fcntl.ioctl(old_read, termios.FIONREAD, b"\0" * 4))[0]
            if waiting:
                count = _checked("tee", _libc.tee(old_read, write, ctypes.c_size_t(waiting), _SPLICE_NONBLOCK))
                if count < waiting:
                    raise OSError(f"only {count} of the {waiting} bytes in the pipe could be copied")
    except OSError:
        os.close(read)
        os.close(write)
        raise
    return read, write


def dead_socket() -> int:
    """Reads its end of file; writing to it is EPIPE."""
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


def counter(d: Description) -> int:
    semaphore = _EFD_SEMAPHORE if d.info.get("eventfd-semaphore") == "1" else 0
    fd = os.eventfd(0, os.EFD_CLOEXEC | (d.flags & os.O_NONBLOCK) | semaphore)
    value = int(d.info.get("eventfd-count", "0"), 16)
    if value:
        os.eventfd_write(fd, value)
    return fd


def timer(d: Description) -> int:
    """With the time that was left; one that had run out and was not read yet is so again."""
    flags = os.O_CLOEXEC | (d.flags & os.O_NONBLOCK)
    fd = _checked("timerfd_create", _libc.timerfd_create(int(d.info["clockid"]), flags))
    left, interval = _time(d.info["it_value"]), _time(d.info["it_interval"])
    if int(d.info.get("ticks", "0")):
        left = (0, 1)
    spec = struct.pack("@4l", *interval, *left)
    _checked("timerfd_settime", _libc.timerfd_settime(fd, 0, spec, None))
    return fd


def _time(text: str) -> tuple[int, int]:
    seconds, nanoseconds = re.findall(r"\d+", text)
    return int(seconds), int(nanoseconds)


def signals(d: Description) -> int:
    mask = int(d.info["sigmask"], 16).to_bytes(8, sys.byteorder).ljust(_SIGSET_BYTES, b"\0")
    return _checked("signalfd", _libc.signalfd(-1, mask, os.O_CLOEXEC | (d.flags & os.O_NONBLOCK)))


def watcher(d: Description) -> int:
    return _checked("inotify_init1", _libc.inotify_init1(os.O_CLOEXEC | (d.flags & os.O_NONBLOCK)))


def poller(d: Description) -> int:
    """With all that it watched, under the same numbers, where that can still be watched."""
    fd = _checked("epoll_create1", _libc.epoll_create1(os.O_CLOEXEC))
    for number, events, data in d.watched:
        _libc.epoll_ctl(fd, _EPOLL_ADD, number, _EPOLL_EVENT.pack(events, data))
    return fd


def lock(fd: int, line: str) -> None:
    """Take a lock again, as /proc/PID/fdinfo tells it (proc_locks(5)). Raises OSError, at once."""
    fields = line.split()  # 1: POSIX ADVISORY WRITE 123 00:2f:4711 0 EOF
    kind, mode, start, end = fields[1], fields[3], int(fields[-2]), fields[-1]
    how = (fcntl.LOCK_EX if mode == "WRITE" else fcntl.LOCK_SH) | fcntl.LOCK_NB
    length = 0 if end == "EOF" else int(end) - start + 1
    if kind == "FLOCK":
        fcntl.flock(fd, how)
    elif kind == "POSIX":
        fcntl.lockf(fd, how, length, start)
    else:
        raise OSError(f"a lock of the kind {kind}")
