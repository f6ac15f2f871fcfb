"""The events of a running request, from server-sent events to what a caller sees. No I/O."""

from __future__ import annotations

import binascii
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

from faas._calls import parse
from faas._http import problem_error
from faas._sse import ServerSentEvent
from faas.errors import APIError, ProtocolError
from faas.types import ExecutionResult, OutputEvent, Problem

__all__ = ["cancelled_result", "output_event", "problem_of", "read_model"]

_Model = TypeVar("_Model", bound=BaseModel)


def output_event(sse: ServerSentEvent) -> OutputEvent:
    """A Jupyter message, with its buffers as bytes.

    Built without pydantic's validation, which would walk all of the output once more.
    """
    try:
        data: dict[str, Any] = orjson.loads(sse.data)
        return OutputEvent.model_construct(
            id=int(sse.id),
            msg_type=data["msg_type"],
            content=data.get("content") or {},
            metadata=data.get("metadata") or {},
            buffers=[binascii.a2b_base64(buffer, strict_mode=True) for buffer in data.get("buffers") or ()],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"The gateway sent an event {sse.event!r} that is not a message: {error!r}") from error


def read_model(model: type[_Model], sse: ServerSentEvent) -> _Model:
    """The data of an event as its model."""
    return parse(model, sse.data)


def problem_of(sse: ServerSentEvent) -> APIError:
    """The exception for a `problem` event."""
    return problem_error(parse(Problem, sse.data))


def cancelled_result(request_id: str, execution_id: str) -> ExecutionResult:
    """The result of a request that was interrupted before the gateway had it: no code ran."""
    return ExecutionResult.model_validate(
        {
            "request_id": request_id,
            "execution_id": execution_id,
            "status": "cancelled",
            "error": {
                "code": "cancelled",
                "ename": "KeyboardInterrupt",
                "evalue": "interrupted before the code was sent",
            },
        }
    )
