"""The portable form of live snapshots: files kept, variables written, from a hidden branch and in the background."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from faas_gateway.backends.base import BranchSpec, CaptureReport, Ended, FrozenSandbox, Sandbox, SandboxEnded
from faas_gateway.errors import BACKEND_ERRORS, DeadlineError, GatewayError, from_backend
from faas_gateway.ids import new_sandbox_id
from faas_gateway.managers.limits import to_limits
from faas_gateway.managers.snapshot_registry import CLOSE_DEADLINE_S, SnapshotRegistry
from faas_gateway.managers.snapshot_state import HeldSnapshot, losses_info
from faas_gateway.settings import Settings

log = logging.getLogger(__name__)

FAILURES: tuple[type[Exception], ...] = (OSError, GatewayError, *BACKEND_ERRORS)


@dataclass(frozen=True)
class _Current:
    held: HeldSnapshot
    scope: anyio.CancelScope
    background: bool


class PortableWriter:
    """Writes one at a time: two would only make each slower.

    Args:
        registry: of the snapshots.
        settings: when, and how long it may take.
    """

    def __init__(self, registry: SnapshotRegistry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._queue: dict[HeldSnapshot, float] = {}
        """What is to be written, and when at the earliest."""
        self._news = anyio.Event()
        self._one = anyio.Lock()
        self._current: _Current | None = None
        self._stopping = False

    def later(self, held: HeldSnapshot) -> None:
        """Write it some time soon, in the background."""
        held.portable_status = "pending"
        self._queue[held] = anyio.current_time() + self._settings.portable_delay_s
        self._news.set()

    async def now(self, held: HeldSnapshot) -> bool:
        """Write it, unless it is there; whether it is there then. `portable_error` says why not."""
        self._queue.pop(held, None)
        async with self._one:
            if not held.is_portable and held in self._registry and not self._stopping:
                held.portable_status = "pending"
                try:
                    await self._write(held, background=False)
                except BaseException:
                    if held in self._registry:
                        self.later(held)  # who asked for it now has gone; it is still wanted
                    raise
        return held.is_portable

    def forget(self, held: HeldSnapshot) -> None:
        """It is about to be deleted: leave off writing it."""
        self._queue.pop(held, None)
        if self._current is not None and self._current.held is held:
            self._current.scope.cancel()

    @contextmanager
    def standing_back(self, held: HeldSnapshot) -> Generator[None]:
        """Let a restore of a snapshot go first: what is being written of it in the background is begun again later."""
        with held.in_use():
            current = self._current
            if current is not None and current.held is held and current.background:
                current.scope.cancel()
            yield

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            due = min(self._queue.items(), key=lambda item: item[1], default=None)
            wait_s = None if due is None else due[1] - anyio.current_time()
            if due is None or wait_s is None or wait_s > 0:
                with anyio.move_on_after(wait_s):
                    await self._news.wait()
                    self._news = anyio.Event()
                continue
            try:
                await self._write_queued(due[0])
            except Exception:  # the others are still to be written
                log.exception("writing the portable form of %s failed", due[0].id)

    async def finish(self, within_s: float) -> None:
        """Begin nothing new; return when what is being written is done, or the time has passed."""
        self._stopping = True
        self._queue.clear()
        with anyio.move_on_after(within_s):
            async with self._one:
                return

    async def _write_queued(self, held: HeldSnapshot) -> None:
        self._queue.pop(held, None)
        if held.is_in_use:
            self.later(held)
            return
        async with self._one:
            if self._stopping or held.is_portable or held not in self._registry:
                return
            await self._write(held, background=True)
            if held.portable_status == "pending" and not self._stopping and held in self._registry:
                self.later(held)

    async def _write(self, held: HeldSnapshot, *, background: bool) -> None:
        """Write it; a failure is noted with it, and raises nothing."""
        reason = ""
        try:
            with anyio.CancelScope() as scope:
                self._current = _Current(held, scope, background)
                with anyio.move_on_after(self._settings.capture_deadline_s) as timer:
                    await self._capture(held)
                if timer.cancelled_caught:
                    reason = f"it took longer than {self._settings.capture_deadline_s:g} s"
            if scope.cancelled_caught:
                return  # it stands back, or is being deleted
        except FAILURES as exc:
            reason = failure_reason(exc)
        finally:
            self._current = None
            if held not in self._registry:  # deleted meanwhile, perhaps before the last of it was written
                self._registry.kept(held.layers)
                with anyio.CancelScope(shield=True):
                    await self._registry.remove_files(held)
        if reason:
            log.warning("the portable form of %s: %s", held.id, reason)
            held.portable_status, held.portable_error = "failed", reason
        else:
            held.portable_status, held.portable_error = "ready", None
        self._registry.save(held)

    async def _capture(self, held: HeldSnapshot) -> None:
        frozen = held.frozen
        if frozen is None:
            raise SandboxEnded(Ended("lost", held.live_lost or "there is no live form to write it from"))
        self._registry.kept(frozen.layers)
        await frozen.keep()
        if held.language == "shell":
            return
        async with _hidden_branch(frozen, held) as sandbox:
            report = await write_variables(sandbox, self._registry.variables(held))
        held.portable_bytes, held.excluded = report.size_bytes, losses_info(report.excluded)


@asynccontextmanager
async def _hidden_branch(frozen: FrozenSandbox, held: HeldSnapshot) -> AsyncGenerator[Sandbox]:
    (made,) = await frozen.branch([BranchSpec(new_sandbox_id(), to_limits(held.resources))])
    if isinstance(made, Exception):
        raise made
    try:
        yield made[0]
    finally:
        await close_sandbox(made[0])


async def close_sandbox(sandbox: Sandbox) -> None:
    """Close one that no execution owns, also when its user was cancelled."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_DEADLINE_S) as scope:
        try:
            await sandbox.aclose()
        except Exception:
            log.exception("the hidden sandbox %s failed to close", sandbox.id)
    if scope.cancelled_caught:
        log.error("the hidden sandbox %s did not close in time", sandbox.id)


async def write_variables(sandbox: Sandbox, path: Path) -> CaptureReport:
    """Write the variables of a sandbox to a file that is whole, and on the disk, or not there.

    Raises:
        OSError: the disk is full, for example.
        SandboxEnded, NotTransferable
    """
    part = path.with_suffix(".part")
    fd = await anyio.to_thread.run_sync(_create, part)
    try:
        try:
            report = await sandbox.capture_variables(fd)
            await anyio.to_thread.run_sync(os.fsync, fd)
        finally:
            os.close(fd)
        await anyio.to_thread.run_sync(_publish, part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return report


def failure_reason(exc: Exception) -> str:
    """Why something could not be written, in words for a client."""
    if isinstance(exc, OSError):
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        return "the disk of the gateway is full" if full else f"the disk of the gateway: {exc.strerror or exc}"
    if isinstance(exc, DeadlineError):
        return exc.detail
    return from_backend(exc).detail


def _create(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _publish(part: Path, path: Path) -> None:
    part.rename(path)
    for folder in (path.parent, path.parent.parent):  # the file's name, and that of its folder
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
