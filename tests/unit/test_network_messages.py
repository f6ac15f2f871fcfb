"""What comes from a sandbox to the proxy, and from servers, taken apart: HTTP and SOCKS5, well-formed and hostile."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from faas_gateway.backends.native.network import BadHost, http, socks
from faas_gateway.backends.native.network.http import BadMessage, Body, Response, parse_request


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join((line, *headers, "", "")).encode("latin-1")


# ---- requests ---------------------------------------------------------------------------------------------
def test_a_tunnel_is_asked_for_by_host_and_port() -> None:
    request = parse_request(head("CONNECT PyPI.org:443 HTTP/1.1", "Host: ignored", "User-Agent: pip"))
    assert (request.host, request.port, request.head) == ("pypi.org", 443, b"")
    assert parse_request(head("CONNECT [2606:4700::1]:22 HTTP/1.0")).host == ip_address("2606:4700::1")


def test_a_request_is_passed_on_in_origin_form_without_what_is_the_proxys() -> None:
    request = parse_request(
        head(
            "GET http://example.org:8080/a?b=c HTTP/1.1",
            "host: other.example",
            "Accept: */*",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eDp5",
            "Connection: keep-alive, X-Mine, Content-Length, host",
            "X-Mine: 1",
            "TE: trailers",
            "Upgrade: h2c",
            "Content-Length: 3",
        )
    )
    assert (request.host, request.port) == ("example.org", 8080)
    assert request.head == head(
        "GET /a?b=c HTTP/1.1", "Host: example.org:8080", "Accept: */*", "Content-Length: 3", "Connection: close"
    )
    assert request.body.feed(b"abcGET http://evil/") == b"abc"
    assert request.body.finished


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("GET http://example.org HTTP/1.1", "/"),
        ("GET http://example.org?q HTTP/1.1", "/?q"),
        ("GET HTTP://example.org/x HTTP/1.1", "/x"),
        ("OPTIONS http://example.org HTTP/1.1", "*"),
        ("GET http://example.org/http://other/ HTTP/1.1", "/http://other/"),
    ],
)
def test_the_path_is_what_follows_the_authority(line: str, path: str) -> None:
    assert parse_request(head(line)).head.split(b" ")[1] == path.encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://a/ HTTP/2.0\r\n\r\n",
        b"GET http://a/ HTTP/1.1 x\r\n\r\n",
        b"GET  http://a/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://a/ HTTP/1.1\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\n\r\n",
        b"GET http://u:p@a/ HTTP/1.1\r\n\r\n",
        b"GET http://public.org@10.0.0.1/ HTTP/1.1\r\n\r\n",
        b"GET http://a/#b HTTP/1.1\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        b"GET http://a\\@10.0.0.1/ HTTP/1.1\r\n\r\n",
        b"GET http://a:0/ HTTP/1.1\r\n\r\n",
        b"GET http://a:/ HTTP/1.1\r\n\r\n",
        b"GET http://a:99999/ HTTP/1.1\r\n\r\n",
        b"GET http://2130706433/ HTTP/1.1\r\n\r\n",
        b"GET http://0x7f.1/ HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"GET http://[fe80::1%25eth0]/ HTTP/1.1\r\n\r\n",
        b"G\x00T http://a/ HTTP/1.1\r\n\r\n",
        b"GET http://a/\x00 HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA : c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n: c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA: b\nX: c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA: b\rX: c\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nA\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: 1,1\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"CONNECT a HTTP/1.1\r\n\r\n",
        b"CONNECT a: HTTP/1.1\r\n\r\n",
        b"CONNECT http://a:443/ HTTP/1.1\r\n\r\n",
        b"CONNECT ::1:443 HTTP/1.1\r\n\r\n",
        b"CONNECT u@a:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a:443:444 HTTP/1.1\r\n\r\n",
        b"CONNECT *:443 HTTP/1.1\r\n\r\n",
    ],
)
def test_a_request_that_could_be_read_in_two_ways_is_refused(bad: bytes) -> None:
    with pytest.raises((BadMessage, BadHost)):
        parse_request(bad)


def test_mutated_requests_are_refused_or_go_where_they_say() -> None:
    seed = random.Random(20240607)
    good = head(
        "POST http://example.org:81/p HTTP/1.1", "Host: example.org", "Transfer-Encoding: chunked", "Connection: close"
    )
    pieces = [b"\r", b"\n", b"\0", b" ", b":", b"@", b"/", b"[", b"%", b"\xff", b"HTTP/1.1", b"10.0.0.1", b"chunked"]
    taken = 0
    for _ in range(20_000):
        data = bytearray(good[:-4])
        for _ in range(seed.randint(1, 4)):
            at = seed.randrange(len(data))
            data[at : at + seed.randint(0, 3)] = seed.choice(pieces) if seed.random() < 0.7 else seed.randbytes(1)
        try:
            request = parse_request(bytes(data) + b"\r\n\r\n")
        except (BadMessage, BadHost):
            continue
        taken += 1
        if request.head:
            first, *rest = request.head.split(b"\r\n")
            assert first.count(b" ") == 2
            assert sum(line.lower().startswith(b"host:") for line in rest) == 1
            assert rest[-3:] == [b"Connection: close", b"", b""]
    assert 500 < taken < 20_000


# ---- bodies -----------------------------------------------------------------------------------------------
CHUNKS = b"5\r\nhello\r\n1A;name=value\r\n" + b"x" * 26 + b"\r\n000\r\nTrailer: 1\r\n\r\n"


def test_a_chunked_body_ends_where_it_says_however_it_is_cut() -> None:
    seed = random.Random(7)
    for _ in range(500):
        stream, body, passed = CHUNKS + b"GET http://evil/ HTTP/1.1\r\n\r\n", Body(None), b""
        while stream and not body.finished:
            cut = seed.randint(1, 12)
            passed += body.feed(stream[:cut])
            stream = stream[cut:]
        assert passed == CHUNKS
        body.end()


@pytest.mark.parametrize(
    "bad", [b"\r\n", b"g\r\n", b"-1\r\n", b"0x5\r\n", b"5\n", b" 5\r\n", b"5;a\rb\r\n", b"1" * 17 + b"\r\n", b"5" + b";" * 5000, b"0\r\n" + b"a" * 5000]
)  # fmt: skip
def test_a_bad_chunk_is_refused(bad: bytes) -> None:
    with pytest.raises(BadMessage):
        Body(None).feed(bad)


def test_a_body_that_ends_too_early_is_noticed() -> None:
    body = Body(4)
    body.feed(b"abc")
    with pytest.raises(BadMessage):
        body.end()


# ---- answers ----------------------------------------------------------------------------------------------
def test_an_answer_loses_what_is_between_neighbours_and_ends_at_its_length() -> None:
    response = Response(b"GET")
    stream = head("HTTP/1.1 103 Early Hints", "Link: </a>") + head(
        "HTTP/1.1 200 OK", "Content-Length: 5", "Keep-Alive: timeout=5", "Connection: keep-alive", "X: y"
    )
    sent = b"".join(response.feed(bytes([byte])) for byte in stream + b"hello and more")
    assert sent == head("HTTP/1.1 103 Early Hints", "Link: </a>") + head(
        "HTTP/1.1 200 OK", "Content-Length: 5", "X: y", "Connection: close"
    ) + b"hello"  # fmt: skip
    assert response.finished


@pytest.mark.parametrize(
    ("method", "line", "headers", "finished"),
    [
        (b"HEAD", "HTTP/1.1 200 OK", ["Content-Length: 5"], True),
        (b"GET", "HTTP/1.1 304 Not Modified", ["Content-Length: 5"], True),
        (b"GET", "HTTP/1.1 204", [], True),
        (b"GET", "HTTP/1.0 200 OK", [], False),
        (b"GET", "HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], False),
        (b"GET", "HTTP/1.1 200 OK", ["Content-Length: 0"], True),
    ],
)
def test_an_answer_ends_with_its_head_or_with_the_connection(
    method: bytes, line: str, headers: list[str], finished: bool
) -> None:
    response = Response(method)
    response.feed(head(line, *headers))
    assert response.finished is finished
    response.end()


@pytest.mark.parametrize(
    "bad",
    [
        b"<html>\r\n\r\n",
        b"HTTP/1.1 2000 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"x" * 40_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_refused(bad: bytes) -> None:
    with pytest.raises(BadMessage):
        Response(b"GET").feed(bad)


def test_a_server_that_closes_without_an_answer_is_noticed() -> None:
    response = Response(b"GET")
    response.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(BadMessage):
        response.end()


def test_what_the_proxy_says_itself_cannot_be_broken_out_of() -> None:
    said = http.answer(403, "a reason: ä", "faas: ä")
    assert said.startswith(b"HTTP/1.1 403 a reason: ?\r\n")
    assert said.endswith(b"\r\n\r\nfaas: ?\n")


# ---- SOCKS5 -----------------------------------------------------------------------------------------------
def socks_request(kind: int, address: bytes, port: int = 443, command: int = 1) -> bytes:
    return bytes((5, command, 0, kind)) + address + port.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("data", "host"),
    [
        (socks_request(1, bytes((1, 2, 3, 4))), ip_address("1.2.3.4")),
        (socks_request(4, ip_address("2606::1").packed), ip_address("2606::1")),
        (socks_request(4, ip_address("::ffff:127.0.0.1").packed), ip_address("127.0.0.1")),
        (socks_request(3, b"\x08PyPI.org"), "pypi.org"),
        (socks_request(3, b"\x071.2.3.4"), ip_address("1.2.3.4")),
    ],
)
def test_a_socks_request_is_read_to_its_last_byte(data: bytes, host: object) -> None:
    assert [socks.request_size(data[:n]) for n in (1, 4, 5)] == [5, 5, len(data)]
    assert socks.parse_request(data) == socks.Request(host, 443)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (socks_request(1, bytes(4), command=2), socks.COMMAND),
        (socks_request(1, bytes(4), command=3), socks.COMMAND),
        (socks_request(1, bytes(4), port=0), socks.FAILED),
        (socks_request(2, bytes(4)), socks.ADDRESS_TYPE),
        (socks_request(3, b"\x00"), socks.FAILED),
        (socks_request(3, b"\x04a\x00bc"), socks.FAILED),
        (socks_request(3, b"\x0a2130706433"), socks.FAILED),
        (b"\x04\x01\x00\x01" + bytes(6), socks.FAILED),
        (b"\x05\x01\x01\x01" + bytes(6), socks.FAILED),
    ],
)
def test_a_socks_request_that_is_not_served_gets_its_code(data: bytes, code: int) -> None:
    def read() -> socks.Request:
        socks.request_size(data)
        return socks.parse_request(data)

    with pytest.raises(socks.BadRequest) as refused:
        read()
    assert refused.value.answer == socks.reply(code)


def test_random_socks_requests_are_refused_or_whole() -> None:
    seed = random.Random(11)
    for _ in range(20_000):
        data = bytes((5, seed.choice((1, 1, 1, 2)), 0, seed.choice((1, 3, 4, 9)))) + seed.randbytes(300)
        try:
            size = socks.request_size(data)
            assert 7 <= size <= socks.REQUEST_BYTES
            socks.parse_request(data[:size])
        except socks.BadRequest:
            continue
