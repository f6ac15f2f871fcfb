"""The stop button, delivered only where it can be dealt with.

Python raises KeyboardInterrupt between any two bytecodes: while a message is being published, while a
session is being written down. A cell therefore runs under `Interrupts`, which keeps the signal until the
cell waits for something outside, and raises KeyboardInterrupt only there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

__all__ = ["Interrupts"]

P = ParamSpec("P")
T = TypeVar("T")


class Interrupts:
    """A context manager that owns SIGINT while a cell runs. Outside the main thread it does nothing.

    On leaving it raises KeyboardInterrupt for an interrupt that nobody saw, so that "Run All" stops.
    """

    def __init__(self) -> None:
        self._armed = False
        self._pending = False
        self._installed = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._installed:
            # None is a handler that is not Python's: it cannot be put back from here.
            signal.signal(signal.SIGINT, self._previous or signal.SIG_DFL)
            self._installed = False
        if self._pending and exc is None:
            self._pending = False
            raise KeyboardInterrupt

    def wait(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return call(*args, **kwargs); an interrupt in it, or kept from before, raises KeyboardInterrupt.

        What the call has returned is never lost to an interrupt: from then on it is kept for the next wait.
        That is told by the frame which the signal finds, so the call has to block in Python code of its own,
        as the SDK does; a built-in function that blocks, passed directly, would not be interrupted.
        """
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
        self._armed = True
        try:
            return call(*args, **kwargs)
        finally:
            self._armed = False

    @contextmanager
    def shielded(self) -> Generator[None]:
        """Keep interrupts during a callback that a waiting call makes."""
        armed, self._armed = self._armed, False
        try:
            yield
        finally:
            self._armed = armed
        if armed and self._pending:
            self._armed = self._pending = False
            raise KeyboardInterrupt

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # In the frame of `wait` itself the call has already returned: raising there would lose its result.
        # After one KeyboardInterrupt the call cleans up, which a second one must not break: it is kept as
        # well.
        if self._armed and frame is not None and frame.f_code is not Interrupts.wait.__code__:
            self._armed = False
            raise KeyboardInterrupt
        self._pending = True
