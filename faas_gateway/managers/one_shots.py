"""Code that has an execution of its own: opened for it, and ended with it. One, or many in parallel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from faas.types import ExecuteInput, ExecutionCreate, OneShotBatch, OneShotCreate

from faas_gateway.backends.base import Report
from faas_gateway.errors import BACKEND_ERRORS, GatewayError, StorageUnavailableError, from_backend
from faas_gateway.managers.executions import ExecutionManager
from faas_gateway.managers.requests import Request
from faas_gateway.managers.spool import SpooledBytes
from faas_gateway.settings import Settings


class OneShots:
    """Runs them.

    Args:
        executions: opens and ends the executions.
        settings: how many of a batch run at the same time.
    """

    def __init__(self, executions: ExecutionManager, settings: Settings) -> None:
        self._executions = executions
        self._settings = settings

    @asynccontextmanager
    async def run(self, body: OneShotCreate, report: Report) -> AsyncGenerator[Request]:
        """Open an execution, start its code, and end it when the block is left, however that is.

        Raises:
            as `ExecutionManager.create`.
        """
        create = ExecutionCreate(
            environment=body.environment,
            language=body.language,
            network=body.network,
            resources=body.resources,
            env_vars=body.env_vars,
            labels=body.labels,
            interpreter=body.interpreter,
        )
        timeout = body.timeout
        if "timeout" not in body.model_fields_set and body.resources and body.resources.timeout_s:
            timeout = body.resources.timeout_s
        execution = await self._executions.create(create, report, one_shot=True)
        try:
            yield execution.execute(ExecuteInput(code=body.code, timeout=timeout, request_id=body.request_id))
        finally:
            # The answer does not wait for the clean-up, and a cancelled caller cannot.
            self._executions.end_soon(execution)

    async def run_batch(self, body: OneShotBatch) -> AsyncGenerator[bytes]:
        """Run all of them in parallel, so many at a time, and yield a BatchPage as JSON once all are done.

        One that fails does not fail the others. What was printed lies on disk until it is sent, since it may be much.
        """
        kept: list[SpooledBytes | None] = [None] * len(body.requests)
        limiter = anyio.CapacityLimiter(self._settings.batch_at_once)

        async def run(index: int, request: OneShotCreate) -> None:
            async with limiter:
                kept[index] = self._keep(await self._outcome(index, request), index)

        try:
            async with anyio.create_task_group() as group:
                for index, request in enumerate(body.requests):
                    group.start_soon(run, index, request)
            yield b'{"items":['
            for index, outcome in enumerate(kept):
                assert outcome is not None
                yield (b"," if index else b"") + outcome.read()
            yield b"]}"
        finally:
            for outcome in kept:
                if outcome is not None:
                    outcome.close()

    async def _outcome(self, index: int, body: OneShotCreate) -> bytes:
        """A BatchOutcome as JSON."""
        try:
            async with self.run(body, lambda _report: None) as request:
                await request.done.wait()
                return b'{"index":%d,"result":%b,"problem":null}' % (index, request.read_result())
        except (GatewayError, *BACKEND_ERRORS) as exc:
            return _problem(index, exc)

    def _keep(self, outcome: bytes, index: int) -> SpooledBytes:
        try:
            return SpooledBytes(outcome, self._settings.spool_dir, self._settings.log_memory_bytes)
        except OSError as exc:
            full = StorageUnavailableError(f"The result could not be kept: {exc.strerror}.", hint="Print less.")
            return SpooledBytes(_problem(index, full), self._settings.spool_dir, 1 << 30)


def _problem(index: int, exc: Exception) -> bytes:
    problem = from_backend(exc).problem().model_dump_json().encode()
    return b'{"index":%d,"result":null,"problem":%b}' % (index, problem)
