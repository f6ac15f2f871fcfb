"""One thing at a time in a session, in the order of arrival, with a bounded number waiting."""

from __future__ import annotations

from collections import deque

import anyio

from faas_gateway.errors import CapacityError


class Turn:
    """A place in the queue. Whoever entered must leave, whether the turn came or not."""

    __slots__ = ("_queue", "_ready")

    def __init__(self, queue: Turns) -> None:
        self._queue = queue
        self._ready: anyio.Event | None = None

    @property
    def is_ours(self) -> bool:
        return self._queue.holder is self

    async def wait(self) -> None:
        """Return when it is our turn; the caller brings the deadline."""
        while not self.is_ours:
            if self._ready is None:
                self._ready = anyio.Event()
            await self._ready.wait()

    def wake(self) -> None:
        if self._ready is not None:
            self._ready.set()

    def leave(self) -> None:
        """Give the turn, or the place in the queue, back. Idempotent."""
        self._queue.remove(self)


class Turns:
    """The queue of one session.

    Args:
        limit: how many may wait beside the one whose turn it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: deque[Turn] = deque()

    @property
    def holder(self) -> Turn | None:
        return self._places[0] if self._places else None

    @property
    def waiting(self) -> int:
        return max(0, len(self._places) - 1)

    def enter(self) -> Turn:
        """Take the next place; it is fixed at once, before anything is awaited.

        Raises:
            CapacityError: too many wait already.
        """
        if len(self._places) > self._limit:
            raise CapacityError(
                f"{self.waiting} requests wait in this execution already, more are not queued",
                hint="Wait for some of them to finish, or open another execution.",
            )
        turn = Turn(self)
        self._places.append(turn)
        return turn

    def remove(self, turn: Turn) -> None:
        was_holder = turn.is_ours
        try:
            self._places.remove(turn)
        except ValueError:
            return
        if was_holder and self._places:
            self._places[0].wake()
