"""What cannot be generated, async: waiting, threads, cancellation. `faas/_sync/_io.py` is its twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

from faas._async._unix import UnixTransport
from faas._calls import Body
from faas._config import Config
from faas._http import client_options, transport_options

__all__ = ["HttpPool", "body", "cancelled", "for_each", "run_blocking", "shielded", "sleep"]

T = TypeVar("T")


def cancelled() -> type[BaseException]:
    """What is raised when the caller stops waiting."""
    return anyio.get_cancelled_exc_class()


async def shielded(seconds: float, func: Callable[[], Awaitable[object]]) -> None:
    """Do this although the caller is cancelled, but for no longer than `seconds`."""
    with anyio.move_on_after(seconds, shield=True):
        await func()


async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


async def run_blocking(func: Callable[..., T], *args: object) -> T:
    """Run what blocks in a thread. A cancelled caller does not wait for the thread to end."""
    return await anyio.to_thread.run_sync(func, *args, abandon_on_cancel=True)


async def for_each(func: Callable[[T], Awaitable[object]], items: Iterable[T], at_once: int) -> None:
    """Call a function for each item, so many at a time. The first error ends the others, and is raised."""
    limiter = anyio.CapacityLimiter(at_once)

    async def one(item: T) -> None:
        async with limiter:
            await func(item)

    try:
        async with anyio.create_task_group() as tasks:
            for item in items:
                tasks.start_soon(one, item)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def body(content: Body | None) -> bytes | AsyncIterator[bytes] | None:
    """A request's body as httpx takes it. Its pieces are read or encoded, so they are made in a thread."""
    return content if content is None or isinstance(content, bytes) else _pieces(content())


async def _pieces(iterator: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await run_blocking(_next_piece, iterator)) is not None:
        yield piece


def _next_piece(iterator: Iterator[bytes]) -> bytes | None:
    return next(iterator, None)


class HttpPool:
    """The HTTP connections of one client: a set per event loop, since a connection belongs to its loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._http: anyio.lowlevel.RunVar[httpx.AsyncClient] = anyio.lowlevel.RunVar("faas-http")

    def acquire(self) -> httpx.AsyncClient:
        """The HTTP client to send one request with; `release` it when its answer has been read."""
        try:
            return self._http.get()
        except LookupError:
            transport = self._transport()
            http = httpx.AsyncClient(transport=transport, **client_options(self._config))
            self._http.set(http)
            return http

    def _transport(self) -> httpx.AsyncBaseTransport:
        if self._config.socket is not None and _is_asyncio():
            return UnixTransport(self._config.socket)
        return httpx.AsyncHTTPTransport(**transport_options(self._config))

    async def release(self, http: httpx.AsyncClient, response: httpx.Response | None) -> None:
        """The counterpart of `acquire`; closes the response."""
        if response is not None:
            await response.aclose()

    def interrupted(self) -> None:
        """Say that a request was cancelled: httpx cleans up after that by itself in async code."""

    async def aclose(self) -> None:
        """Close this loop's connections."""
        http = self._http.get(None)
        if http is not None:
            await http.aclose()


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        return False
    return True
