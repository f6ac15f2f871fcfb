"""What both clients share of HTTP: settings, the table from httpx's errors to ours, problems. No I/O."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import ValidationError

from faas._calls import WRITE_TIMEOUT_S, Call
from faas._config import Config
from faas._version import __version__
from faas.errors import (
    APIError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FaaSError,
    ProtocolError,
    TransportError,
    TransportTimeoutError,
    api_error,
)
from faas.types import Problem

__all__ = ["TRANSPORT_ERRORS", "client_options", "lost_error", "response_error", "transport_error"]

#: Every exception of httpx, and ours for it: the only such table.
TRANSPORT_ERRORS: Mapping[type[Exception], type[TransportError]] = {
    httpx.HTTPError: TransportError,
    httpx.RequestError: TransportError,
    httpx.TransportError: TransportError,
    httpx.TimeoutException: TransportTimeoutError,
    httpx.ConnectTimeout: ConnectTimeoutError,
    httpx.ReadTimeout: TransportTimeoutError,
    httpx.WriteTimeout: TransportTimeoutError,
    httpx.PoolTimeout: TransportTimeoutError,
    httpx.NetworkError: ConnectionLostError,
    httpx.ConnectError: ConnectError,
    httpx.ReadError: ConnectionLostError,
    httpx.WriteError: ConnectionLostError,
    httpx.CloseError: ConnectionLostError,
    httpx.ProtocolError: ProtocolError,
    httpx.LocalProtocolError: ProtocolError,
    httpx.RemoteProtocolError: ConnectionLostError,  # nearly always an end in the middle of an answer
    httpx.ProxyError: ConnectError,
    httpx.UnsupportedProtocol: ConnectError,
    httpx.DecodingError: ProtocolError,
    httpx.TooManyRedirects: ProtocolError,
    httpx.HTTPStatusError: ProtocolError,
    httpx.InvalidURL: ConnectError,
    httpx.CookieConflict: ProtocolError,
    httpx.StreamError: ConnectionLostError,
    httpx.StreamConsumed: ConnectionLostError,
    httpx.StreamClosed: ConnectionLostError,
    httpx.ResponseNotRead: ProtocolError,
    httpx.RequestNotRead: ProtocolError,
}

#: What `except` needs to catch all of the above.
HTTPX_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError)

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=60.0)
# A peer that vanished without a word (power, network) is noticed in two minutes, however long code may run.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


def transport_options(config: Config) -> dict[str, Any]:
    """Arguments of httpx.HTTPTransport and its async twin."""
    return {
        # Making a TLS context loads all certificates, 15 ms: only where TLS is spoken.
        "verify": config.base_url.startswith("https:"),
        "limits": _LIMITS,
        "uds": config.socket,
        "socket_options": None if config.socket else _KEEPALIVE,
    }


def client_options(config: Config) -> dict[str, Any]:
    """Arguments of httpx.Client and its async twin, apart from the transport."""
    headers = {"User-Agent": f"faas-python/{__version__}", "Accept-Encoding": "identity"}
    if config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return {"base_url": config.base_url, "headers": headers, "follow_redirects": False}


def timeout_of(call: Call) -> httpx.Timeout:
    """httpx's timeouts of a call."""
    connect = call.connect_timeout_s
    return httpx.Timeout(connect=connect, read=call.read_timeout_s, write=WRITE_TIMEOUT_S, pool=connect)


def may_retry(error: Exception, call: Call, config: Config) -> bool:
    """Whether sending the call once more is safe and may help: a gateway that stopped as idle just now."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return config.kind == "embedded"
    if not isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return False
    return call.idempotent or _never_read(error, config)


def _never_read(error: BaseException, config: Config) -> bool:
    """Whether the gateway surely did not take the request.

    A Unix socket that is closed with bytes unread resets its peer; once they were read, it just ends. TCP
    promises no such thing.
    """
    if config.socket is None:
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ECONNRESET, errno.EPIPE):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def transport_error(error: Exception, config: Config) -> TransportError:
    """Our exception for one of httpx."""
    cls = next(TRANSPORT_ERRORS[base] for base in type(error).__mro__ if base in TRANSPORT_ERRORS)
    reason = str(error) or type(error).__name__
    if issubclass(cls, ConnectError):
        return cls(f"No gateway answers at {config.display} ({reason})", hint=_connect_hint(config))
    if cls is TransportTimeoutError:
        return cls(
            f"The gateway at {config.display} did not answer in time",
            hint="again, or look at the gateway's log",
        )
    if cls is ConnectionLostError:
        return cls(f"The connection to the gateway at {config.display} broke ({reason})")
    return cls(f"The gateway at {config.display} did not speak as expected ({reason})")


def _connect_hint(config: Config) -> str:
    if config.kind == "embedded":
        return "again; the gateway of this user is started on demand"
    return "check FAAS_ENDPOINT and that the gateway runs, or unset it to use the embedded gateway"


def lost_error(config: Config, request_id: str, cause: FaaSError, *, one_shot: bool = False) -> ConnectionLostError:
    """For a request whose gateway went away while it ran."""
    if one_shot:
        return ConnectionLostError(
            f"The gateway broke off while it ran the code, and the sandbox has ended with it ({cause.message})",
            hint="run it again; the gateway's log says why it broke off",
        )
    gone = isinstance(cause, ConnectError | APIError)
    if gone and config.kind != "http":
        message = (
            f"The gateway has gone while request {request_id} ran, and the session with it: "
            "its variables and files are lost"
        )
        hint = "open a new session and run the cells again; gateway.log beside the socket says why it ended"
    else:
        message = f"The connection to the gateway was lost while request {request_id} ran ({cause.message})"
        hint = "check the gateway; the code may still run there, and its execution can be opened by its id"
    return ConnectionLostError(message, hint=hint)


def response_error(response: httpx.Response) -> FaaSError:
    """The exception for an answer of status 400 and above; its body has been read."""
    request_id = response.headers.get("X-Request-Id", "")
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return APIError(
            f"The gateway answered {response.status_code} {response.reason_phrase} without saying why",
            code=f"http_{response.status_code}",
            status=response.status_code,
            hint="check that the endpoint is a FaaS gateway",
            request_id=request_id,
        )
    return problem_error(problem, request_id)


def problem_error(problem: Problem, request_id: str = "") -> APIError:
    """The exception for a problem."""
    return api_error(
        problem.code,
        problem.status,
        problem.detail or problem.title,
        hint=problem.hint,
        errors=problem.errors,
        request_id=request_id,
    )
