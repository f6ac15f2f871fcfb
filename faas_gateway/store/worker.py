"""The one thread that touches the database: operations in order, many to a transaction, none waited for without end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from faas_gateway.errors import StorageUnavailableError

T = TypeVar("T")
Operation = Callable[[sa.Connection], Any]

log = logging.getLogger(__name__)

BATCH = 256
QUEUE_LIMIT = 20_000
RETRY_S = 0.5

_HINT = "The gateway goes on by itself once the disk has room again and the database is not locked."


class Pending(Generic[T]):
    """The outcome of an operation that was handed to the worker."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._value: T | None = None
        self._failure: Exception | None = None

    def settle(self, value: Any, failure: Exception | None) -> None:
        self._value, self._failure = value, failure
        self._done.set()

    async def wait(self, deadline_s: float) -> T:
        """The operation's value.

        Raises:
            StorageUnavailableError: it failed, or took longer than the deadline.
        """
        with anyio.move_on_after(deadline_s):
            await self._done.wait()
        if not self._done.is_set():
            raise StorageUnavailableError(f"The database did not answer within {deadline_s:g} s.", hint=_HINT)
        if self._failure is not None:
            raise StorageUnavailableError(f"The database failed: {_reason(self._failure)}.", hint=_HINT)
        return self._value  # type: ignore[return-value]


class _Item:
    __slots__ = ("operation", "pending", "retry")

    def __init__(self, operation: Operation, pending: Pending[Any] | None, retry: bool) -> None:
        self.operation = operation
        self.pending = pending
        self.retry = retry


class Worker:
    """Runs operations on an engine in a thread of its own, in the order in which they were submitted."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._backlog: deque[_Item] = deque()
        self._dropped = 0
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="faas-store", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[sa.Connection], T]) -> Pending[T]:
        """Run an operation and tell its outcome.

        Raises:
            StorageUnavailableError: too many wait already.
        """
        if self._queue.qsize() >= QUEUE_LIMIT:
            raise StorageUnavailableError("The database does not keep up.", hint=_HINT)
        pending: Pending[T] = Pending()
        self._queue.put(_Item(operation, pending, retry=False))
        return pending

    def post(self, operation: Operation) -> None:
        """Run an operation some time soon; it is tried again while the database cannot be written."""
        if self._queue.qsize() >= QUEUE_LIMIT:
            self._dropped += 1
            if self._dropped == 1:
                log.error("the database does not keep up: records of requests are lost")
            return
        self._queue.put(_Item(operation, None, retry=True))

    async def close(self, deadline_s: float) -> None:
        """Finish what was submitted, within the deadline, and end the thread."""
        self._queue.put(None)
        with anyio.move_on_after(deadline_s):
            while self._thread.is_alive():
                await anyio.sleep(0.005)
        if self._thread.is_alive():
            self._abandoned = True
            log.error("the database did not take the last records within %g s", deadline_s)

    def _work(self) -> None:
        closing = False
        while not closing or (self._backlog and not self._abandoned):
            batch: list[_Item] = []
            if not closing:
                closing = self._collect(batch)
            else:
                time.sleep(RETRY_S)
            self._run_backlog()
            if self._backlog:  # what is tried again comes after what is tried again already
                self._keep([item for item in batch if item.retry])
                batch = [item for item in batch if not item.retry]
            self._run(batch)
        self._engine.dispose()

    def _collect(self, batch: list[_Item]) -> bool:
        """Wait for work and take what is there; True when it was the last."""
        try:
            item = self._queue.get(timeout=RETRY_S if self._backlog else None)
            while item is not None:
                batch.append(item)
                if len(batch) >= BATCH:
                    return False
                item = self._queue.get_nowait()
        except queue.Empty:
            return False
        return True

    def _run_backlog(self) -> None:
        while self._backlog:
            batch = list(itertools.islice(self._backlog, BATCH))
            failure = self._attempt(batch)
            if isinstance(failure, OperationalError):
                return
            for _ in batch:
                self._backlog.popleft()
            if failure is not None:
                self._fail(batch, failure)

    def _run(self, batch: list[_Item]) -> None:
        if not batch:
            return
        failure = self._attempt(batch)
        if failure is None:
            return
        if len(batch) > 1 and not isinstance(failure, OperationalError):
            for item in batch:  # one of them is at fault: it must not take the others with it
                self._run([item])
            return
        self._fail(batch, failure)

    def _attempt(self, batch: list[_Item]) -> Exception | None:
        """Run all in one transaction, and settle them when it is committed."""
        try:
            with self._engine.begin() as connection:
                values = [item.operation(connection) for item in batch]
        except SQLAlchemyError as exc:
            return exc
        self._settle([(i.pending, v, None) for i, v in zip(batch, values, strict=True) if i.pending])
        return None

    def _fail(self, batch: list[_Item], exc: Exception) -> None:
        log.warning("database: %s", _reason(exc))
        if isinstance(exc, OperationalError):
            self._keep([item for item in batch if item.retry])
        self._settle([(item.pending, None, exc) for item in batch if item.pending])

    def _keep(self, items: list[_Item]) -> None:
        self._backlog.extend(items[: max(0, QUEUE_LIMIT - len(self._backlog))])

    def _settle(self, outcomes: list[tuple[Pending[Any], Any, Exception | None]]) -> None:
        def settle() -> None:
            for pending, value, failure in outcomes:
                pending.settle(value, failure)

        if outcomes:
            try:
                self._loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def _reason(exc: Exception) -> str:
    """SQLite's own words, without the statement and its parameters."""
    original = getattr(exc, "orig", None)
    return str(original) if original is not None else type(exc).__name__
