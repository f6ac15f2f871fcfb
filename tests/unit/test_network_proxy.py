"""The proxy with real sockets on this machine's loopback: what passes, what is refused, who is held to what."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from faas_gateway.backends.native.network import Allowance, Limits, Outlet, Policy, Proxy
from faas_gateway.backends.native.network.connection import Timing

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK = Timing(handshake_s=0.4, connect_s=0.4, idle_s=0.5, half_open_s=0.3)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def tcp_sockets() -> set[str]:
    """Those of this process, by their inodes: event loops have descriptors of their own."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()]
    inodes = {f"socket:[{line.split()[9]}]" for line in lines}
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found & inodes


@dataclass
class Setup:
    outlet: Outlet
    http_port: int
    socks_port: int
    server_port: int


@contextlib.asynccontextmanager
async def running(
    serve: Serve,
    limits: Limits | None = None,
    policy: Policy | None = None,
    find: Callable[[str, int], list[str]] | None = None,
) -> AsyncIterator[Setup]:
    """A server, a proxy that is allowed to reach it, and both listeners; at the end no descriptor may be left."""
    gc.collect()
    before = tcp_sockets()
    unexpected: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unexpected.append(context))
    serving: set[asyncio.Task[None] | None] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=8 << 20)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Proxy(limits, find=find or (lambda name, port: ["127.0.0.1"])) as proxy:
            listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            ports = [listener.getsockname()[1] for listener in listeners]
            outlet = proxy.serve(*listeners, policy or Policy.full(Allowance.parse(f"127.0.0.1:{port}")))
            yield Setup(outlet, *ports, port)
    finally:
        server.close()
        for task in serving:
            if task is not None:
                task.cancel()
    assert outlet.usage.open == 0
    assert not unexpected
    with anyio.fail_after(5):
        while tcp_sockets() - before:
            await anyio.sleep(0.02)


