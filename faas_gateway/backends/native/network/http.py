"""HTTP/1.1 as a proxy sees it (RFC 9110, RFC 9112): heads parsed strictly, rewritten, and bodies measured. No I/O.

One connection of a sandbox carries one request: what comes after it is never passed on, so a request that the policy
has not seen cannot ride on one that it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from faas_gateway.backends.native.network.hosts import BadHost, Host, parse_host, parse_port, split_port

HEAD_BYTES = 32 << 10
HEADERS = 128
_CHUNK_LINE_BYTES = 4096

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n\0]*)?")

#: Between two neighbours only (RFC 9110, 7.6.1). How a body is framed is not touched, and so stays.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"upgrade",
}
_NEVER_DROPPED = {b"content-length", b"transfer-encoding", b"host"}

Headers = list[tuple[bytes, bytes]]


class BadMessage(ValueError):
    """What came is not the HTTP that a proxy takes; the message says why."""


@dataclass(frozen=True)
class Request:
    """What a sandbox asks the proxy for: a tunnel (`head` is empty), or a request to pass on with this head."""

    host: Host
    port: int
    head: bytes
    body: Body
    method: bytes


class Body:
    """Tells how much of a stream of bytes belongs to a message's body.

    length: of the body; None for one in chunks (RFC 9112, 7.1), which measures itself.
    """

    def __init__(self, length: int | None) -> None:
        self._left = length or 0
        self._chunked = length is None
        self._line = b""
        self._in_trailer = False
        self.finished = length == 0

    def feed(self, data: bytes) -> bytes:
        """What of the data belongs to the body. Raises BadMessage."""
        if self._chunked:
            return data[: self._chunks(data)]
        taken = data[: self._left]
        self._left -= len(taken)
        self.finished = not self._left
        return taken

    def end(self) -> None:
        if not self.finished:
            raise BadMessage("the body ends too early")

    def _chunks(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.finished:
            if self._left:  # within a chunk, the CR LF behind it included
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > _CHUNK_LINE_BYTES:
                raise BadMessage("a chunk's line is too long")
            if self._line.endswith(b"\n"):
                self._end_line()
        return at

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        if self._in_trailer:
            self.finished = line == b"\r\n"
            return
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise BadMessage("no valid chunk")
        size = int(match[1], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0


def parse_request(head: bytes) -> Request:
    """Parse a request's head, up to and with its empty line. Raises BadMessage, BadHost."""
    line, headers = _split(head)
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise BadMessage("no valid request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        host, port_text = split_port(target.decode("latin-1"))
        if not port_text:
            raise BadHost("CONNECT needs a port")
        return Request(parse_host(host), parse_port(port_text), b"", Body(0), method)
    authority, path = _absolute(method, target)
    host_text, port_text = split_port(authority.decode("latin-1"))
    host, port = parse_host(host_text), parse_port(port_text or "80")
    body = _request_body(headers, version)
    kept = [(b"Host", authority), *((n, v) for n, v in _end_to_end(headers) if n.lower() != b"host")]
    return Request(host, port, _join(b" ".join((method, path, version)), kept), body, method)


def _absolute(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """The authority and the path of an absolute-form target."""
    if target[:8].lower() == b"https://":
        raise BadMessage("https goes through a proxy by CONNECT")
    if target[:7].lower() != b"http://":
        raise BadMessage("this is a proxy: it takes CONNECT, and URLs that begin with http://")
    end = min((i for i in (target.find(c, 7) for c in (b"/", b"?")) if i >= 0), default=len(target))
    authority, path = target[7:end], target[end:]
    if b"@" in authority or b"#" in target:
        raise BadMessage("a URL with a user or a fragment is nothing for a proxy")
    if not path:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, path if path.startswith(b"/") else b"/" + path


def _request_body(headers: Headers, version: bytes) -> Body:
    lengths = _values(headers, b"content-length")
    codings = _values(headers, b"transfer-encoding")
    if codings:  # both, or more than one coding: whoever comes next could see another end (request smuggling)
        if lengths or version == b"HTTP/1.0" or [c.lower() for c in codings] != [b"chunked"]:
            raise BadMessage("a body is either of a given length or in chunks")
        return Body(None)
    return Body(_length(lengths) or 0)


def _length(values: list[bytes]) -> int | None:
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 18:
        raise BadMessage("no valid Content-Length")
    return int(values[0])


class Response:
    """Rewrites the head of what a server answers, passes on the rest, and knows the end where a length is given.

    method: of the request: what answers HEAD has no body, whatever its head says.
    """

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._head = b""
        self._body: Body | None = None
        self._passing = False
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """What is to be sent to the sandbox. Raises BadMessage."""
        sent: list[bytes] = []
        while not self._passing:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(self._head) > HEAD_BYTES:
                    raise BadMessage("the server's headers are too long")
                return b"".join(sent)
            if end > HEAD_BYTES:
                raise BadMessage("the server's headers are too long")
            head, data, self._head = self._head[:end], self._head[end:], b""
            sent.append(self._rewrite(head))
        if self._body is not None:
            data = self._body.feed(data)
            self.finished = self._body.finished
        return b"".join((*sent, data))

    def end(self) -> None:
        if not self._passing:
            raise BadMessage("the server has closed the connection without an answer")

    def _rewrite(self, head: bytes) -> bytes:
        line, headers = _split(head)
        match = _STATUS.fullmatch(line)
        if match is None:
            raise BadMessage("the server does not answer in HTTP")
        status = int(match[1])
        if status == 101:
            raise BadMessage("the server changes to a protocol that nobody asked for")
        kept = _end_to_end(headers)
        if status < 200:  # an interim answer: the real one follows
            return _join(line, kept, closing=False)
        self._passing = True
        if self._method == b"HEAD" or status in (204, 304):
            self._body = Body(0)
        elif not _values(headers, b"transfer-encoding"):
            length = _length(_values(headers, b"content-length"))
            self._body = None if length is None else Body(length)
        return _join(line, kept)


def answer(status: int, phrase: str, text: str) -> bytes:
    """An answer of the proxy's own. The phrase is what most programs show, the text what a browser would."""
    body = f"{text}\n".encode("ascii", "replace")
    first = f"HTTP/1.1 {status} {phrase}".encode("ascii", "replace")
    return _join(first, [(b"Content-Type", b"text/plain"), (b"Content-Length", str(len(body)).encode())]) + body


def _split(head: bytes) -> tuple[bytes, Headers]:
    """The first line and the headers. Raises BadMessage."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n", HEADERS + 1)
    if len(lines) > HEADERS:
        raise BadMessage("too many headers")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadMessage("no valid header")
        headers.append((name, value))
    return first, headers


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for n, value in headers if n.lower() == name]


def _end_to_end(headers: Headers) -> Headers:
    dropped = set(_HOP_BY_HOP)
    for value in _values(headers, b"connection"):
        dropped |= {token.strip().lower() for token in value.split(b",")} - _NEVER_DROPPED
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _join(first: bytes, headers: Iterable[tuple[bytes, bytes]], *, closing: bool = True) -> bytes:
    end = b"Connection: close\r\n\r\n" if closing else b"\r\n"
    return b"".join((first, b"\r\n", *(b"%b: %b\r\n" % header for header in headers), end))
