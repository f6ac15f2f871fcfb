"""One running sandbox on the native backend: its guest, its agents, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
from abc import ABC
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from faas_gateway.backends.base import (
    CannotFork,
    CommandRequest,
    Ended,
    FileEntry,
    FileProblem,
    Layers,
    Limits,
    Loss,
    Reply,
    Sandbox,
    SandboxEnded,
    Sink,
    StartFailed,
    Usage,
)
from faas_gateway.backends.native.agents import AgentGone, Agents, Script
from faas_gateway.backends.native.endings import CLOSE_S, close_box, how_it_died, out_of_memory
from faas_gateway.backends.native.launcher.cgroups import Group
from faas_gateway.backends.native.link import LauncherError
from faas_gateway.guest import framing, linux

if TYPE_CHECKING:
    from faas_gateway.backends.native.frozen import NativeFrozen
    from faas_gateway.backends.native.making import Kind, Maker
    from faas_gateway.backends.native.network import Outlet
    from faas_gateway.backends.native.pump import Output

STATUS_S = 1.0
LAYERS_LIMIT = 440
"""The kernel's own is 500 (OVL_MAX_STACK), and an image has some."""
AGENT_ENDED = "code in the sandbox has ended the process that did this for the gateway"


@dataclass
class Holdings:
    """What a sandbox holds on the machine, and what its snapshots and their branches have in common with it."""

    kind: Kind
    layers: Layers
    """Frozen ones under its own files."""
    files: str
    """overlay or tmpfs"""
    depth: int
    """Live generations above it."""
    group: Group | None
    init_pidfd: int
    upper: int
    """A descriptor of the folder with its own files."""
    outlet: Outlet | None = None
    """Its way into the network, where it has one."""


