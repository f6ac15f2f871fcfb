"""Sandboxes made ahead: the next session of an environment is then there at once.

After one was taken, the next is made in the background, with the same limits, and runs an empty cell of ours so
that what a first cell touches is in memory. It has run none of the user's code. One per environment version and set
of limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import anyio.abc

from faas_gateway.backends.base import BackendUnavailable, Limits, SandboxEnded, StartFailed
from faas_gateway.backends.native.making import Kind
from faas_gateway.backends.native.session import NativeSandbox

DELAY_S = 0.03
KEPT = 4
"""Spares kept in all; the least recently wanted goes first."""


@dataclass(frozen=True)
class Wanted:
    """What a spare must agree in to serve a request."""

    version: str
    language: str
    network: str
    limits: Limits


Make = Callable[[Kind, Limits], Awaitable[NativeSandbox]]


class Spares:
    def __init__(self, group: anyio.abc.TaskGroup, make: Make) -> None:
        self._group = group
        self._make = make
        self._ready: dict[Wanted, NativeSandbox] = {}
        self._making: set[Wanted] = set()
        self._wanted: dict[Wanted, None] = {}
        self._closed = False

    def take(self, of: Kind, limits: Limits) -> NativeSandbox | None:
        """A sandbox that is ready, or None. Either way the next one is made soon."""
        kind = Wanted(of.image.version, of.language, of.network, limits)
        self._wanted.pop(kind, None)
        self._wanted[kind] = None
        sandbox = self._ready.pop(kind, None)
        if not self._closed and kind not in self._making:
            self._making.add(kind)
            self._group.start_soon(self._refill, kind, of)
        if sandbox is not None and sandbox.has_ended:
            self._group.start_soon(sandbox.aclose)
            return None
        return sandbox

    async def _refill(self, kind: Wanted, of: Kind) -> None:
        try:
            await anyio.sleep(DELAY_S)  # the request that took the last one has the processor first
            try:
                sandbox = await self._make(of, kind.limits)
            except (StartFailed, BackendUnavailable, SandboxEnded, OSError):
                return  # whoever needs one next makes it, and hears why not
            if self._closed or kind not in self._wanted:
                await sandbox.aclose()
                return
            self._ready[kind] = sandbox
        finally:
            self._making.discard(kind)
        while len(self._wanted) > KEPT:
            await self.drop(next(iter(self._wanted)))

    async def drop(self, kind: Wanted) -> None:
        """Close the spare of a kind, and make no more."""
        self._wanted.pop(kind, None)
        sandbox = self._ready.pop(kind, None)
        if sandbox is not None:
            await sandbox.aclose()

    async def drop_version(self, version: str) -> None:
        for kind in [k for k in self._wanted if k.version == version]:
            await self.drop(kind)

    async def aclose(self) -> None:
        self._closed = True
        for kind in list(self._wanted):
            await self.drop(kind)
