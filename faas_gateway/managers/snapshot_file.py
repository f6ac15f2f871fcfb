"""The file of an exported snapshot: a tar of meta.json, layer.tar and variables.bin, in that order and nothing else.

Written as it is sent and read as it comes. Who wrote the file that is read may be an enemy: every member's name,
type, place and size is checked before a byte of it is kept, and nothing is unpacked here.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import anyio.to_thread
from faas.types import NAME_PATTERN, Labels, Language, Loss, Network, Resources
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faas_gateway.errors import DeadlineError, InvalidRequestError, TooLargeError

META, LAYER, VARIABLES = "meta.json", "layer.tar", "variables.bin"
MEMBERS = (META, LAYER, VARIABLES)
FORMAT = 1
META_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
BLOCK = tarfile.BLOCKSIZE
_HINT = "Send a file that GET /api/v1/snapshots/{id}/export gave, as it is."


class Meta(BaseModel):
    """What an exported snapshot says of itself. No environment variables: they may be secrets."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: int = FORMAT
    id: str = Field(max_length=64)
    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    environment: str = Field(pattern=NAME_PATTERN)
    version: str = Field(max_length=128)
    language: Language
    network: Network = "none"
    resources: Resources = Field(default_factory=Resources)
    labels: Labels = Field(default_factory=dict)
    excluded: list[Loss] = Field(default_factory=list[Loss], max_length=10_000)
    env_var_names: list[str] = Field(default_factory=list[str], max_length=1000)


async def write_file(meta: Meta, layer: int, variables: int | None) -> AsyncGenerator[bytes]:
    """The file, in chunks.

    Args:
        meta: what it says of itself.
        layer: descriptor of the layer's tar stream; the caller closes it.
        variables: descriptor of the variables; None where a session has none.
    """
    encoded = meta.model_dump_json().encode()
    yield _header(META, len(encoded)) + encoded + _padding(len(encoded))
    for name, fd in ((LAYER, layer), (VARIABLES, variables)):
        size = 0 if fd is None else os.fstat(fd).st_size
        yield _header(name, size)
        position = 0
        while fd is not None and position < size:
            chunk = await anyio.to_thread.run_sync(os.pread, fd, min(CHUNK_BYTES, size - position), position)
            if not chunk:
                raise DeadlineError("The file of a snapshot has become shorter while it was sent.")
            position += len(chunk)
            yield chunk
        yield _padding(size)
    yield b"\0" * (2 * BLOCK)


class FileReader:
    """Reads such a file from the chunks in which it comes.

    Args:
        chunks: hostile.
        stall_s: longest pause between two of them, seconds.
        limit_bytes: of the whole.
    """

    def __init__(self, chunks: AsyncIterator[bytes], stall_s: float, limit_bytes: int) -> None:
        self._chunks = chunks
        self._stall_s = stall_s
        self._left = limit_bytes
        self._buffer = bytearray()

    async def read_meta(self) -> Meta:
        """Raises InvalidRequestError, TooLargeError, DeadlineError."""
        size = await self._begin(META)
        if size > META_BYTES:
            raise TooLargeError(f"{META} is larger than {META_BYTES >> 20} MiB.", hint=_HINT)
        data = b"".join([chunk async for chunk in self._content(size)])
        try:
            meta = Meta.model_validate_json(data)
        except ValidationError as exc:
            first = exc.errors()[0]
            place = ".".join(map(str, first["loc"])) or META
            raise InvalidRequestError(f"{META}: {place}: {first['msg']}", hint=_HINT) from exc
        if meta.format != FORMAT:
            raise InvalidRequestError(
                f"The file has format {meta.format}, this gateway knows {FORMAT}.", hint="Upgrade faas."
            )
        return meta

    async def read_into(self, name: str, fd: int) -> int:
        """Copy the next member, which has to be of that name, to a file; its size. Raises OSError as well."""
        size = await self._begin(name)
        async for chunk in self._content(size):
            await anyio.to_thread.run_sync(_write_all, fd, chunk)
        return size

    async def _begin(self, name: str) -> int:
        await self._need(BLOCK)
        block, self._buffer = bytes(self._buffer[:BLOCK]), self._buffer[BLOCK:]
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as exc:
            raise InvalidRequestError("The body is not the file of a snapshot.", hint=_HINT) from exc
        if member.name != name or not member.isreg() or member.size < 0:
            raise InvalidRequestError(f"The file should have {name} at this place.", hint=_HINT)
        if member.size > self._left:
            raise TooLargeError(f"{name} is larger than this gateway takes.")
        return member.size

    async def _content(self, size: int) -> AsyncGenerator[bytes]:
        left = size
        while left:
            if not self._buffer:
                await self._need(1)
            chunk = bytes(self._buffer[:left])
            del self._buffer[: len(chunk)]
            left -= len(chunk)
            yield chunk
        padding = -size % BLOCK
        await self._need(padding)
        del self._buffer[:padding]

    async def _need(self, count: int) -> None:
        while len(self._buffer) < count:
            chunk: bytes | None = None
            with anyio.move_on_after(self._stall_s) as scope:
                chunk = await anext(self._chunks, None)
            if scope.cancelled_caught:
                raise DeadlineError(f"The body stopped coming for {self._stall_s:g} s.")
            if chunk is None:
                raise InvalidRequestError("The file of the snapshot is not whole.", hint=_HINT)
            self._left -= len(chunk)
            if self._left < 0:
                raise TooLargeError("The file is larger than this gateway takes.")
            self._buffer += chunk


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    # GNU's numbers have no limit of 8 GiB, and need no further member as those of pax do.
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % BLOCK)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
