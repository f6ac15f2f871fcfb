"""Variables and files of a session: every call into its sandbox has a deadline, and variables wait their turn."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import anyio
from faas.types import FileInfo, VariableInfo
from pydantic import ValidationError

from faas_gateway.backends.base import FileEntry, Language
from faas_gateway.errors import BACKEND_ERRORS, DeadlineError, NotTransferableError
from faas_gateway.managers.beside import Beside
from faas_gateway.managers.messages import MalformedError, clean, clean_text
from faas_gateway.managers.slot import SandboxSlot
from faas_gateway.managers.turns import Turns
from faas_gateway.settings import Settings

T = TypeVar("T")

MAX_VARIABLES = 10_000
MAX_WHAT_CHARS = 200
CLOSE_DEADLINE_S = 5.0


class SandboxAccess:
    """What a session holds, for reading and writing from outside.

    Args:
        slot: holds the session's sandbox.
        language: shell sessions have no variables.
        turns: the session's queue.
        beside: what runs beside that.
        settings: the deadlines.
        touch: called at each use; keeps the session from expiring as idle.
    """

    def __init__(
        self,
        slot: SandboxSlot,
        language: Language,
        turns: Turns,
        beside: Beside,
        settings: Settings,
        touch: Callable[[], None],
    ) -> None:
        self._slot = slot
        self._language = language
        self._turns = turns
        self._beside = beside
        self._settings = settings
        self._touch = touch

    # Variables

    async def list_variables(self) -> list[VariableInfo]:
        """Raises DeadlineError when the code before it, or the guest, takes too long."""
        async with self._turn():
            items = await self._interruptible(self._slot.sandbox.list_variables)
        variables: list[VariableInfo] = []
        for item in items[:MAX_VARIABLES]:
            try:
                variables.append(VariableInfo.model_validate(clean(item)))
            except (MalformedError, ValidationError):
                continue  # the guest is hostile: what is not a variable is not listed
        return variables

    async def pull_variable(self, name: str) -> AsyncGenerator[bytes]:
        """The encoded value in chunks; the turn is held until the last one was taken."""
        async with self._turn(), _closing(self._slot.sandbox.pull_variable(name)) as chunks:
            while True:
                chunk = await self._interruptible(lambda: anext(chunks, None))
                if chunk is None:
                    return
                yield chunk

    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        async with self._turn():
            with self._deadline("Taking the value") as scope:
                await self._slot.sandbox.push_variable(name, self._extending(chunks, scope))

    # Files

    async def list_files(self, path: str) -> list[FileInfo]:
        entries: list[FileEntry] = []
        async with self._pass(f"listing {path}"):
            with self._deadline("Listing the folder"):
                entries = await self._slot.sandbox.list_files(path)
        return [_file_info(entry) for entry in entries]

    async def stat_file(self, path: str) -> FileInfo:
        async with self._pass(f"looking at {path}"):
            with self._deadline("Looking at the file"):
                return _file_info(await self._slot.sandbox.stat_file(path))
        raise AssertionError("unreachable: a passed deadline raises")

    async def read_file(self, path: str) -> AsyncGenerator[bytes]:
        """The bytes of a file, or a folder as a tar stream."""
        async with self._pass(f"reading {path}"), _closing(self._slot.sandbox.read_file(path)) as chunks:
            while True:
                chunk = None
                with self._deadline("Reading the file"):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool) -> None:
        async with self._pass(f"writing {path}"):
            with self._deadline("Writing the file") as scope:
                await self._slot.sandbox.write_file(path, self._extending(chunks, scope), untar=untar)

    async def delete_file(self, path: str) -> None:
        async with self._pass(f"deleting {path}"):
            with self._deadline("Deleting"):
                await self._slot.sandbox.delete_file(path)

    @asynccontextmanager
    async def _pass(self, what: str) -> AsyncGenerator[None]:
        """Leave to do something beside the queue: waits while the session is being frozen."""
        self._touch()
        place = self._beside.enter(what[:MAX_WHAT_CHARS])
        try:
            with anyio.move_on_after(self._settings.freeze_deadline_s + self._settings.call_deadline_s) as scope:
                await place.wait()
            if scope.cancelled_caught:
                raise DeadlineError("The session is being frozen, and does not get ready.")
            yield
        finally:
            place.leave()

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        if self._language == "shell":
            raise NotTransferableError(
                "A shell session has no variables.",
                hint="Use files, or an environment whose language is python.",
            )
        self._touch()
        turn = self._turns.enter()
        try:
            with anyio.move_on_after(self._settings.variables_wait_s):
                await turn.wait()
            if not turn.is_ours:
                raise DeadlineError(
                    f"The session was busy for {self._settings.variables_wait_s:g} s: variables can be read and "
                    "written between two pieces of code.",
                    hint="Wait until the running code is done, or interrupt it.",
                )
            yield
        finally:
            turn.leave()

    async def _interruptible(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await the guest; past the deadline interrupt it first, so that the next in the queue finds it idle."""
        failure: Exception | None = None
        values: list[T] = []

        async def interrupt_late() -> None:
            await anyio.sleep(self._settings.variables_wait_s)
            with anyio.move_on_after(self._settings.grace_s):
                await self._slot.interrupt()
            await anyio.sleep(self._settings.grace_s)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(interrupt_late)
            try:
                values.append(await call())
            except BACKEND_ERRORS as exc:
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not values:
            raise DeadlineError("The session did not answer in time.", hint="Interrupt it, or open a new execution.")
        return values[0]

    @contextmanager
    def _deadline(self, what: str) -> Generator[anyio.CancelScope]:
        with anyio.move_on_after(self._settings.call_deadline_s) as scope:
            yield scope
        if scope.cancelled_caught:
            raise DeadlineError(f"{what} made no progress for {self._settings.call_deadline_s:g} s.")

    async def _extending(self, chunks: AsyncIterator[bytes], scope: anyio.CancelScope) -> AsyncIterator[bytes]:
        """The chunks; each one that comes moves the deadline on, so only a stall ends a long transfer."""
        async for chunk in chunks:
            scope.deadline = anyio.current_time() + self._settings.call_deadline_s
            yield chunk


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Close an iterator that is left half-way: a generator may hold something of the sandbox."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_DEADLINE_S):
                await chunks.aclose()


def _file_info(entry: FileEntry) -> FileInfo:
    try:
        modified = dt.datetime.fromtimestamp(entry.mtime, dt.UTC)
    except (OverflowError, OSError, ValueError):
        modified = None  # a sandbox can set any time
    return FileInfo(
        path=clean_text(entry.path),
        name=clean_text(entry.name),
        type=entry.type,
        size=entry.size,
        mode=entry.mode,
        modified_at=modified,
    )
