"""Answers, encoded once and sent as they are: no response is validated a second time."""

from __future__ import annotations

from typing import Any

from faas.types import Problem
from pydantic import BaseModel
from starlette.responses import Response

from faas_gateway.errors import GatewayError

JSON = "application/json"
PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"
TAR = "application/x-tar"
VALUE = "application/vnd.faas.value"


def json_response(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json().encode(), status_code=status, media_type=JSON)


def problem_response(error: GatewayError) -> Response:
    response = Response(error.problem().model_dump_json().encode(), status_code=error.status, media_type=PROBLEM)
    if error.status == 503:
        response.headers["Retry-After"] = "1"
    return response


_DESCRIPTIONS = {
    404: "There is no such thing: `code` says of what kind.",
    409: "The name or the request id is taken, or what is asked for is not there yet: `code` says which.",
    410: "The execution has ended, or the snapshot is gone; `detail` says why, `hint` how to go on.",
    413: "The body is too large.",
    422: "The request is not valid, or the sandbox refused it; `errors` lists the fields.",
    502: "The environment could not be built; `detail` has the end of the output.",
    503: "No sandbox, no capacity, or no storage: `code` says which, `hint` what mends it.",
    504: "A wait had its deadline.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems (500 always)."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {"description": _DESCRIPTIONS[status], "model": Problem} for status in statuses
    }
    documented[500] = {"description": "A fault of the gateway; its log has the reason.", "model": Problem}
    return documented


def stream_docs(model: type[BaseModel], events: str) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers with a model, or with events that are described in words."""
    return {
        200: {
            "model": model,
            "description": f"The result; as server-sent events: {events}",
            "content": {EVENTS: {"schema": {"type": "string"}}},
        }
    }
