"""Taking a snapshot: the session stands still, is frozen alive, or where that is not safe, copied."""

from __future__ import annotations

import anyio
from faas.types import ForkReceipt

from faas_gateway.backends.base import CannotFork, Loss, ProgressReport, Report
from faas_gateway.errors import DeadlineError, StorageUnavailableError
from faas_gateway.managers.execution import START, LiveExecution
from faas_gateway.managers.snapshot_portable import failure_reason, write_variables
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_state import HeldSnapshot, interpreter_info, losses_info, receipt_info
from faas_gateway.settings import Settings


class Taker:
    """Makes snapshots of executions.

    Args:
        registry: takes them.
        settings: deadlines.
    """

    def __init__(self, registry: SnapshotRegistry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    def new(self, execution: LiveExecution, snapshot_id: str, name: str | None, labels: dict[str, str]) -> HeldSnapshot:
        """What is known of a snapshot before it is taken: how the session stands now."""
        terms, request_id = execution.terms, execution.last_request_id
        interpreter = terms.image.recipe.interpreter
        created_at = self._registry.now()
        held = HeldSnapshot(
            id=snapshot_id,
            name=name,
            execution_id=terms.id,
            parent_id=execution.parent_id,
            request_id=request_id,
            environment=terms.image.recipe.name,
            version=terms.image.version,
            language=terms.language,
            network=terms.network,
            resources=terms.resources,
            created_at=created_at,
            labels=labels,
            env_vars=terms.env_vars,
            depth=execution.generation,
            image=terms.image,
            expires_at=created_at + self._settings.live_expiry_s,
        )
        if interpreter is not None:
            held.interpreter = interpreter_info(interpreter)
        return held

    async def take(self, execution: LiveExecution, held: HeldSnapshot, portable: str, report: Report) -> None:
        """Take it of a session that stands still, and hold it: its row is the caller's to write.

        Args:
            execution: the session.
            held: as `new` made it.
            portable: now, later or never.
            report: told of what takes its time.

        Raises:
            CannotFork: it cannot be frozen alive, and a portable form is not wanted.
            SandboxEnded, StartFailed, DeadlineError, StorageUnavailableError: there is no snapshot.
        """
        try:
            await self.freeze(execution, held)
        except CannotFork as exc:
            if portable == "never":
                raise
            await self._copy(execution, held, exc.losses, report)

    async def freeze(self, execution: LiveExecution, held: HeldSnapshot) -> None:
        """Take it alive. Not to be cancelled. Raises CannotFork, and as `take`."""
        frozen = await execution.freeze(held.id)
        held.frozen, held.layers, held.receipt = frozen, frozen.layers, receipt_info(frozen.receipt)
        execution.generation = held.depth + 1
        self._hold(execution, held)

    def _hold(self, execution: LiveExecution, held: HeldSnapshot) -> None:
        self._registry.add(held)
        if not held.checkpoint:  # those are not shown in the tree, and come and go
            execution.parent_id = held.id

    async def _copy(
        self, execution: LiveExecution, held: HeldSnapshot, losses: tuple[Loss, ...], report: Report
    ) -> None:
        """The portable way: files and variables are copied while the session waits."""
        report(ProgressReport("copy", "copying files and variables: the session cannot be forked alive"))
        sandbox = execution.sandbox
        held.layers = (held.id,)
        self._registry.kept(held.layers)  # before it is there: then it is removed whatever happens meanwhile
        try:
            with anyio.move_on_after(self._settings.capture_deadline_s) as scope:
                held.layers = await sandbox.copy_files(held.id)
                self._registry.kept(held.layers)
                if held.language != "shell":
                    captured = await write_variables(sandbox, self._registry.variables(held))
                    held.portable_bytes = captured.size_bytes
                    held.excluded = losses_info(captured.excluded)
            if scope.cancelled_caught:
                raise DeadlineError(f"Copying the session took longer than {self._settings.capture_deadline_s:g} s.")
        except OSError as exc:
            await self._undo_copy(held)
            raise StorageUnavailableError(
                f"The snapshot could not be written: {failure_reason(exc)}.", hint="Make room on the disk."
            ) from exc
        except BaseException:
            await self._undo_copy(held)
            raise
        held.portable_status, held.expires_at = "ready", None
        held.receipt = ForkReceipt(lost=losses_info(losses))
        held.live_lost = "; ".join(f"{loss.name}: {loss.reason}" for loss in held.receipt.lost)
        held.notes.append(f"taken the portable way, since the session cannot be forked alive ({held.live_lost})")
        self._hold(execution, held)

    async def _undo_copy(self, held: HeldSnapshot) -> None:
        """Give back what was written. It was not held yet, so nobody else does."""
        self._registry.add(held)
        held.has_row = False
        await self._registry.discard(held)

    async def checkpoint(self, execution: LiveExecution, held: HeldSnapshot, request_id: str) -> None:
        """Freeze a session whose turn the caller has. Raises CannotFork, and as `take`."""
        held.checkpoint = True
        held.request_id = request_id
        if request_id == START:
            held.notes.append("as it was opened, before any request")
        await self.freeze(execution, held)
