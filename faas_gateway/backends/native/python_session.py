"""A sandbox whose guest is our IPython kernel."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio

from faas_gateway.backends.base import (
    CaptureReport,
    CodeRequest,
    Ended,
    Loss,
    NotTransferable,
    Reply,
    SandboxEnded,
    Sink,
    UnknownVariable,
)
from faas_gateway.backends.native import receipts, transfer
from faas_gateway.backends.native.endings import signal_group
from faas_gateway.backends.native.pump import Channel, Output, Pipe
from faas_gateway.backends.native.session import STATUS_S, NativeSandbox
from faas_gateway.backends.native.unwrap import single_error
from faas_gateway.guest import linux

QUEUE_CHUNKS = 16
F_SETPIPE_SZ, PIPE_BYTES = 1031, 1 << 20
CAPTURE_LIMIT_BYTES = 64 << 30
_MAX_TRACEBACK = 1000
CHANNEL_CLOSED = Ended(
    "died",
    "the code closed the channel of its own interpreter, or put another program in its place (exec)",
    "Start a new session; its variables are gone.",
)
CHANNEL_MISUSED = Ended(
    "died",
    "the code wrote something malformed to the channel of its own interpreter",
    "Start a new session; its variables are gone.",
)


class PythonSandbox(NativeSandbox):
    def start(self, channel: Channel, out: int, err: int, guest_pidfd: int, token: str, output: Output) -> None:
        """Take over the guest's descriptors; called once, right after construction.

        output: where it goes; that of the sandbox that this one goes on for.
        """
        mark = f"\0\x1bfaas:{token}:".encode()
        self._output = output
        self._pipes = [
            Pipe(out, lambda text: self._output.text("stdout", text), mark),
            Pipe(err, lambda text: self._output.text("stderr", text), mark),
        ]
        self._channel = channel
        self._guest_pidfd = guest_pidfd
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = 0
        self._chunks: asyncio.Queue[bytes | None] | None = None
        self._pulling = ""
        self._status: int | None = None
        self._guest_gone: asyncio.TimerHandle | None = None
        self._loop.add_reader(guest_pidfd, self._guest_exited)

    # ---- frames -----------------------------------------------------------------------------------------
    def on_frame(self, m: dict[str, Any], body: bytes) -> None:
        kind = m.get("type")
        if kind == "chunk":
            if self._chunks is not None and m.get("id") == self._pulling:
                self._chunks.put_nowait(body)
                if self._chunks.qsize() >= QUEUE_CHUNKS:
                    self._channel.pause()
            return
        number = m.get("seq")
        number = number if isinstance(number, int) and 0 <= number < 1 << 32 else 0
        for pipe in self._pipes:
            pipe.up_to(number)
        if kind == "message":
            self._output.message(m, body)
        elif kind == "reply":
            future = self._replies.get(str(m.get("id")))
            if future is not None and not future.done():
                future.set_result(m)
            if self._chunks is not None and m.get("id") == self._pulling:
                self._chunks.put_nowait(None)
        for pipe in self._pipes:
            pipe.go_on()

    def on_channel_end(self) -> None:
        """The guest has closed its channel: it has ended, or code has closed it. Either way it is of no more use."""
        if self._frozen:
            return
        if self._channel.malformed:
            self.finish(self._doom or CHANNEL_MISUSED)
        else:
            self._guest_exited()

    @property
    def output(self) -> Output:
        return self._output

    # ---- the end ----------------------------------------------------------------------------------------
    def _guest_exited(self) -> None:
        if self._frozen:
            return
        if self._guest_pidfd >= 0:
            self._loop.remove_reader(self._guest_pidfd)  # it stays readable for good
        if self._guest_gone is None and not self._ended.done():
            # its exit status comes by way of the process it was forked from
            self._guest_gone = self._loop.call_later(STATUS_S, self._settle)
            if self._status is not None:
                self._settle()

    def guest_status(self, status: int) -> None:
        """The exit status of the guest, as the launcher heard of it."""
        self._status = status
        if self._frozen:
            return
        if self._guest_gone is not None:
            self._settle()
        else:
            self._guest_exited()

    def _settle(self) -> None:
        if self._guest_gone is not None:
            self._guest_gone.cancel()
        if self._status is None and self._channel.ended and not self._has_exited():
            self.finish(self._doom or CHANNEL_CLOSED)
        else:
            self.finish(self._doom or self.cause(self._status))

    def _has_exited(self) -> bool:
        return self._guest_pidfd < 0 or linux.has_ended(self._guest_pidfd)

    def on_end(self, ended: Ended) -> None:
        for pipe in self._pipes:
            pipe.drain()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(SandboxEnded(ended))
        if self._chunks is not None:
            self._chunks.put_nowait(None)

    def close_descriptors(self) -> None:
        super().close_descriptors()
        if self._guest_gone is not None:
            self._guest_gone.cancel()
        for pipe in self._pipes:
            pipe.close()
        self._channel.close()
        if self._guest_pidfd >= 0:
            self._loop.remove_reader(self._guest_pidfd)
            os.close(self._guest_pidfd)
            self._guest_pidfd = -1

    # ---- snapshots --------------------------------------------------------------------------------------
    async def park(self, control: socket.socket) -> None:
        """Ask the guest to go dormant and to take its orders from there. It answers there, too."""
        self.check()
        await self._post({"type": "park"})
        await self._post_descriptor(control.fileno())

    def look_again(self) -> None:
        super().look_again()
        if self._channel.ended:
            self.on_channel_end()
        elif self._has_exited():
            self._guest_exited()

    def leave(self) -> None:
        for pipe in self._pipes:
            pipe.drain()
            pipe.close()
        self._channel.close()
        super().leave()

    def give_guest(self) -> int:
        pidfd, self._guest_pidfd = self._guest_pidfd, -1
        self._loop.remove_reader(pidfd)
        return pidfd

    async def check_fork(self) -> list[Loss]:
        m = await self._ask({"type": "check"})
        self._raise_problem(m)
        return receipts.losses(m.get("losses"), 1000)

    async def capture_variables(self, fd: int) -> CaptureReport:
        return await self._with_descriptor("capture", fd)

    async def restore_variables(self, fd: int) -> CaptureReport:
        return await self._with_descriptor("restore", fd)

    async def _with_descriptor(self, kind: str, fd: int) -> CaptureReport:
        """The guest gets a pipe's end, and never a file of the gateway's."""
        read, write = os.pipe2(os.O_CLOEXEC)
        theirs, ours = (write, read) if kind == "capture" else (read, write)
        with contextlib.suppress(OSError):
            fcntl.fcntl(ours, F_SETPIPE_SZ, PIPE_BYTES)
        moved, m = 0, dict[str, Any]()
        try:
            self.check()
            number, future = self._expect_reply()
            try:
                await self._post({"type": kind, "id": number})
                await self._post_descriptor(theirs)
                os.close(theirs)
                theirs = -1
                with single_error():
                    async with anyio.create_task_group() as group:

                        async def until_end() -> None:
                            await self.wait()
                            group.cancel_scope.cancel()

                        group.start_soon(until_end)
                        if kind == "capture":
                            moved = await transfer.receive(ours, fd, CAPTURE_LIMIT_BYTES)
                        else:
                            with contextlib.suppress(BrokenPipeError):  # it read no further: its answer says why
                                moved = await transfer.send(fd, ours)
                            os.close(ours)
                            ours = -1
                        m = await future
                        group.cancel_scope.cancel()
                self.check()
            finally:
                self._forget_reply(number)
        finally:
            for end in (theirs, ours):
                if end >= 0:
                    os.close(end)
        self._raise_problem(m)
        names: Any = m.get("variables")
        written = tuple(_text(n, 300) for n in names) if isinstance(names, list) else ()  # type: ignore[misc]
        return CaptureReport(written, tuple(receipts.losses(m.get("excluded"), 10_000)), moved)

    async def fingerprints(self) -> list[dict[str, Any]]:
        m = await self._ask({"type": "fingerprints"})
        self._raise_problem(m)
        found: Any = m.get("variables")
        return [v for v in found if isinstance(v, dict)] if isinstance(found, list) else []  # type: ignore[misc]

    async def reseed(self) -> None:
        self._raise_problem(await self._ask({"type": "reseed"}))

    async def _post_descriptor(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            await self._channel.send_descriptor(fd)

    # ---- requests ---------------------------------------------------------------------------------------
    async def touch(self) -> None:
        await self._ask({"type": "touch"})

    async def set_env_vars(self, env_vars: Mapping[str, str]) -> None:
        await super().set_env_vars(env_vars)
        if env_vars:
            await self._post({"type": "init", "env": dict(env_vars)})

    def _expect_reply(self) -> tuple[str, asyncio.Future[dict[str, Any]]]:
        self._numbers += 1
        number = str(self._numbers)
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._replies[number] = future
        return number, future

    def _forget_reply(self, number: str) -> None:
        future = self._replies.pop(number)
        if future.done() and not future.cancelled():
            future.exception()  # told to whoever waited; a second hearer is not needed

    async def _post(self, message: dict[str, Any], body: bytes = b"") -> None:
        # a guest that is just ending does not hear us: what waits for its reply learns how it ended
        with contextlib.suppress(OSError):
            await self._channel.send(message, body)

    async def _ask(self, message: dict[str, Any], parts: AsyncIterator[bytes] | None = None) -> dict[str, Any]:
        """Send a request and wait for its reply. There is no deadline of ours: the caller has one, and can kill."""
        self.check()
        number, future = self._expect_reply()
        try:
            await self._post({**message, "id": number})
            if parts is not None:
                await self._post_parts(parts)
            return await future
        finally:
            self._forget_reply(number)

    async def _post_parts(self, parts: AsyncIterator[bytes]) -> None:
        """Send what follows a request. The guest waits for its end, which has to come also when we give up."""
        whole = False
        try:
            async for part in parts:
                await self._post({"type": "chunk"}, part)
            whole = True
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STATUS_S):
                await self._post({"type": "end", "whole": whole})

    async def execute(self, request: CodeRequest, sink: Sink) -> Reply:
        self.check()
        self._output.attach(sink)
        self.busy += 1
        self.begun += 1
        try:
            m = await self._ask(
                {
                    "type": "execute",
                    "code": request.code,
                    "execution_count": request.execution_count,
                    "magic_line": request.magic_line,
                }
            )
        finally:
            self.busy -= 1
            self._output.detach()
        return self._reply(m)

    def _reply(self, m: Mapping[str, Any]) -> Reply:
        count = m.get("execution_count")
        count = count if isinstance(count, int) else None
        if m.get("status") == "ok":
            return Reply("ok", execution_count=count)
        ename, evalue = _text(m.get("ename")), _text(m.get("evalue"))
        lines: Any = m.get("traceback")
        traceback = tuple(_text(line) for line in lines[:_MAX_TRACEBACK]) if isinstance(lines, list) else ()  # type: ignore[index]
        code, hint = self._explain(ename, evalue)
        exit_code = 1
        if ename == "SystemExit":
            exit_code = int(evalue) & 0xFF if re.fullmatch(r"-?\d+", evalue) else 0 if evalue in ("", "None") else 1
            if exit_code == 0:
                return Reply("ok", execution_count=count)
            code = "exit_code"
        return Reply("error", exit_code, count, ename, evalue, traceback, code, hint)

    def _explain(self, ename: str, evalue: str) -> tuple[str, str]:
        """A limit of ours behind an ordinary exception, and what to do about it."""
        limits = self.limits
        no_memory = ename in ("MemoryError", "_ArrayMemoryError") or (ename == "OSError" and "[Errno 12]" in evalue)
        if no_memory and limits.memory_bytes:
            return "oom", f"The memory limit is {limits.memory_bytes >> 20} MB; open a session with more."
        refused = "[Errno 11]" in evalue or "can't start new thread" in evalue
        if refused and limits.pids and ename in ("BlockingIOError", "RuntimeError", "OSError"):
            return "pids", f"The limit is {limits.pids} processes and threads; end some, or open one with more."
        if "[Errno 28]" in evalue or (self.writes_blocked and "[Errno 27]" in evalue):
            return (
                "disk_full",
                "The sandbox's disk limit is reached: delete files, or open a session with a higher limit.",
            )
        if "[Errno 27]" in evalue and limits.disk_bytes:
            return "disk_full", f"One file may have {limits.disk_bytes >> 20} MB, as all files together."
        if "[Errno 24]" in evalue and limits.open_files:
            return "open_files", f"The limit is {limits.open_files} open files per process: close some."
        return "exception", ""

    async def interrupt(self) -> None:
        await super().interrupt()
        if self._replies and self._guest_pidfd >= 0:
            signal_group(self._guest_pidfd, 2)

    # ---- variables --------------------------------------------------------------------------------------
    async def list_variables(self) -> list[dict[str, Any]]:
        m = await self._ask({"type": "variables"})
        self._raise_problem(m)
        found: Any = m.get("variables")
        return [v for v in found if isinstance(v, dict)] if isinstance(found, list) else []  # type: ignore[misc]

    async def pull_variable(self, name: str) -> AsyncIterator[bytes]:
        self.check()
        chunks = asyncio.Queue[bytes | None]()
        number, future = self._expect_reply()
        self._chunks, self._pulling = chunks, number
        try:
            await self._post({"type": "pull", "name": name, "id": number})
            while (chunk := await chunks.get()) is not None:
                if chunks.qsize() < QUEUE_CHUNKS // 2:
                    self._channel.resume()
                yield chunk
            self._raise_problem(await future)
        finally:  # what still comes after a caller gave up is dropped
            self._chunks = None
            self._channel.resume()
            self._forget_reply(number)

    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        self._raise_problem(await self._ask({"type": "push", "name": name}, chunks))

    def _raise_problem(self, m: Mapping[str, Any]) -> None:
        problem, detail = m.get("problem"), _text(m.get("detail"))
        if problem == "unknown_variable":
            raise UnknownVariable(detail)
        if problem:
            raise NotTransferable(detail)


def _text(value: Any, limit: int = 1 << 20) -> str:
    return value[:limit] if isinstance(value, str) else ""
