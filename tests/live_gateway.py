"""A gateway over the fake backend, live on a Unix socket: in this process (`running`) or in its own (`Process`)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import orjson
import uvicorn
from faas._sse import SSEParser
from fakes import FakeBackend

from faas_gateway.activity import Activity
from faas_gateway.app import create_app
from faas_gateway.managers.gateway import Gateway, open_gateway
from faas_gateway.server import server_config
from faas_gateway.settings import Settings

API = "/api/v1"
TESTS = Path(__file__).parent


@dataclass
class Event:
    name: str
    data: dict[str, Any]
    id: int | None


@dataclass
class Live:
    """A running gateway and a client for it."""

    backend: FakeBackend
    gateway: Gateway
    activity: Activity
    http: httpx.AsyncClient
    socket_path: str

    async def open(self, **body: Any) -> str:
        response = await self.http.post(f"{API}/executions", json=body)
        assert response.status_code == 201, response.text
        return response.json()["id"]

    async def execute(self, execution: str, code: str, **body: Any) -> dict[str, Any]:
        response = await self.http.post(f"{API}/executions/{execution}/execute", json={"code": code, **body})
        assert response.status_code == 200, response.text
        return response.json()

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        response = await self.http.get(f"{API}{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    @asynccontextmanager
    async def events(
        self, method: str, path: str, headers: dict[str, str] | None = None, **body: Any
    ) -> AsyncGenerator[AsyncIterator[Event]]:
        """Server-sent events; leaving the block drops the connection."""
        async with self.http.stream(method, f"{API}{path}", json=body or None, headers=headers or {}) as response:
            assert response.headers["content-type"].startswith("text/event-stream"), await response.aread()
            yield read_events(response)

    async def all_events(
        self, method: str, path: str, headers: dict[str, str] | None = None, **body: Any
    ) -> list[Event]:
        async with self.events(method, path, headers, **body) as events:
            return [event async for event in events]

    async def until_closed(self, seconds: float = 5) -> None:
        """Wait until the backend has no open sandbox."""
        with anyio.fail_after(seconds):
            while self.backend.open:
                await anyio.sleep(0.005)


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    parser = SSEParser()
    async for chunk in response.aiter_bytes():
        for sse in parser.feed(chunk):
            yield Event(sse.event, orjson.loads(sse.data), int(sse.id) if sse.id else None)


@contextmanager
def short_folder() -> Generator[Path]:
    """A private folder with a path that a Unix socket's address can hold."""
    with tempfile.TemporaryDirectory(prefix="faas-t-", dir="/tmp") as name:
        yield Path(name)


@asynccontextmanager
async def running(**changes: Any) -> AsyncGenerator[Live]:
    """A gateway in this process; `changes` are settings."""
    with short_folder() as folder:
        settings = dataclasses.replace(Settings(state_dir=folder / "state"), **changes)
        backend = FakeBackend(settings.state_dir, idle_template_s=60)
        path = str(folder / "gateway.sock")
        activity = Activity()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(128)
        async with open_gateway(settings, backend) as gateway:
            server = _Server(server_config(create_app(gateway, activity), settings, activity))
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, [sock])
                transport = httpx.AsyncHTTPTransport(uds=path)
                async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=20) as http:
                    yield Live(backend, gateway, activity, http, path)
                await gateway.executions.shutdown()
                server.should_exit = True
        assert not backend.open, "sandboxes were left open"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Process:
    """`tests/fake_gateway.py` as a process. Ends with the block it is made in."""

    def __init__(self, folder: Path, *, idle_timeout: float = 60, env: dict[str, str] | None = None) -> None:
        runtime = folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        self.socket_path = str(runtime / "gateway.sock")
        self.state_dir = folder / "state"
        ready, write_end = os.pipe()
        os.set_inheritable(write_end, True)
        self._log = (folder / "gateway.log").open("ab")
        self.log_path = folder / "gateway.log"
        environment = {
            **os.environ,
            "FAAS_RUNTIME_DIR": str(runtime),
            "FAAS_STATE_DIR": str(self.state_dir),
            "FAAS_LOG": "debug",
            **(env or {}),
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(TESTS / "fake_gateway.py"),
                "--ready-fd",
                str(write_end),
                f"--idle-timeout={idle_timeout}",
            ],
            pass_fds=(write_end,),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(write_end)
        self._ready = ready

    def ready_line(self, seconds: float = 20) -> str:
        """What the gateway says of its start."""
        deadline, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            assert left > 0, "no line in time"
            assert select.select([self._ready], [], [], left)[0], "no line in time"
            chunk = os.read(self._ready, 4096)
            assert chunk, f"ended without a line: {self.log_path.read_text()}"
            received += chunk
        # The gateway closes its end after the line.
        assert select.select([self._ready], [], [], 5)[0]
        assert os.read(self._ready, 1) == b""
        return received.decode().strip()

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.socket_path)
        return httpx.Client(transport=transport, base_url=f"http://gateway{API}", timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def terminate(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(15)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)
        os.close(self._ready)
        self._log.close()
