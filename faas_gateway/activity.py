"""When the gateway was last used, and by how many right now: what the idle stop is decided by."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class Activity:
    """Counts the HTTP requests that are being answered."""

    def __init__(self) -> None:
        self.requests = 0
        self._last = time.monotonic()

    def touch(self) -> None:
        self._last = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Since when nothing has happened, seconds; 0 while a request is being answered."""
        return 0.0 if self.requests else time.monotonic() - self._last

    @contextmanager
    def request(self) -> Generator[None]:
        self.requests += 1
        self.touch()
        try:
            yield
        finally:
            self.requests -= 1
            self.touch()
