"""Files of a sandbox. Paths are relative to /workspace unless they are absolute."""

from __future__ import annotations

import builtins
import os
from functools import partial
from pathlib import Path, PurePosixPath

from faas import _calls
from faas._async import _io
from faas._async.transport import Transport
from faas._pack import file_chunks, tar_chunks
from faas._unpack import MAX_BYTES, MAX_MEMBERS, FileWriter, Sink, TarExtractor
from faas.errors import FileError
from faas.types import FileInfo, FileList

__all__ = ["Files"]

_BATCH_BYTES = 1 << 20


class Files:
    """`execution.files`."""

    def __init__(self, transport: Transport, execution_id: str) -> None:
        self._transport = transport
        self._execution_id = execution_id

    async def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            UnknownFileError: there is no file at that path.
            FileError: it is a folder, or cannot be read.
        """
        call = _calls.read_file(self._execution_id, path)
        async with await self._transport.open(call) as response:
            if response.content_type == _calls.TAR:
                raise FileError(f"{path} is a folder", code="file_error", status=422, hint="download() it")
            return b"".join([piece async for piece in response.pieces()])

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """Return the text of a file. Errors as for `read`."""
        return (await self.read(path)).decode(encoding)

    async def write(self, path: str, data: str | bytes) -> None:
        """Write a file; text as UTF-8. Its folders are made, what was there is replaced.

        Raises:
            FileError: it cannot be written.
        """
        content = data.encode() if isinstance(data, str) else bytes(data)
        await self._transport.request(_calls.write_file(self._execution_id, path, content))

    async def list(self, path: str = ".") -> builtins.list[FileInfo]:
        """Return what is in a folder, or the one file at that path.

        Raises:
            UnknownFileError: there is nothing at that path.
        """
        content = await self._transport.request(_calls.list_files(self._execution_id, path))
        return _calls.parse(FileList, content).items

    async def delete(self, path: str) -> None:
        """Delete a file, or a folder and all that is in it.

        Raises:
            UnknownFileError: there is nothing at that path.
        """
        await self._transport.request(_calls.delete_file(self._execution_id, path))

    async def upload(self, local: str | os.PathLike[str], remote: str | None = None) -> None:
        """Copy a local file, or a folder and all that is in it, into the sandbox.

        Args:
            local: path here. Links in a folder are copied as links.
            remote: path there of the file or folder itself; None is the same name in /workspace.

        Raises:
            OSError: the local file cannot be read.
            FileError: it cannot be written there.
        """
        source = Path(local)
        target = remote if remote is not None else source.resolve().name
        is_folder = await _io.run_blocking(source.is_dir)
        if not is_folder:
            await _io.run_blocking(source.stat)  # a missing file is an error before anything is sent
        chunks = partial(tar_chunks if is_folder else file_chunks, source)
        await self._transport.request(_calls.write_file(self._execution_id, target, chunks, tar=is_folder))

    async def download(
        self,
        remote: str,
        local: str | os.PathLike[str],
        *,
        max_bytes: int = MAX_BYTES,
        max_members: int = MAX_MEMBERS,
    ) -> Path:
        """Copy a file, or a folder and all that is in it, out of the sandbox, and return its path here.

        What comes is not trusted: nothing is written outside of `local`, and no more than the limits.

        Args:
            remote: path in the sandbox.
            local: path here of the file or folder itself; for a file also an existing folder to put it into.
            max_bytes: most bytes that are written.
            max_members: most files, folders and links that are made.

        Raises:
            UnknownFileError: there is nothing at that path.
            UnsafeArchiveError: what came was refused.
            OSError: it cannot be written here.
        """
        call = _calls.read_file(self._execution_id, remote)
        async with await self._transport.open(call) as response:
            target = Path(local)
            sink: Sink
            if response.content_type == _calls.TAR:
                sink = await _io.run_blocking(TarExtractor, target, max_bytes, max_members)
            else:
                if target.is_dir():
                    target /= PurePosixPath(remote).name
                sink = await _io.run_blocking(FileWriter, target, max_bytes)
            try:
                batch = bytearray()
                async for piece in response.pieces():
                    batch += piece
                    if len(batch) >= _BATCH_BYTES:
                        await _io.run_blocking(sink.feed, bytes(batch))
                        batch.clear()
                await _io.run_blocking(sink.feed, bytes(batch))
                await _io.run_blocking(sink.finish)
            finally:
                sink.close()
        return target
