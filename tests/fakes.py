"""A backend that implements the contract without sandboxes: its guest understands a small script, line by line.

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
bug                         the backend itself fails
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import posixpath
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from faas import values

from faas_gateway.backends.base import (
    BackendUnavailable,
    BuildFailed,
    Capabilities,
    CodeRequest,
    CommandRequest,
    Ended,
    FileEntry,
    FileProblem,
    Image,
    NotTransferable,
    ProgressReport,
    Recipe,
    Reply,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxEnded,
    SandboxSpec,
    Sink,
    StartFailed,
    UnknownVariable,
    Usage,
)

CHUNK = 64 << 10


@dataclass
class Faults:
    """How the fake misbehaves; also from the environment variable FAAS_FAKE (JSON), for a gateway process."""

    unavailable: bool = False
    build_fails: bool = False
    start_fails: bool = False
    build_s: float = 0.0
    start_s: float = 0.0

    @classmethod
    def from_environment(cls) -> Faults:
        return cls(**json.loads(os.environ.get("FAAS_FAKE", "{}")))


@dataclass
class _Node:
    data: bytes | None = None  # None for a folder
    mtime: float = field(default_factory=time.time)


class FakeSandbox(Sandbox):
    def __init__(self, spec: SandboxSpec, on_close: Callable[[FakeSandbox], None]) -> None:
        self.id = spec.id
        self.spec = spec
        self.enforcement = {"memory": "none"}
        self.degraded = ["no sandbox at all: this is the fake backend"]
        self._on_close = on_close
        self._ended: Ended | None = None
        self._end_event = anyio.Event()
        self._interrupted: anyio.Event | None = None
        self._variables: dict[str, bytes] = {}
        self._files: dict[str, _Node] = {"/workspace": _Node()}
        self.closed = False
        self._count = 0

    # Requests

    async def execute(self, request: CodeRequest, sink: Sink) -> Reply:
        self._check()
        self._count += 1
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
        count = count or self._count
        for line in code.splitlines():
            word, _, rest = line.strip().partition(" ")
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
                    self._variables[name] = b"".join(values.encode(json.loads(value)))
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
        for name, data in sorted(self._variables.items()):
            value = values.decode(data)
            found.append({"name": name, "type": type(value).__name__, "preview": repr(value)[:80]})
        return found

    async def pull_variable(self, name: str) -> AsyncIterator[bytes]:
        self._check()
        if name == "a_lock":
            raise NotTransferable("a_lock: a value of type _thread.lock can't be sent")
        if name not in self._variables:
            raise UnknownVariable(f"there is no variable {name!r}")
        data = self._variables[name]
        for start in range(0, len(data), CHUNK):
            await anyio.lowlevel.checkpoint()
            self._check()
            yield data[start : start + CHUNK]

    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        self._check()
        self._variables[name] = b"".join([chunk async for chunk in chunks])

    # Files

    def _path(self, path: str) -> str:
        return posixpath.normpath(posixpath.join("/workspace", path))

    def _node(self, path: str) -> _Node:
        self._check()
        node = self._files.get(self._path(path))
        if node is None:
            raise FileProblem(errno.ENOENT, f"{path}: {os.strerror(errno.ENOENT)}")
        return node

    def _entry(self, full: str) -> FileEntry:
        node = self._files[full]
        kind = "directory" if node.data is None else "file"
        size = len(node.data or b"")
        return FileEntry(full, posixpath.basename(full), kind, size, 0o644, node.mtime)

    async def list_files(self, path: str) -> list[FileEntry]:
        self._node(path)
        folder = self._path(path)
        return [self._entry(p) for p in sorted(self._files) if posixpath.dirname(p) == folder and p != folder]

    async def stat_file(self, path: str) -> FileEntry:
        self._node(path)
        return self._entry(self._path(path))

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        node = self._node(path)
        data = self._tar(self._path(path)) if node.data is None else node.data
        for start in range(0, len(data), CHUNK):
            await anyio.lowlevel.checkpoint()
            self._check()
            yield data[start : start + CHUNK]

    def _tar(self, folder: str) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for path, node in sorted(self._files.items()):
                if path.startswith(folder + "/") and node.data is not None:
                    info = tarfile.TarInfo(posixpath.relpath(path, folder))
                    info.size = len(node.data)
                    archive.addfile(info, io.BytesIO(node.data))
        return out.getvalue()

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool = False) -> None:
        self._check()
        full = self._path(path)
        if full.startswith("/proc"):
            raise FileProblem(errno.EACCES, f"{path}: {os.strerror(errno.EACCES)}")
        if not untar and full in self._files and self._files[full].data is None:
            raise FileProblem(errno.EISDIR, f"{path}: {os.strerror(errno.EISDIR)}")
        data = b"".join([chunk async for chunk in chunks])
        if not untar:
            self._write(full, data)
            return
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                source = archive.extractfile(member)
                if source is not None:
                    self._write(posixpath.join(full, member.name), source.read())

    def _write(self, full: str, data: bytes) -> None:
        folder = posixpath.dirname(full)
        while folder not in self._files and folder != "/":
            self._files[folder] = _Node()
            folder = posixpath.dirname(folder)
        self._files[full] = _Node(data)

    async def delete_file(self, path: str) -> None:
        self._node(path)
        full = self._path(path)
        for other in [p for p in self._files if p == full or p.startswith(full + "/")]:
            del self._files[other]

    # Life

    def _check(self) -> None:
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
        self.closed = True
        self._on_close(self)


class FakeBackend(SandboxBackend):
    """Makes fake sandboxes; `open` holds those that were not closed."""

    name = "fake"

    def __init__(self, state_dir: Path, *, idle_template_s: float) -> None:
        self.state_dir = state_dir
        self.faults = Faults.from_environment()
        self.open: dict[str, FakeSandbox] = {}
        self.made = 0
        self.builds = 0
        self._warm: set[str] = set()
        self._built: set[Recipe] = set()

    async def __aenter__(self) -> FakeBackend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for sandbox in list(self.open.values()):
            await sandbox.aclose()

    async def probe(self) -> Capabilities:
        problem = "user namespaces are switched off" if self.faults.unavailable else ""
        remedy = "sysctl -w user.max_user_namespaces=10000" if self.faults.unavailable else ""
        return Capabilities("fake", "none", not self.faults.unavailable, problem, remedy)

    def version_of(self, recipe: Recipe) -> str:
        return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]

    def is_built(self, recipe: Recipe) -> bool:
        return recipe in self._built

    async def build(self, recipe: Recipe, report: Report) -> Image:
        self._check()
        self.builds += 1
        if self.faults.build_s:
            report(ProgressReport("build", "installing packages", 0.5))
            await anyio.sleep(self.faults.build_s)
        if self.faults.build_fails:
            raise BuildFailed("pip install numpy", "ERROR: no matching distribution")
        self._built.add(recipe)
        return Image(recipe, self.version_of(recipe))

    async def warm(self, image: Image, report: Report) -> None:
        self._check()
        self._warm.add(image.version)

    def is_warm(self, image: Image) -> bool:
        return image.version in self._warm

    async def cool(self, image: Image) -> None:
        self._warm.discard(image.version)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self._check()
        if self.faults.start_s:
            await anyio.sleep(self.faults.start_s)
        if self.faults.start_fails:
            raise StartFailed("clone: Operation not permitted")
        sandbox = FakeSandbox(spec, lambda s: self.open.pop(s.id, None))
        self.open[spec.id] = sandbox
        self.made += 1
        return sandbox

    def _check(self) -> None:
        if self.faults.unavailable:
            raise BackendUnavailable("user namespaces are switched off", "sysctl -w user.max_user_namespaces=10000")
