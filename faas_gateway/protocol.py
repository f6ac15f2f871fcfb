"""uvicorn's HTTP protocol, with what a Unix socket needs: who is there, and bounds on what comes before a body."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from faas_gateway.activity import Activity
from faas_gateway.errors import GatewayError, InvalidRequestError, TooLargeError
from faas_gateway.settings import Settings

log = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")  # pid, uid, gid (unix(7))


class _HeadersTooLargeError(Exception):
    pass


def protocol_for(settings: Settings, activity: Activity) -> type[asyncio.Protocol]:
    """The protocol class of one server.

    Args:
        settings: bounds of headers.
        activity: told whenever a client sends something.
    """

    class Protocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._header_bytes = 0
            self._in_headers = True
            self._deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not _is_welcome(transport):
                transport.abort()
                return
            self._start_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            activity.touch()
            if self._in_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > settings.header_bytes:
                self._refuse(TooLargeError("The headers are too large."), 431)

        def on_message_begin(self) -> None:
            self._in_headers = True
            self._header_bytes = 0
            if self._deadline is None:
                self._start_deadline()
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_headers = False
            self._header_bytes = 0
            self._stop_deadline()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._in_headers = True

        def send_400_response(self, msg: str) -> None:
            self._stop_deadline()
            self._refuse(InvalidRequestError(msg), 400)

        def _count(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > 2 * settings.header_bytes:  # data_received has counted the chunk too
                raise _HeadersTooLargeError

        def _start_deadline(self) -> None:
            self._deadline = self.loop.call_later(settings.header_deadline_s, self._late)

        def _stop_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            self._deadline = None
            if not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, error: GatewayError, status: int) -> None:
            if self.transport.is_closing():
                return
            body = error.problem().model_dump_json().encode()
            head = (
                f"HTTP/1.1 {status} Refused\r\ncontent-type: application/problem+json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
            self.transport.close()

    return cast("type[asyncio.Protocol]", Protocol)


def _is_welcome(transport: asyncio.Transport) -> bool:
    """Whether the peer is this user or root. The folder's mode says so too: this does not depend on it."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(credentials)
    if uid in (0, os.geteuid()):
        return True
    log.warning("refused a connection of uid %d", uid)
    return False
