"""A frozen sandbox: files, and for Python a dormant process, from which branches are made."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from faas_gateway.backends.base import (
    BranchSpec,
    Ended,
    FrozenSandbox,
    FrozenUsage,
    Layers,
    Receipt,
    Sandbox,
    SandboxEnded,
    StartFailed,
)
from faas_gateway.backends.native.agents import AgentGone, Agents
from faas_gateway.backends.native.endings import close_box
from faas_gateway.backends.native.link import LauncherError, LauncherGone
from faas_gateway.backends.native.session import NativeSandbox

if TYPE_CHECKING:
    from faas_gateway.backends.native.making import Kind, Maker

KEEP_S = 30.0
GONE = Ended("died", "the dormant process of the snapshot has ended", "Restore its portable form.")


class NativeFrozen(FrozenSandbox):
    """Takes over the descriptors of the sandbox that it was.

    Args:
        layers: its files, its own first.
        receipt: what the freeze did to the session.
    """

    def __init__(self, frozen_id: str, maker: Maker, was: NativeSandbox, layers: Layers, receipt: Receipt) -> None:
        self.id = frozen_id
        self.receipt = receipt
        self.layers = layers
        self._maker = maker
        self._kind = was.kind
        self._env = dict(was.env)
        self._holdings = was.holdings
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._guest_pidfd = was.give_guest()
        self._watched = self._guest_pidfd if self._guest_pidfd >= 0 else self._holdings.init_pidfd
        self._kept = False
        self._closing = False
        self._working = anyio.Lock()
        self._loop.add_reader(self._watched, self._gone)

    @property
    def depth(self) -> int:
        """Live generations above it."""
        return self._holdings.depth

    def _gone(self) -> None:
        self._loop.remove_reader(self._watched)
        self.lost(GONE)

    def lost(self, ended: Ended) -> None:
        """The dormant process has ended, or can no longer be spoken to."""
        if not self._ended.done():
            self._ended.set_result(ended)

    async def branch(self, specs: Sequence[BranchSpec]) -> list[tuple[Sandbox, Receipt] | Exception]:
        results: list[tuple[Sandbox, Receipt] | Exception] = [StartFailed("it was not begun")] * len(specs)

        async def one(at: int, spec: BranchSpec) -> None:
            try:
                results[at] = await self._branch(spec)
            except (StartFailed, SandboxEnded, OSError) as e:
                results[at] = e

        try:
            async with anyio.create_task_group() as group:
                for at, spec in enumerate(specs):
                    group.start_soon(one, at, spec)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for result in results:
                    if isinstance(result, tuple):
                        await result[0].aclose()
            raise
        if specs:
            self._maker.ahead.branched(self, len(specs), specs[-1].limits)
        return results

    async def _branch(self, spec: BranchSpec) -> tuple[Sandbox, Receipt]:
        if self._ended.done():
            raise SandboxEnded(self._ended.result())
        sandbox, receipt = await self._maker.branch(self, spec)
        try:
            await sandbox.set_env_vars(spec.env_vars)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.aclose()
            raise
        return sandbox, receipt

    @property
    def kind(self) -> Kind:
        return self._kind

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that commands of its branches start with."""
        return self._env

    async def usage(self) -> FrozenUsage:
        """Proportional memory of the dormant process, and what its own files take."""
        memory = await anyio.to_thread.run_sync(_proportional, self._guest_pidfd) if self._guest_pidfd >= 0 else 0
        agents = Agents(self._maker.launcher, self.id, {}, {})
        try:
            counted = await agents.usage(1.0)
        except (AgentGone, TimeoutError, StartFailed):
            return FrozenUsage(memory)
        return FrozenUsage(memory, int(counted.get("disk", 0)))

    async def keep(self) -> None:
        async with self._working:
            if self._kept or not self.layers:
                return
            if self._holdings.files == "overlay":
                (await self._maker.launcher.call("keep", KEEP_S, box=self.id)).close()
            else:
                await self._copy()
            for name in self.layers:
                if self._maker.kept.has(name):
                    await anyio.to_thread.run_sync(self._maker.kept.settle, name)
            self._kept = True

    async def _copy(self) -> None:
        """An upper directory in memory cannot be moved: its files are copied out."""
        name = self.layers[0]
        if not self._maker.kept.has(name):
            await anyio.to_thread.run_sync(self._maker.kept.copy, self._holdings.upper, name)

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def aclose(self) -> None:
        if self._closing:
            return
        self._closing = True
        with anyio.CancelScope(shield=True):
            async with self._working:
                if not self._ended.done():
                    self._loop.remove_reader(self._watched)
                    self._ended.set_result(Ended("closed", "it was closed"))
                with contextlib.suppress(LauncherError, LauncherGone):
                    await close_box(self._maker.launcher, self.id)
                for fd in (self._guest_pidfd, self._holdings.init_pidfd, self._holdings.upper):
                    if fd >= 0:
                        os.close(fd)
                self._maker.frozen_closed(self)


def _proportional(pidfd: int) -> int:
    """Proportional set size of a process, bytes; 0 when it has ended.

    The sandbox's own init may not look: a dormant process is not dumpable, and belongs to the warm process's user
    namespace. We own that one, so we may (user_namespaces(7), ptrace(2)).
    """
    try:
        with open(f"/proc/self/fdinfo/{pidfd}") as f:
            pid = next(int(line.split()[1]) for line in f if line.startswith("Pid:"))
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
