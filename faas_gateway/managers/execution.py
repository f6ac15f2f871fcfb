"""One open execution: its sandbox, its requests, and the task that notices how it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus
from faas.types import ExecuteInput, ExecutionStatus, ResourceUsage, RunInput

from faas_gateway.backends.base import (
    CodeRequest,
    CommandRequest,
    Ended,
    FrozenSandbox,
    Sandbox,
    SandboxEnded,
)
from faas_gateway.errors import (
    CapacityError,
    ExecutionEndedError,
)
from faas_gateway.ids import new_request_id
from faas_gateway.managers.access import SandboxAccess
from faas_gateway.managers.beside import Beside, Place
from faas_gateway.managers.outcomes import TERMINATED, hint_for
from faas_gateway.managers.request_book import RequestBook
from faas_gateway.managers.requests import Call, Request
from faas_gateway.managers.slot import SandboxSlot
from faas_gateway.managers.stillness import Stillness
from faas_gateway.managers.terms import Terms
from faas_gateway.managers.turns import Turns
from faas_gateway.settings import Settings

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 10.0
USAGE_DEADLINE_S = 1.0
NAMED_CHARS = 80
#: Stands for the request before the first: the session as it was opened.
START = "start"


class Checkpointer(Protocol):
    """Keeps what sessions can be rewound to."""

    async def request_done(self, execution: LiveExecution, request_id: str) -> None:
        """A session stands as that request left it. It holds the turn, so the next request waits. Never raises."""
        ...

    def ids(self, execution: LiveExecution) -> list[str]:
        """The requests that it can be rewound to."""
        ...

    def notes(self, execution: LiveExecution) -> list[str]:
        """Why some requests cannot be rewound to."""
        ...

    def ended(self, execution: LiveExecution) -> None:
        """It takes no more requests, and is not rewound any more."""
        ...


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
        checkpointer: told of the same, while the session still stands as the request left it.
    """

    def __init__(
        self,
        terms: Terms,
        sandbox: Sandbox,
        settings: Settings,
        on_request_done: Callable[[Request], None],
        checkpointer: Checkpointer | None = None,
    ) -> None:
        self.terms = terms
        self.slot = SandboxSlot(sandbox)
        self.checkpointer = checkpointer
        self.parent_id = terms.snapshot_id
        """The snapshot that it came from, or that was taken of it last."""
        self.generation = terms.generation
        """Live forks above it."""
        self.last_request_id: str | None = None
        """Of the code after which it stands as it does."""
        self.started = anyio.Event()
        """Set when it takes requests."""
        self.ended: Ended | None = None
        self.ended_at: float | None = None
        self.last_active_at = terms.created_at
        self.closed = anyio.Event()
        """Set when the sandbox has given back all that it held."""
        self.usage = ResourceUsage()
        self._settings = settings
        self._on_request_done = on_request_done
        self._turns = Turns(settings.queue_limit)
        self._book = RequestBook(settings)
        self._commands = 0
        self._served = 0
        self._tasks: TaskGroup | None = None
        self._opened_clock = time.monotonic()
        self._active_clock = self._opened_clock
        self._beside = Beside()
        self.still = Stillness(self._turns, self._beside, self.require_open, self._book.what_runs)
        self.access = SandboxAccess(self.slot, terms.language, self._turns, self._beside, settings, self._touch)
        self._notes = [*terms.notes, *sandbox.degraded]

    @property
    def sandbox(self) -> Sandbox:
        """The one that it has now; see `SandboxSlot`."""
        return self.slot.sandbox

    @property
    def status(self) -> ExecutionStatus:
        if self.ended is not None:
            return end_status(self.ended.code)
        return "busy" if self._book.running else "idle"

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
        self._start(request, lambda sink: self.slot.sandbox.execute(code, sink), turn, is_command=False)
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
        place = self._beside.enter(f"command {body.command[0][:NAMED_CHARS]!r} (request {request.id})")
        self._start(request, lambda sink: self.slot.sandbox.run(command, sink), place, is_command=True)
        return request

    def request(self, request_id: str) -> Request:
        """A request that runs, or whose result is still kept. Raises UnknownRequestError."""
        return self._book.get(request_id)

    # Snapshots

    async def freeze(self, frozen_id: str) -> FrozenSandbox:
        """Freeze it, and go on: only while it stands still. See `SandboxSlot.freeze`."""
        self._touch()
        return await self.slot.freeze(frozen_id, self._settings.freeze_deadline_s)

    async def replace_sandbox(self, sandbox: Sandbox) -> None:
        """Go on in another sandbox: only while it stands still, and open."""
        self._touch()
        self._notes = [*self.terms.notes, *sandbox.degraded]
        old = self.slot.sandbox
        self._spawn(lambda: self._close_sandbox(old))  # first: the session may be over once the next line has waited
        await self.slot.replace(sandbox)

    def checkpoint_start(self) -> None:
        """Make the state before any request one to be rewound to; called before anybody can send one."""
        turn = self._turns.enter()

        async def checkpoint() -> None:
            try:
                await turn.wait()
                await self._checkpoint(START)
            finally:
                turn.leave()

        self._spawn(checkpoint)

    @property
    def checkpoints(self) -> list[str]:
        """The requests that it can be rewound to."""
        return self.checkpointer.ids(self) if self.checkpointer is not None else []

    @property
    def checkpoint_notes(self) -> list[str]:
        return self.checkpointer.notes(self) if self.checkpointer is not None else []

    async def _checkpoint(self, request_id: str) -> None:
        if self.checkpointer is not None and self.terms.checkpoints_kept and self.ended is None:
            await self.checkpointer.request_done(self, request_id)

    async def refresh_usage(self) -> None:
        """Ask the sandbox what it uses; the last known stands where it does not answer."""
        if self.ended is not None or self.slot.is_changing:
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
                self.started.set()
                task_status.started()
                self._end(await self.slot.wait(), on_ended)
                await self._drain()
                tasks.cancel_scope.cancel()
        except Exception:
            log.exception("the supervisor of execution %s failed", self.terms.id)
        finally:
            self._end(Ended("lost", "the gateway gave it up"), on_ended)
            await self._close_sandbox(self.sandbox)
            self._book.trim(self._settings.ended_logs_bytes)
            self.closed.set()

    async def end(self, ended: Ended) -> None:
        """End it, and return when its sandbox has given everything back. Idempotent."""
        if self.ended is None:
            with anyio.move_on_after(CLOSE_DEADLINE_S):
                await self.slot.kill(ended)
        with anyio.move_on_after(2 * CLOSE_DEADLINE_S):
            await self.closed.wait()

    def forget_outputs(self) -> None:
        """Give the kept outputs back; readers that are at it may finish."""
        self._book.forget()

    async def _close_sandbox(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_DEADLINE_S) as scope:
            try:
                await sandbox.aclose()
            except Exception:
                log.exception("a sandbox of execution %s failed to close", self.terms.id)
        if scope.cancelled_caught:
            log.error("a sandbox of execution %s did not close in time", self.terms.id)

    def _end(self, ended: Ended, on_ended: Callable[[LiveExecution], None]) -> None:
        if self.ended is None:
            self.ended = ended
            self.ended_at = time.time()
            if self.checkpointer is not None:
                self.checkpointer.ended(self)
            on_ended(self)

    async def _drain(self) -> None:
        """Let the requests see for themselves that the sandbox is gone."""
        with anyio.move_on_after(self._settings.grace_s):
            for request in list(self._book.running.values()):
                await request.done.wait()

    async def _expire(self) -> None:
        ttl, idle = self.terms.ttl_s, self.terms.idle_timeout_s
        while True:
            now = time.monotonic()
            ttl_left = float("inf") if ttl is None else self._opened_clock + ttl - now
            idle_left = float("inf")
            if idle is not None:
                idle_left = idle if self._book.running else self._active_clock + idle - now
            if ttl_left <= 0:
                await self.slot.kill(Ended("expired", f"it was opened for {ttl:g} s (ttl_s)"))
                return
            if idle_left <= 0:
                await self.slot.kill(Ended("idle", f"nothing ran in it for {idle:g} s (idle_timeout_s)"))
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
        else:
            self._book.check_new(request_id)
        return Request(
            request_id,
            self.terms.id,
            kind=kind,
            slot=self.slot,
            settings=self._settings,
            output_mb=self.terms.resources.output_mb or self._settings.output_mb,
            timeout_s=timeout_s if timeout_s is not None else self.terms.resources.timeout_s,
            notes=self._notes,
            spawn=self._spawn,
            ended=lambda: self.ended,
        )

    def _start(self, request: Request, call: Call, place: Place, *, is_command: bool) -> None:
        self._book.add(request)
        self._touch()

        async def run() -> None:
            try:
                try:
                    await request.run(call, place)
                finally:
                    self._request_done(request, is_command=is_command)
                if not is_command:
                    await self._checkpoint(request.id)
            finally:
                place.leave()

        self._spawn(run)

    def _request_done(self, request: Request, *, is_command: bool) -> None:
        self._touch()
        self._commands -= is_command
        self._served += 1
        if not is_command and request.started_at is not None:
            self.last_request_id = request.id
        self._book.finish(request)
        self._on_request_done(request)

    def _spawn(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(task)
