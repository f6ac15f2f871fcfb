"""The async client's own HTTP over Unix sockets, against servers that do what a gateway may do, and what none should."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from faas._async._unix import UnixTransport

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Serves each connection with a handler, and counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.handler: Handler = answering(OK)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    if b"chunked" in head:
        while (size := int(await reader.readline(), 16)) or await reader.readline() != b"\r\n":
            body += (await reader.readexactly(size + 2))[:-2]
    elif b"Content-Length: " in head:
        body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
    return head, body


def answering(*answers: bytes, pause_s: float = 0.0) -> Handler:
    """One answer in pieces for each request, again and again."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for piece in answers:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

    return handle


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path / "s") as server:
        yield server


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    timeout = httpx.Timeout(5, read=0.5)
    async with httpx.AsyncClient(
        transport=UnixTransport(str(server.path)), base_url="http://localhost", timeout=timeout
    ) as http:
        yield http


async def test_one_connection_serves_requests_in_turn(server: Server, http: httpx.AsyncClient):
    for _ in range(20):
        assert (await http.post("/a", content=b"x" * 100)).text == "ok"
    assert server.connections == 1


async def test_many_requests_at_once_have_connections_of_their_own_which_are_kept(
    server: Server, http: httpx.AsyncClient
):
    server.handler = answering(OK, pause_s=0.1)
    for _ in range(3):
        answers = await asyncio.gather(*(http.get("/") for _ in range(100)))
        assert {answer.text for answer in answers} == {"ok"}
    assert server.connections == 100


async def test_no_more_than_so_many_connections_are_kept_idle(server: Server, http: httpx.AsyncClient):
    server.handler = answering(OK, pause_s=0.1)
    await asyncio.gather(*(http.get("/") for _ in range(200)))
    transport: Any = http._transport
    assert len(transport._idle) == 128
    await asyncio.sleep(0.05)
    assert len(transport._open) == 128


@pytest.mark.parametrize(
    "answer",
    [
        [OK],
        [OK[i : i + 1] for i in range(len(OK))],
        [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\no\r\n1\r\nk\r\n", b"0\r\n\r\n"],
    ],
)
async def test_answers_in_every_shape(server: Server, http: httpx.AsyncClient, answer: list[bytes]):
    server.handler = answering(*answer)
    for _ in range(2):
        got = await http.get("/")
        assert (got.status_code, got.text) == (200, "ok")
        assert "link" not in got.headers
    assert server.connections == 1


async def test_answer_without_a_length_ends_with_its_connection(server: Server, http: httpx.AsyncClient):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")

    server.handler = handle
    assert (await http.get("/")).text == "ok"
    assert (await http.get("/")).text == "ok"
    assert server.connections == 2


async def test_connection_that_the_server_ends_after_its_answer_is_not_used_again(
    server: Server, http: httpx.AsyncClient
):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)

    server.handler = handle
    for n in range(1, 6):
        assert (await http.get("/")).text == "ok"
        assert server.connections == n
        await asyncio.sleep(0.01 * (n % 2))  # whether or not we have heard of its end


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "closed before the end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "closed before the end"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok", "closed before the end"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n", "no HTTP"),
    ],
)
async def test_answers_that_are_none(server: Server, http: httpx.AsyncClient, answer: bytes, said: str):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    server.handler = handle
    with pytest.raises(httpx.RemoteProtocolError, match=said):
        await http.get("/")


async def test_bytes_that_nobody_asked_for_cost_the_connection_and_are_nobodys_answer(
    server: Server, http: httpx.AsyncClient
):
    server.handler = answering(OK + OK.replace(b"ok", b"no"))
    for n in range(1, 4):
        assert (await http.get("/")).text == "ok"
        assert server.connections == n
    server.handler = answering(OK, b"more", pause_s=0.02)
    assert (await http.get("/")).text == "ok"
    await asyncio.sleep(0.1)
    assert (await http.get("/")).text == "ok"
    assert server.connections == 5


async def test_request_that_was_not_read_is_told_by_its_error(server: Server, http: httpx.AsyncClient):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        writer.transport.pause_reading()
        await asyncio.sleep(0.05)
        assert sock.fileno() >= 0
        writer.transport.abort()

    server.handler = handle
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await http.post("/", content=b"x" * 2_000_000)


