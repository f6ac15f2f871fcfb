"""Output of running code as it comes, across interrupts and broken connections."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType

from faas import _calls
from faas._async import _io
from faas._async.events import EventSource
from faas._async.requests import interrupt_request
from faas._async.transport import Transport
from faas._events import cancelled_result, output_event, problem_of, read_model
from faas._http import lost_error
from faas._sse import ServerSentEvent
from faas.errors import (
    ConnectError,
    ConnectionLostError,
    FaaSError,
    RequestExistsError,
    TransportTimeoutError,
    UnknownExecutionError,
    UnknownRequestError,
)
from faas.types import ExecutionResult, OutputEvent, Progress

__all__ = ["OutputStream"]

_logger = logging.getLogger("faas")
_BACKOFF_S = (0.1, 0.4, 1.0)
_INTERRUPT_DEADLINE_S = 5.0


class OutputStream:
    """The output of one request: iterate over it for `OutputEvent`s, then read `result`.

    A connection that breaks is taken up again after the last event that was handed out: nothing comes twice,
    nothing is missed. A caller that is interrupted or cancelled while it waits may iterate on, and gets the
    rest; by default such an interrupt also goes to the code (see `interrupt_on_cancel`).

    Attributes:
        request_id: id of the request.
    """

    def __init__(
        self,
        transport: Transport,
        call: _calls.Call | None,
        request_id: str,
        execution_id: str | None,
        *,
        interrupt_on_cancel: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        on_end: Callable[[str], object] | None = None,
    ) -> None:
        self.request_id = request_id
        self._transport = transport
        self._call = call
        self._execution_id = execution_id  # None for one-shot code, which ends with its connection
        self._interrupt_on_cancel = interrupt_on_cancel
        self._on_progress = on_progress
        self._on_end = on_end
        self._source: EventSource | None = None
        self._pending: deque[ServerSentEvent] = deque()
        self._sent = False
        self._accepted = False
        self._interrupted = False
        self._torn = False  # interrupted: read again after the last event that was handed out
        self._last_id: int | None = None
        self._resumed = False
        self._failures = 0
        self._result: ExecutionResult | None = None
        self._ended = False

    @property
    def result(self) -> ExecutionResult:
        """The result, without the output, which came as events.

        Raises:
            RuntimeError: the stream has not been read to its end.
        """
        if self._result is None:
            raise RuntimeError("the stream has no result before it was read to its end")
        return self._result

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> OutputEvent:
        before = self._last_id
        try:
            event = None if self._ended else await self._next()
            if event is None:
                await self.aclose()
                raise StopAsyncIteration
            return event
        except _io.cancelled():
            # Nothing was handed out, whatever was done: the next step goes back to where this one began.
            self._torn = True
            self._last_id = before
            self._transport.interrupted()
            await _io.shielded(_INTERRUPT_DEADLINE_S, self._after_cancel)
            raise

    async def __aenter__(self) -> OutputStream:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def interrupt(self) -> None:
        """Send the code an interrupt, as Ctrl-C does; iterate on to see what it makes of it. Idempotent.

        One-shot code ends altogether.

        Raises:
            TransportError: the gateway did not answer.
        """
        self._interrupted = True
        if self._execution_id is None:
            await self.aclose()
        elif self._sent and not self._ended:
            await interrupt_request(self._transport, self._execution_id, self.request_id, self._accepted)

    async def aclose(self) -> None:
        """Stop listening. Code in an execution that stays goes on; one-shot code ends. Idempotent."""
        self._ended = True
        self._pending.clear()
        await self._drop()
        if self._on_end is not None:
            self._on_end(self.request_id)

    async def _next(self) -> OutputEvent | None:
        while self._result is None:
            if self._torn or not self._pending:
                await self._refill()
                continue
            sse = self._pending[0]
            if sse.event == "result":
                await self._take_result(sse)
                return None
            if sse.event == "problem":
                error = problem_of(sse)
                await self.aclose()
                raise error
            if sse.event == "accepted":
                self._accepted = True
            elif sse.event == "progress":
                if self._on_progress is not None:
                    self._on_progress(read_model(Progress, sse))
            else:
                event = output_event(sse)
                self._last_id = event.id
                self._pending.popleft()
                return event
            self._pending.popleft()
        return None

    async def _take_result(self, sse: ServerSentEvent) -> None:
        self._result = read_model(ExecutionResult, sse)
        source, self._source = self._source, None
        if source is not None:
            try:
                await source.finish()
            except (ConnectionLostError, TransportTimeoutError) as error:
                _logger.debug("after the result: %s", error)

    async def _refill(self) -> None:
        """Wait for more events, over a new connection if need be."""
        try:
            if self._torn or self._source is None:
                await self._connect()
            if self._source is not None:
                self._pending.extend(await self._source.read())
            self._failures = 0
        except (ConnectError, ConnectionLostError, TransportTimeoutError) as error:
            if not self._sent or self._execution_id is None or self._failures == len(_BACKOFF_S):
                await self.aclose()
                if not self._sent:
                    raise
                raise self._lost(error) from error
            self._torn = True
            self._failures += 1
            await _io.sleep(_BACKOFF_S[self._failures - 1])
        except FaaSError as error:
            await self.aclose()
            if self._resumed and isinstance(error, UnknownExecutionError | UnknownRequestError):
                raise self._lost(error) from error
            raise

    async def _connect(self) -> None:
        await self._drop()
        self._pending.clear()
        if not self._sent and self._interrupted:
            self._result = cancelled_result(self.request_id, self._execution_id or "")
        elif not self._sent:
            await self._open()
        elif self._execution_id is not None:
            await self._resume(self._execution_id)
        else:
            raise ConnectionLostError("One-shot code ends with its connection")
        self._torn = False

    async def _open(self) -> None:
        call = await self._begin()
        self._sent = True
        try:
            self._source = await EventSource.open(self._transport, call)
        except ConnectError:
            self._sent = False
            raise

    async def _begin(self) -> _calls.Call:
        assert self._call is not None
        return self._call

    async def _resume(self, execution_id: str) -> None:
        call = _calls.events(execution_id, self.request_id, self._last_id)
        self._resumed = True
        try:
            self._source = await EventSource.open(self._transport, call, restart=False)
        except UnknownRequestError:
            if self._accepted:
                raise
            if self._interrupted:
                # The interrupt struck before the request was out, and `interrupt` has waited for it to turn up.
                self._result = cancelled_result(self.request_id, execution_id)
            else:
                await self._send_again()

    async def _send_again(self) -> None:
        """For a request that did not arrive. Its id keeps it from running twice, should it turn up after all."""
        try:
            self._source = await EventSource.open(self._transport, await self._begin(), restart=False)
        except RequestExistsError as error:
            raise ConnectionLostError("The request arrived over the connection before") from error

    def _lost(self, cause: FaaSError) -> ConnectionLostError:
        one_shot = self._execution_id is None
        return lost_error(self._transport.config, self.request_id, cause, one_shot=one_shot)

    async def _drop(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            await source.aclose()

    async def _after_cancel(self) -> None:
        try:
            await self._drop()
            if self._interrupt_on_cancel:
                await self.interrupt()
        except FaaSError as error:
            _logger.debug("interrupt of request %s: %s", self.request_id, error)
