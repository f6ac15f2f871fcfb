"""Variables of a session: list, pull, push. Values travel encoded (see `faas.values`), never as pickles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import anyio.to_thread
import orjson
from faas import values
from faas.types import IDENTIFIER_PATTERN, VariableList
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from faas_gateway.api.deps import ExecutionPath, GatewayDep
from faas_gateway.api.responses import JSON, VALUE, json_response, problems
from faas_gateway.api.streams import chunked_response
from faas_gateway.errors import InvalidRequestError, NotTransferableError
from faas_gateway.managers.access import SandboxAccess

router = APIRouter(prefix="/executions/{execution}/variables", tags=["variables"])

MAX_JSON_BYTES = 32 << 20

VariableName = Annotated[str, Path(max_length=256, description="a Python identifier")]
_CONTENT: dict[str, Any] = {VALUE: {"schema": {"type": "string", "format": "binary"}}, JSON: {"schema": {}}}


@router.get(
    "",
    response_model=VariableList,
    responses=problems(404, 410, 422, 503, 504),
    operation_id="list_variables",
)
async def list_variables(gateway: GatewayDep, execution: ExecutionPath) -> Response:
    """Names, types, shapes and sizes, between two pieces of code."""
    access = (await gateway.executions.open_execution(execution)).access
    return json_response(VariableList(items=await access.list_variables()))


@router.get(
    "/{name}",
    responses={
        **problems(404, 410, 422, 503, 504),
        200: {"description": "The value, encoded, or as JSON where it is plain JSON.", "content": _CONTENT},
    },
    operation_id="pull_variable",
)
async def pull_variable(
    gateway: GatewayDep, execution: ExecutionPath, name: VariableName, request: Request
) -> Response:
    """One value. `Accept: application/json` asks for plain JSON."""
    _check_name(name)
    access = (await gateway.executions.open_execution(execution)).access
    accept = request.headers.get("accept", "")
    if JSON in accept and VALUE not in accept:
        data = await _read_whole(access, name)
        return Response(await anyio.to_thread.run_sync(_to_json, data, name), media_type=JSON)
    return await chunked_response(access.pull_variable(name), VALUE, gateway.settings.call_deadline_s)


@router.put(
    "/{name}",
    status_code=204,
    responses=problems(404, 410, 413, 422, 503, 504),
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
    operation_id="push_variable",
)
async def push_variable(
    gateway: GatewayDep, execution: ExecutionPath, name: VariableName, request: Request
) -> Response:
    """Set a variable to a value, encoded or plain JSON."""
    _check_name(name)
    access = (await gateway.executions.open_execution(execution)).access
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match media_type:
        case "application/vnd.faas.value":
            await access.push_variable(name, _chunks(request))
        case "application/json":
            body = await request.body()
            encoded = await anyio.to_thread.run_sync(_from_json, body)
            await access.push_variable(name, _once(encoded))
        case _:
            raise InvalidRequestError(
                f"Content-Type: {media_type or 'none'} is no form of a value", hint=f"Send {VALUE} or {JSON}."
            )
    return Response(status_code=204)


def _check_name(name: str) -> None:
    if not IDENTIFIER_PATTERN.match(name):
        raise InvalidRequestError(f"name: {name!r} is not a Python identifier")


async def _read_whole(access: SandboxAccess, name: str) -> bytes:
    data = bytearray()
    async with aclosing(access.pull_variable(name)) as chunks:
        async for chunk in chunks:
            data += chunk
            if len(data) > MAX_JSON_BYTES:
                raise NotTransferableError(
                    f"{name} is larger than {MAX_JSON_BYTES >> 20} MiB, too large for JSON.",
                    hint=f"Ask for it with Accept: {VALUE}.",
                )
    return bytes(data)


def _to_json(data: bytes, name: str) -> bytes:
    try:
        if not values.is_plain_json(data):
            raise NotTransferableError(f"{name} is not plain JSON.", hint=f"Ask for it with Accept: {VALUE}.")
        return orjson.dumps(values.to_json(data))
    except (values.ValueDecodeError, TypeError) as exc:
        raise NotTransferableError(f"{name} cannot be written as JSON.", hint=f"Accept: {VALUE}.") from exc


def _from_json(body: bytes) -> bytes:
    try:
        return values.from_json(orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise InvalidRequestError(f"The body is not valid JSON: {exc.msg}.") from exc
    except values.ValueEncodeError as exc:
        raise NotTransferableError(str(exc)) from exc


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
