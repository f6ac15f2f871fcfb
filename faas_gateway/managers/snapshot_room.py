"""What live snapshots may cost: they are looked at, expire, and the oldest make room, portable first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio

from faas_gateway.backends.base import ProgressReport, Report
from faas_gateway.errors import BACKEND_ERRORS, CapacityError
from faas_gateway.managers.snapshot_portable import PortableWriter
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_state import HeldSnapshot
from faas_gateway.settings import MIB, Settings

log = logging.getLogger(__name__)

USAGE_DEADLINE_S = 2.0
#: Each look costs a process: of hundreds of checkpoints only the new ones, and a few others in turn, are looked at.
LOOKS_AT_ONCE = 16
ROOM_MADE = "its live form was let go to make room for others"


class Room:
    """Keeps live snapshots within the gateway's limits; drops nothing that would be lost without a word.

    Args:
        registry: of the snapshots.
        writer: makes them portable.
        settings: the limits.
    """

    def __init__(self, registry: SnapshotRegistry, writer: PortableWriter, settings: Settings) -> None:
        self._registry = registry
        self._writer = writer
        self._settings = settings
        self._making = anyio.Lock()
        self.let_go: Callable[[HeldSnapshot, str], None] | None = None
        """Drops a checkpoint, and tells its session why."""

    @property
    def used_bytes(self) -> int:
        return sum(held.memory_bytes for held in self._registry.all())

    def require(self) -> None:
        """Raises CapacityError while live snapshots take more than they may."""
        used, limit = self.used_bytes, self._settings.snapshots_memory_bytes
        if used >= limit:
            raise CapacityError(
                f"Live snapshots take {used // MIB} MiB of the {limit // MIB} MiB that they may, and none of them can "
                "be let go without a loss.",
                hint="Delete some (GET /api/v1/snapshots lists them with memory_bytes), or free memory in the session.",
            )

    async def make(self, within_s: float, report: Report) -> None:
        """Have room for another one. Raises CapacityError when there is none within the time."""
        if self.used_bytes >= self._settings.snapshots_memory_bytes:
            report(ProgressReport("room", "writing older snapshots to disk to make room"))
            with anyio.move_on_after(within_s):
                await self._make(retry=True)
        self.require()

    async def watch(self) -> None:
        """Look at all of them every few seconds, for ever."""
        while True:
            await anyio.sleep(self._settings.snapshots_look_s)
            try:
                live = [held for held in self._registry.all() if held.frozen is not None]
                for held in sorted(live, key=lambda held: held.looked_at)[:LOOKS_AT_ONCE]:
                    await self.look(held)
                await self._expire()
                await self._make(retry=False)
            except Exception:  # the next look may go better, and sessions do not depend on it
                log.exception("looking at the snapshots failed")

    async def look(self, held: HeldSnapshot) -> None:
        """Ask what one takes now; what was known stands where it does not answer."""
        frozen = held.frozen
        if frozen is None:
            return
        held.looked_at = time.monotonic()
        try:
            with anyio.move_on_after(USAGE_DEADLINE_S):
                usage = await frozen.usage()
                if held.frozen is frozen:
                    held.memory_bytes, held.disk_bytes = usage.memory_bytes, usage.disk_bytes
        except BACKEND_ERRORS as exc:
            log.debug("usage of %s: %s", held.id, exc)

    async def _make(self, *, retry: bool) -> None:
        """Let go of the oldest until the others fit; `retry` those that could not be made portable before."""
        async with self._making:
            for held in self._registry.all():
                if self.used_bytes < self._settings.snapshots_memory_bytes:
                    return
                if held.frozen is None or held.keep or held.name is not None or held.is_in_use:
                    continue
                if held.checkpoint:
                    if self.let_go is not None:
                        self.let_go(held, "it was let go to make room for other snapshots")
                    held.memory_bytes = 0
                elif held.portable_status == "failed" and not retry:
                    continue
                elif held.is_portable or await self._writer.now(held):
                    await self._let_go_live(held, ROOM_MADE)

    async def _expire(self) -> None:
        for held in self._registry.all():
            if held.keep or held.expires_at is None or held.expires_at > time.time():
                continue
            if held.frozen is None or held.is_in_use:
                continue
            age = f"its live form expired after {self._settings.live_expiry_s / 3600:.3g} hours"
            if held.checkpoint:
                if self.let_go is not None:
                    self.let_go(held, age)
            elif held.is_portable or await self._writer.now(held):
                await self._let_go_live(held, age)
            else:
                await self._registry.discard(
                    held, f"{age}, and a portable one could not be made: {held.portable_error}"
                )

    async def _let_go_live(self, held: HeldSnapshot, reason: str) -> None:
        await self._registry.release_live(held, reason)
        held.notes.append(reason)
        self._registry.save(held)
