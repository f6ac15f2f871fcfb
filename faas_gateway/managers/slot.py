"""The sandbox that a session has now: a snapshot and a rewind put another one in its place, unseen by its requests."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio

from faas_gateway.backends.base import Ended, FrozenSandbox, Sandbox
from faas_gateway.errors import DeadlineError


class SandboxSlot:
    """Holds one sandbox at a time. Nobody else keeps a sandbox across an await: it may be another one then.

    Args:
        sandbox: the first one.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._doom: Ended | None = None
        self._change: anyio.Event | None = None
        self._watching: anyio.CancelScope | None = None

    @property
    def sandbox(self) -> Sandbox:
        return self._sandbox

    @property
    def is_changing(self) -> bool:
        return self._change is not None

    async def interrupt(self) -> None:
        await self._sandbox.interrupt()

    async def kill(self, ended: Ended) -> None:
        """End the session; one that is just being frozen ends as soon as it has its next sandbox."""
        self._doom = self._doom or ended
        await self._sandbox.kill(ended)

    async def wait(self) -> Ended:
        """Return when the session's sandbox is gone, whichever that is by then."""
        while True:
            sandbox = self._sandbox
            with anyio.CancelScope() as self._watching:
                ended = await sandbox.wait()
                while self._change is not None:  # what comes of that decides whether this was the session's end
                    await self._change.wait()
                if sandbox is self._sandbox:
                    return ended

    async def freeze(self, frozen_id: str, deadline_s: float) -> FrozenSandbox:
        """Freeze the sandbox, and go on in the new one. Not to be cancelled: its caller may give up afterwards.

        Raises:
            CannotFork, StartFailed: nothing has changed.
            SandboxEnded: it ended meanwhile.
            DeadlineError: it took too long; the session is ended, since nobody knows what became of it.
        """
        frozen: FrozenSandbox | None = None
        with anyio.CancelScope(shield=True):
            with self._changing(), anyio.move_on_after(deadline_s):
                frozen, sandbox = await self._sandbox.freeze(frozen_id)
                self._put(sandbox)
            if frozen is None:
                await self._sandbox.kill(Ended("lost", f"freezing it took longer than {deadline_s:g} s"))
            else:
                await self._share_doom()
        if frozen is None:
            raise DeadlineError(f"Freezing the session took longer than {deadline_s:g} s; it was ended.")
        return frozen

    async def replace(self, sandbox: Sandbox) -> None:
        """Put another sandbox in place of this one, which the caller closes. Not to be cancelled."""
        self._put(sandbox)
        with anyio.CancelScope(shield=True):
            await self._share_doom()

    def _put(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        if self._watching is not None:
            self._watching.cancel()

    async def _share_doom(self) -> None:
        if self._doom is not None:
            await self._sandbox.kill(self._doom)

    @contextmanager
    def _changing(self) -> Generator[None]:
        change = self._change = anyio.Event()
        try:
            yield
        finally:
            self._change = None
            change.set()
