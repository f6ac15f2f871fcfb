"""Responses whose body comes bit by bit: server-sent events, files and values."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import anyio
from anyio.abc import TaskGroup
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from faas_gateway.api.responses import EVENTS
from faas_gateway.errors import BACKEND_ERRORS, GatewayError, from_backend
from faas_gateway.managers.eventlog import EventLog

log = logging.getLogger(__name__)

PING = b": ping\n\n"

Write = Callable[[bytes], Awaitable[None]]


class EventStream:
    """What a function that produces events is given: `write`, and `start_soon` for tasks that end with the stream."""

    def __init__(self, send: Send, group: TaskGroup) -> None:
        self._send = send
        self.start_soon = group.start_soon

    async def write(self, chunk: bytes) -> None:
        """Send whole events."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


Produce = Callable[[EventStream], Awaitable[None]]


def sse(event: str, model: BaseModel) -> bytes:
    """An event without an id: one that nobody resumes after."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), model.model_dump_json().encode())


async def cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel a scope as soon as the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class EventStreamResponse(Response):
    """Server-sent events from a function that writes them.

    The function is cancelled when the client goes. An error of ours ends the stream with a `problem` event: the
    status line is long gone by then.
    """

    def __init__(self, produce: Produce) -> None:
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:
            stream = EventStream(send, group)
            group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
            try:
                await self._produce(stream)
            except (GatewayError, *BACKEND_ERRORS) as exc:
                await stream.write(sse("problem", from_backend(exc).problem()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            group.cancel_scope.cancel()


async def write_log(write: Write, events: EventLog, after: int, silence_s: float) -> None:
    """Write the events of a request after a position, to their end, with a comment when nothing comes."""
    async for chunk in events.follow(after, silence_s=silence_s):
        await write(chunk or PING)


def log_response(events: EventLog, after: int, silence_s: float) -> EventStreamResponse:
    async def produce(stream: EventStream) -> None:
        await write_log(stream.write, events, after, silence_s)

    return EventStreamResponse(produce)


class ChunkedResponse(Response):
    """Bytes from a sandbox. Its first chunk is there before the status line goes out, so early errors are problems.

    Args:
        first: the first chunk.
        rest: the others; closed when the response is done.
        media_type: of the whole.
        stall_s: a client that takes nothing for so long is dropped, seconds.
    """

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], media_type: str, stall_s: float) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(chunk: bytes, more: bool = True) -> None:
            with anyio.fail_after(self._stall_s):
                await send({"type": "http.response.body", "body": chunk, "more_body": more})

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
                try:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await write(self._first)
                    async for chunk in self._rest:
                        await write(chunk)
                    await write(b"", more=False)
                except (GatewayError, TimeoutError, *BACKEND_ERRORS) as exc:
                    # The body stays without its end, by which the client knows that it is not whole.
                    log.warning("a transfer broke off: %s", type(exc).__name__)
                group.cancel_scope.cancel()
        finally:
            await close_chunks(self._rest)


async def chunked_response(chunks: AsyncIterator[bytes], media_type: str, stall_s: float) -> ChunkedResponse:
    """Wait for the first chunk, then make the response. Errors until then are raised."""
    try:
        first = await anext(chunks, b"")
    except BaseException:
        await close_chunks(chunks)
        raise
    return ChunkedResponse(first, chunks, media_type, stall_s)


async def close_chunks(chunks: AsyncIterator[bytes]) -> None:
    """Close a generator that may have been left half-way."""
    if isinstance(chunks, AsyncGenerator):
        with anyio.CancelScope(shield=True):
            await chunks.aclose()


class ClientGoneError(ClientDisconnect):
    """The client went before it had its answer; nobody sees this."""


async def unless_disconnected(receive: Receive, work: Callable[[], Awaitable[Response]]) -> Response:
    """Do something for a client, and stop as soon as the client is gone.

    Raises:
        ClientGoneError: it is.
    """
    responses: list[Response] = []
    failures: list[Exception] = []
    async with anyio.create_task_group() as group:
        group.start_soon(cancel_on_disconnect, receive, group.cancel_scope)
        try:
            responses.append(await work())
        except (GatewayError, *BACKEND_ERRORS) as exc:
            failures.append(exc)
        group.cancel_scope.cancel()
    if failures:
        raise failures[0]
    if not responses:
        raise ClientGoneError
    return responses[0]