async def test_silence_is_a_timeout_and_costs_the_connection(server: Server, http: httpx.AsyncClient):
    server.handler = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", pause_s=30)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/")
    assert 0.4 < time.monotonic() - started < 2
    server.handler = answering(OK)
    assert (await http.get("/")).text == "ok"
    assert server.connections == 2


async def test_slow_but_steady_answer_is_no_timeout(server: Server, http: httpx.AsyncClient):
    server.handler = answering(*[OK[i : i + 8] for i in range(0, len(OK), 8)], pause_s=0.2)
    assert (await http.get("/")).text == "ok"


async def test_cancelled_request_drops_its_connection(server: Server, http: httpx.AsyncClient):
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        assert await reader.read(1) == b""
        gone.set()

    server.handler = handle
    with anyio.move_on_after(0.1) as scope:
        await http.get("/")
    assert scope.cancelled_caught
    await asyncio.wait_for(gone.wait(), 2)


async def test_stream_that_is_left_early_drops_its_connection(server: Server, http: httpx.AsyncClient):
    server.handler = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nok", pause_s=0.2)
    async with http.stream("GET", "/") as response:
        assert await anext(response.aiter_raw()) == b"ok"
    server.handler = answering(OK)
    assert (await http.get("/")).text == "ok"
    assert server.connections == 2


async def test_large_bodies_go_both_ways_in_bounded_memory(server: Server, http: httpx.AsyncClient):
    received: list[bytes] = []
    size = 32 << 20

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append((await read_request(reader))[1])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(64):
            yield bytes([n]) * (1 << 18)
            yield b""

    server.handler = handle
    total = 0
    async with http.stream("PUT", "/", content=pieces()) as response:
        await asyncio.sleep(0.2)  # what has come meanwhile waits here, and not all of it
        transport: Any = http._transport
        (connection,) = transport._open
        assert connection._buffered < 2 << 20
        async for piece in response.aiter_raw():
            assert len(piece) < 2 << 20
            total += len(piece)
    assert total == size
    assert received == [b"".join(bytes([n]) * (1 << 18) for n in range(64))]


async def test_refusal_while_a_large_body_is_sent_is_heard(server: Server, http: httpx.AsyncClient):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(5)  # and does not read on

    server.handler = handle
    started = time.monotonic()
    answer = await http.post("/", content=bytes(64 << 20))
    assert (answer.status_code, answer.text) == (413, "no")
    assert time.monotonic() - started < 2
    server.handler = answering(OK)
    assert (await http.get("/")).text == "ok"
    assert server.connections == 2


async def test_full_queue_of_the_listener_is_waited_for(tmp_path: Path):
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        fillers: list[socket.socket] = []
        try:
            for _ in range(8):
                filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                fillers.append(filler)
                filler.setblocking(False)
                try:
                    filler.connect(path)
                except BlockingIOError:
                    break
            else:
                pytest.fail("the queue did not fill")
            async with httpx.AsyncClient(
                transport=UnixTransport(path), base_url="http://x", timeout=httpx.Timeout(0.3)
            ) as http:
                with pytest.raises(httpx.ConnectTimeout, match="queue"):
                    await http.get("/")
                asyncio.get_running_loop().call_later(0.1, lambda: fillers.append(listener.accept()[0]))
                with pytest.raises(httpx.ReadTimeout):  # connected; nobody answers
                    await http.get("/")
        finally:
            for filler in fillers:
                filler.close()


async def test_nothing_at_the_path_is_a_connect_error_and_leaves_no_socket(tmp_path: Path):
    async with httpx.AsyncClient(transport=UnixTransport(str(tmp_path / "none")), base_url="http://x") as http:
        with pytest.raises(httpx.ConnectError, match="No such file"):
            await http.get("/")


async def test_header_with_a_line_break_is_not_sent(server: Server, http: httpx.AsyncClient):
    with pytest.raises(httpx.LocalProtocolError, match="line break in the header X-A"):
        await http.get("/", headers={"X-A": "b\r\nX-C: d"})


async def test_closing_closes_the_sockets(server: Server):
    transport = UnixTransport(str(server.path))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        await http.get("/")
        assert len(transport._open) == 1
    await asyncio.sleep(0.01)
    assert not transport._open
