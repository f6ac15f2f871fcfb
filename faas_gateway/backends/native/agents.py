"""Commands and file operations inside a sandbox, through an agent that its init forks (see launcher/agent.py)."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import orjson

from faas_gateway.backends.base import CommandRequest, FileEntry, FileProblem, Reply, Sink
from faas_gateway.backends.native.link import Launcher
from faas_gateway.backends.native.pump import Pipe
from faas_gateway.backends.native.unwrap import single_error
from faas_gateway.guest import framing

ANSWER_S = 30.0
STDIN_CHUNK = 64 << 10


class AgentGone(Exception):
    """The connection ended before the answer."""


@dataclass(frozen=True)
class Script:
    """A file that is there while a command runs, and the file of state that it writes as `state`.new."""

    path: str
    text: str
    state: str


class Frames:
    """Frames over a non-blocking stream socket, for one reader and one writer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, message: Mapping[str, Any], body: bytes = b"") -> None:
        try:
            await self._loop.sock_sendall(self._sock, framing.pack(dict(message), body))
        except OSError as e:
            raise AgentGone(str(e)) from None

    async def receive(self, timeout: float | None = ANSWER_S) -> tuple[dict[str, Any], bytes]:
        """The next frame; raises AgentGone at the end, FileProblem for an error frame, TimeoutError."""
        with anyio.fail_after(timeout):
            header = await self._exactly(framing.HEADER.size)
            json_size, body_size = framing.HEADER.unpack(header)
            if json_size > framing.JSON_LIMIT_BYTES or body_size > framing.BODY_LIMIT_BYTES:
                raise AgentGone("frame too large")
            data = await self._exactly(json_size)
            body = await self._exactly(body_size) if body_size else b""
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise AgentGone("malformed frame") from None
        if not isinstance(message, dict):
            raise AgentGone("malformed frame")
        if "error" in message:
            raise FileProblem(int(message.get("errno", 0)), str(message["error"]))  # type: ignore[arg-type]
        return message, body  # type: ignore[return-value]

    async def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                data = await self._loop.sock_recv(self._sock, min(size, 1 << 20))
            except OSError:
                data = b""
            if not data:
                raise AgentGone("the sandbox has ended")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


class Agents:
    """The agents of one sandbox."""

    def __init__(self, launcher: Launcher, box: str, rlimits: dict[str, list[int]], env: Mapping[str, str]) -> None:
        self._launcher = launcher
        self.box = box
        self._rlimits = rlimits
        self.env = env

    @asynccontextmanager
    async def connect(self, *fds: int) -> AsyncGenerator[Frames]:
        """An agent of its own; leaving the block ends it. Descriptors are handed on, and stay the caller's."""
        near, far = socket.socketpair()
        try:
            with far:
                self._launcher.post("agent", [far.fileno(), *fds], box=self.box)
            yield Frames(near)
        finally:
            near.close()

    async def usage(self, walk_s: float, disk_bytes: int | None = None) -> dict[str, Any]:
        async with self.connect() as agent:
            await agent.send({"op": "usage", "walk_s": walk_s, "disk_bytes": disk_bytes})
            return (await agent.receive(10 + walk_s))[0]

    async def entries(self, op: str, path: str) -> list[FileEntry]:
        """`list` or `stat`."""
        async with self.connect() as agent:
            await agent.send({"op": op, "path": path})
            message, _ = await agent.receive()
        return [FileEntry(**e) for e in message["entries"]]

    async def delete(self, path: str) -> None:
        async with self.connect() as agent:
            await agent.send({"op": "delete", "path": path})
            await agent.receive(300)

    async def read(self, path: str) -> AsyncIterator[bytes]:
        async with self.connect() as agent:
            await agent.send({"op": "read", "path": path})
            await agent.receive()
            while True:
                message, body = await agent.receive()
                if message.get("end"):
                    return
                yield body

    async def write(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool) -> None:
        async with self.connect() as agent:
            answered = False
            with single_error():
                async with anyio.create_task_group() as group:

                    async def answer() -> None:
                        nonlocal answered
                        await agent.receive(None)
                        answered = True
                        group.cancel_scope.cancel()

                    group.start_soon(answer)  # an error comes while we still send
                    try:
                        await agent.send({"op": "write", "path": path, "untar": untar})
                        async for chunk in chunks:
                            for at in range(0, len(chunk), framing.CHUNK_BYTES):
                                await agent.send({}, chunk[at : at + framing.CHUNK_BYTES])
                        await agent.send({"end": True})
                    except AgentGone:
                        pass  # it has said why, or its end is seen by the reader
                    await anyio.sleep(300)
                    raise FileProblem(errno.ETIMEDOUT, "the sandbox did not confirm the file")
            if not answered:
                raise AgentGone("the sandbox has ended")

    async def run(
        self, request: CommandRequest, sink: Sink, interrupted: anyio.Event, script: Script | None = None
    ) -> Reply:
        """Run a command and pass on its output; `interrupted` sends it SIGINT. Cancelling kills it.

        A command that cannot be started is an error of whoever asked for it, as in a shell.
        """
        with _Stdio(request.stdin is None) as stdio:
            async with self.connect(*stdio.theirs) as agent:
                stdio.give_away()
                message: dict[str, Any] = {}
                out = Pipe(stdio.take(1), lambda text: sink.stream("stdout", text))
                err = Pipe(stdio.take(2), lambda text: sink.stream("stderr", text))
                try:
                    await agent.send(
                        {
                            "op": "exec",
                            "argv": request.argv,
                            "cwd": request.cwd,
                            "env": {**self.env, **request.env_vars},
                            "rlimits": self._rlimits,
                            "script": script and asdict(script),
                        }
                    )
                    await agent.receive()
                    with single_error():
                        async with anyio.create_task_group() as group:
                            if request.stdin is not None:
                                group.start_soon(_feed, stdio.take(0), request.stdin)
                            group.start_soon(_interrupt, agent, interrupted)
                            message, _ = await agent.receive(None)
                            group.cancel_scope.cancel()
                except FileProblem as e:
                    return _not_started(e)
                finally:
                    out.drain()
                    err.drain()
                    out.close()
                    err.close()
        code = int(message["exit"])
        if code == 0:
            return Reply("ok")
        return _failed(code)


