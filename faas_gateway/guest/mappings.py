"""Memory that this process shares with others: what mmap(2) with MAP_SHARED has made.

Linux 6.11 tells them one by one in microseconds (PROCMAP_QUERY); before that the whole of /proc/self/maps is read, a
millisecond per 500 mappings.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import struct
from dataclasses import dataclass

_QUERY = 0xC0686611  # _IOWR('f', 17, struct procmap_query), linux/fs.h
_FIELDS = struct.Struct("=9Q4I2Q")
_SHARED, _COVERING_OR_NEXT = 0x08, 0x10
_NAME_BYTES = 4096
_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)$", re.MULTILINE)
_DELETED = " (deleted)"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
_libc.pwrite.restype = ctypes.c_ssize_t
MAP_FIXED = 0x10


@dataclass(frozen=True)
class Mapping:
    """One shared mapping. `name` is the path, or what the kernel calls it, without its mark of a deleted file."""

    start: int
    end: int
    prot: int
    offset: int
    inode: int
    name: str
    deleted: bool

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_writable(self) -> bool:
        return bool(self.prot & mmap.PROT_WRITE)


def shared() -> list[Mapping]:
    """The shared mappings of this process, in the order of their addresses."""
    fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _queried(fd)
    except OSError:  # before Linux 6.11
        return _read()
    finally:
        os.close(fd)


def _queried(fd: int) -> list[Mapping]:
    found: list[Mapping] = []
    name = ctypes.create_string_buffer(_NAME_BYTES)
    address = 0
    while True:
        request = (_FIELDS.size, _SHARED | _COVERING_OR_NEXT, address, *[0] * 8, _NAME_BYTES, 0)
        data = bytearray(_FIELDS.pack(*request, ctypes.addressof(name), 0))
        try:
            fcntl.ioctl(fd, _QUERY, data)
        except FileNotFoundError:  # no further one
            return found
        _, _, _, start, end, flags, _, offset, inode, _, _, length, _, _, _ = _FIELDS.unpack(data)
        found.append(_mapping(start, end, flags & 7, offset, inode, name.value if length else b""))
        address = end


@dataclass(frozen=True)
class Area:
    """One line of /proc/self/maps (proc_pid_maps(5)); a name may be any bytes."""

    start: int
    end: int
    mode: str
    offset: int
    device: bytes
    inode: int
    name: bytes


def areas() -> list[Area]:
    """All of this process's mappings, in the order of their addresses."""
    with open("/proc/self/maps", "rb") as f:
        text = f.read()
    return [
        Area(int(start, 16), int(end, 16), mode.decode(), int(offset, 16), device, int(inode), name)
        for start, end, mode, offset, device, inode, name in _LINE.findall(text)
    ]


def _read() -> list[Mapping]:
    found: list[Mapping] = []
    for area in areas():
        if area.mode[3] == "s":
            prot = sum(bit for bit, letter in ((1, "r"), (2, "w"), (4, "x")) if letter in area.mode)
            found.append(_mapping(area.start, area.end, prot, area.offset, area.inode, area.name))
    return found


def _mapping(start: int, end: int, prot: int, offset: int, inode: int, name: bytes) -> Mapping:
    text = os.fsdecode(name)
    return Mapping(start, end, prot, offset, inode, text.removesuffix(_DELETED), text.endswith(_DELETED))


def map_again(mapping: Mapping, fd: int) -> None:
    """Put a file's pages in the place of a mapping, at the same address. Raises OSError; the old one is then there."""
    result = _libc.mmap(mapping.start, mapping.size, mapping.prot, mmap.MAP_SHARED | MAP_FIXED, fd, mapping.offset)
    if result is None or result == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}", mapping.name)


def cover(mapping: Mapping) -> None:
    """Put empty private memory in the place of a mapping that cannot be made anew."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    _libc.mmap(mapping.start, mapping.size, mapping.prot, flags, -1, 0)


def write_out(mapping: Mapping, fd: int) -> None:
    """Write a mapping's bytes into a file, at the offset where they are mapped. Raises OSError.

    By write(2), since a page that has no file behind it is then an error, and not the end of the process.
    """
    if not mapping.prot & mmap.PROT_READ and _libc.mprotect(mapping.start, mapping.size, mmap.PROT_READ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mapping.name)
    done = 0
    while done < mapping.size:
        count = _libc.pwrite(fd, mapping.start + done, mapping.size - done, mapping.offset + done)
        if count <= 0:
            if ctypes.get_errno() == 14 or not count:  # EFAULT: past the end of its file
                return
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mapping.name)
        done += count
