"""A snapshot of what a script makes: an execution is opened, runs it, is frozen and ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import orjson
from faas.types import ExecuteInput, ExecutionCreate, ExecutionResult, ScriptSnapshotCreate

from faas_gateway.backends.base import Ended, ProgressReport, Report
from faas_gateway.errors import OUTPUT_TAIL_CHARS, ScriptFailedError
from faas_gateway.managers.execution import LiveExecution
from faas_gateway.managers.executions import ExecutionManager
from faas_gateway.managers.requests import Request


@asynccontextmanager
async def after_script(
    executions: ExecutionManager, body: ScriptSnapshotCreate, report: Report
) -> AsyncGenerator[LiveExecution]:
    """An execution as a script has left it; it is ended when the block is left, however that is.

    Raises:
        ScriptFailedError: with the end of its output.
        as `ExecutionManager.create`.
    """
    execution = await executions.create(
        ExecutionCreate(
            environment=body.environment,
            language=body.language,
            resources=body.resources,
            network=body.network,
            env_vars=body.env_vars,
        ),
        report,
    )
    try:
        report(ProgressReport("script", "running the script"))
        # As in a Dockerfile, the first step that fails fails the whole.
        code = f"set -e; {body.script}" if body.language == "shell" else body.script
        request = execution.execute(ExecuteInput(code=code, timeout=body.timeout))
        await request.done.wait()
        _require_success(request)
        yield execution
    finally:
        with anyio.CancelScope(shield=True):
            await execution.end(Ended("closed", "its script has run"))


def _require_success(request: Request) -> None:
    result = request.result
    assert result is not None
    if result.status == "success":
        return
    whole = ExecutionResult.model_validate(orjson.loads(request.read_result()))
    output = (whole.stdout + whole.stderr)[-OUTPUT_TAIL_CHARS:]
    error = result.error
    why = f"exit code {result.exit_code}"
    if error is not None and (error.ename or error.evalue):
        why = f"{': '.join(part for part in (error.ename, error.evalue) if part)}; {why}"
    raise ScriptFailedError(
        f"The script failed ({why})." + (f" The end of its output:\n{output}" if output else ""),
        hint="Nothing is left of it. Run it in an execution to look into it."
        if not (error and error.hint)
        else error.hint,
    )
