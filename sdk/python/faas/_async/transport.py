"""Sends calls to the gateway, starts the embedded one on demand, turns failures into our errors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import TracebackType

import httpx

from faas import _log
from faas._async import _io
from faas._calls import Call
from faas._config import Config
from faas._embedded import ensure_gateway
from faas._http import HTTPX_ERRORS, may_retry, response_error, timeout_of, transport_error
from faas.errors import ConfigurationError

__all__ = ["StreamedResponse", "Transport"]


class StreamedResponse:
    """An answer whose body is still to come. Close it, or use it as a context manager."""

    def __init__(self, response: httpx.Response, pool: _io.HttpPool, http: httpx.AsyncClient, config: Config) -> None:
        self.content_type: str = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._response = response
        self._pieces = response.aiter_raw()
        self._pool = pool
        self._http: httpx.AsyncClient | None = http
        self._config = config

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end."""
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except HTTPX_ERRORS as error:
            raise transport_error(error, self._config) from error
        except _io.cancelled():
            self._pool.interrupted()
            raise
        return b""

    async def pieces(self) -> AsyncIterator[bytes]:
        """What is left of the body."""
        while piece := await self.read():
            yield piece

    async def aclose(self) -> None:
        """Give the connection back, or drop it when the body was not read to its end. Idempotent."""
        http, self._http = self._http, None
        if http is None:
            return
        try:
            await self._pool.release(http, self._response)
        except HTTPX_ERRORS as error:
            raise transport_error(error, self._config) from error

    async def __aenter__(self) -> StreamedResponse:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class Transport:
    """One client's way to its gateway."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._pool = _io.HttpPool(config)
        # An embedded gateway's folder is checked before the first byte goes into it, gateway or not.
        self._ready = config.kind != "embedded"
        self._closed = False

    async def request(self, call: Call, *, restart: bool = True) -> bytes:
        """Send a call and return the body of its answer.

        Args:
            call: what to send.
            restart: whether an embedded gateway that is gone is started anew, and the call sent once more.

        Raises:
            APIError: the gateway answered with a problem.
            TransportError: it did not answer.
        """
        async with await self.open(call, restart=restart) as response:
            pieces = [piece async for piece in response.pieces()]
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def open(self, call: Call, *, restart: bool = True) -> StreamedResponse:
        """Send a call and return its answer as soon as its head is there. Otherwise as `request`."""
        if self._closed:
            raise ConfigurationError("The client is closed", hint="make a new one")
        if restart and not self._ready:
            await _io.run_blocking(ensure_gateway)
            self._ready = True
        try:
            return await self._send(call)
        except HTTPX_ERRORS as error:
            if not restart or not may_retry(error, call, self.config):
                raise transport_error(error, self.config) from error
        if self.config.kind == "embedded":
            await _io.run_blocking(ensure_gateway)
        try:
            return await self._send(call)
        except HTTPX_ERRORS as error:
            raise transport_error(error, self.config) from error

    def interrupted(self) -> None:
        """Say that a caller was interrupted in the middle of anything here."""
        self._pool.interrupted()

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        self._closed = True
        await self._pool.aclose()

    async def _send(self, call: Call) -> StreamedResponse:
        http = self._pool.acquire()
        response: httpx.Response | None = None
        handed_over = False
        started = time.monotonic()
        outcome: int | str = "unsent"
        try:
            request = http.build_request(
                call.method,
                call.url,
                content=_io.body(call.body),
                headers=call.headers,
                timeout=timeout_of(call),
            )
            response = await http.send(request, stream=True)
            outcome = response.status_code
            if outcome >= 400:
                await response.aread()
                raise response_error(response)
            handed_over = True
            return StreamedResponse(response, self._pool, http, self.config)
        except HTTPX_ERRORS as error:
            outcome = type(error).__name__
            raise
        except _io.cancelled():
            outcome = "cancelled"
            self._pool.interrupted()
            raise
        finally:
            request_id = response.headers.get("X-Request-Id", "") if response is not None else ""
            _log.request_line(call.method, call.path, outcome, time.monotonic() - started, request_id)
            if not handed_over:
                await self._pool.release(http, response)
