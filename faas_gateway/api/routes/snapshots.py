"""Snapshots: take, list, compare, restore, export and import them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from faas.types import (
    BranchInput,
    BranchPage,
    CheckInput,
    Diff,
    Name,
    RestoreInput,
    ScriptSnapshotCreate,
    Snapshot,
    SnapshotCheck,
    SnapshotCreate,
    SnapshotPage,
    SnapshotUpdate,
)
from fastapi import APIRouter, Path, Query
from pydantic import Discriminator, Tag
from starlette.requests import Request
from starlette.responses import Response

from faas_gateway.api.deps import ExecutionPath, GatewayDep, SnapshotPath
from faas_gateway.api.progress import ProgressFeed
from faas_gateway.api.responses import BYTES, EVENTS, TAR, json_response, problems, stream_docs
from faas_gateway.api.streams import EventStream, EventStreamResponse, chunked_response, sse, unless_disconnected
from faas_gateway.backends.base import Report
from faas_gateway.errors import InvalidRequestError
from faas_gateway.managers.gateway import Gateway

router = APIRouter(tags=["snapshots"])

_TAKEN = {
    **problems(404, 409, 410, 413, 422, 502, 503, 504),
    **stream_docs(Snapshot, "`progress` as it takes time, then one of `snapshot` or `problem`."),
}
_BRANCHED = problems(404, 410, 413, 422, 502, 503, 504)


def _kind(body: Any) -> str:
    """Which of the two bodies it is meant to be, so that an error names the fields of that one."""
    has_script = "script" in body if isinstance(body, dict) else isinstance(body, ScriptSnapshotCreate)
    return ScriptSnapshotCreate.__name__ if has_script else SnapshotCreate.__name__


SnapshotBody = Annotated[
    Annotated[SnapshotCreate, Tag("SnapshotCreate")] | Annotated[ScriptSnapshotCreate, Tag("ScriptSnapshotCreate")],
    Discriminator(_kind),
]


@router.post(
    "/executions/{execution}/snapshot",
    status_code=201,
    response_model=Snapshot,
    responses=_TAKEN,
    operation_id="snapshot_execution",
)
async def snapshot_execution(
    gateway: GatewayDep, execution: ExecutionPath, body: SnapshotCreate, request: Request
) -> Response:
    """Take a snapshot of a session, which goes on. It waits for running code, at most `timeout`."""
    if body.execution_id not in (None, execution):
        raise InvalidRequestError("execution_id: it is given by the path", hint="Leave it out of the body.")
    return await _take(gateway, body.model_copy(update={"execution_id": execution}), request)


@router.get("/snapshots", response_model=SnapshotPage, responses=problems(422), operation_id="list_snapshots")
async def list_snapshots(
    gateway: GatewayDep,
    checkpoints: Annotated[bool, Query(description="also those that sessions keep to be rewound to")] = False,
    cursor: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """All snapshots, newest first; their `parent_id`s form the tree."""
    return json_response(await gateway.snapshots.list(checkpoints=checkpoints, cursor=cursor, limit=limit))


@router.post("/snapshots", status_code=201, response_model=Snapshot, responses=_TAKEN, operation_id="create_snapshot")
async def create_snapshot(gateway: GatewayDep, body: SnapshotBody, request: Request) -> Response:
    """Take a snapshot of an execution, or of what a script makes in one of its own."""
    return await _take(gateway, body, request)


@router.post(
    "/snapshots/check",
    response_model=SnapshotCheck,
    responses=problems(404, 410, 413, 422, 503, 504),
    operation_id="check_snapshot",
)
async def check_snapshot(gateway: GatewayDep, body: CheckInput) -> Response:
    """What of an execution would not survive a snapshot."""
    return json_response(await gateway.snapshots.check(body))


@router.post(
    "/snapshots/import",
    status_code=201,
    response_model=Snapshot,
    responses=problems(404, 409, 413, 422, 503, 504),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    operation_id="import_snapshot",
)
async def import_snapshot(
    gateway: GatewayDep, request: Request, name: Annotated[Name | None, Query(description="for it here")] = None
) -> Response:
    """A snapshot out of a file that was exported, here or on another machine."""
    return json_response(await gateway.snapshots.import_file(name, _chunks(request)), 201)


@router.get(
    "/snapshots/{snapshot}", response_model=Snapshot, responses=problems(404, 410, 503), operation_id="get_snapshot"
)
async def get_snapshot(gateway: GatewayDep, snapshot: SnapshotPath) -> Response:
    """Its forms, what it costs, and what it could not include."""
    return json_response(await gateway.snapshots.get(snapshot))


@router.patch(
    "/snapshots/{snapshot}",
    response_model=Snapshot,
    responses=problems(404, 409, 410, 413, 422, 503),
    operation_id="update_snapshot",
)
async def update_snapshot(gateway: GatewayDep, snapshot: SnapshotPath, body: SnapshotUpdate) -> Response:
    """Rename it, or keep it from expiring and making room."""
    return json_response(await gateway.snapshots.update(snapshot, body))


@router.delete("/snapshots/{snapshot}", status_code=204, responses=problems(404, 503), operation_id="delete_snapshot")
async def delete_snapshot(gateway: GatewayDep, snapshot: SnapshotPath) -> Response:
    """Delete it; what was restored from it goes on."""
    await gateway.snapshots.delete(snapshot)
    return Response(status_code=204)


@router.get(
    "/snapshots/{snapshot}/diff/{other}",
    response_model=Diff,
    responses=problems(404, 410, 502, 503, 504),
    operation_id="diff_snapshots",
)
async def diff_snapshots(
    gateway: GatewayDep, snapshot: SnapshotPath, other: Annotated[str, Path(max_length=64)], request: Request
) -> Response:
    """Variables and files that differ, as a way from the first to the second."""

    async def look() -> Response:
        return json_response(await gateway.snapshots.diff(snapshot, other))

    return await unless_disconnected(request.receive, look)


@router.post(
    "/snapshots/{snapshot}/restore",
    status_code=201,
    response_model=BranchPage,
    responses=_BRANCHED,
    operation_id="restore_snapshot",
)
async def restore_snapshot(
    gateway: GatewayDep, snapshot: SnapshotPath, body: RestoreInput, request: Request
) -> Response:
    """Executions that go on from it, all at once. As many as can be made are made; the others carry the reason."""
    return await _branch(request, lambda: gateway.snapshots.restore(snapshot, body))


@router.post(
    "/snapshots/{snapshot}/branch",
    status_code=201,
    response_model=BranchPage,
    responses=_BRANCHED,
    operation_id="branch_snapshot",
)
async def branch_snapshot(gateway: GatewayDep, snapshot: SnapshotPath, body: BranchInput, request: Request) -> Response:
    """The same with a name, variables, environment variables and labels for each."""
    return await _branch(request, lambda: gateway.snapshots.branch(snapshot, body))


@router.get(
    "/snapshots/{snapshot}/export",
    responses={
        **problems(404, 409, 410, 503, 504),
        200: {
            "description": "A tar with meta.json, layer.tar and variables.bin, for POST /snapshots/import.",
            "content": {TAR: {"schema": {"type": "string", "format": "binary"}}},
        },
    },
    operation_id="export_snapshot",
)
async def export_snapshot(gateway: GatewayDep, snapshot: SnapshotPath, request: Request) -> Response:
    """Its portable form as one file; written first where there is none yet."""

    async def begin() -> Response:
        chunks = await gateway.snapshots.export(snapshot)
        return await chunked_response(chunks, TAR, gateway.settings.call_deadline_s)

    return await unless_disconnected(request.receive, begin)


async def _take(gateway: Gateway, body: SnapshotCreate | ScriptSnapshotCreate, request: Request) -> Response:
    snapshots = gateway.snapshots

    async def take(report: Report) -> Snapshot:
        if isinstance(body, ScriptSnapshotCreate):
            return await snapshots.create_from_script(body, report)
        return await snapshots.create(body, report)

    if EVENTS in request.headers.get("accept", ""):

        async def produce(stream: EventStream) -> None:
            feed = ProgressFeed(stream.write, gateway.settings.ping_s)
            stream.start_soon(feed.run)
            try:
                snapshot = await take(feed.report)
            except BaseException:
                await feed.stop()
                raise
            try:
                await feed.stop()
                await stream.write(sse("snapshot", snapshot))
            except BaseException:
                snapshots.abandon(snapshot)
                raise

        return EventStreamResponse(produce)

    async def create() -> Response:
        return json_response(await take(lambda _report: None), 201)

    return await unless_disconnected(request.receive, create)


async def _branch(request: Request, make: Callable[[], Awaitable[BranchPage]]) -> Response:
    async def branch() -> Response:
        return json_response(await make(), 201)

    return await unless_disconnected(request.receive, branch)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
