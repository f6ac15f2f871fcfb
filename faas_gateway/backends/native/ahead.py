"""Branches of a snapshot forked ahead: the next ones asked for are then only let go.

As many as were asked for lately, since who branches a snapshot once often does so again, for a while; and some for a
snapshot that was just taken. They wait before any of the user's code runs, and are made while nothing else is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from faas_gateway.backends.base import Limits, StartFailed

if TYPE_CHECKING:
    from faas_gateway.backends.native.frozen import NativeFrozen

FIRST, FURTHER, MOST = 8, 1, 100
LAST = 4
EACH_BYTES = 16 << 20
"""A branch and its init take less: so much of the machine's free memory has to be there for each, ten times over."""
QUIET_S = 0.2
"""No sandbox has run anything for so long: what was asked for has the processors first."""
PATIENCE_S = 30.0
STEP = 4
HELD_S, LET_GO_S = 20.0, 100.0
LATELY_S = 60.0

Make = Callable[["NativeFrozen", int, int, Limits], Awaitable[None]]
"""Of which snapshot, how many at least and at most, and their limits."""


class Ahead:
    """Decides how many; `make` has them made. spawn starts a task that ends with the backend; is_quiet says whether
    no sandbox runs anything."""

    def __init__(self, spawn: Callable[..., Any], make: Make, is_quiet: Callable[[], bool]) -> None:
        self._spawn = spawn
        self._make = make
        self._is_quiet = is_quiet
        self._wishes: dict[NativeFrozen, int] = {}
        self._fresh: list[NativeFrozen] = []
        self._asked: dict[NativeFrozen, list[tuple[float, int]]] = {}
        """When how many branches were asked for."""
        self._number = 0
        self._noisy_at = 0.0

    def frozen(self, frozen: NativeFrozen, limits: Limits) -> None:
        """A snapshot was taken, which may be branched next. Where one follows the other, as checkpoints do, few are:
        then one branch each of the last ones is enough.
        """
        first = FIRST if not self._fresh else FURTHER
        for older in self._fresh[: max(0, len(self._fresh) + 1 - LAST)]:
            self._wish(older, 0, limits)
        self._fresh = [*self._fresh, frozen][-LAST:]
        self._wish(frozen, first, limits)

    def branched(self, frozen: NativeFrozen, count: int, limits: Limits) -> None:
        """Branches were made of a snapshot."""
        self._fresh = [other for other in self._fresh if other is not frozen]
        now = anyio.current_time()
        lately = [(at, n) for at, n in self._asked.get(frozen, []) if now - at < LATELY_S]
        self._asked[frozen] = [*lately, (now, count)]
        self._wish(frozen, min(max(n for _, n in self._asked[frozen]), MOST), limits)

    def closed(self, frozen: NativeFrozen) -> None:
        self._wishes.pop(frozen, None)
        self._asked.pop(frozen, None)
        self._fresh = [other for other in self._fresh if other is not frozen]

    def _wish(self, frozen: NativeFrozen, count: int, limits: Limits) -> None:
        self._number += 1
        self._noisy_at = anyio.current_time()
        self._wishes[frozen] = self._number
        self._spawn(self._fulfil, frozen, count, limits, self._number)

    async def _fulfil(self, frozen: NativeFrozen, count: int, limits: Limits, number: int) -> None:
        try:
            for made in (*range(STEP, count, STEP), count):
                if count and not await self._quiet():
                    break
                if not await self._set(frozen, made, MOST if count else 0, limits, number):
                    return
            if count:
                await anyio.sleep(HELD_S)
                if await self._set(frozen, 0, min(count, 2), limits, number):
                    await anyio.sleep(LET_GO_S)
                    await self._set(frozen, 0, 0, limits, number)
        except (StartFailed, OSError):
            return  # they only save time
        finally:
            if self._wishes.get(frozen) == number:
                del self._wishes[frozen]

    async def _set(self, frozen: NativeFrozen, least: int, most: int, limits: Limits, number: int) -> bool:
        """False: something else is wanted by now."""
        if self._wishes.get(frozen) == number:
            room = _room_for()
            await self._make(frozen, min(least, room), min(most, room), limits)
        return self._wishes.get(frozen) == number

    async def _quiet(self) -> bool:
        """Wait until nothing has run for a moment. False: that did not come about."""
        with anyio.move_on_after(PATIENCE_S):
            while True:
                if not self._is_quiet():
                    self._noisy_at = anyio.current_time()
                elif anyio.current_time() - self._noisy_at >= QUIET_S:
                    return True
                await anyio.sleep(QUIET_S / 4)
        return False


def _room_for() -> int:
    with open("/proc/meminfo") as f:
        available = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable:"))
    return available // (10 * EACH_BYTES)
