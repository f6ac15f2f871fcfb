"""How a session is brought to stand still: its turn is taken, and what runs beside that is held off."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from faas_gateway.errors import DeadlineError
from faas_gateway.managers.beside import Beside
from faas_gateway.managers.turns import Turns


class Stillness:
    """Of one session.

    Args:
        turns: its queue.
        beside: its commands and file operations.
        require_open: raises when the session has ended.
        what_runs: names the code that runs now.
    """

    def __init__(
        self, turns: Turns, beside: Beside, require_open: Callable[[], None], what_runs: Callable[[], str]
    ) -> None:
        self._turns = turns
        self._beside = beside
        self._require_open = require_open
        self._what_runs = what_runs

    @asynccontextmanager
    async def turn(self, timeout_s: float) -> AsyncGenerator[None]:
        """Have the session's turn: no code runs, and none begins; commands and file operations may.

        Raises:
            ExecutionEndedError, CapacityError
            DeadlineError: code still runs after the time, seconds.
        """
        self._require_open()
        turn = self._turns.enter()
        try:
            with anyio.move_on_after(timeout_s):
                await turn.wait()
            if not turn.is_ours:
                raise DeadlineError(
                    f"A cell is running in the session ({self._what_runs()}); it was not done within {timeout_s:g} s.",
                    hint="Wait until it is done, interrupt it, or allow more time with timeout.",
                )
            self._require_open()
            yield
        finally:
            turn.leave()

    @asynccontextmanager
    async def quiet(self, timeout_s: float) -> AsyncGenerator[None]:
        """Have the session stand still: nothing runs, queued or beside, and nothing begins.

        Raises:
            as `turn`; DeadlineError also names what runs beside the code.
        """
        ends = time.monotonic() + timeout_s
        async with self.turn(timeout_s), self.quiet_beside(ends - time.monotonic()):
            yield

    @asynccontextmanager
    async def quiet_beside(self, timeout_s: float) -> AsyncGenerator[None]:
        """As `quiet`, for one who has the turn."""
        async with self._beside.hold(max(0.0, timeout_s)):
            self._require_open()
            yield

    @property
    def beside(self) -> list[str]:
        """What runs beside the code, in words."""
        return self._beside.running
