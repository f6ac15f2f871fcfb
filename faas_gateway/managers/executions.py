"""Executions: opened, found by id or name, listed, ended, and remembered."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus
from faas.types import (
    ExecutionCreate,
    ExecutionInfo,
    ExecutionPage,
    ExecutionStatus,
    Resources,
)

from faas_gateway.backends.base import Ended, Report, Sandbox, SandboxBackend
from faas_gateway.errors import (
    CapacityError,
    ExecutionEndedError,
    UnknownExecutionError,
    suggest,
)
from faas_gateway.managers import records
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.execution import Checkpointer, LiveExecution
from faas_gateway.managers.limits import merge_resources
from faas_gateway.managers.listing import list_page
from faas_gateway.managers.outcomes import HINTS
from faas_gateway.managers.requests import Request
from faas_gateway.managers.reservations import Reservations
from faas_gateway.managers.starter import Starter
from faas_gateway.managers.terms import Terms
from faas_gateway.settings import Settings
from faas_gateway.store import ExecutionFilter, ExecutionRecord, ExecutionStore, RequestRecord

log = logging.getLogger(__name__)


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
        self.starter = Starter(backend, environments, settings)
        self.reservations = Reservations(settings.max_live)
        self.checkpointer: Checkpointer | None = None
        """Set before the first execution is opened."""
        self._backend_name = backend.name
        self._live: dict[str, LiveExecution] = {}
        self._recent: dict[str, LiveExecution] = {}
        self._uses: list[Callable[[], bool]] = []

    @property
    def is_idle(self) -> bool:
        """No execution is open, being opened or being closed, and nothing else needs the gateway."""
        return not self.reservations.starting and self.reservations.unclosed == 0 and not any(u() for u in self._uses)

    def stay_open_while(self, needed: Callable[[], bool]) -> None:
        """Not to count as idle while a function says that the gateway is needed."""
        self._uses.append(needed)

    async def create(self, body: ExecutionCreate, report: Report, *, one_shot: bool = False) -> LiveExecution:
        """Open an execution.

        Args:
            body: as the client sent it.
            report: told of what takes its time.
            one_shot: nobody is told of it, or of its end.

        Raises:
            UnknownEnvironmentError, InvalidRequestError, NameTakenError, CapacityError, StorageUnavailableError,
            ExecutionEndedError (somebody ended it meanwhile), and what a backend raises.
        """
        shipped = self._environments.get_shipped(body.environment)
        recipe = self._environments.recipe(shipped, body.interpreter)
        language = self._environments.language(recipe, body.language)
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
                    language=language,
                    network=body.network,
                    env_vars=body.env_vars,
                    ttl_s=body.ttl_s,
                    idle_timeout_s=body.idle_timeout_s,
                    one_shot=one_shot,
                    checkpoints_kept=body.checkpoints_kept if body.checkpoint == "every-request" else 0,
                )
                execution = await self._start(terms, report)
            if execution is None:
                raise ExecutionEndedError("The execution was ended while it was being opened.")
            if execution.terms.checkpoints_kept:
                execution.checkpoint_start()
            return execution

    async def adopt(self, branches: Sequence[tuple[Terms, Sandbox]]) -> list[LiveExecution]:
        """Take sandboxes that were made elsewhere as executions; their ids and names come from `reservations`.

        Their rows are written together. Not to be cancelled: whoever gives up afterwards ends them. The backend has
        to be probed before.

        Raises:
            StorageUnavailableError, CapacityError: the rows cannot be written, or the gateway stops; all are ended.
        """
        adopted: list[LiveExecution] = []
        new: list[ExecutionRecord] = []
        for terms, sandbox in branches:
            record = records.new_record(terms, backend=self._backend_name, isolation=self.starter.isolation)
            execution = self._live_execution(terms, sandbox)
            self._tasks.start_soon(self._supervise, execution, record)
            adopted.append(execution)
            new.append(record)
        with anyio.CancelScope(shield=True):
            for execution in adopted:
                if not execution.started.is_set():
                    await execution.started.wait()
            try:
                if self.reservations.stopping:
                    raise CapacityError("The gateway is stopping.", hint="Try again: a new one is started on demand.")
                if new:
                    await self._store.written(self._store.insert(*new))
            except BaseException:
                async with anyio.create_task_group() as group:
                    for execution in adopted:
                        group.start_soon(execution.end, Ended("closed", "its creation was given up"))
                raise
        return adopted

    def end_soon(self, execution: LiveExecution) -> None:
        """End one whose code has run, and forget its output: the answer does not wait for that."""

        async def end() -> None:
            await execution.end(Ended("closed", "its code has run"))
            self._recent.pop(execution.terms.id, None)
            execution.forget_outputs()

        self._tasks.start_soon(end)

    def abandon(self, execution: LiveExecution) -> None:
        """End an execution that nobody was told of: its client left while it was opened."""
        self._tasks.start_soon(execution.end, Ended("closed", "its client left while it was opened"))

    def find_open(self, execution_id: str) -> LiveExecution | None:
        return self._live.get(execution_id)

    def count_branches(self) -> Counter[str]:
        """Open executions by the snapshot that they were restored from."""
        return Counter(e.terms.snapshot_id for e in self._live.values() if e.terms.snapshot_id is not None)

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
        if record.id in self.reservations.starting:
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
        wanted = ExecutionFilter(environment=environment, labels=labels)
        return await list_page(
            self._store, self._describe_record, status=status, wanted=wanted, cursor=cursor, limit=limit
        )

    async def end(self, id_or_name: str) -> ExecutionInfo:
        """End an execution and return how it stands then. Idempotent. Raises UnknownExecutionError."""
        execution = self._find_live(id_or_name)
        if execution is not None:
            await execution.end(Ended("closed", "it was closed by its owner"))
            await self._store.settle()  # who is told that it has ended is told the same by the next gateway
            return self.describe(execution)
        scope = self.reservations.starting.get(self.reservations.names.get(id_or_name, id_or_name))
        if scope is not None:
            scope.cancel()
        return await self.get(id_or_name)

    async def shutdown(self) -> None:
        """Take nothing new and end all that is open; returns when every sandbox gave back what it held."""
        self.reservations.stopping = True
        for scope in list(self.reservations.starting.values()):
            scope.cancel()
        ended = Ended("closed", "the gateway was stopped")
        async with anyio.create_task_group() as group:
            for execution in list(self._live.values()):
                group.start_soon(execution.end, ended)
        for execution in self._recent.values():
            execution.forget_outputs()

    def describe(self, execution: LiveExecution) -> ExecutionInfo:
        return records.info_from_live(execution, backend=self._backend_name, isolation=self.starter.isolation)

    def _resources(self, asked: Resources | None, environment: Resources) -> Resources:
        default = Resources(output_mb=self._settings.output_mb)
        return merge_resources(asked, environment, default)

    @contextmanager
    def _reserved(self, name: str | None) -> Generator[tuple[str, anyio.CancelScope]]:
        """A new id, with the name taken; both are given back when the execution does not come about."""
        execution_id, scope = self.reservations.take(name)
        try:
            yield execution_id, scope
        finally:
            self.reservations.settle(execution_id, name, opened=execution_id in self._live)

    def _live_execution(self, terms: Terms, sandbox: Sandbox) -> LiveExecution:
        execution = LiveExecution(terms, sandbox, self._settings, self._request_done, self.checkpointer)
        self._live[terms.id] = execution
        self.reservations.unclosed += 1
        return execution

    async def _start(self, terms: Terms, report: Report) -> LiveExecution:
        isolation = await self.starter.probe()
        record = records.new_record(terms, backend=self._backend_name, isolation=isolation)
        written = self._store.insert(record)  # on its way while the sandbox is made
        try:
            sandbox = await self.starter.start(terms, report)
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
        execution = self._live_execution(terms, sandbox)
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
            self.reservations.unclosed -= 1

    def _ended(self, execution: LiveExecution, record: ExecutionRecord) -> None:
        terms, ended = execution.terms, execution.ended
        assert ended is not None
        self._live.pop(terms.id, None)
        self.reservations.free_name(terms.name, terms.id)
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

    def _find_live(self, id_or_name: str) -> LiveExecution | None:
        return self._live.get(id_or_name) or self._live.get(self.reservations.names.get(id_or_name, ""))

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
                hint=suggest(id_or_name, self.reservations.names) or "GET /api/v1/executions lists them.",
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
                status = "starting" if record.id in self.reservations.starting else "terminated"
        return records.info_from_record(record, status)
