"""Layers as one tar stream: pax headers, whiteouts as in OCI image layers, holes as GNU tar writes them (PAX 1.0).

https://github.com/opencontainers/image-spec/blob/main/layer.md
https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence

from faas_gateway.backends.native.kept import folders
from faas_gateway.backends.native.kept.folders import Tree
from faas_gateway.backends.native.kept.terms import LITERAL, OCI_OPAQUE, OCI_WHITEOUT, OVERLAY, Skipped
from faas_gateway.backends.native.kept.union import Merged, merged

CHUNK_BYTES = 1 << 20
XATTR_PAX = "SCHILY.xattr."
XATTR_LIMIT_BYTES = 64 << 10
PIECES_LIMIT = 10_000
"""A file with more of them is written with its holes filled."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = tarfile.BLOCKSIZE


class Output:
    """What a TarFile writes to: a descriptor, with nothing gathered in between."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._at += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self._at


def pack(roots: Sequence[Tree], fd: int) -> list[Skipped]:
    """Write the union of the layers at roots, top first. Returns what it does not hold."""
    skipped: list[Skipped] = []
    output = Output(fd)
    links: dict[tuple[int, int], str] = {}
    with tarfile.TarFile(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[arg-type] - it only writes, and asks where it is
        for entry in merged(roots, skipped):
            try:
                _add(tar, output, roots[entry.layer], entry, links)
            except _Unpackable as e:
                skipped.append(Skipped(entry.path, str(e)))
    return skipped


class _Unpackable(Exception):
    """This entry is left out; nothing of it was written."""


def _add(tar: tarfile.TarFile, output: Output, root: Tree, entry: Merged, links: dict[tuple[int, int], str]) -> None:
    *folder, name = entry.parts
    path = "/".join(entry.parts)
    if entry.kind == "deleted":
        tar.addfile(tarfile.TarInfo("/".join((*folder, OCI_WHITEOUT + name))))
        return
    if entry.kind == "other":
        raise _Unpackable("neither a file nor a folder nor a link")
    member = _member(path, name, entry.st)
    if entry.kind == "directory":
        member.type = tarfile.DIRTYPE
        with root.at(entry.parts) as fd:
            member.pax_headers = {**member.pax_headers, **_attributes(fd)}
        tar.addfile(member)
        if entry.opaque:
            tar.addfile(tarfile.TarInfo(f"{path}/{OCI_OPAQUE}"))
        return
    with root.at(folder) as parent:
        key = (entry.layer, entry.st.st_ino)
        if entry.st.st_nlink > 1 and key in links:
            member.type, member.linkname = tarfile.LNKTYPE, links[key]
            tar.addfile(member)
            return
        if entry.kind == "symlink":
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
            tar.addfile(member)
        else:
            _add_file(tar, output, parent, name, member)
        links[key] = path


def _member(path: str, name: str, st: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(st.st_mode)
    member.mtime = st.st_mtime_ns // 10**9
    headers = {"mtime": f"{st.st_mtime_ns // 10**9}.{st.st_mtime_ns % 10**9:09d}"}
    if name.startswith(OCI_WHITEOUT):
        headers[LITERAL] = "1"
    member.pax_headers = headers
    return member


def _attributes(fd: int) -> dict[str, str]:
    """The user's own extended attributes."""
    found: dict[str, str] = {}
    try:
        names = os.listxattr(fd)
    except OSError as e:
        if e.errno in (errno.ENOTSUP, errno.EACCES):
            return {}
        raise
    total = 0
    for name in names:
        value = folders.attribute(fd, name)
        if name.startswith(OVERLAY) or not name.startswith("user.") or "=" in name or value is None:
            continue
        total += len(name) + len(value)
        if total <= XATTR_LIMIT_BYTES:
            found[XATTR_PAX + name] = value.decode("utf-8", "surrogateescape")
    return found


def _add_file(tar: tarfile.TarFile, output: Output, parent: int, name: str, member: tarfile.TarInfo) -> None:
    try:
        fd = folders.open_in(name, parent, _READ, 0o400)
    except OSError as e:
        raise _Unpackable(e.strerror or str(e)) from e
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise _Unpackable("is no file any more")
        member.pax_headers = {**member.pax_headers, **_attributes(fd)}
        pieces = [(0, st.st_size)] if st.st_blocks * 512 >= st.st_size else list(data_of(fd, st.st_size))
        if len(pieces) > PIECES_LIMIT:
            pieces = [(0, st.st_size)]
        if pieces == [(0, st.st_size)] or not st.st_size:
            head = b""
            member.size = st.st_size
        else:
            head = _describe_holes(member, pieces, st.st_size)
        tar.addfile(member)  # the header alone: the contents go from descriptor to descriptor
        output.write(head)
        for start, end in pieces:
            _send(fd, output, start, end)
        output.write(bytes(-member.size % _BLOCK))
        tar.offset = output.tell()  # type: ignore[attr-defined] - where it believes to be; its end is padded from there
    finally:
        os.close(fd)


def _describe_holes(member: tarfile.TarInfo, pieces: list[tuple[int, int]], size: int) -> bytes:
    """Make the member a sparse one; returns the map that precedes its data."""
    numbers = [len(pieces), *(n for start, end in pieces for n in (start, end - start))]
    text = "".join(f"{n}\n" for n in numbers).encode()
    text += bytes(-len(text) % _BLOCK)
    member.pax_headers = {
        **member.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(size),
    }
    member.size = len(text) + sum(end - start for start, end in pieces)
    return text


def data_of(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of what a file has between its holes; one without data gives an empty piece at its end."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as e:
            if e.errno != errno.ENXIO:  # no data from here on
                raise
            break
        if start >= size:
            break
        at = min(end, size)
        yield start, at
    if at < size or not size:
        yield size, size


def _send(fd: int, output: Output, start: int, end: int) -> None:
    while start < end:
        data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
        if not data:
            raise OSError(errno.EIO, "a file of a frozen layer has become shorter")
        output.write(data)
        start += len(data)
