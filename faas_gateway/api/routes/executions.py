"""Executions: open, list, get, end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from faas.types import ExecutionCreate, ExecutionInfo, ExecutionPage, ExecutionStatus, RewindInput
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from faas_gateway.api.deps import ExecutionPath, GatewayDep
from faas_gateway.api.progress import ProgressFeed
from faas_gateway.api.responses import EVENTS, json_response, problems, stream_docs
from faas_gateway.api.streams import EventStream, EventStreamResponse, sse, unless_disconnected
from faas_gateway.errors import InvalidRequestError

router = APIRouter(prefix="/executions", tags=["executions"])

MAX_LABELS = 16


@router.post(
    "",
    status_code=201,
    response_model=ExecutionInfo,
    responses={
        **problems(404, 409, 413, 422, 502, 503),
        **stream_docs(ExecutionInfo, "`progress` as it takes time, then one of `execution` or `problem`."),
    },
    operation_id="create_execution",
)
async def create_execution(gateway: GatewayDep, body: ExecutionCreate, request: Request) -> Response:
    """Open an execution. With `Accept: text/event-stream` its progress comes as events."""
    executions = gateway.executions
    if EVENTS in request.headers.get("accept", ""):

        async def produce(stream: EventStream) -> None:
            feed = ProgressFeed(stream.write, gateway.settings.ping_s)
            stream.start_soon(feed.run)
            try:
                execution = await executions.create(body, feed.report)
            except BaseException:
                await feed.stop()
                raise
            try:
                await feed.stop()
                await stream.write(sse("execution", executions.describe(execution)))
            except BaseException:
                executions.abandon(execution)
                raise

        return EventStreamResponse(produce)

    async def create() -> Response:
        execution = await executions.create(body, lambda _report: None)
        return json_response(executions.describe(execution), 201)

    return await unless_disconnected(request.receive, create)


@router.get("", response_model=ExecutionPage, responses=problems(422, 503), operation_id="list_executions")
async def list_executions(
    gateway: GatewayDep,
    status: ExecutionStatus | None = None,
    environment: Annotated[str | None, Query(max_length=64)] = None,
    label: Annotated[list[str] | None, Query(description="`key:value`; several must all hold")] = None,
    cursor: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Executions, also ended ones, newest first."""
    page = await gateway.executions.list(
        status=status, environment=environment, labels=_labels(label or []), cursor=cursor, limit=limit
    )
    return json_response(page)


@router.get("/{execution}", response_model=ExecutionInfo, responses=problems(404, 503), operation_id="get_execution")
async def get_execution(gateway: GatewayDep, execution: ExecutionPath) -> Response:
    """Status, limits in force and what it uses."""
    return json_response(await gateway.executions.get(execution))


@router.delete("/{execution}", response_model=ExecutionInfo, responses=problems(404, 503), operation_id="end_execution")
async def end_execution(gateway: GatewayDep, execution: ExecutionPath) -> Response:
    """End an execution and all that runs in it. Idempotent."""
    return json_response(await gateway.executions.end(execution))


@router.post(
    "/{execution}/rewind",
    response_model=ExecutionInfo,
    responses=problems(404, 409, 410, 413, 422, 503, 504),
    operation_id="rewind_execution",
)
async def rewind_execution(gateway: GatewayDep, execution: ExecutionPath, body: RewindInput) -> Response:
    """Take a session, its files included, back to where it stood after an earlier request."""
    rewound = await gateway.snapshots.rewind(execution, body)
    return json_response(gateway.executions.describe(rewound))


def _labels(given: list[str]) -> Mapping[str, str]:
    if len(given) > MAX_LABELS:
        raise InvalidRequestError(f"label: at most {MAX_LABELS} of them")
    labels: dict[str, str] = {}
    for item in given:
        key, colon, value = item.partition(":")
        if not colon:
            raise InvalidRequestError("label: it has to be key:value", hint="For example ?label=team:blue")
        labels[key] = value
    return labels
