"""Progress of something slow, as events: each new stage at once, and a sign of life while a stage lasts."""

from __future__ import annotations

import time

import anyio
from faas.types import Progress

from faas_gateway.api.streams import PING, Write, sse
from faas_gateway.backends.base import ProgressReport

TICK_S = 0.25
#: What is done sooner needs no progress: the first event would only cost time.
QUIET_S = 0.05


class ProgressFeed:
    """Writes what is reported to it until it is stopped. `run` is a task of the stream that it writes to.

    Args:
        write: takes the events.
        ping_s: longest silence before the first report, seconds.
    """

    def __init__(self, write: Write, ping_s: float) -> None:
        self._write = write
        self._ping_s = ping_s
        self._started = time.monotonic()
        self._latest: ProgressReport | None = None
        self._unwritten: list[ProgressReport] = []
        self._news = anyio.Event()
        self._scope = anyio.CancelScope()
        self._finished = anyio.Event()

    def report(self, report: ProgressReport) -> None:
        """Take a report. A stage that a slow reader did not see yet keeps only its newest."""
        if self._latest is None or report.stage != self._latest.stage:
            self._unwritten.append(report)
            self._news.set()
        elif self._unwritten:
            self._unwritten[-1] = report
        self._latest = report

    async def run(self) -> None:
        try:
            with self._scope:
                await anyio.sleep(QUIET_S)
                silent_since = time.monotonic()
                while True:
                    with anyio.move_on_after(TICK_S):
                        await self._news.wait()
                    self._news = anyio.Event()
                    if self._latest is not None:
                        reports, self._unwritten = self._unwritten or [self._latest], []
                        await self._write_whole(b"".join(map(self._event, reports)))
                        silent_since = time.monotonic()
                    elif time.monotonic() - silent_since >= self._ping_s:
                        await self._write_whole(PING)
                        silent_since = time.monotonic()
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Write no more; returns when an event that was being written is out."""
        self._scope.cancel()
        await self._finished.wait()

    async def _write_whole(self, chunk: bytes) -> None:
        with anyio.CancelScope(shield=True):
            await self._write(chunk)

    def _event(self, report: ProgressReport) -> bytes:
        fraction = report.fraction
        progress = Progress(
            stage=report.stage,
            message=report.message,
            fraction=None if fraction is None else min(1.0, max(0.0, fraction)),
            elapsed_s=round(time.monotonic() - self._started, 3),
        )
        return sse("progress", progress)
