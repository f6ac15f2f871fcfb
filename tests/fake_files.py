"""The files of a fake sandbox: a dict of paths."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import tarfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.lowlevel

from faas_gateway.backends.base import FileEntry, FileProblem

CHUNK = 64 << 10


@dataclass
class Node:
    data: bytes | None = None  # None for a folder
    mtime: float = field(default_factory=time.time)


class HasFiles(Protocol):
    files: dict[str, Node]


class FakeFiles:
    """The part of a fake sandbox that is about its files."""

    state: HasFiles

    def _check(self) -> None:
        """Raise, when it has ended."""

    def _path(self, path: str) -> str:
        return posixpath.normpath(posixpath.join("/workspace", path))

    def _node(self, path: str) -> Node:
        self._check()
        node = self.state.files.get(self._path(path))
        if node is None:
            raise FileProblem(errno.ENOENT, f"{path}: {os.strerror(errno.ENOENT)}")
        return node

    def _entry(self, full: str) -> FileEntry:
        node = self.state.files[full]
        kind = "directory" if node.data is None else "file"
        size = len(node.data or b"")
        return FileEntry(full, posixpath.basename(full), kind, size, 0o644, node.mtime)

    async def list_files(self, path: str) -> list[FileEntry]:
        self._node(path)
        folder = self._path(path)
        return [self._entry(p) for p in sorted(self.state.files) if posixpath.dirname(p) == folder and p != folder]

    async def stat_file(self, path: str) -> FileEntry:
        self._node(path)
        return self._entry(self._path(path))

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        node = self._node(path)
        data = self._tar(self._path(path)) if node.data is None else node.data
        for start in range(0, len(data), CHUNK):
            await anyio.lowlevel.checkpoint()
            self._check()
            yield data[start : start + CHUNK]

    def _tar(self, folder: str) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for path, node in sorted(self.state.files.items()):
                if path.startswith(folder + "/") and node.data is not None:
                    info = tarfile.TarInfo(posixpath.relpath(path, folder))
                    info.size = len(node.data)
                    archive.addfile(info, io.BytesIO(node.data))
        return out.getvalue()

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool = False) -> None:
        self._check()
        full = self._path(path)
        if full.startswith("/proc"):
            raise FileProblem(errno.EACCES, f"{path}: {os.strerror(errno.EACCES)}")
        if not untar and full in self.state.files and self.state.files[full].data is None:
            raise FileProblem(errno.EISDIR, f"{path}: {os.strerror(errno.EISDIR)}")
        data = b"".join([chunk async for chunk in chunks])
        if not untar:
            self._write(full, data)
            return
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                source = archive.extractfile(member)
                if source is not None:
                    self._write(posixpath.join(full, member.name), source.read())

    def _write(self, full: str, data: bytes) -> None:
        folder = posixpath.dirname(full)
        while folder not in self.state.files and folder != "/":
            self.state.files[folder] = Node()
            folder = posixpath.dirname(folder)
        self.state.files[full] = Node(data)

    async def delete_file(self, path: str) -> None:
        self._node(path)
        full = self._path(path)
        for other in [p for p in self.state.files if p == full or p.startswith(full + "/")]:
            del self.state.files[other]
