"""What runs beside a session's queue, commands and file operations: it stands back while the session is frozen."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from faas_gateway.errors import DeadlineError

NAMED = 5


class Place(Protocol):
    """A place in something that lets one wait. Whoever took it must leave it, whether it came to that or not."""

    async def wait(self) -> None: ...

    def leave(self) -> None: ...


class Pass:
    """Leave to run beside the queue; comes at once unless the session is held."""

    __slots__ = ("_beside", "what")

    def __init__(self, beside: Beside, what: str) -> None:
        self._beside = beside
        self.what = what

    async def wait(self) -> None:
        """Return when it may run; the caller brings the deadline."""
        await self._beside.admit(self)

    def leave(self) -> None:
        """Idempotent."""
        self._beside.remove(self)


class Beside:
    """Counts what runs beside the queue of one session, and can hold it off."""

    def __init__(self) -> None:
        self._running: dict[Pass, None] = {}
        self._open: anyio.Event | None = None
        """Set when the one who holds it lets go; None while nobody does."""
        self._empty: anyio.Event | None = None

    def enter(self, what: str) -> Pass:
        """Ask for leave. `what` names it to somebody who has to wait for it."""
        return Pass(self, what)

    @property
    def running(self) -> list[str]:
        return [place.what for place in self._running]

    async def admit(self, place: Pass) -> None:
        while self._open is not None:
            await self._open.wait()
        self._running[place] = None

    def remove(self, place: Pass) -> None:
        self._running.pop(place, None)
        if not self._running and self._empty is not None:
            self._empty.set()

    @asynccontextmanager
    async def hold(self, timeout_s: float) -> AsyncGenerator[None]:
        """Let nothing new begin, and wait for what runs. One at a time: the caller has the session's turn.

        Raises:
            DeadlineError: something still runs after the time; names it.
        """
        self._open = anyio.Event()
        try:
            if self._running:
                self._empty = anyio.Event()
                with anyio.move_on_after(timeout_s):
                    await self._empty.wait()
            if self._running:
                raise DeadlineError(
                    f"Beside the session's code there still ran after {timeout_s:.3g} s: {self._names()}.",
                    hint="Wait for it, end it (DELETE its request), or allow more time with timeout.",
                )
            yield
        finally:
            self._empty = None
            self._open.set()
            self._open = None

    def _names(self) -> str:
        names = self.running
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more
