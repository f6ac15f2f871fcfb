"""Namespaces made ahead for the branches of a snapshot: the next ones are then only forked.

As many as were asked for last, since who branches a snapshot once often does so again, for a while; and a few for a
snapshot that was just taken. Nobody is in them but an init.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from faas_gateway.backends.base import Limits, StartFailed

if TYPE_CHECKING:
    from faas_gateway.backends.native.frozen import NativeFrozen

FIRST, MOST = 2, 100
DELAY_S = 0.2
"""What was asked for has the processors first."""
HELD_S, LET_GO_S = 20.0, 100.0

Make = Callable[["NativeFrozen", int, Limits], Awaitable[None]]


class Ahead:
    """Decides how many; `make` has them made. spawn starts a task that ends with the backend."""

    def __init__(self, spawn: Callable[..., Any], make: Make) -> None:
        self._spawn = spawn
        self._make = make
        self._wishes: dict[NativeFrozen, int] = {}
        self._fresh: NativeFrozen | None = None
        self._number = 0

    def frozen(self, frozen: NativeFrozen, limits: Limits) -> None:
        """A snapshot was taken; who branches will likely branch this one."""
        before, self._fresh = self._fresh, frozen
        if before is not None:
            self._wish(before, 0, limits)
        self._wish(frozen, FIRST, limits)

    def branched(self, frozen: NativeFrozen, count: int, limits: Limits) -> None:
        """Branches were made of a snapshot."""
        if self._fresh is frozen:
            self._fresh = None
        self._wish(frozen, min(count, MOST), limits)

    def closed(self, frozen: NativeFrozen) -> None:
        self._wishes.pop(frozen, None)
        if self._fresh is frozen:
            self._fresh = None

    def _wish(self, frozen: NativeFrozen, count: int, limits: Limits) -> None:
        self._number += 1
        self._wishes[frozen] = self._number
        self._spawn(self._fulfil, frozen, count, limits, self._number)

    async def _fulfil(self, frozen: NativeFrozen, count: int, limits: Limits, number: int) -> None:
        for delay_s, kept in ((DELAY_S, count), (HELD_S, min(count, 1)), (LET_GO_S, 0)):
            await anyio.sleep(delay_s)
            if self._wishes.get(frozen) != number:
                return  # something else is wanted by now
            try:
                await self._make(frozen, kept, limits)
            except (StartFailed, OSError):
                return  # they only save time
            if not count:
                break
        if self._wishes.get(frozen) == number:
            del self._wishes[frozen]
