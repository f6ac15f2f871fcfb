"""Checkpoints: a ring of live snapshots per execution, one after each request, and the way back to one."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from anyio.abc import TaskGroup
from faas.types import RewindInput

from faas_gateway.backends.base import CannotFork
from faas_gateway.errors import (
    BACKEND_ERRORS,
    GatewayError,
    NoCheckpointError,
    SnapshotGoneError,
    UnknownRequestError,
    from_backend,
)
from faas_gateway.ids import new_sandbox_id, new_snapshot_id
from faas_gateway.managers.execution import START, LiveExecution
from faas_gateway.managers.snapshot_portable import close_sandbox
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_room import Room
from faas_gateway.managers.snapshot_sandboxes import SnapshotSandboxes
from faas_gateway.managers.snapshot_state import HeldSnapshot
from faas_gateway.managers.snapshot_taking import Taker

log = logging.getLogger(__name__)

NOTES_KEPT = 10
MISSED_KEPT = 1000
#: A checkpoint waits for what runs beside the code no longer than this, seconds: the next request waits with it.
BESIDE_WAIT_S = 1.0


@dataclass
class _Ring:
    """Of one execution, oldest first."""

    items: list[HeldSnapshot] = field(default_factory=list[HeldSnapshot])
    position: HeldSnapshot | None = None
    """The one that the session stands at, or came from last; those after it are of a history that it has left."""
    missed: dict[str, str] = field(default_factory=dict[str, str])
    """Requests without a checkpoint, and why."""
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES_KEPT))


class Checkpoints:
    """See `faas_gateway.managers.execution.Checkpointer`.

    Args:
        registry: holds the snapshots.
        taker: takes them.
        sandboxes: makes the one to go back to.
        room: says whether there is any.
        tasks: gives back, in the background, what falls out of a ring.
    """

    def __init__(
        self, registry: SnapshotRegistry, taker: Taker, sandboxes: SnapshotSandboxes, room: Room, tasks: TaskGroup
    ) -> None:
        self._registry = registry
        self._taker = taker
        self._sandboxes = sandboxes
        self._room = room
        self._tasks = tasks
        self._rings: dict[str, _Ring] = {}

    async def request_done(self, execution: LiveExecution, request_id: str) -> None:
        """Take the checkpoint of a request; what keeps it from being taken is remembered for who asks for it."""
        ring = self._rings.setdefault(execution.terms.id, _Ring())
        self._leave_history(ring)
        held = self._taker.new(execution, new_snapshot_id(), None, {})
        try:
            self._room.require()
            async with execution.still.quiet_beside(BESIDE_WAIT_S):
                await self._taker.checkpoint(execution, held, request_id)
        except CannotFork as exc:
            self._miss(ring, request_id, f"the session cannot be forked alive as it is: {exc}")
        except (GatewayError, *BACKEND_ERRORS) as exc:
            self._miss(ring, request_id, from_backend(exc).detail)
        else:
            if execution.ended is not None:  # it ended meanwhile, and its ring is no more
                self._tasks.start_soon(self._registry.discard, held)
                return
            ring.items.append(held)
            ring.position = held
            while len(ring.items) > execution.terms.checkpoints_kept:
                self._drop(ring.items.pop(0))

    def ids(self, execution: LiveExecution) -> list[str]:
        ring = self._rings.get(execution.terms.id)
        return [] if ring is None else [str(h.request_id) for h in ring.items if h in self._registry]

    def notes(self, execution: LiveExecution) -> list[str]:
        ring = self._rings.get(execution.terms.id)
        return [] if ring is None else list(ring.notes)

    def ended(self, execution: LiveExecution) -> None:
        ring = self._rings.pop(execution.terms.id, None)
        for held in ring.items if ring is not None else ():
            self._drop(held)

    async def rewind(self, execution: LiveExecution, body: RewindInput) -> None:
        """Take a session back to where it stood after a request.

        Raises:
            NoCheckpointError, UnknownRequestError: there is nothing to go back to.
            SnapshotGoneError: there is no more.
            DeadlineError: code still runs, or something beside it, after the time.
            ExecutionEndedError, StartFailed, CapacityError
        """
        if not self._may_come(execution, body.request_id):
            self._find(execution, body.request_id)  # what is not there is said without a wait
        async with execution.still.quiet(body.timeout):
            held = self._find(execution, body.request_id)
            await self._go_back(execution, held)
            ring = self._rings.get(execution.terms.id)
            if ring is not None and held in ring.items:
                ring.position = held

    def let_go(self, held: HeldSnapshot, why: str) -> None:
        """One is dropped to make room: its session says so."""
        ring = self._rings.get(held.execution_id)
        if ring is not None and held in ring.items:
            ring.items.remove(held)
            self._miss(ring, str(held.request_id), why)
        self._drop(held)

    def release(self, held: HeldSnapshot) -> None:
        """One has become a snapshot like any other: its ring no longer decides about it."""
        ring = self._rings.get(held.execution_id)
        if ring is not None and held in ring.items:
            ring.items.remove(held)
        held.checkpoint = False

    async def _go_back(self, execution: LiveExecution, held: HeldSnapshot) -> None:
        terms = await self._sandboxes.terms(held, new_sandbox_id())
        try:
            made = await self._sandboxes.make(held, [terms], None, reseed=False)
        except SnapshotGoneError:
            execution.require_open()  # a session that ends takes its checkpoints with it: then that is the reason
            raise
        (result,) = made.items
        if isinstance(result, Exception):
            raise from_backend(result)
        if execution.ended is not None:
            await close_sandbox(result.sandbox)
            execution.require_open()
        # No await between here and the hand-over, which is not cancelled.
        execution.parent_id = held.parent_id if held.checkpoint else held.id
        execution.generation = held.depth + 1 if made.form == "live" else 0
        execution.last_request_id = None if held.request_id == START else held.request_id
        await execution.replace_sandbox(result.sandbox)

    @staticmethod
    def _may_come(execution: LiveExecution, request_id: str) -> bool:
        """Whether its checkpoint may be in the making: that is done after the request's result was told."""
        return execution.terms.checkpoints_kept > 0 and request_id in (START, execution.last_request_id)

    def _find(self, execution: LiveExecution, request_id: str) -> HeldSnapshot:
        ring = self._rings.get(execution.terms.id, _Ring())
        for held in ring.items:
            if held.request_id == request_id and held in self._registry:
                return held
        for held in reversed(self._registry.all()):
            if held.request_id == request_id and not held.checkpoint and self._is_ancestor(held, execution):
                return held
        if not execution.terms.checkpoints_kept:
            raise NoCheckpointError(
                "The execution was opened without checkpoints, and no snapshot of it was taken after that request.",
                hint='Open it with checkpoint="every-request", or take a snapshot and restore that.',
            )
        if request_id in ring.missed:
            raise NoCheckpointError(
                f"There is no checkpoint of request {request_id!r}: {ring.missed[request_id]}.",
                hint=self._choice(execution),
            )
        raise UnknownRequestError(
            f"The execution has no checkpoint of a request {request_id!r}.", hint=self._choice(execution)
        )

    def _is_ancestor(self, held: HeldSnapshot, execution: LiveExecution) -> bool:
        """Whether a snapshot is of an execution, or of one that it came from."""
        if held.execution_id == execution.terms.id:
            return True
        seen: set[str] = set()
        parent = execution.parent_id
        while parent is not None and parent not in seen:
            if parent == held.id:
                return True
            seen.add(parent)
            above = self._registry.find(parent)
            parent = above.parent_id if above is not None else None
        return False

    def _choice(self, execution: LiveExecution) -> str:
        ids = self.ids(execution)
        return f"It can be taken back to: {', '.join(ids[-20:])}." if ids else "There are no checkpoints yet."

    def _leave_history(self, ring: _Ring) -> None:
        """A request has run after a rewind: what came after the place of that is no more of this history."""
        if ring.position is None or ring.position not in ring.items:
            return
        after = ring.items.index(ring.position) + 1
        for held in ring.items[after:]:
            self._drop(held)
        del ring.items[after:]

    def _drop(self, held: HeldSnapshot) -> None:
        if held.checkpoint:
            self._tasks.start_soon(self._registry.discard, held, "it fell out of its session's ring of checkpoints")

    @staticmethod
    def _miss(ring: _Ring, request_id: str, why: str) -> None:
        log.info("no checkpoint of request %s: %s", request_id, why)
        if len(ring.missed) >= MISSED_KEPT:
            del ring.missed[next(iter(ring.missed))]
        ring.missed[request_id] = why
        ring.notes.append(f"no checkpoint of request {request_id}: {why}")
