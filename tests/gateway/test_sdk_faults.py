"""Interrupts, cancelled tasks, broken connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from faas import FaaSClient, SyncFaaSClient, errors
from faas.types import ExecutionResult
from sdk_wire_server import Running, Served, WireServer

pytestmark = pytest.mark.anyio

LINES = [f"line {n}\n" for n in range(1000)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "s") as served:
        yield served


@pytest.fixture
def server(served: Served) -> WireServer:
    return served.app


@pytest.fixture
def client(served: Served) -> Iterator[SyncFaaSClient]:
    with SyncFaaSClient(endpoint=served.endpoint) as client:
        yield client


def running_in(server: WireServer, timeout_s: float = 5) -> Running:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.running:
            return next(iter(server.running.values()))
        time.sleep(0.01)
    raise TimeoutError("no request came in")


class Interrupts:
    """Raises KeyboardInterrupt in the main thread, as Ctrl-C does, but only while `armed`."""

    def __init__(self) -> None:
        self.armed = False
        self.count = 0
        self._senders: list[threading.Thread] = []
        self._before = signal.signal(signal.SIGUSR1, self._strike)

    def _strike(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            self.count += 1
            raise KeyboardInterrupt

    def after(self, seconds: float) -> None:
        def send() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGUSR1)

        self.armed = True
        sender = threading.Thread(target=send)
        self._senders.append(sender)
        sender.start()

    def restore(self) -> None:
        self.armed = False
        for sender in self._senders:
            if sender.ident is not None:
                sender.join(10)
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    yield interrupts
    interrupts.restore()


# Broken connections


@pytest.mark.parametrize(
    "code", ["drop; print 5", "print 3; drop; print 2", "print 4; drop; print 1; drop", "print 5; drop"]
)
def test_stream_goes_on_after_a_broken_connection_with_nothing_twice_or_missing(client: SyncFaaSClient, code: str):
    stream = client.executions.create().stream(code)
    assert [event.text for event in stream] == LINES[:5]
    assert stream.result.status == "success"


async def test_async_stream_goes_on_after_a_broken_connection(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        stream = (await client.executions.create()).stream("print 3; drop; print 2; drop; print 1")
        assert [event.text async for event in stream] == LINES[:6]
        assert stream.result.status == "success"


def test_result_is_fetched_over_another_connection(client: SyncFaaSClient):
    result = client.executions.create().execute("print 2; drop; sleep 0.5; print 1")
    assert (result.status, result.stdout) == ("success", "".join(LINES[:3]))


def test_drops_without_progress_end_after_three_attempts(client: SyncFaaSClient, server: WireServer):
    stream = client.executions.create().stream("print 1; hang")
    assert next(stream).text == LINES[0]
    server.drop_next = 100
    running = running_in(server)
    calls = len(server.calls)
    server.loop.call_soon_threadsafe(running.drop)
    started = time.monotonic()
    with pytest.raises(errors.ConnectionLostError, match=rf"while request {stream.request_id} ran"):
        next(stream)
    assert len(server.calls) - calls <= 8  # three attempts, each may be sent once more
    assert 1 < time.monotonic() - started < 10
    assert list(stream) == []


def test_request_that_the_gateway_forgot_is_lost(client: SyncFaaSClient, server: WireServer):
    stream = client.executions.create().stream("print 1; hang")
    next(stream)
    running = server.running.pop(stream.request_id)
    server.loop.call_soon_threadsafe(running.drop)
    with pytest.raises(errors.ConnectionLostError, match=r"the session with it.*Try: open a new session"):
        next(stream)


def test_one_shot_code_does_not_survive_its_connection_and_is_not_run_again(client: SyncFaaSClient, server: WireServer):
    with pytest.raises(errors.ConnectionLostError):
        client.execute("print 1; drop")
    with pytest.raises(errors.ConnectionLostError):
        list(client.executions.stream("print 1; drop; hang"))
    assert [path for method, path, _ in server.calls] == ["/api/v1/execute"] * 2


# Cancelled tasks


@pytest.mark.parametrize("method", ["execute", "run", "stream"])
async def test_cancelling_the_task_interrupts_the_code(served: Served, method: str):
    async with FaaSClient(endpoint=served.endpoint) as client:
        execution = await client.executions.create()

        async def act() -> None:
            if method == "execute":
                await execution.execute("hang")
            elif method == "run":
                await execution.run(["hang"])
            else:
                async for _ in execution.stream("hang"):
                    pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(act(), 0.5)
        running = running_in(served.app)
        assert running.interrupted.is_set()
        deadline = time.monotonic() + 5
        while running.result is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert running.result is not None
        assert running.result["status"] == "cancelled"


async def test_cancel_scope_interrupts_the_code_too(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        execution = await client.executions.create()
        with anyio.move_on_after(0.5) as scope:
            await execution.execute("hang")
        assert scope.cancelled_caught
        assert running_in(served.app).interrupted.is_set()


async def test_cancelled_before_the_gateway_accepted_it_is_interrupted_when_it_turns_up(served: Served):
    served.app.accept_delay_s = 0.6
    async with FaaSClient(endpoint=served.endpoint) as client:
        execution = await client.executions.create()
        with anyio.move_on_after(0.2):
            await execution.execute("hang")
        assert running_in(served.app).interrupted.is_set()


async def test_code_that_ignores_its_interrupt_does_not_hold_the_caller(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        execution = await client.executions.create()
        started = time.monotonic()
        with anyio.move_on_after(0.2):
            await execution.execute("ignore")
        assert time.monotonic() - started < 3


async def test_cancelled_stream_can_be_read_to_its_end(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        stream = (await client.executions.create()).stream("print 3; hang", interrupt_on_cancel=False)
        texts: list[str] = []
        with anyio.move_on_after(0.5):
            async for event in stream:
                texts.append(event.text)
        assert texts == LINES[:3]
        assert not running_in(served.app).interrupted.is_set()
        await stream.interrupt()
        assert [event.text async for event in stream] == []
        assert stream.result.status == "cancelled"


async def test_cancelled_one_shot_drops_its_connection(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        with anyio.move_on_after(0.3):
            await client.execute("hang")
        deadline = time.monotonic() + 5
        while not served.app.disconnected and time.monotonic() < deadline:
            await anyio.sleep(0.01)
        assert len(served.app.disconnected) == 1


async def test_execution_is_closed_when_its_block_is_cancelled(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        with anyio.move_on_after(0.3):
            async with await client.executions.create():
                await anyio.sleep(10)
    assert served.app.calls[-1][:2] == ("DELETE", "/api/v1/executions/x1")


async def test_handle_interrupts_what_was_started_through_it(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        execution = await client.executions.create()
        await execution.interrupt()
        results: list[ExecutionResult] = []

        async def act() -> None:
            results.append(await execution.execute("hang"))

        async with anyio.create_task_group() as group:
            group.start_soon(act)
            while not served.app.running:
                await anyio.sleep(0.01)
            await execution.interrupt()
        assert results[0].status == "cancelled"


# KeyboardInterrupt


@pytest.mark.parametrize("method", ["execute", "run", "stream"])
def test_ctrl_c_interrupts_the_code(client: SyncFaaSClient, server: WireServer, interrupts: Interrupts, method: str):
    execution = client.executions.create()
    act: dict[str, Callable[[], object]] = {
        "execute": lambda: execution.execute("hang"),
        "run": lambda: execution.run(["hang"]),
        "stream": lambda: list(execution.stream("hang")),
    }
    interrupts.after(0.3)
    with pytest.raises(KeyboardInterrupt):
        act[method]()
    assert running_in(server).interrupted.is_set()
    assert execution.execute("print 1").stdout == LINES[0]


def test_ctrl_c_leaves_the_decision_to_the_caller_who_asks_for_it(
    client: SyncFaaSClient, server: WireServer, interrupts: Interrupts
):
    stream = client.executions.create().stream("print 2; hang", interrupt_on_cancel=False)
    texts: list[str] = []
    interrupts.after(0.4)
    with pytest.raises(KeyboardInterrupt):
        texts.extend(event.text for event in stream)
    assert not running_in(server).interrupted.is_set()
    stream.interrupt()
    stream.interrupt()
    texts += [event.text for event in stream]
    assert texts == LINES[:2]
    assert stream.result.status == "cancelled"


def test_ctrl_c_before_the_code_was_accepted_cancels_it(
    client: SyncFaaSClient, server: WireServer, interrupts: Interrupts
):
    server.accept_delay_s = 0.5
    stream = client.executions.create().stream("hang", interrupt_on_cancel=False)
    interrupts.after(0.2)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    stream.interrupt()
    assert list(stream) == []
    assert stream.result.status == "cancelled"


def test_request_that_never_arrived_is_cancelled_and_not_sent_again(
    client: SyncFaaSClient, server: WireServer, interrupts: Interrupts
):
    server.accept_delay_s = 30
    stream = client.executions.create().stream("print 1", interrupt_on_cancel=False)
    interrupts.after(0.2)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    stream.interrupt()
    assert list(stream) == []
    assert stream.result.status == "cancelled"
    assert [path for method, path, _ in server.calls].count("/api/v1/executions/x1/execute") == 1


# A socket that was just made when the interrupt struck can only be closed by the collector, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_loses_no_output_and_doubles_none(client: SyncFaaSClient, interrupts: Interrupts):
    chance = random.Random(7)
    for _ in range(40):
        execution = client.executions.create()
        stream = execution.stream("print 300", interrupt_on_cancel=False)
        texts: list[str] = []
        ended = False
        try:
            while not ended:
                try:
                    interrupts.after(chance.random() * 0.03)
                    for event in stream:
                        armed, interrupts.armed = interrupts.armed, False
                        texts.append(event.text)
                        interrupts.armed = armed
                    ended = True
                except KeyboardInterrupt:
                    continue
        finally:
            interrupts.armed = False
        assert texts == LINES[:300]
        assert stream.result.status == "success"
    assert interrupts.count > 20
    assert client.health().version == "9.9.9"


def test_interrupted_connections_are_closed(client: SyncFaaSClient, server: WireServer, interrupts: Interrupts):
    execution = client.executions.create()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        interrupts.after(0.1)
        with contextlib.suppress(KeyboardInterrupt):
            list(execution.stream("hang"))
        execution.execute("print 1")
    assert len(os.listdir("/proc/self/fd")) <= before + 4


# A gateway that stops between our connect and our request


class RawServer:
    """Answers the n-th connection with the n-th behaviour: reset (unread), end (read, no answer), or ok."""

    def __init__(self, path: Path, behaviours: list[str]) -> None:
        self.requests = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(5)
        self._thread = threading.Thread(target=self._serve, args=(behaviours,))
        self._thread.start()

    def _serve(self, behaviours: list[str]) -> None:
        body = b'{"request_id": "r", "execution_id": "x", "status": "success"}'
        for behaviour in behaviours:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(1, socket.MSG_PEEK)
                self.requests += 1
                if behaviour == "reset":
                    continue
                while b"}" not in connection.recv(65536):
                    pass
                if behaviour == "ok":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def close(self) -> None:
        self._thread.join(10)
        self._socket.close()


@pytest.mark.parametrize(
    ("behaviours", "works"), [(["reset", "ok"], True), (["reset", "reset"], False), (["end"], False)]
)
async def test_code_is_sent_again_only_when_it_surely_was_not_taken(tmp_path: Path, behaviours: list[str], works: bool):
    for side in ("sync", "async"):
        path = tmp_path / side
        server = RawServer(path, behaviours)
        try:
            with contextlib.nullcontext() if works else pytest.raises(errors.ConnectionLostError):
                if side == "sync":
                    with SyncFaaSClient(endpoint=f"unix://{path}") as client:
                        await anyio.to_thread.run_sync(client.execute, "1")
                else:
                    async with FaaSClient(endpoint=f"unix://{path}") as aclient:
                        await aclient.execute("1")
        finally:
            server.close()
        assert server.requests == len(behaviours)
