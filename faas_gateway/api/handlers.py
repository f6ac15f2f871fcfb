"""From every exception to a problem: ours, the backend's, those of the framework, and what nobody foresaw."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, cast

from faas.types import ScriptSnapshotCreate, SnapshotCreate
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from faas_gateway.api.responses import problem_response
from faas_gateway.errors import (
    BACKEND_ERRORS,
    GatewayError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    from_backend,
    suggest,
)

MAX_ERRORS = 20
GIVEN_CHARS = 100
#: Their values are code, input or secrets: they are not repeated in an answer.
_UNQUOTED = frozenset({"code", "stdin", "env_vars", "command", "script", "variables"})

#: Where a body is one of several models, pydantic puts the name of the one that was meant into the place of an error.
_ALTERNATIVES: dict[Any, type[BaseModel]] = {kind.__name__: kind for kind in (SnapshotCreate, ScriptSnapshotCreate)}


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    for kind in (GatewayError, *BACKEND_ERRORS):
        app.add_exception_handler(kind, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


async def _ours(_request: Request, exc: Exception) -> Response:
    return problem_response(from_backend(exc))


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    method, path = request.method, request.url.path
    match exc.status_code:
        case 404:
            error: GatewayError = NotFoundError(
                f"There is no route {path}.", hint="GET /openapi.json describes what there is."
            )
        case 405:
            allowed = (exc.headers or {}).get("Allow", "")
            error = MethodNotAllowedError(
                f"{path} does not take {method}.", hint=f"It takes {allowed}." if allowed else ""
            )
        case 413:
            error = TooLargeError(str(exc.detail), hint="Send large data as files: PUT .../files/PATH.")
        case status if status < 500:
            error = InvalidRequestError(str(exc.detail))
        case _:
            error = InternalError("The gateway failed at this; its log has the reason.")
    response = problem_response(error)
    for name, value in (exc.headers or {}).items():
        response.headers[name] = value
    return response


async def _validation(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    found = cast("Sequence[dict[str, Any]]", exc.errors())[:MAX_ERRORS]
    body = _body_model(request)
    errors = [_describe(item, body) for item in found]
    if any(item["loc"] == ("body",) and item["type"] != "missing" for item in found):
        content_type = request.headers.get("content-type", "none")
        if not content_type.startswith("application/json"):
            error = InvalidRequestError(
                f"The body has to be JSON; its content type is {content_type}.",
                hint="Send it with Content-Type: application/json.",
                errors=errors,
            )
            return problem_response(error)
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
    hints = [e["hint"] for e in errors if e.get("hint")]
    return problem_response(InvalidRequestError(detail, hint=" ".join(hints), errors=errors))


def _describe(error: dict[str, Any], body: type[BaseModel] | None) -> dict[str, Any]:
    """Which field, what is wrong with it, what was given."""
    kind, path = (
        str(error["type"]),
        [part for part in error["loc"] if part not in ("body", "query", "header", *_ALTERNATIVES)],
    )
    body = next((_ALTERNATIVES[part] for part in error["loc"] if part in _ALTERNATIVES), body)
    field = ".".join(str(part) for part in path if part != "[key]") or "body"
    described: dict[str, Any] = {"field": field, "type": kind}
    if kind == "json_invalid":
        described.update(field="body", message=f"not valid JSON: {error['ctx']['error']}")
        return described
    if kind == "extra_forbidden":
        known = _fields_at(body, path[:-1])
        described["message"] = "unknown field"
        described["hint"] = f"{suggest(str(path[-1]), known)} Known: {', '.join(sorted(known))}.".strip()
        return described
    if kind == "missing":
        described["message"] = "it is required"
        return described
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    if path and path[0] not in _UNQUOTED:
        given = repr(error.get("input"))
        described["given"] = given if len(given) <= GIVEN_CHARS else given[:GIVEN_CHARS] + "..."
        message = f"{message}, given {described['given']}"
    described["message"] = message
    return described


def _body_model(request: Request) -> type[BaseModel] | None:
    """The model of the route's body: the routes name that parameter `body`."""
    endpoint = request.scope.get("endpoint")
    model = typing.get_type_hints(endpoint).get("body") if endpoint is not None else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _fields_at(model: type[BaseModel] | None, path: Sequence[object]) -> list[str]:
    """Names of the fields of the model at a place inside another."""
    for part in path:
        field = model.model_fields.get(str(part)) if model is not None else None
        if field is None:
            return []
        inner = [field.annotation, *typing.get_args(field.annotation)]
        model = next((m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)), None)
    return list(model.model_fields) if model is not None else []
