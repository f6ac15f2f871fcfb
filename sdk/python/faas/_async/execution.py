"""A handle on one execution: a sandbox that stays open and takes code."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from faas import _calls
from faas._async import _io
from faas._async.files import Files
from faas._async.requests import await_result, interrupt_request
from faas._async.stream import OutputStream
from faas._async.transport import Transport
from faas._async.variables import Variables
from faas.errors import ConnectError, FaaSError, UnknownExecutionError
from faas.types import CellOrigin, ExecutionInfo, ExecutionResult, ForkReceipt, SnapshotForm

if TYPE_CHECKING:
    from faas._async.snapshot_handle import SnapshotHandle
    from faas._snapshot_calls import PortableWhen

__all__ = ["Execution"]

_logger = logging.getLogger("faas")
_CLOSE_DEADLINE_S = 10.0


class Execution:
    """One open execution. As a context manager it is ended on the way out.

    Attributes:
        info: what the gateway last said of it; `refresh` asks anew.
        files: read, write, list, delete, upload, download.
        variables: list, pull, push.
    """

    def __init__(self, transport: Transport, info: ExecutionInfo) -> None:
        self.info = info
        self.files = Files(transport, info.id)
        self.variables = Variables(transport, info.id)
        self._transport = transport
        self._running: dict[str, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<{type(self).__name__} {self.id}{name} {self.environment} {self.status}>"

    @property
    def id(self) -> str:
        """Id of the execution."""
        return self.info.id

    @property
    def name(self) -> str | None:
        """Name, where it was given one."""
        return self.info.name

    @property
    def status(self) -> str:
        """Status as last seen: starting, idle, busy, terminated, failed or lost."""
        return self.info.status

    @property
    def environment(self) -> str:
        """Name of the environment."""
        return self.info.environment

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot it was restored from, if it was."""
        return self.info.snapshot_id

    @property
    def branch_index(self) -> int | None:
        """Its place among the branches of one restore."""
        return self.info.branch_index

    @property
    def restored_from(self) -> SnapshotForm | None:
        """Which form of its snapshot it was restored from: live or portable."""
        return self.info.restored_from

    @property
    def receipt(self) -> ForkReceipt | None:
        """What was re-made or lost when it was restored from its snapshot."""
        return self.info.receipt

    async def execute(
        self, code: str, timeout: float | None = None, *, cell: CellOrigin | None = None
    ) -> ExecutionResult:
        """Run code and return its result, output included. Cancelling interrupts the code.

        Args:
            code: in the language of the environment.
            timeout: wall time, seconds; None is the execution's own limit.
            cell: where the code stands in a notebook.

        Raises:
            ExecutionEndedError: the sandbox is no more.
            ConnectionLostError: the gateway went away while the code ran.
        """
        request_id = _calls.new_request_id()
        call = self._execute_call(code, timeout, request_id, cell, stream=False)
        return await self._result(call, request_id)

    def stream(
        self,
        code: str,
        timeout: float | None = None,
        *,
        cell: CellOrigin | None = None,
        interrupt_on_cancel: bool = True,
    ) -> OutputStream:
        """Run code and iterate over its output as it comes; the code is sent at the first step.

        Args:
            code: in the language of the environment.
            timeout: wall time, seconds; None is the execution's own limit.
            cell: where the code stands in a notebook.
            interrupt_on_cancel: whether cancelling while waiting for output interrupts the code. If not, the
                caller decides: `interrupt()`, and iterate on.

        Example:
            >>> stream = execution.stream("print(1)")
            >>> async for event in stream:
            ...     print(event.text, end="")
            >>> stream.result.status
        """
        request_id = _calls.new_request_id()
        call = self._execute_call(code, timeout, request_id, cell, stream=True)
        return self._stream(call, request_id, interrupt_on_cancel)

    async def run(
        self,
        command: Sequence[str],
        stdin: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float = 30,
    ) -> ExecutionResult:
        """Run a command beside the session and return its result. Cancelling interrupts it.

        Args:
            command: program and arguments; no shell is involved.
            stdin: its standard input.
            env_vars: on top of the execution's own.
            cwd: working directory, /workspace by default.
            timeout: wall time, seconds.
        """
        request_id = _calls.new_request_id()
        call = self._run_call(command, stdin, env_vars, cwd, timeout, request_id, stream=False)
        return await self._result(call, request_id)

    async def snapshot(
        self,
        name: str | None = None,
        *,
        portable: PortableWhen = "later",
        timeout: float = 60,
        labels: Mapping[str, str] | None = None,
    ) -> SnapshotHandle:
        """Take a snapshot; the execution goes on. Arguments and errors as for `client.snapshots.create`."""
        from faas._async.snapshots import SnapshotManager  # which makes executions

        manager = SnapshotManager(self._transport)
        return await manager.create(self.id, name, portable=portable, timeout=timeout, labels=labels)

    async def rewind(self, request: str | ExecutionResult, timeout: float = 60) -> ExecutionInfo:
        """Take the session back to where it was after a request, files included, and return its new `info`.

        Needs an execution that was opened with `checkpoint="every-request"`.

        Args:
            request: the request's result, or its id. `info.checkpoints` has those that can be gone back to;
                `start` is before the first.
            timeout: how long to wait for code that runs, seconds.

        Raises:
            UnknownRequestError: there is no checkpoint of that request, or no more.
            NoCheckpointError: the execution keeps none.
            DeadlineError: the code still ran at the end of `timeout`.
        """
        request_id = request if isinstance(request, str) else request.request_id
        content = await self._transport.request(_calls.rewind(self.id, request_id, timeout))
        self.info = _calls.parse(ExecutionInfo, content)
        return self.info

    async def refresh(self) -> ExecutionInfo:
        """Ask the gateway for `info` anew, and return it."""
        content = await self._transport.request(_calls.get_execution(self.id))
        self.info = _calls.parse(ExecutionInfo, content)
        return self.info

    async def interrupt(self) -> None:
        """Interrupt the requests that were sent through this handle and are not done. Idempotent."""
        for request_id in list(self._running):
            await interrupt_request(self._transport, self.id, request_id, accepted=True)

    async def close(self) -> None:
        """End the sandbox. Idempotent, also when the gateway has gone and the sandbox with it."""
        if self._closed:
            return
        try:
            content = await self._transport.request(_calls.cancel_execution(self.id), restart=False)
            self.info = _calls.parse(ExecutionInfo, content)
        except UnknownExecutionError:
            pass
        except ConnectError:
            if self._transport.config.kind == "http":
                raise  # the gateway may be there, out of reach, and the sandbox with it
        self._closed = True

    async def __aenter__(self) -> Execution:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await _io.shielded(_CLOSE_DEADLINE_S, self.close)
        except FaaSError as error:
            if exc is None:
                raise
            _logger.debug("closing %s after %r: %s", self.id, exc, error)  # the first error is the one to see

    def _execute_call(
        self, code: str, timeout: float | None, request_id: str, cell: CellOrigin | None, *, stream: bool
    ) -> _calls.Call:
        return _calls.execute(
            self.id,
            code,
            timeout=timeout,
            request_id=request_id,
            cell=cell,
            stream=stream,
            limit_s=self.info.resources.timeout_s,
        )

    def _run_call(
        self,
        command: Sequence[str],
        stdin: str | None,
        env_vars: Mapping[str, str] | None,
        cwd: str | None,
        timeout: float,
        request_id: str,
        *,
        stream: bool,
    ) -> _calls.Call:
        return _calls.run(
            self.id,
            stream=stream,
            command=command,
            stdin=stdin,
            env_vars=env_vars,
            cwd=cwd,
            timeout=timeout,
            request_id=request_id,
        )

    def _stream(self, call: _calls.Call, request_id: str, interrupt_on_cancel: bool) -> OutputStream:
        self._running[request_id] = None
        return OutputStream(
            self._transport,
            call,
            request_id,
            self.id,
            interrupt_on_cancel=interrupt_on_cancel,
            on_end=self._forget,
        )

    async def _result(self, call: _calls.Call, request_id: str) -> ExecutionResult:
        self._running[request_id] = None
        try:
            return await await_result(self._transport, call, self.id, request_id)
        finally:
            self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._running.pop(request_id, None)
