"""Files of a session: read, list, write, delete; folders as tar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from faas.types import FileList
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from faas_gateway.api.deps import ExecutionPath, GatewayDep
from faas_gateway.api.responses import BYTES, TAR, json_response, problems
from faas_gateway.api.streams import chunked_response
from faas_gateway.errors import InvalidRequestError

router = APIRouter(prefix="/executions/{execution}/files", tags=["files"])

MAX_PATH_CHARS = 4096

FilePath = Annotated[str, Path(description="relative to /workspace, or absolute with a second slash: files//etc/hosts")]


@router.get(
    "/{path:path}",
    response_model=FileList,
    responses={
        **problems(404, 410, 422, 504),
        200: {
            "description": "The bytes of a file, a folder as tar, or with ?list=true what is in the folder.",
            "content": {
                BYTES: {"schema": {"type": "string", "format": "binary"}},
                TAR: {"schema": {"type": "string", "format": "binary"}},
            },
        },
    },
    operation_id="read_file",
)
async def read_file(
    gateway: GatewayDep,
    execution: ExecutionPath,
    path: FilePath,
    list_: Annotated[bool, Query(alias="list", description="the entries of the folder, or of the file")] = False,
) -> Response:
    """Read a file or a folder, or list it."""
    path = _checked(path)
    access = (await gateway.executions.open_execution(execution)).access
    entry = await access.stat_file(path)
    if list_:
        items = await access.list_files(path) if entry.type == "directory" else [entry]
        return json_response(FileList(items=items))
    media_type = TAR if entry.type == "directory" else BYTES
    return await chunked_response(access.read_file(path), media_type, gateway.settings.call_deadline_s)


@router.put(
    "/{path:path}",
    status_code=204,
    responses=problems(404, 410, 422, 504),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                BYTES: {"schema": {"type": "string", "format": "binary"}},
                TAR: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
    operation_id="write_file",
)
async def write_file(gateway: GatewayDep, execution: ExecutionPath, path: FilePath, request: Request) -> Response:
    """Write a file; its folders are made. A body of type application/x-tar is unpacked into the folder."""
    path = _checked(path)
    access = (await gateway.executions.open_execution(execution)).access
    untar = request.headers.get("content-type", "").partition(";")[0].strip().lower() == TAR
    await access.write_file(path, _chunks(request), untar=untar)
    return Response(status_code=204)


@router.delete("/{path:path}", status_code=204, responses=problems(404, 410, 422, 504), operation_id="delete_file")
async def delete_file(gateway: GatewayDep, execution: ExecutionPath, path: FilePath) -> Response:
    """Delete a file, or a folder and all that is in it."""
    path = _checked(path)
    access = (await gateway.executions.open_execution(execution)).access
    await access.delete_file(path)
    return Response(status_code=204)


def _checked(path: str) -> str:
    if "\x00" in path or len(path) > MAX_PATH_CHARS:
        raise InvalidRequestError(f"path: at most {MAX_PATH_CHARS} characters, none of them NUL")
    return path or "."


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