async def say(port: int, data: bytes, end: bool = False) -> bytes:
    """Send, and read until the other side ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        with anyio.fail_after(10):
            return await reader.read()
    finally:
        writer.close()


async def settled(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await anyio.sleep(0.01)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))
    await writer.drain()
    await reader.read()  # and does not close, whatever the request says


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await asyncio.sleep(30)


def connect_to(port: int, host: str = "server.example") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


# ---- what passes ------------------------------------------------------------------------------------------
async def test_a_tunnel_passes_bytes_both_ways_and_each_end_of_stream() -> None:
    async with running(echo) as s:
        data = os.urandom(3 << 20)
        assert await say(s.http_port, connect_to(s.server_port) + data, end=True) == ESTABLISHED + data
        assert s.outlet.usage.sent_bytes == s.outlet.usage.received_bytes == len(data)
        await settled(lambda: s.outlet.usage.open == 0)


async def test_socks_passes_by_name_and_by_address() -> None:
    async with running(echo) as s:
        port = s.server_port.to_bytes(2, "big")
        for address in (b"\x01\x7f\0\0\x01", b"\x03\x0eserver.example", b"\x04" + b"\0" * 10 + b"\xff\xff\x7f\0\0\x01"):
            data = b"\x05\x02\x00\x02" + b"\x05\x01\x00" + address + port + b"hello"
            assert await say(s.socks_port, data, end=True) == b"\x05\x00" + b"\x05\0\0\x01" + bytes(6) + b"hello"


async def test_a_plain_request_passes_once_and_what_follows_it_never() -> None:
    async with running(hello) as s:
        first = f"GET http://server.example:{s.server_port}/a HTTP/1.1\r\nX: y\r\n\r\n".encode()
        answer = await say(s.http_port, first + b"GET http://other.example/ HTTP/1.1\r\n\r\n")
        head, _, seen = answer.partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert (
            seen
            == f"GET /a HTTP/1.1\r\nHost: server.example:{s.server_port}\r\nX: y\r\nConnection: close\r\n\r\n".encode()
        )


async def test_a_body_passes_while_the_server_still_listens() -> None:
    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
        text = str(len(body)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(text), text))

    async with running(counts) as s:
        body = (b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n") * 40 + b"0\r\n\r\n"
        head = f"POST http://server.example:{s.server_port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = await say(s.http_port, head + body)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert str(len(body)).encode() in answer


# ---- what is refused, and what fails ----------------------------------------------------------------------
async def test_a_refusal_says_why_and_is_counted() -> None:
    async with running(echo, policy=Policy.full()) as s:
        for request in (
            connect_to(s.server_port),
            f"GET http://server.example:{s.server_port}/ HTTP/1.1\r\n\r\n".encode(),
        ):
            answer = await say(s.http_port, request)
            assert answer.startswith(b"HTTP/1.1 403 server.example resolves to a loopback address")
            assert answer.split(b"\r\n\r\n")[1].startswith(b"faas: server.example resolves to a loopback address")
        socks = b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01" + s.server_port.to_bytes(2, "big")
        assert await say(s.socks_port, socks) == b"\x05\x00\x05\x02\0\x01" + bytes(6)
        assert s.outlet.usage.refused == 3
        assert "127.0.0.1 is a loopback address" in s.outlet.usage.last_refusal
        assert s.outlet.usage.sent_bytes == 0


async def test_what_cannot_be_reached_is_told_apart() -> None:
    with socket.socket() as taken:  # bound and not listening: refuses
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        def find(name: str, port: int) -> list[str]:
            if name == "server.example":
                return ["127.0.0.1"]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async with running(echo, policy=Policy.full(Allowance.parse(f"127.0.0.1:{port}")), find=find) as s:
            assert (await say(s.http_port, connect_to(port))).startswith(b"HTTP/1.1 502 Connection refused\r\n")
            assert (await say(s.http_port, connect_to(port, "no.example"))).startswith(
                b"HTTP/1.1 502 the name does not"
            )
            socks = b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big")
            assert (await say(s.socks_port, socks))[:4] == b"\x05\x00\x05\x05"
            assert s.outlet.usage.failed == 3


async def test_a_name_that_takes_too_long_to_look_up_ends_in_time() -> None:
    def find(name: str, port: int) -> list[str]:
        time.sleep(1.0)
        return ["127.0.0.1"]

    async with running(echo, Limits(timing=QUICK), find=find) as s:
        begun = time.monotonic()
        assert (await say(s.http_port, connect_to(s.server_port))).startswith(b"HTTP/1.1 504 ")
        assert time.monotonic() - begun < 0.9


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\0\r\n\r\n", b"A" * 40_000, b"\r\n\r\n"])
async def test_what_is_no_proxy_request_is_told_so(data: bytes) -> None:
    async with running(echo) as s:
        assert (await say(s.http_port, data)).startswith(b"HTTP/1.1 400 ")
        assert s.outlet.usage.failed == 1


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"\x05\x01\0\x01" + bytes(6)),
        (b"\x04\x01\0\x50\x7f\0\0\x01\0", b"\x05\x01\0\x01" + bytes(6)),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\0\x01" + bytes(6), b"\x05\x00\x05\x07\0\x01" + bytes(6)),
        (b"\x05\x01\x00\x05\x03\0\x01" + bytes(6), b"\x05\x00\x05\x07\0\x01" + bytes(6)),
        (b"\x05\x01\x00\x05\x01\0\x07" + bytes(6), b"\x05\x00\x05\x08\0\x01" + bytes(6)),
    ],
)
async def test_socks_that_is_not_served_gets_its_code(data: bytes, answer: bytes) -> None:
    async with running(echo) as s:
        assert await say(s.socks_port, data) == answer


async def test_a_server_that_breaks_off_or_talks_nonsense_is_a_bad_gateway() -> None:
    for said in (b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = said) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)

        async with running(serve) as s:
            request = f"GET http://server.example:{s.server_port}/ HTTP/1.1\r\n\r\n".encode()
            assert (await say(s.http_port, request)).startswith(b"HTTP/1.1 502 ")


# ---- who is held to what ----------------------------------------------------------------------------------
@pytest.mark.parametrize("beginning", [b"", b"GET http://a", b"\x05\x01"])
async def test_whoever_says_too_little_is_let_go(beginning: bytes) -> None:
    async with running(echo, Limits(timing=QUICK)) as s:
        for port in (s.http_port, s.socks_port):
            begun = time.monotonic()
            await say(port, beginning)
            assert time.monotonic() - begun < 3


async def test_a_head_that_drips_ends_at_the_deadline() -> None:
    async with running(echo, Limits(timing=QUICK)) as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.http_port)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and time.monotonic() - begun < 5:
                writer.write(b"A")
                await writer.drain()
                with anyio.move_on_after(0.05):
                    await reader.read(1)
        writer.close()
        assert time.monotonic() - begun < 3


async def test_a_silent_tunnel_ends_and_a_half_open_one_sooner() -> None:
    timing = Timing(handshake_s=1, connect_s=1, idle_s=1.5, half_open_s=0.3)
    async with running(silent, Limits(timing=timing)) as s:
        begun = time.monotonic()
        assert await say(s.http_port, connect_to(s.server_port), end=True) == ESTABLISHED
        half_open = time.monotonic() - begun
        assert await say(s.http_port, connect_to(s.server_port)) == ESTABLISHED
        assert half_open < 1.4 < time.monotonic() - begun - half_open


async def test_more_connections_than_a_sandbox_may_have_wait_their_turn() -> None:
    async with running(echo, Limits(connections=3)) as s:
        held = [await asyncio.open_connection("127.0.0.1", s.http_port) for _ in range(3)]
        await settled(lambda: s.outlet.usage.open == 3)
        late = asyncio.ensure_future(say(s.http_port, connect_to(s.server_port) + b"late", end=True))
        also = asyncio.ensure_future(say(s.socks_port, b"\x04"))
        await anyio.sleep(0.2)
        assert not late.done()
        assert not also.done()
        assert s.outlet.usage.connections == 3
        for _, writer in held:
            writer.close()
        assert await late == ESTABLISHED + b"late"
        assert await also


async def test_more_than_all_sandboxes_may_have_are_turned_away() -> None:
    async with running(echo, Limits(total=2)) as s:
        held = [await asyncio.open_connection("127.0.0.1", s.http_port) for _ in range(2)]
        await settled(lambda: s.outlet.usage.open == 2)
        assert await say(s.http_port, b"") == b""
        assert s.outlet.usage.turned_away == 1
        for _, writer in held:
            writer.close()
        await settled(lambda: s.outlet.usage.open == 0)
        assert await say(s.http_port, connect_to(s.server_port) + b"x", end=True) == ESTABLISHED + b"x"


async def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    sent = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with running(floods) as s:
        with socket.create_connection(("127.0.0.1", s.http_port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, connect_to(s.server_port))
            before = -1
            with anyio.fail_after(20):
                while before != sent or not sent:
                    before = sent
                    await anyio.sleep(0.3)
            assert s.outlet.usage.received_bytes < 16 << 20
        await settled(lambda: s.outlet.usage.open == 0)


async def test_closing_an_outlet_ends_its_connections_at_once() -> None:
    async with running(silent) as s:
        connections = [await asyncio.open_connection("127.0.0.1", s.http_port) for _ in range(5)]
        for _, writer in connections[:3]:
            writer.write(connect_to(s.server_port))
        for reader, _ in connections[:3]:
            assert await reader.readexactly(len(ESTABLISHED)) == ESTABLISHED
        await settled(lambda: s.outlet.usage.open == 5)
        with anyio.fail_after(2):
            await s.outlet.aclose()
            for reader, writer in connections:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", s.http_port)
        await s.outlet.aclose()


async def test_noise_ends_in_a_refusal_or_in_silence() -> None:
    seed = random.Random(99)
    async with running(hello, Limits(timing=QUICK)) as s:
        good = (
            f"POST http://server.example:{s.server_port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n".encode()
        )
        socks = b"\x05\x01\x00\x05\x01\x00\x03\x0eserver.example" + s.server_port.to_bytes(2, "big")

        async def noisy(data: bytes) -> None:
            for port in (s.http_port, s.socks_port):
                with contextlib.suppress(ConnectionError):
                    await say(port, data, end=seed.random() < 0.8)

        for _ in range(15):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    data = bytearray(seed.choice((good, socks, connect_to(s.server_port))))
                    for _ in range(seed.randint(1, 5)):
                        data[seed.randrange(len(data))] = seed.randrange(256)
                    group.start_soon(noisy, bytes(data) + seed.randbytes(seed.choice((0, 10, 5000))))
        await settled(lambda: s.outlet.usage.open == 0)
        assert s.outlet.usage.failed > 50


async def test_connections_that_come_and_go_leave_nothing() -> None:
    async with running(echo, Limits(connections=8)) as s:

        async def hasty(number: int) -> None:
            with socket.create_connection(("127.0.0.1", (s.http_port, s.socks_port)[number % 2])) as client:
                client.setblocking(False)
                data = (connect_to(s.server_port) + b"x" * 1000, b"\x05\x01\x00\x05\x01", b"", b"GET")[number % 4]
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_sendall(client, data)
                if number % 3 == 0:  # closes by a reset
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        for start in range(0, 200, 20):
            async with anyio.create_task_group() as group:
                for number in range(start, start + 20):
                    group.start_soon(hasty, number)
        await settled(lambda: s.outlet.usage.open == 0)
        assert await say(s.http_port, connect_to(s.server_port) + b"x", end=True) == ESTABLISHED + b"x"
