"""One open execution: its sandbox, its requests, and the task that notices how it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup, TaskStatus
from faas.types import ExecuteInput, ExecutionStatus, Resources, ResourceUsage, RunInput

from faas_gateway.backends.base import (
    CodeRequest,
    CommandRequest,
    Ended,
    Image,
    Sandbox,
    SandboxEnded,
)
from faas_gateway.errors import (
    CapacityError,
    ExecutionEndedError,
    RequestExistsError,
    UnknownRequestError,
)
from faas_gateway.ids import new_request_id
from faas_gateway.managers.access import SandboxAccess
from faas_gateway.managers.outcomes import TERMINATED, hint_for
from faas_gateway.managers.requests import Call, Request
from faas_gateway.managers.turns import Turn, Turns
from faas_gateway.settings import Settings

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 10.0
USAGE_DEADLINE_S = 1.0
IDS_REMEMBERED = 10_000


@dataclass(frozen=True)
class Terms:
    """What an execution was opened with."""

    id: str
    name: str | None
    image: Image
    resources: Resources
    labels: dict[str, str]
    notes: tuple[str, ...]
    created_at: float
    ttl_s: float | None = None
    idle_timeout_s: float | None = None
    one_shot: bool = False


def end_status(code: str) -> Literal["terminated", "failed", "lost"]:
    """The status of an execution that ended for a reason of that code."""
    if code in TERMINATED:
        return "terminated"
    return "lost" if code == "lost" else "failed"


class LiveExecution:
    """An execution whose sandbox this gateway holds, or held a moment ago.

    Args:
        terms: what it was opened with.
        sandbox: owned by it from now on; `supervise` closes it.
        settings: limits and deadlines.
        on_request_done: told of each finished request.
    """

    def __init__(
        self,
        terms: Terms,
        sandbox: Sandbox,
        settings: Settings,
        on_request_done: Callable[[Request], None],
    ) -> None:
        self.terms = terms
        self.sandbox = sandbox
        self.ended: Ended | None = None
        self.ended_at: float | None = None
        self.last_active_at = terms.created_at
        self.closed = anyio.Event()
        """Set when the sandbox has given back all that it held."""
        self.usage = ResourceUsage()
        self._settings = settings
        self._on_request_done = on_request_done
        self._turns = Turns(settings.queue_limit)
        self._running: dict[str, Request] = {}
        self._finished: dict[str, Request] = {}
        self._used_ids: dict[str, None] = {}
        self._commands = 0
        self._served = 0
        self._tasks: TaskGroup | None = None
        self._opened_clock = time.monotonic()
        self._active_clock = self._opened_clock
        self.access = SandboxAccess(sandbox, terms.image.recipe.language, self._turns, settings, self._touch)
        self._notes = [*terms.notes, *sandbox.degraded]

    @property
    def status(self) -> ExecutionStatus:
        if self.ended is not None:
            return end_status(self.ended.code)
        return "busy" if self._running else "idle"

    def require_open(self) -> None:
        """Raises ExecutionEndedError, with the reason, unless it is open."""
        if self.ended is not None:
            raise ExecutionEndedError(
                f"The execution has ended ({self.ended.code}): {self.ended.reason}",
                hint=hint_for(self.ended),
            )

    # Requests

    def execute(self, body: ExecuteInput) -> Request:
        """Queue code; it runs whether or not anybody waits for it.

        Raises:
            ExecutionEndedError, RequestExistsError, CapacityError
        """
        request = self._new_request("code", body.request_id, body.timeout)
        turn = self._turns.enter()
        cell = body.cell
        code = CodeRequest(
            id=request.id,
            code=body.code,
            execution_count=cell.execution_count if cell else None,
            magic_line=cell.magic_line if cell else None,
        )
        self._start(request, partial(self.sandbox.execute, code), turn)
        return request

    def run(self, body: RunInput) -> Request:
        """Start a command beside the session's code.

        Raises:
            ExecutionEndedError, RequestExistsError, CapacityError
        """
        request = self._new_request("command", body.request_id, body.timeout)
        if self._commands >= self._settings.commands_at_once:
            raise CapacityError(
                f"{self._commands} commands run in this execution already.",
                hint="Wait for some of them to finish.",
            )
        self._commands += 1
        command = CommandRequest(
            id=request.id,
            argv=tuple(body.command),
            stdin=None if body.stdin is None else body.stdin.encode(),
            env_vars=body.env_vars,
            cwd=body.cwd,
        )
        self._start(request, partial(self.sandbox.run, command), None)
        return request

    def request(self, request_id: str) -> Request:
        """A request that runs, or whose result is still kept. Raises UnknownRequestError."""
        request = self._running.get(request_id) or self._finished.get(request_id)
        if request is None:
            raise UnknownRequestError(
                f"The execution has no request {request_id!r}, or its output is no longer kept.",
                hint=f"The last {self._settings.logs_kept} requests of an execution are kept.",
            )
        return request

    async def refresh_usage(self) -> None:
        """Ask the sandbox what it uses; the last known stands where it does not answer."""
        if self.ended is not None:
            return
        try:
            with anyio.move_on_after(USAGE_DEADLINE_S):
                usage = await self.sandbox.usage()
                self.usage = ResourceUsage(
                    cpu_time_s=usage.cpu_time_s,
                    memory_bytes=usage.memory_bytes,
                    disk_bytes=usage.disk_bytes,
                    processes=usage.processes,
                )
        except SandboxEnded:
            return

    @property
    def served(self) -> int:
        """Requests that have finished."""
        return self._served

    # Life and end

    async def supervise(
        self,
        on_ended: Callable[[LiveExecution], None],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hold the execution until its sandbox is gone, then give everything back. Never raises.

        Args:
            on_ended: told once, as soon as it is known how it ended.
        """
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                if self.terms.ttl_s is not None or self.terms.idle_timeout_s is not None:
                    tasks.start_soon(self._expire)
                task_status.started()
                self._end(await self.sandbox.wait(), on_ended)
                await self._drain()
                tasks.cancel_scope.cancel()
        except Exception:
            log.exception("the supervisor of execution %s failed", self.terms.id)
        finally:
            self._end(Ended("lost", "the gateway gave it up"), on_ended)
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(CLOSE_DEADLINE_S) as scope:
                    await self._close_sandbox()
                if scope.cancelled_caught:
                    log.error("the sandbox of execution %s did not close in time", self.terms.id)
            self._trim(self._settings.ended_logs_bytes)
            self.closed.set()

    async def end(self, ended: Ended) -> None:
        """End it, and return when its sandbox has given everything back. Idempotent."""
        if self.ended is None:
            with anyio.move_on_after(CLOSE_DEADLINE_S):
                await self.sandbox.kill(ended)
        with anyio.move_on_after(2 * CLOSE_DEADLINE_S):
            await self.closed.wait()

    def forget_outputs(self) -> None:
        """Give the kept outputs back; readers that are at it may finish."""
        for request in self._finished.values():
            request.discard()
        self._finished.clear()

    async def _close_sandbox(self) -> None:
        try:
            await self.sandbox.aclose()
        except Exception:
            log.exception("the sandbox of execution %s failed to close", self.terms.id)

    def _end(self, ended: Ended, on_ended: Callable[[LiveExecution], None]) -> None:
        if self.ended is None:
            self.ended = ended
            self.ended_at = time.time()
            on_ended(self)

    async def _drain(self) -> None:
        """Let the requests see for themselves that the sandbox is gone."""
        with anyio.move_on_after(self._settings.grace_s):
            for request in list(self._running.values()):
                await request.done.wait()

    async def _expire(self) -> None:
        ttl, idle = self.terms.ttl_s, self.terms.idle_timeout_s
        while True:
            now = time.monotonic()
            ttl_left = float("inf") if ttl is None else self._opened_clock + ttl - now
            idle_left = float("inf")
            if idle is not None:
                idle_left = idle if self._running else self._active_clock + idle - now
            if ttl_left <= 0:
                await self.sandbox.kill(Ended("expired", f"it was opened for {ttl:g} s (ttl_s)"))
                return
            if idle_left <= 0:
                await self.sandbox.kill(Ended("idle", f"nothing ran in it for {idle:g} s (idle_timeout_s)"))
                return
            await anyio.sleep(min(ttl_left, idle_left))

    def _touch(self) -> None:
        self.last_active_at = time.time()
        self._active_clock = time.monotonic()

    def _new_request(
        self, kind: Literal["code", "command"], request_id: str | None, timeout_s: float | None
    ) -> Request:
        self.require_open()
        if request_id is None:
            request_id = new_request_id()
        elif request_id in self._used_ids:
            raise RequestExistsError(
                f"The execution has had a request {request_id!r} already.",
                hint="Choose another request_id, or read the result of that one.",
            )
        return Request(
            request_id,
            self.terms.id,
            kind=kind,
            sandbox=self.sandbox,
            settings=self._settings,
            output_mb=self.terms.resources.output_mb or self._settings.output_mb,
            timeout_s=timeout_s if timeout_s is not None else self.terms.resources.timeout_s,
            notes=self._notes,
            spawn=self._spawn,
            ended=lambda: self.ended,
        )

    def _start(self, request: Request, call: Call, turn: Turn | None) -> None:
        if len(self._used_ids) >= IDS_REMEMBERED:
            del self._used_ids[next(iter(self._used_ids))]
        self._used_ids[request.id] = None
        self._running[request.id] = request
        self._touch()

        async def run() -> None:
            try:
                await request.run(call, turn)
            finally:
                self._request_done(request, is_command=turn is None)

        self._spawn(run)

    def _request_done(self, request: Request, *, is_command: bool) -> None:
        self._touch()
        self._commands -= is_command
        self._served += 1
        del self._running[request.id]
        self._finished[request.id] = request
        self._trim(self._settings.logs_kept_bytes)
        self._on_request_done(request)

    def _trim(self, size_limit: int) -> None:
        """Drop the oldest outputs beyond the limits; the newest stays in any case."""
        size = sum(r.size for r in self._finished.values())
        while len(self._finished) > 1 and (len(self._finished) > self._settings.logs_kept or size > size_limit):
            oldest = self._finished.pop(next(iter(self._finished)))
            size -= oldest.size
            oldest.discard()

    def _spawn(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(task)
