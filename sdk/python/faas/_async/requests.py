"""One request whose result is awaited as a whole, and its interrupt."""

from __future__ import annotations

import logging

from faas import _calls
from faas._async import _io
from faas._async.transport import Transport
from faas._http import lost_error
from faas.errors import (
    ConnectionLostError,
    FaaSError,
    RequestRunningError,
    TransportError,
    TransportTimeoutError,
    UnknownExecutionError,
    UnknownRequestError,
)
from faas.types import ExecutionResult

__all__ = ["await_result", "interrupt_request"]

_logger = logging.getLogger("faas")
_BACKOFF_S = (0.1, 0.4, 1.0)
_INTERRUPT_DEADLINE_S = 5.0
#: How often, and how long apart, an interrupt looks for a request that may still be on its way.
_UNSEEN_TRIES = 5
_UNSEEN_WAIT_S = 0.2


async def await_result(transport: Transport, call: _calls.Call, execution_id: str, request_id: str) -> ExecutionResult:
    """Send a request and wait for its result, also over another connection if this one breaks.

    A caller that is cancelled meanwhile interrupts the code in the sandbox.
    """
    try:
        try:
            return _calls.parse(ExecutionResult, await transport.request(call))
        except (ConnectionLostError, TransportTimeoutError) as error:
            return await _result_later(transport, execution_id, request_id, error)
    except _io.cancelled():

        async def interrupt() -> None:
            try:
                await interrupt_request(transport, execution_id, request_id, accepted=False)
            except FaaSError as error:
                _logger.debug("interrupt of request %s: %s", request_id, error)

        await _io.shielded(_INTERRUPT_DEADLINE_S, interrupt)
        raise


async def interrupt_request(transport: Transport, execution_id: str, request_id: str, accepted: bool) -> None:
    """Interrupt a request. One that was not seen to be accepted may come in behind us: it is looked for."""
    call = _calls.interrupt(execution_id, request_id)
    for attempt in range(1, _UNSEEN_TRIES + 1):
        try:
            await transport.request(call, restart=False)
            return
        except UnknownRequestError:
            if accepted or attempt == _UNSEEN_TRIES:
                return  # it is over, or it never was
        await _io.sleep(_UNSEEN_WAIT_S)


async def _result_later(
    transport: Transport, execution_id: str, request_id: str, cause: TransportError
) -> ExecutionResult:
    """Ask for the result until it is there. Each answer proves that the gateway lives and has the code."""
    failures = 0
    while True:
        try:
            content = await transport.request(_calls.result(execution_id, request_id), restart=False)
            return _calls.parse(ExecutionResult, content)
        except RequestRunningError:
            failures = 0
        except (UnknownExecutionError, UnknownRequestError) as error:
            raise lost_error(transport.config, request_id, error) from cause
        except TransportError as error:
            if failures == len(_BACKOFF_S):
                raise lost_error(transport.config, request_id, error) from cause
            await _io.sleep(_BACKOFF_S[failures])
            failures += 1