def _not_started(problem: FileProblem) -> Reply:
    """As a shell has it: 127 for what is not there, 126 for what cannot be executed."""
    exit_code = 127 if problem.errno in (errno.ENOENT, errno.ENOTDIR) else 126
    code, hint = "exit_code", "Name a program of the environment by its name or its path."
    if problem.errno == errno.EAGAIN:
        code, hint = "pids", "The limit of processes is reached: end some, or open a session with more."
    elif problem.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        code, hint = "disk_full", "The sandbox's disk limit is reached: delete files first."
    return Reply("error", exit_code, ename="NotStarted", evalue=str(problem), code=code, hint=hint)


def _failed(code: int) -> Reply:
    if code > 0:
        return Reply("error", exit_code=code, ename="ExitCode", evalue=f"exit code {code}", code="exit_code")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return Reply("error", exit_code=128 - code, ename=name, evalue=f"ended by {name}", code="exit_code")


async def _interrupt(agent: Frames, interrupted: anyio.Event) -> None:
    await interrupted.wait()
    await agent.send({"signal": int(signal.SIGINT)})


async def _feed(fd: int, data: bytes) -> None:
    """Write the command's standard input; it may close it early."""
    try:
        os.set_blocking(fd, False)
        view = memoryview(data)
        while view:
            await anyio.wait_writable(fd)
            try:
                view = view[os.write(fd, view[:STDIN_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return
    finally:
        os.close(fd)


class _Stdio:
    """Three pipes for a command; what is not taken or given away is closed."""

    def __init__(self, no_stdin: bool) -> None:
        self._mine: dict[int, int] = {}
        self.theirs: list[int] = []
        self._no_stdin = no_stdin

    def __enter__(self) -> _Stdio:
        for number in range(3):
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs, mine = (read, write) if number == 0 else (write, read)
            self.theirs.append(theirs)
            self._mine[number] = mine
        if self._no_stdin:
            os.close(self._mine.pop(0))  # end of file at once
        return self

    def take(self, number: int) -> int:
        return self._mine.pop(number)

    def give_away(self) -> None:
        while self.theirs:
            os.close(self.theirs.pop())

    def __exit__(self, *_exc: object) -> None:
        self.give_away()
        for fd in self._mine.values():
            os.close(fd)
