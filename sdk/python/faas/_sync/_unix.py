"""Unix sockets for the sync client.

httpcore's own sync backend forgets to close a Unix socket that nobody listens to (encode/httpcore, 1.0.9), and that
happens here each time an embedded gateway has gone.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

__all__ = ["unix_transport"]


class _Stream(httpcore.NetworkStream):
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._socket.settimeout(timeout)
            view = memoryview(buffer)
            while view:
                view = view[self._socket.send(view) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        raise httpcore.UnsupportedProtocol("no TLS on a Unix socket")

    def get_extra_info(self, info: str) -> Any:
        if info == "socket":
            return self._socket
        if info == "is_readable":  # asked of an idle connection: readable means that the gateway has closed it
            if self._socket.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return None


class _Backend(httpcore.SyncBackend):
    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except TimeoutError as error:
            sock.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            sock.close()
            raise httpcore.ConnectError(str(error)) from error
        except KeyboardInterrupt:
            sock.close()
            raise
        return _Stream(sock)


def unix_transport(options: dict[str, Any]) -> httpx.HTTPTransport:
    """An HTTPTransport with a pool that closes what it opens."""
    limits: httpx.Limits = options["limits"]
    transport = httpx.HTTPTransport(**options)
    # httpx has no argument for this; its pool has no connections yet, so nothing is lost with it.
    transport._pool = httpcore.ConnectionPool(  # pyright: ignore[reportPrivateUsage]
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        uds=options["uds"],
        network_backend=_Backend(),
    )
    return transport
