"""Executions: opened, found by id or name, listed, ended, and remembered."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus
from faas.types import (
    ExecuteInput,
    ExecutionCreate,
    ExecutionInfo,
    ExecutionPage,
    ExecutionStatus,
    OneShotCreate,
    Resources,
)

from faas_gateway.backends.base import Ended, Recipe, Report, SandboxBackend
from faas_gateway.errors import (
    CapacityError,
    ExecutionEndedError,
    InvalidRequestError,
    NameTakenError,
    UnknownExecutionError,
    suggest,
)
from faas_gateway.ids import EXECUTION_ID, new_execution_id
from faas_gateway.managers import records
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.execution import LiveExecution, Terms
from faas_gateway.managers.limits import merge_resources, to_limits
from faas_gateway.managers.outcomes import HINTS
from faas_gateway.managers.requests import Request
from faas_gateway.managers.starter import Starter
from faas_gateway.settings import Settings
from faas_gateway.store import ExecutionFilter, ExecutionRecord, ExecutionStore, RequestRecord

log = logging.getLogger(__name__)

LIVE_STATUSES = frozenset({"starting", "idle", "busy"})


class ExecutionManager:
    """All executions of a gateway.

    Args:
        backend: makes the sandboxes.
        environments: says of what.
        store: remembers the executions.
        settings: limits and deadlines.
        tasks: holds one supervisor per execution; outlives the manager.
    """

    def __init__(
        self,
        backend: SandboxBackend,
        environments: EnvironmentManager,
        store: ExecutionStore,
        settings: Settings,
        tasks: TaskGroup,
    ) -> None:
        self._environments = environments
        self._store = store
        self._settings = settings
        self._tasks = tasks
        self._starter = Starter(backend, environments, settings)
        self._backend_name = backend.name
        self._live: dict[str, LiveExecution] = {}
        self._recent: dict[str, LiveExecution] = {}
        self._starting: dict[str, anyio.CancelScope] = {}
        self._names: dict[str, str] = {}
        self._unclosed = 0
        self._stopping = False

    @property
    def is_idle(self) -> bool:
        """No execution is open, being opened or being closed."""
        return not self._starting and self._unclosed == 0

    async def create(self, body: ExecutionCreate, report: Report) -> LiveExecution:
        """Open an execution.

        Args:
            body: as the client sent it.
            report: told of what takes its time.

        Raises:
            UnknownEnvironmentError, InvalidRequestError, NameTakenError, CapacityError, StorageUnavailableError,
            ExecutionEndedError (somebody ended it meanwhile), and what a backend raises.
        """
        if body.name is not None and EXECUTION_ID.match(body.name):
            raise InvalidRequestError(f"name: {body.name!r} looks like an id", hint="Choose another name.")
        shipped = self._environments.get_shipped(body.environment)
        recipe = self._environments.recipe(shipped, body.interpreter)
        resources = self._resources(body.resources, shipped.resources)
        with self._reserved(body.name) as (execution_id, scope):
            execution = None
            with scope:
                image = await self._environments.prepare(recipe, report)
                terms = Terms(
                    id=execution_id,
                    name=body.name,
                    image=image,
                    resources=resources,
                    labels=body.labels,
                    notes=shipped.notes,
                    created_at=time.time(),
                    ttl_s=body.ttl_s,
                    idle_timeout_s=body.idle_timeout_s,
                )
                execution = await self._start(terms, recipe, body.env_vars, report)
            if execution is None:
                raise ExecutionEndedError("The execution was ended while it was being opened.")
            return execution

    @asynccontextmanager
    async def one_shot(self, body: OneShotCreate, report: Report) -> AsyncGenerator[Request]:
        """Open an execution, start its code, and end it when the block is left, however that is.

        Raises:
            as `create`.
        """
        create = ExecutionCreate(
            environment=body.environment,
            resources=body.resources,
            env_vars=body.env_vars,
            labels=body.labels,
            interpreter=body.interpreter,
        )
        timeout = body.timeout
        if "timeout" not in body.model_fields_set and body.resources and body.resources.timeout_s:
            timeout = body.resources.timeout_s
        execution = await self.create(create, report)
        try:
            yield execution.execute(ExecuteInput(code=body.code, timeout=timeout, request_id=body.request_id))
        finally:
            # The answer does not wait for the clean-up, and a cancelled caller cannot.
            self._tasks.start_soon(self._end_one_shot, execution)

    def abandon(self, execution: LiveExecution) -> None:
        """End an execution that nobody was told of: its client left while it was opened."""
        self._tasks.start_soon(execution.end, Ended("closed", "its client left while it was opened"))

    async def open_execution(self, id_or_name: str) -> LiveExecution:
        """An execution that takes requests.

        Raises:
            UnknownExecutionError: there is none of that id or name.
            ExecutionEndedError: it ended; says why.
        """
        execution = self._find_live(id_or_name)
        if execution is None:
            execution = self._find_recent(id_or_name)
        if execution is not None:
            execution.require_open()
            return execution
        record = await self._record(id_or_name)
        if record.id in self._starting:
            raise CapacityError("The execution is still being opened.", hint="Wait for the answer to its creation.")
        code = record.end_code or "closed"
        raise ExecutionEndedError(
            f"The execution has ended ({code}): {record.end_reason or 'closed'}",
            hint=HINTS.get(code, "Open a new execution."),
        )

    async def find_request(self, id_or_name: str, request_id: str) -> Request:
        """A request of an execution, also of one that ended not long ago.

        Raises:
            UnknownExecutionError, ExecutionEndedError, UnknownRequestError
        """
        execution = self._find_live(id_or_name) or self._find_recent(id_or_name)
        if execution is None:
            execution = await self.open_execution(id_or_name)
        return execution.request(request_id)

    async def get(self, id_or_name: str) -> ExecutionInfo:
        """Raises UnknownExecutionError."""
        execution = self._find_live(id_or_name) or self._find_recent(id_or_name)
        if execution is not None:
            await execution.refresh_usage()
            return self.describe(execution)
        return self._describe_record(await self._record(id_or_name))

    async def list(
        self,
        *,
        status: ExecutionStatus | None,
        environment: str | None,
        labels: Mapping[str, str],
        cursor: str | None,
        limit: int,
    ) -> ExecutionPage:
        """A page of executions, newest first. Raises InvalidRequestError for a bad cursor."""
        before = records.decode_cursor(cursor) if cursor else None
        statuses: tuple[str, ...] = ()
        if status is not None:
            # A row of an execution that just ended may still say live.
            statuses = ("live",) if status in LIVE_STATUSES else ("live", status)
        wanted = ExecutionFilter(statuses=statuses, environment=environment, labels=labels)
        items: list[ExecutionInfo] = []
        while True:
            rows = await self._store.list(wanted, before_seq=before, limit=limit + 1)
            for row in rows:
                info = self._describe_record(row)
                if status is not None and info.status != status:
                    continue
                if len(items) == limit:
                    return ExecutionPage(items=items, next_cursor=records.encode_cursor(before or 0))
                items.append(info)
                before = row.seq
            if len(rows) <= limit:
                return ExecutionPage(items=items)
            before = rows[-1].seq

    async def end(self, id_or_name: str) -> ExecutionInfo:
        """End an execution and return how it stands then. Idempotent. Raises UnknownExecutionError."""
        execution = self._find_live(id_or_name)
        if execution is not None:
            await execution.end(Ended("closed", "it was closed by its owner"))
            await self._store.settle()  # who is told that it has ended is told the same by the next gateway
            return self.describe(execution)
        scope = self._starting.get(self._names.get(id_or_name, id_or_name))
        if scope is not None:
            scope.cancel()
        return await self.get(id_or_name)

    async def shutdown(self) -> None:
        """Take nothing new and end all that is open; returns when every sandbox gave back what it held."""
        self._stopping = True
        for scope in list(self._starting.values()):
            scope.cancel()
        ended = Ended("closed", "the gateway was stopped")
        async with anyio.create_task_group() as group:
            for execution in list(self._live.values()):
                group.start_soon(execution.end, ended)
        for execution in self._recent.values():
            execution.forget_outputs()

    def describe(self, execution: LiveExecution) -> ExecutionInfo:
        return records.info_from_live(execution, backend=self._backend_name, isolation=self._starter.isolation)

    def _resources(self, asked: Resources | None, environment: Resources) -> Resources:
        default = Resources(output_mb=self._settings.output_mb)
        return merge_resources(asked, environment, default)

    @contextmanager
    def _reserved(self, name: str | None) -> Generator[tuple[str, anyio.CancelScope]]:
        """A new id, with the name taken; both are given back when the execution does not come about."""
        if self._stopping:
            raise CapacityError("The gateway is stopping.", hint="Try again: a new one is started on demand.")
        if len(self._starting) + self._unclosed >= self._settings.max_live:
            raise CapacityError(
                f"{self._unclosed} executions are open.",
                hint="End some that are no longer needed, and try again.",
            )
        if name is not None and name in self._names:
            raise NameTakenError(
                f"There is an open execution named {name!r}.",
                hint=f"Use it, end it (DELETE /api/v1/executions/{name}), or choose another name.",
            )
        execution_id, scope = new_execution_id(), anyio.CancelScope()
        if name is not None:
            self._names[name] = execution_id
        self._starting[execution_id] = scope
        try:
            yield execution_id, scope
        finally:
            del self._starting[execution_id]
            if execution_id not in self._live:
                self._free_name(name, execution_id)

    async def _start(self, terms: Terms, recipe: Recipe, env_vars: Mapping[str, str], report: Report) -> LiveExecution:
        isolation = await self._starter.probe()
        record = records.new_record(terms, backend=self._backend_name, isolation=isolation)
        written = self._store.insert(record)  # on its way while the sandbox is made
        try:
            sandbox = await self._starter.start(terms, to_limits(terms.resources), env_vars, report)
        except BaseException as exc:
            self._store.end(
                replace(
                    record,
                    status="failed",
                    ended_at=time.time(),
                    end_code="start_failed",
                    end_reason=type(exc).__name__,
                )
            )
            raise
        execution = LiveExecution(terms, sandbox, self._settings, self._request_done)
        self._live[terms.id] = execution
        self._unclosed += 1
        with anyio.CancelScope(shield=True):  # from here on the supervisor owns the sandbox
            await self._tasks.start(self._supervise, execution, record)
        try:
            await self._store.written(written)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await execution.end(Ended("closed", "its creation was given up"))
            raise
        return execution

    async def _supervise(
        self,
        execution: LiveExecution,
        record: ExecutionRecord,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await execution.supervise(lambda e: self._ended(e, record), task_status=task_status)
        finally:
            self._unclosed -= 1

    def _ended(self, execution: LiveExecution, record: ExecutionRecord) -> None:
        terms, ended = execution.terms, execution.ended
        assert ended is not None
        self._live.pop(terms.id, None)
        self._free_name(terms.name, terms.id)
        self._recent[terms.id] = execution
        while len(self._recent) > self._settings.ended_kept:
            self._recent.pop(next(iter(self._recent))).forget_outputs()
        self._store.end(
            replace(
                record,
                status=execution.status,
                detail=records.ended_detail(execution, record.detail),
                last_active_at=execution.last_active_at,
                ended_at=execution.ended_at,
                end_code=ended.code,
                end_reason=ended.reason,
            ),
            together=terms.one_shot,  # there may be many, and nobody was told that one has ended
        )

    async def _end_one_shot(self, execution: LiveExecution) -> None:
        await execution.end(Ended("closed", "its code has run"))
        self._recent.pop(execution.terms.id, None)
        execution.forget_outputs()

    def _request_done(self, request: Request) -> None:
        result = request.result
        assert result is not None
        self._store.add_request(
            RequestRecord(
                id=request.id,
                execution_id=request.execution_id,
                status=result.status,
                started_at=request.started_at or time.time(),
                duration_s=result.duration,
                exit_code=result.exit_code,
                error_code=result.error.code if result.error else None,
            )
        )

    def _free_name(self, name: str | None, execution_id: str) -> None:
        if name is not None and self._names.get(name) == execution_id:
            del self._names[name]

    def _find_live(self, id_or_name: str) -> LiveExecution | None:
        return self._live.get(id_or_name) or self._live.get(self._names.get(id_or_name, ""))

    def _find_recent(self, id_or_name: str) -> LiveExecution | None:
        if id_or_name in self._recent:
            return self._recent[id_or_name]
        for execution in reversed(self._recent.values()):
            if execution.terms.name == id_or_name:
                return execution
        return None

    async def _record(self, id_or_name: str) -> ExecutionRecord:
        record = await self._store.get(id_or_name)
        if record is None:
            raise UnknownExecutionError(
                f"There is no execution {id_or_name!r}.",
                hint=suggest(id_or_name, self._names) or "GET /api/v1/executions lists them.",
            )
        return record

    def _describe_record(self, record: ExecutionRecord) -> ExecutionInfo:
        execution = self._live.get(record.id) or self._recent.get(record.id)
        if execution is not None:
            return self.describe(execution)
        match record.status:
            case "terminated" | "failed" | "lost":
                status: ExecutionStatus = record.status
            case _:
                # Its end is on its way to the database, unless it has not begun yet.
                status = "starting" if record.id in self._starting else "terminated"
        return records.info_from_record(record, status)
