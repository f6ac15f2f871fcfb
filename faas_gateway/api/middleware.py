"""What is done for every request, as plain ASGI: its id, its log line, the bound of its body."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faas_gateway import logs
from faas_gateway.activity import Activity
from faas_gateway.api.responses import problem_response
from faas_gateway.errors import InternalError
from faas_gateway.ids import new_request_id

log = logging.getLogger("faas_gateway.access")

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9_.-]{1,64}$")


class BodyTooLargeError(HTTPException):
    """An HTTPException, because that is what passes through FastAPI's reading of a body."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body is larger than {limit >> 20} MiB.")


class RequestMiddleware:
    """Outermost of all: also catches what nothing else caught.

    Args:
        app: what it wraps.
        activity: counts the requests.
        body_limit: the largest body for a method and a path, bytes; None where the route sees to it.
        stall_s: longest pause in a body that has a limit, seconds.
    """

    def __init__(
        self, app: ASGIApp, *, activity: Activity, body_limit: Callable[[str, str], int | None], stall_s: float
    ) -> None:
        self._app = app
        self._activity = activity
        self._body_limit = body_limit
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or new_request_id()
        logs.request_id.set(request_id)
        header = (b"x-request-id", request_id.encode("ascii"))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        started = time.monotonic()
        with self._activity.request():
            try:
                await self._app(scope, self._bounded(scope, receive), send_with_id)
            except ClientDisconnect:
                pass  # nobody is there to be told
            except Exception:
                log.exception("unexpected")
                if not status:
                    error = InternalError("The gateway failed at this; its log has the reason.")
                    await problem_response(error)(scope, receive, send_with_id)
        if log.isEnabledFor(logging.DEBUG):
            seconds = time.monotonic() - started
            log.debug("%s %s %s %.1f ms", scope["method"], scope["path"], status, seconds * 1000)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        limit = self._body_limit(scope["method"], scope["path"])
        if limit is None:
            return receive
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                return _refuse(limit)
        received = 0

        complete = False

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:  # what is waited for now is the client's leaving
                return await receive()
            message: Message | None = None
            with anyio.move_on_after(self._stall_s):
                message = await receive()
            if message is None:
                raise HTTPException(408, f"The body stopped coming for {self._stall_s:g} s.")
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                received += len(message.get("body", b""))
                if received > limit:
                    raise BodyTooLargeError(limit)
            return message

        return bounded


def _refuse(limit: int) -> Receive:
    async def refuse() -> Message:
        raise BodyTooLargeError(limit)

    return refuse


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return value.decode("ascii")
    return None