class NativeSandbox(Sandbox, ABC):
    """What a Python and a shell sandbox share: processes, agents, accounting, and how it ends."""

    def __init__(
        self,
        box: str,
        maker: Maker,
        agents: Agents,
        limits: Limits,
        holdings: Holdings,
        enforcement: Mapping[str, str],
        degraded: Sequence[str],
        on_closed: Callable[[NativeSandbox], None],
    ) -> None:
        self.id = box
        self.limits = limits
        self.enforcement = enforcement
        self.degraded = degraded
        self.holdings = holdings
        self.group = holdings.group
        self.busy = self.begun = 0
        self.writes_blocked = False
        self._maker = maker
        self._launcher = maker.launcher
        self._agents = agents
        self._init_pidfd = holdings.init_pidfd
        self._freezing = anyio.Lock()
        self._frozen = False
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._doom: Ended | None = None
        self._commands: set[anyio.Event] = set()
        self._closing: asyncio.Future[None] | None = None
        self._loop.add_reader(self._init_pidfd, self._init_exited)

    @property
    def kind(self) -> Kind:
        return self.holdings.kind

    @property
    def layers(self) -> Layers:
        return self.holdings.layers

    @property
    def env(self) -> Mapping[str, str]:
        """Environment variables of its commands."""
        return self._agents.env

    @property
    def output(self) -> Output | None:
        """What its guest printed while no request ran, for the next one."""
        return None

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    @property
    def is_freezing(self) -> bool:
        """It is being frozen, or is: its name is another's, and nobody can look into it by that."""
        return self._frozen

    async def claim(self, name: str) -> None:
        """Give a sandbox that was made ahead the name of the execution that it is now for."""
        try:
            (await self._launcher.call("rename", CLOSE_S, box=self.id, to=name)).close()
        except LauncherError:
            raise
        except BaseException:
            self.id = name  # the order is on its way: what closes the sandbox now comes after it
            raise
        self.id = name
        self._agents.box = name

    async def touch(self) -> None:
        """Run nothing, so that what a first request touches is in memory."""

    async def set_env_vars(self, env_vars: Mapping[str, str]) -> None:
        """Environment variables of the execution, for its guest and its commands."""
        self._agents.env = {**self._agents.env, **env_vars}

    # ---- the end ----------------------------------------------------------------------------------------
    def _init_exited(self) -> None:
        if self._frozen:
            return
        self._loop.remove_reader(self._init_pidfd)
        self.finish(self._doom or self.cause(None))

    def cause(self, status: int | None) -> Ended:
        """Why the sandbox died, from what the kernel tells: the cgroup's OOM count, the guest's exit status."""
        if status == framing.NO_MEMORY_STATUS or (self.group is not None and self.group.oom_kills()):
            return out_of_memory(self.limits)
        return how_it_died(status)

    def finish(self, ended: Ended) -> None:
        """Record the end, once, and fail what waits."""
        if not self._ended.done():
            self._ended.set_result(ended)
            self._kill_processes()
            if self.holdings.outlet is not None:
                self.holdings.outlet.close()
            self.on_end(ended)

    def on_end(self, ended: Ended) -> None:
        """For subclasses: fail what waits for the guest."""

    def _kill_processes(self) -> None:
        if self._init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def kill(self, ended: Ended) -> None:
        if not self._ended.done():
            self._doom = ended
            self.finish(ended)

    def lost(self) -> None:
        """The launcher has gone: the kernel has ended everything below it."""
        self.finish(Ended("lost", "the process that holds the sandboxes has ended", "Open a new session."))

    async def aclose(self) -> None:
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = self._loop.create_future()
        try:
            with anyio.CancelScope(shield=True):
                async with self._freezing:  # its name is another's for that time
                    pass
                if self._frozen:
                    return
                self.finish(Ended("closed", "it was closed"))
                if self.holdings.outlet is not None:
                    await self.holdings.outlet.aclose()
                await close_box(self._launcher, self.id)
        finally:
            if not self._frozen:
                self.close_descriptors()
                self._on_closed(self)
            self._closing.set_result(None)

    def close_descriptors(self) -> None:
        if self._init_pidfd >= 0:
            self._loop.remove_reader(self._init_pidfd)
            os.close(self._init_pidfd)
            os.close(self.holdings.upper)
            self._init_pidfd = -1

    # ---- snapshots --------------------------------------------------------------------------------------
    async def freeze(self, frozen_id: str) -> tuple[NativeFrozen, NativeSandbox]:
        if len(self.layers) >= LAYERS_LIMIT:
            reason = f"{len(self.layers)} file layers lie under this session; an overlay takes no more"
            raise CannotFork([Loss("limit", "layers", reason, "portable_only")])
        layer = f"l-{secrets.token_hex(8)}"
        made: tuple[NativeFrozen, NativeSandbox] | None = None
        with anyio.CancelScope(shield=True):  # what has begun is ended, within its own deadline
            async with self._freezing:
                self.check()
                self._frozen = True
                try:
                    made = await self._maker.freeze(self, frozen_id, layer)
                except BaseException:
                    self._frozen = False
                    self.look_again()
                    raise
                self.leave()
                self._on_closed(self)
        assert made is not None
        return made

    def look_again(self) -> None:
        """See what happened while a freeze that came to nothing was under way."""
        if self._init_pidfd >= 0 and linux.has_ended(self._init_pidfd):
            self._init_exited()

    def give_guest(self) -> int:
        """The guest's pidfd, for the frozen sandbox that this one becomes; -1 where there is none."""
        return -1

    def leave(self) -> None:
        """Let go of what the frozen sandbox has taken over, without ending anything."""
        self._loop.remove_reader(self._init_pidfd)
        self._init_pidfd = -1
        if not self._ended.done():
            self._ended.set_result(Ended("closed", "it was frozen, and the session goes on in another"))

    async def copy_files(self, frozen_id: str) -> Layers:
        name = f"l-{secrets.token_hex(8)}"
        try:
            await anyio.to_thread.run_sync(self._maker.kept.copy, self.holdings.upper, name)
        except OSError as e:
            raise StartFailed(f"the files could not be copied: {e.strerror}") from e
        return (name, *self.layers)

    def check(self) -> None:
        if self._ended.done():
            raise SandboxEnded(self._ended.result())

    async def gone(self) -> SandboxEnded | FileProblem:
        """What an agent's sudden end means: the sandbox's, if that follows at once. Else code has ended the agent."""
        with anyio.move_on_after(STATUS_S):
            return SandboxEnded(await self.wait())
        return FileProblem(errno.EIO, AGENT_ENDED)

    # ---- commands and files -----------------------------------------------------------------------------
    async def run(self, request: CommandRequest, sink: Sink) -> Reply:
        return await self.run_script(request, sink, None)

    async def run_script(self, request: CommandRequest, sink: Sink, script: Script | None) -> Reply:
        """Run a command beside which a script lies."""
        self.check()
        interrupted = anyio.Event()
        self._commands.add(interrupted)
        self.busy += 1
        self.begun += 1
        try:
            return await self._agents.run(request, sink, interrupted, script)
        except AgentGone:
            ended = await self.gone()
            if isinstance(ended, SandboxEnded):
                raise ended from None
            return Reply("error", exit_code=137, ename="SIGKILL", evalue=AGENT_ENDED, code="killed")
        finally:
            self.busy -= 1
            self._commands.discard(interrupted)

    async def interrupt(self) -> None:
        for event in self._commands:
            event.set()

    async def usage(self) -> Usage:
        """From the cgroup where there is one; the rest counted by an agent."""
        self.check()
        try:
            counted = await self.count(2.0)
        except AgentGone:
            raise await self.gone() from None
        return self.merged(counted)

    async def count(self, walk_s: float) -> dict[str, Any]:
        """What an agent counts; it also takes or gives back the right to write, by the disk limit."""
        return await self._agents.usage(walk_s, self.limits.disk_bytes)

    def merged(self, counted: Mapping[str, Any]) -> Usage:
        group = self.group
        memory = group.memory_bytes() if group is not None else None
        cpu = group.cpu_s() if group is not None else None
        return Usage(
            cpu_time_s=float(counted.get("cpu", 0.0)) if cpu is None else cpu,
            memory_bytes=int(counted.get("memory", 0)) if memory is None else memory,
            disk_bytes=int(counted.get("disk", 0)),
            processes=int(counted.get("processes", 0)),
        )

    async def list_files(self, path: str) -> list[FileEntry]:
        return await self._entries("list", path)

    async def stat_file(self, path: str) -> FileEntry:
        return (await self._entries("stat", path))[0]

    async def _entries(self, op: str, path: str) -> list[FileEntry]:
        self.check()
        try:
            return await self._agents.entries(op, path)
        except AgentGone:
            raise await self.gone() from None

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        self.check()
        try:
            async for chunk in self._agents.read(path):
                yield chunk
        except AgentGone:
            raise await self.gone() from None

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool = False) -> None:
        self.check()
        try:
            await self._agents.write(path, chunks, untar=untar)
        except AgentGone:
            raise await self.gone() from None

    async def delete_file(self, path: str) -> None:
        self.check()
        try:
            await self._agents.delete(path)
        except AgentGone:
            raise await self.gone() from None
