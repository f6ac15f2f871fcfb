"""SOCKS5 as far as it is spoken here (RFC 1928): CONNECT without authentication. No I/O."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from faas_gateway.backends.native.network.addresses import plain
from faas_gateway.backends.native.network.hosts import BadHost, Host, parse_host

GREETING_BYTES = 257
REQUEST_BYTES = 262
VERSION = 5

ACCEPTED = b"\x05\x00"
NO_METHOD = b"\x05\xff"

DONE, FAILED, NOT_ALLOWED, NETWORK, HOST, REFUSED, EXPIRED, COMMAND, ADDRESS_TYPE = range(9)

_BY_ERRNO = {
    errno.ENETUNREACH: NETWORK,
    errno.EHOSTUNREACH: HOST,
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: EXPIRED,
}


class BadRequest(ValueError):
    """What came is no SOCKS5 request that is served here; `answer` is what is sent back."""

    def __init__(self, code: int | bytes, text: str) -> None:
        super().__init__(text)
        self.answer = code if isinstance(code, bytes) else reply(code)


@dataclass(frozen=True)
class Request:
    host: Host
    port: int


def greeting_size(data: bytes) -> int:
    """How many bytes the greeting that begins like this has. Raises BadRequest for another protocol."""
    if data[:1] != b"\x05":
        raise BadRequest(FAILED, "this is a SOCKS5 proxy")
    return 2 + data[1] if len(data) > 1 else 2


def takes_no_authentication(greeting: bytes) -> bool:
    return b"\x00" in greeting[2:]


def request_size(data: bytes) -> int:
    """How many bytes the request that begins like this has, as far as can be told. Raises BadRequest."""
    if len(data) < 5:
        return 5
    if data[0] != VERSION or data[2] != 0:
        raise BadRequest(FAILED, "no valid SOCKS5 request")
    if data[3] == 1:
        return 10
    if data[3] == 3:
        return 7 + data[4]
    if data[3] == 4:
        return 22
    raise BadRequest(ADDRESS_TYPE, "an unknown kind of address")


def parse_request(data: bytes) -> Request:
    """Parse a whole request, of the size that `request_size` tells. Raises BadRequest."""
    if data[1] != 1:
        raise BadRequest(COMMAND, "only CONNECT is served")
    raw, port = data[4:-2], int.from_bytes(data[-2:], "big")
    try:
        if data[3] == 1:
            host: Host = IPv4Address(raw)
        elif data[3] == 4:
            host = plain(IPv6Address(raw))
        else:
            host = parse_host(raw[1:].decode("latin-1"))
    except BadHost as e:
        raise BadRequest(FAILED, str(e)) from None
    if not port:
        raise BadRequest(FAILED, "no valid port")
    return Request(host, port)


def reply(code: int) -> bytes:
    """The answer to a request. The address bound on our side is nobody's business: it is given as 0.0.0.0:0."""
    return bytes((VERSION, code, 0, 1)) + bytes(6)


def code_of(error: OSError) -> int:
    """The code of a reply for what went wrong on the way to a host."""
    if isinstance(error, socket.gaierror):
        return HOST
    return EXPIRED if isinstance(error, TimeoutError) else _BY_ERRNO.get(error.errno or 0, FAILED)
