"""Code and commands that have a sandbox of their own, for once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from faas import _calls
from faas._async import _io
from faas._async.execution import Execution
from faas._async.stream import OutputStream
from faas._async.transport import Transport
from faas._http import lost_error, problem_error
from faas.errors import APIError, ConnectionLostError, ProtocolError
from faas.types import BatchPage, ExecutionResult

__all__ = ["CommandStream", "execute_batch", "execute_once"]

_CLOSE_DEADLINE_S = 10.0


async def execute_once(transport: Transport, **fields: Any) -> ExecutionResult:
    """Create, run, destroy. A caller that is cancelled drops the connection, which ends the sandbox."""
    request_id = _calls.new_request_id()
    call = _calls.one_shot(stream=False, request_id=request_id, **fields)
    try:
        return _calls.parse(ExecutionResult, await transport.request(call))
    except ConnectionLostError as error:
        raise lost_error(transport.config, request_id, error, one_shot=True) from error


async def execute_batch(transport: Transport, fields: Sequence[Mapping[str, Any]]) -> list[ExecutionResult | APIError]:
    """The same for many at once: a result or the reason why there is none, in the order of the requests."""
    call = _calls.batch(fields)
    try:
        page = _calls.parse(BatchPage, await transport.request(call))
    except ConnectionLostError as error:
        raise lost_error(transport.config, fields[0]["request_id"], error, one_shot=True) from error
    found: dict[int, ExecutionResult | APIError] = {}
    for item in page.items:
        if item.result is not None:
            found[item.index] = item.result
        elif item.problem is not None:
            found[item.index] = problem_error(item.problem)
    missing = [index for index in range(len(fields)) if index not in found]
    if missing or len(found) > len(fields):
        raise ProtocolError(f"The gateway answered {len(found)} of the {len(fields)} requests of a batch")
    return [found[index] for index in range(len(fields))]


class CommandStream(OutputStream):
    """The output of a command with an execution of its own, opened at the first step, closed at the end."""

    def __init__(
        self,
        transport: Transport,
        create: Callable[[], Awaitable[Execution]],
        command: Sequence[str],
        timeout: float,
    ) -> None:
        super().__init__(transport, None, _calls.new_request_id(), None)
        self._create = create
        self._command = list(command)
        self._timeout = timeout
        self._execution: Execution | None = None

    async def _begin(self) -> _calls.Call:
        if self._execution is None:
            self._execution = await self._create()
            self._execution_id = self._execution.id
        return _calls.run(
            self._execution.id,
            stream=True,
            command=self._command,
            timeout=self._timeout,
            request_id=self.request_id,
        )

    async def aclose(self) -> None:
        """End the command and its sandbox. Idempotent."""
        try:
            await super().aclose()
        finally:
            if self._execution is not None:
                await _io.shielded(_CLOSE_DEADLINE_S, self._execution.close)
