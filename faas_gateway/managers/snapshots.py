"""Snapshots: taken, found by id or name, listed, restored, and remembered."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
from anyio.abc import TaskGroup
from faas.types import (
    BranchInput,
    BranchPage,
    CheckInput,
    Diff,
    RestoreInput,
    RewindInput,
    ScriptSnapshotCreate,
    Snapshot,
    SnapshotCheck,
    SnapshotCreate,
    SnapshotPage,
    SnapshotUpdate,
)

from faas_gateway.backends.base import Loss, ProgressReport, Report, SandboxBackend
from faas_gateway.errors import CapacityError, DeadlineError, InvalidRequestError, SnapshotGoneError
from faas_gateway.ids import new_snapshot_id
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.execution import LiveExecution
from faas_gateway.managers.executions import ExecutionManager
from faas_gateway.managers.snapshot_branches import Brancher
from faas_gateway.managers.snapshot_checkpoints import Checkpoints
from faas_gateway.managers.snapshot_diff import diff
from faas_gateway.managers.snapshot_portable import PortableWriter
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_room import Room
from faas_gateway.managers.snapshot_sandboxes import SnapshotSandboxes
from faas_gateway.managers.snapshot_scripts import after_script
from faas_gateway.managers.snapshot_state import HeldSnapshot, losses_info
from faas_gateway.managers.snapshot_taking import Taker
from faas_gateway.managers.snapshot_transfer import Transfer
from faas_gateway.settings import Settings
from faas_gateway.store import SnapshotStore

QUIET_S = 60.0
#: Of the stop deadline, for a portable form that is being written.
FINISH_SHARE = 0.3


class SnapshotManager:
    """All snapshots of a gateway. `start` is called before anything else.

    Args:
        backend: freezes and restores sandboxes.
        environments: of what the portable form is restored.
        executions: of which snapshots are taken, and which come of them.
        store: remembers the snapshots.
        settings: limits and deadlines.
        tasks: holds what is done in the background; outlives the manager.
    """

    def __init__(
        self,
        backend: SandboxBackend,
        environments: EnvironmentManager,
        executions: ExecutionManager,
        store: SnapshotStore,
        settings: Settings,
        tasks: TaskGroup,
    ) -> None:
        self._backend = backend
        self._executions = executions
        self._settings = settings
        self._tasks = tasks
        self._stopping = False
        self._registry = SnapshotRegistry(backend, store, settings, tasks)
        self._writer = PortableWriter(self._registry, settings)
        self._room = Room(self._registry, self._writer, settings)
        self._taker = Taker(self._registry, settings)
        self._sandboxes = SnapshotSandboxes(self._registry, self._writer, environments, executions.starter, settings)
        self._brancher = Brancher(executions, self._sandboxes)
        self._checkpoints = Checkpoints(self._registry, self._taker, self._sandboxes, self._room, tasks)
        self._transfer = Transfer(self._registry, self._writer, environments, backend, settings)
        self._room.let_go = self._checkpoints.let_go
        executions.checkpointer = self._checkpoints
        executions.stay_open_while(lambda: self._registry.is_needed)

    async def start(self) -> None:
        """Take over the snapshots of an earlier gateway. Raises StorageUnavailableError."""
        await self._registry.load()
        self._tasks.start_soon(self._writer.run)
        self._tasks.start_soon(self._room.watch)

    async def shutdown(self) -> None:
        """Take nothing new; finish what is being written, and end every dormant process."""
        self._stopping = True
        await self._writer.finish(self._settings.stop_deadline_s * FINISH_SHARE)
        await self._registry.close()

    # Taking

    async def create(self, body: SnapshotCreate, report: Report) -> Snapshot:
        """Take a snapshot of an open execution.

        Args:
            body: as the client sent it.
            report: told of what takes its time.

        Raises:
            UnknownExecutionError, ExecutionEndedError, NameTakenError, InvalidRequestError
            DeadlineError: a cell or a command still runs after the time.
            CannotFork: it cannot be taken alive, and a portable form was not wanted.
            CapacityError: live snapshots take all the memory that they may.
            StartFailed, StorageUnavailableError: nothing has changed.
        """
        self._require_running()
        if body.execution_id is None:
            raise InvalidRequestError("execution_id: it is required", hint="Name the execution, or send a script.")
        execution = await self._executions.open_execution(body.execution_id)
        snapshot_id = new_snapshot_id()
        with self._registry.naming(body.name, snapshot_id):
            await self._room.make(body.timeout, report)
            held = await self._take(execution, snapshot_id, body.name, body.labels, body.portable, body.timeout, report)
        return self._describe(held)

    async def create_from_script(self, body: ScriptSnapshotCreate, report: Report) -> Snapshot:
        """Open an execution, run a script in it, take a snapshot and end it. Raises as `create`, ScriptFailedError."""
        self._require_running()
        snapshot_id = new_snapshot_id()
        with self._registry.naming(body.name, snapshot_id):
            await self._room.make(QUIET_S, report)
            async with after_script(self._executions, body, report) as execution:
                held = await self._take(execution, snapshot_id, body.name, body.labels, body.portable, QUIET_S, report)
        return self._describe(held)

    async def check(self, body: CheckInput) -> SnapshotCheck:
        """What of an execution would not survive a snapshot. Raises DeadlineError while code runs."""
        execution = await self._executions.open_execution(body.execution_id)
        losses: list[Loss] = []
        async with execution.still.turn(self._settings.variables_wait_s):
            with anyio.move_on_after(self._settings.call_deadline_s) as scope:
                losses += await execution.sandbox.check_fork()
            if scope.cancelled_caught:
                raise DeadlineError("The session did not answer in time.", hint="Interrupt it, or open a new one.")
        live = all(loss.effect != "portable_only" for loss in losses)
        losses += [
            Loss("process", what, "a snapshot waits for it, and fails when it is not done in time")
            for what in execution.still.beside
        ]
        return SnapshotCheck(execution_id=execution.terms.id, live=live, losses=losses_info(losses))

    async def rewind(self, id_or_name: str, body: RewindInput) -> LiveExecution:
        """Take an execution back to where it stood after a request. Raises as `Checkpoints.rewind`."""
        execution = await self._executions.open_execution(id_or_name)
        await self._checkpoints.rewind(execution, body)
        return execution

    # Restoring

    async def restore(self, id_or_name: str, body: RestoreInput) -> BranchPage:
        """Raises UnknownSnapshotError, and as `Brancher.branch`."""
        return await self._brancher.restore(await self._registry.get(id_or_name), body)

    async def branch(self, id_or_name: str, body: BranchInput) -> BranchPage:
        """Raises UnknownSnapshotError, and as `Brancher.branch`."""
        return await self._brancher.branch(await self._registry.get(id_or_name), body)

    async def diff(self, before: str, after: str) -> Diff:
        """Raises UnknownSnapshotError, SnapshotGoneError, DeadlineError."""
        first, second = await self._registry.get(before), await self._registry.get(after)
        return await diff(self._sandboxes, self._backend, self._settings, first, second)

    # Keeping

    async def get(self, id_or_name: str) -> Snapshot:
        """Raises UnknownSnapshotError, SnapshotGoneError."""
        held = await self._registry.get(id_or_name)
        await self._room.look(held)
        return self._describe(held)

    async def list(self, *, checkpoints: bool, cursor: str | None, limit: int) -> SnapshotPage:
        """A page, newest first. Raises InvalidRequestError for a bad cursor."""
        before = _decode_cursor(cursor) if cursor else None
        found, more = self._registry.page(before, limit, checkpoints=checkpoints)
        branches = self._executions.count_branches()
        items = [held.describe(branches[held.id]) for held in found]
        return SnapshotPage(items=items, next_cursor=_encode_cursor(found[-1].created_at) if more else None)

    async def update(self, id_or_name: str, body: SnapshotUpdate) -> Snapshot:
        """Rename or keep one; a checkpoint is a snapshot like any other then. Raises NameTakenError and as `get`."""
        held = await self._registry.get(id_or_name)
        if body.name is not None:
            self._registry.rename(held, body.name)
        if body.keep is not None:
            held.keep = body.keep
            live = held.frozen is not None and not body.keep
            held.expires_at = held.created_at + self._settings.live_expiry_s if live else None
        if held.checkpoint and (body.name is not None or body.keep):
            self._checkpoints.release(held)
            await self._registry.insert(held)
        else:
            self._registry.save(held)
        return self._describe(held)

    async def delete(self, id_or_name: str) -> None:
        """Delete one; its branches go on. Raises UnknownSnapshotError."""
        try:
            held = await self._registry.get(id_or_name)
        except SnapshotGoneError:
            await self._registry.forget_gone(id_or_name)
            return
        self._writer.forget(held)
        await self._registry.discard(held)

    def abandon(self, snapshot: Snapshot) -> None:
        """Delete one that nobody was told of: its client left while it was taken."""
        held = self._registry.find(snapshot.id)
        if held is not None:
            self._writer.forget(held)
            self._tasks.start_soon(self._registry.discard, held)

    def abandon_branches(self, page: BranchPage) -> None:
        """End branches that nobody was told of."""
        self._brancher.abandon(page)

    # Transfer

    async def export(self, id_or_name: str) -> AsyncGenerator[bytes]:
        """One file, in chunks. Raises UnknownSnapshotError, NotPortableError."""
        return self._transfer.export(await self._registry.get(id_or_name))

    async def import_file(self, name: str | None, chunks: AsyncIterator[bytes]) -> Snapshot:
        """A snapshot out of such a file, which is hostile. Raises NameTakenError, and as `Transfer.take`."""
        self._require_running()
        snapshot_id = new_snapshot_id()
        with self._registry.naming(name, snapshot_id):
            held = await self._transfer.take(snapshot_id, name, chunks)
            try:
                await self._registry.insert(held)
            except BaseException:
                await self._registry.discard(held)
                raise
        return self._describe(held)

    async def _take(
        self,
        execution: LiveExecution,
        snapshot_id: str,
        name: str | None,
        labels: dict[str, str],
        portable: str,
        timeout_s: float,
        report: Report,
    ) -> HeldSnapshot:
        report(ProgressReport("wait", "waiting until the session stands still"))
        held: HeldSnapshot | None = None
        try:
            async with execution.still.quiet(timeout_s):
                report(ProgressReport("freeze", "freezing the session"))
                held = self._taker.new(execution, snapshot_id, name, labels)
                await self._taker.take(execution, held, portable, report)
            if held.frozen is not None and portable != "never":
                held.portable_status = "pending"
            await self._registry.insert(held)
            self._tasks.start_soon(self._room.look, held)
            if held.portable_status == "pending" and portable == "now":
                report(ProgressReport("write", "writing the portable form"))
                await self._writer.now(held)
            elif held.portable_status == "pending":
                self._writer.later(held)
        except BaseException:
            if held is not None and held in self._registry:
                if execution.parent_id == held.id:
                    execution.parent_id = held.parent_id
                self._writer.forget(held)
                await self._registry.discard(held)
            raise
        return held

    def _describe(self, held: HeldSnapshot) -> Snapshot:
        return held.describe(self._executions.count_branches()[held.id])

    def _require_running(self) -> None:
        if self._stopping:
            raise CapacityError("The gateway is stopping.", hint="Try again: a new one is started on demand.")


def _encode_cursor(created_at: float) -> str:
    return base64.urlsafe_b64encode(f"s{created_at!r}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> float:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if not text.startswith("s"):
            raise ValueError(text)
        return float(text[1:])
    except (ValueError, binascii.Error) as exc:
        raise InvalidRequestError(
            "cursor: it is not one that this gateway gave",
            hint="Pass next_cursor of the page before as it is.",
        ) from exc
