"""Code and commands: run them, read their results and events, interrupt them."""

from __future__ import annotations

from typing import Annotated

from faas.types import BatchPage, ExecuteInput, ExecutionResult, OneShotBatch, OneShotCreate, RunInput
from fastapi import APIRouter, Header, Query
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from faas_gateway.api.deps import ExecutionPath, GatewayDep, RequestPath
from faas_gateway.api.progress import ProgressFeed
from faas_gateway.api.responses import EVENTS, JSON, problems, stream_docs
from faas_gateway.api.streams import (
    EventStream,
    EventStreamResponse,
    chunked_response,
    log_response,
    unless_disconnected,
    write_log,
)
from faas_gateway.errors import InvalidRequestError, RequestRunningError
from faas_gateway.managers.eventlog import BadPositionError
from faas_gateway.managers.gateway import Gateway
from faas_gateway.managers.requests import Request

router = APIRouter(tags=["code"])

_EVENTS = "`accepted`, one event per Jupyter message, `result`."
_USED_IN_SESSION = {**problems(404, 409, 410, 413, 422, 503), **stream_docs(ExecutionResult, _EVENTS)}

Stream = Annotated[bool, Query(description="answer with server-sent events as the output comes")]


@router.post(
    "/executions/{execution}/execute",
    response_model=ExecutionResult,
    responses=_USED_IN_SESSION,
    operation_id="execute_in_execution",
)
async def execute(
    gateway: GatewayDep, execution: ExecutionPath, body: ExecuteInput, stream: Stream = False
) -> Response:
    """Run code in an open execution. It goes on when the client leaves; DELETE its request to stop it."""
    opened = await gateway.executions.open_execution(execution)
    return await _answer(gateway, opened.execute(body), stream)


@router.post(
    "/executions/{execution}/run",
    response_model=ExecutionResult,
    responses=_USED_IN_SESSION,
    operation_id="run_in_execution",
)
async def run(gateway: GatewayDep, execution: ExecutionPath, body: RunInput, stream: Stream = False) -> Response:
    """Run a command beside the code of an open execution."""
    opened = await gateway.executions.open_execution(execution)
    return await _answer(gateway, opened.run(body), stream)


@router.get(
    "/executions/{execution}/requests/{request_id}",
    response_model=ExecutionResult,
    responses=problems(404, 409, 410, 422),
    operation_id="get_result",
)
async def get_result(
    gateway: GatewayDep,
    execution: ExecutionPath,
    request_id: RequestPath,
    wait: Annotated[float, Query(ge=0, le=600, description="seconds to wait for it")] = 0,
) -> Response:
    """The result of a request, also of one whose client is gone."""
    request = await gateway.executions.find_request(execution, request_id)
    if not await request.wait(wait):
        raise RequestRunningError(
            f"Request {request_id!r} is still running.", hint="Ask again, with ?wait=SECONDS to wait for it."
        )
    return _result(request)


@router.delete(
    "/executions/{execution}/requests/{request_id}",
    status_code=202,
    responses=problems(404, 410),
    operation_id="interrupt_request",
)
async def interrupt(gateway: GatewayDep, execution: ExecutionPath, request_id: RequestPath) -> Response:
    """Interrupt a request, as Ctrl-C does. Idempotent."""
    request = await gateway.executions.find_request(execution, request_id)
    await request.interrupt()
    return Response(status_code=202)


@router.get(
    "/executions/{execution}/requests/{request_id}/events",
    responses={
        **problems(404, 410, 422),
        200: {"description": _EVENTS, "content": {EVENTS: {"schema": {"type": "string"}}}},
    },
    operation_id="stream_events",
)
async def events(
    gateway: GatewayDep,
    execution: ExecutionPath,
    request_id: RequestPath,
    last_event_id: Annotated[str | None, Header(description="the id of the last event that came")] = None,
) -> Response:
    """The events of a request from its start, or after one that the client has."""
    request = await gateway.executions.find_request(execution, request_id)
    try:
        after = int(last_event_id or 0)
        request.log.check(after)
    except (ValueError, BadPositionError) as exc:
        raise InvalidRequestError(
            "Last-Event-ID: the request has no such event", hint="Leave it out to get all events."
        ) from exc
    return log_response(request.log, after, gateway.settings.ping_s)


@router.post(
    "/execute",
    response_model=ExecutionResult,
    responses={
        **problems(404, 413, 422, 502, 503),
        **stream_docs(ExecutionResult, f"`progress` as it takes time, then {_EVENTS} Or `problem`."),
    },
    operation_id="execute_once",
)
async def execute_once(
    gateway: GatewayDep, body: OneShotCreate, request: HTTPRequest, stream: Stream = False
) -> Response:
    """Run code in a sandbox of its own, which ends with it, or with the client's connection."""
    if stream:

        async def produce(stream: EventStream) -> None:
            feed = ProgressFeed(stream.write, gateway.settings.ping_s)
            stream.start_soon(feed.run)
            try:
                async with gateway.one_shots.run(body, feed.report) as started:
                    await feed.stop()
                    await write_log(stream.write, started.log, 0, gateway.settings.ping_s)
            finally:
                await feed.stop()

        return EventStreamResponse(produce)

    async def run_once() -> Response:
        async with gateway.one_shots.run(body, lambda _report: None) as started:
            await started.done.wait()
            return _result(started)

    return await unless_disconnected(request.receive, run_once)


@router.post(
    "/executions/batch",
    response_model=BatchPage,
    responses=problems(413, 422, 503),
    operation_id="execute_batch",
)
async def execute_batch(gateway: GatewayDep, body: OneShotBatch, request: HTTPRequest) -> Response:
    """Run code many times, each in a sandbox of its own, in parallel. One that fails does not fail the others.

    The answer comes when all are done, in the order of the requests. All end with the client's connection.
    """

    async def run_all() -> Response:
        outcomes = gateway.one_shots.run_batch(body)
        return await chunked_response(outcomes, JSON, gateway.settings.call_deadline_s)

    return await unless_disconnected(request.receive, run_all)


async def _answer(gateway: Gateway, request: Request, stream: bool) -> Response:
    if stream:
        return log_response(request.log, 0, gateway.settings.ping_s)
    await request.done.wait()
    return _result(request)


def _result(request: Request) -> Response:
    return Response(request.read_result(), media_type=JSON)
