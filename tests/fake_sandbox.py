"""A sandbox that is none: its guest understands a small script, line by line, and its state can be copied.

pass                        nothing
print TEXT                  a line on stdout (eprint: on stderr)
flood MIB                   so much stdout, in lines of 100 bytes
message JSON                any Jupyter message, as it is
set NAME JSON               a variable
sleep SECONDS               ends with KeyboardInterrupt when interrupted
stubborn SECONDS            takes no notice of an interrupt
raise ENAME TEXT            an exception
exit N                      a shell's exit code
end CODE TEXT               the sandbox ends
show NAME                   a variable's value on stdout
env NAME                    an environment variable on stdout
write PATH TEXT             a file
cat PATH                    the text of a file on stdout
opaque NAME                 a variable without a portable form
unforkable TEXT             from now on the session cannot be forked alive, for that reason
forkable                    it can again
bug                         the backend itself fails
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from faas import values
from fake_files import CHUNK, FakeFiles, Node

from faas_gateway.backends.base import (
    CannotFork,
    CaptureReport,
    CodeRequest,
    CommandRequest,
    Ended,
    FrozenSandbox,
    Layers,
    Loss,
    NotTransferable,
    Reply,
    Sandbox,
    SandboxEnded,
    SandboxSpec,
    Sink,
    StartFailed,
    UnknownVariable,
    Usage,
)

if TYPE_CHECKING:
    from fake_frozen import Home


@dataclass
class Faults:
    """How the fake misbehaves; also from the environment variable FAAS_FAKE (JSON), for a gateway process."""

    unavailable: bool = False
    build_fails: bool = False
    start_fails: bool = False
    build_s: float = 0.0
    start_s: float = 0.0
    freeze_s: float = 0.0
    freeze_dies: bool = False
    freeze_fails: bool = False
    branches_fit: int | None = None
    branch_s: float = 0.0
    capture_s: float = 0.0
    disk_full: bool = False
    frozen_memory: int = 1 << 20

    @classmethod
    def from_environment(cls) -> Faults:
        return cls(**json.loads(os.environ.get("FAAS_FAKE", "{}")))


@dataclass
class State:
    """All that a session has: what a fork copies."""

    variables: dict[str, bytes] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    files: dict[str, Node] = field(default_factory=lambda: {"/workspace": Node()})
    env: dict[str, str] = field(default_factory=dict)
    layers: Layers = ()
    unforkable: str = ""
    count: int = 0

    def copy(self) -> State:
        files = {path: Node(node.data, node.mtime) for path, node in self.files.items()}
        return State(
            dict(self.variables), set(self.opaque), files, dict(self.env), self.layers, self.unforkable, self.count
        )


class FakeSandbox(FakeFiles, Sandbox):
    def __init__(self, spec: SandboxSpec, home: Home, state: State) -> None:
        self.id = spec.id
        self.spec = spec
        self.enforcement = {"memory": "none"}
        self.degraded = ["no sandbox at all: this is the fake backend"]
        self.state = state
        self.reseeded = False
        self._home = home
        self._retired = False
        self._ended: Ended | None = None
        self._end_event = anyio.Event()
        self._interrupted: anyio.Event | None = None
        self.closed = False

    # Requests

    async def execute(self, request: CodeRequest, sink: Sink) -> Reply:
        self._check()
        self.state.count += 1
        self._interrupted = anyio.Event()
        try:
            return await self._unless_ended(lambda: self._script(request.code, sink, request.execution_count))
        finally:
            self._interrupted = None

    async def run(self, request: CommandRequest, sink: Sink) -> Reply:
        self._check()
        script = " ".join(request.argv)
        if request.stdin is not None:
            script += "\nprint " + request.stdin.decode()
        for name, value in request.env_vars.items():
            script += f"\nprint {name}={value}"
        return await self._unless_ended(lambda: self._script(script, sink, None))

    async def interrupt(self) -> None:
        if self._interrupted is not None:
            self._interrupted.set()

    async def _unless_ended(self, work: Callable[[], Any]) -> Reply:
        replies: list[Reply] = []
        failures: list[Exception] = []

        async def watch() -> None:
            await self._end_event.wait()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                replies.append(await work())
            except (SandboxEnded, RuntimeError) as exc:
                failures.append(exc)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]
        if not replies:
            raise SandboxEnded(self._ended or Ended("lost", "cancelled"))
        return replies[0]

    async def _script(self, code: str, sink: Sink, count: int | None) -> Reply:
        count = count or self.state.count
        for line in code.splitlines():
            word, _, rest = line.strip().removeprefix("set -e; ").partition(" ")
            match word:
                case "" | "pass":
                    pass
                case "print":
                    sink.stream("stdout", rest + "\n")
                case "eprint":
                    sink.stream("stderr", rest + "\n")
                case "surrogate":
                    sink.stream("stdout", "a\ud800b\n")
                case "flood":
                    text = ("x" * 99 + "\n") * 600
                    for _ in range(int(float(rest) * (1 << 20) / len(text))):
                        sink.stream("stdout", text)
                        await anyio.lowlevel.checkpoint()
                case "message":
                    message = json.loads(rest)
                    buffers = [bytes.fromhex(b) for b in message.pop("buffers", [])]
                    sink.message(message, buffers)
                case "set":
                    name, _, value = rest.partition(" ")
                    self.state.variables[name] = b"".join(values.encode(json.loads(value)))
                case "sleep":
                    with anyio.move_on_after(float(rest)):
                        await (self._interrupted or anyio.Event()).wait()
                        return Reply(
                            "error",
                            1,
                            count,
                            "KeyboardInterrupt",
                            "",
                            ("Traceback", "KeyboardInterrupt"),
                            "exception",
                        )
                case "stubborn":
                    await anyio.sleep(float(rest))
                case "raise":
                    ename, _, evalue = rest.partition(" ")
                    traceback = ("Traceback (most recent call last)", f"{ename}: {evalue}")
                    content = {"ename": ename, "evalue": evalue, "traceback": list(traceback)}
                    sink.message({"msg_type": "error", "content": content, "metadata": {}}, [])
                    return Reply("error", 1, count, ename, evalue, traceback)
                case "exit":
                    code_number = int(rest)
                    status = "ok" if code_number == 0 else "error"
                    return Reply(status, code_number, count, code="exit_code" if code_number else "")
                case "end":
                    end_code, _, reason = rest.partition(" ")
                    ended = Ended(end_code, reason)
                    await self.kill(ended)
                    raise SandboxEnded(ended)
                case "show":
                    sink.stream("stdout", f"{values.decode(self.state.variables[rest])!r}\n")
                case "env":
                    sink.stream("stdout", self.state.env.get(rest, "") + "\n")
                case "write":
                    path, _, text = rest.partition(" ")
                    self._write(self._path(path), text.encode())
                case "cat":
                    node = self.state.files.get(self._path(rest))
                    sink.stream("stdout", "no file\n" if node is None else (node.data or b"").decode() + "\n")
                case "opaque":
                    self.state.variables[rest] = b"".join(values.encode(None))
                    self.state.opaque.add(rest)
                case "unforkable":
                    self.state.unforkable = rest
                case "forkable":
                    self.state.unforkable = ""
                case "bug":
                    raise RuntimeError("the fake backend was told to fail")
                case _:
                    sink.stream("stderr", f"{word}: command not found\n")
                    return Reply("error", 127, count, code="exit_code")
        return Reply("ok", 0, count)

    async def usage(self) -> Usage:
        self._check()
        return Usage(cpu_time_s=0.5, memory_bytes=1 << 20, disk_bytes=2048, processes=2)

    # Variables

    async def list_variables(self) -> list[dict[str, Any]]:
        self._check()
        found: list[dict[str, Any]] = []
        for name, data in sorted(self.state.variables.items()):
            value = values.decode(data)
            found.append({"name": name, "type": type(value).__name__, "preview": repr(value)[:80]})
        return found

    async def pull_variable(self, name: str) -> AsyncIterator[bytes]:
        self._check()
        if name == "a_lock":
            raise NotTransferable("a_lock: a value of type _thread.lock can't be sent")
        if name not in self.state.variables:
            raise UnknownVariable(f"there is no variable {name!r}")
        data = self.state.variables[name]
        for start in range(0, len(data), CHUNK):
            await anyio.lowlevel.checkpoint()
            self._check()
            yield data[start : start + CHUNK]

    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        self._check()
        self.state.variables[name] = b"".join([chunk async for chunk in chunks])

    # Snapshots

    async def check_fork(self) -> list[Loss]:
        self._check()
        return self._losses()

    def _losses(self) -> list[Loss]:
        reason = self.state.unforkable
        return [Loss("thread", "worker-1", reason, "portable_only")] if reason else []

    async def freeze(self, frozen_id: str) -> tuple[FrozenSandbox, Sandbox]:
        self._check()
        faults = self._home.faults
        if faults.freeze_s:
            await anyio.sleep(faults.freeze_s)
        if faults.freeze_dies:
            await self.kill(Ended("died", "the interpreter was killed"))
        self._check()
        if faults.freeze_fails:
            raise StartFailed("the files could not be frozen: No space left on device")
        if self.state.unforkable:
            raise CannotFork(self._losses())
        frozen = self._home.freeze(frozen_id, self.spec, self.state)
        self._retired = True
        # The session goes on in a branch of the frozen one, whose files it shares.
        after = FakeSandbox(self.spec, self._home, frozen.state.copy())
        self._home.open[self.id] = after
        return frozen, after

    async def copy_files(self, frozen_id: str) -> Layers:
        self._check()
        return self._home.copy_files(frozen_id, self.state)

    async def capture_variables(self, fd: int) -> CaptureReport:
        self._check()
        faults = self._home.faults
        names = sorted(self.state.variables)
        kept = {n: base64.b64encode(self.state.variables[n]).decode() for n in names if n not in self.state.opaque}
        data = json.dumps(kept).encode()
        os.write(fd, data[: len(data) // 2])
        if faults.capture_s:
            await anyio.sleep(faults.capture_s)
        self._check()
        if faults.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(fd, data[len(data) // 2 :])
        excluded = tuple(Loss("variable", n, "it has no portable form") for n in sorted(self.state.opaque))
        return CaptureReport(tuple(kept), excluded, len(data))

    async def restore_variables(self, fd: int) -> CaptureReport:
        self._check()
        await anyio.lowlevel.checkpoint()
        with open(fd, "rb", closefd=False) as file:
            kept = json.loads(file.read())
        self.state.variables = {name: base64.b64decode(data) for name, data in kept.items()}
        return CaptureReport(tuple(kept))

    async def fingerprints(self) -> list[dict[str, Any]]:
        found = await self.list_variables()
        for item in found:
            data = self.state.variables[item["name"]]
            item["digest"] = "" if item["name"] in self.state.opaque else hashlib.sha256(data).hexdigest()
        return found

    async def reseed(self) -> None:
        self._check()
        self.reseeded = True

    # Life

    def _check(self) -> None:
        if self._retired:
            raise AssertionError("a sandbox was used after it was frozen")
        if self._ended is not None:
            raise SandboxEnded(self._ended)

    async def wait(self) -> Ended:
        await self._end_event.wait()
        assert self._ended is not None
        return self._ended

    async def kill(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
            self._end_event.set()

    async def aclose(self) -> None:
        await self.kill(Ended("closed", "closed"))
        assert not self._retired, "a sandbox was closed after it was frozen"
        self.closed = True
        if self._home.open.get(self.id) is self:
            del self._home.open[self.id]
        for layer in self.state.layers:
            self._home.forget_unkept(layer)
