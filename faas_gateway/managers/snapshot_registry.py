"""The snapshots that a gateway holds: found by id or name, written down, and given back when they end."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from faas_gateway.backends.base import SandboxBackend
from faas_gateway.errors import (
    BACKEND_ERRORS,
    InvalidRequestError,
    NameTakenError,
    SnapshotGoneError,
    UnknownSnapshotError,
    suggest,
)
from faas_gateway.ids import SNAPSHOT_ID
from faas_gateway.managers.snapshot_state import HeldSnapshot, from_record
from faas_gateway.settings import Settings
from faas_gateway.store import SnapshotStore

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 10.0
VARIABLES = "variables.bin"
LIVE_ONLY = "it was live only, and the gateway stopped"


class SnapshotRegistry:
    """All snapshots of a gateway.

    Args:
        backend: keeps their files.
        store: remembers them.
        settings: where their variables are kept.
        tasks: watches their dormant processes; outlives the registry.
    """

    def __init__(self, backend: SandboxBackend, store: SnapshotStore, settings: Settings, tasks: TaskGroup) -> None:
        self._backend = backend
        self._store = store
        self._folder = settings.snapshots_dir
        self._tasks = tasks
        self._held: dict[str, HeldSnapshot] = {}
        self._names: dict[str, str] = {}
        self._kept_layers: set[str] = set()
        self._last_time = 0.0
        self.closing = 0
        """Snapshots that are being given back."""

    # Finding

    def all(self) -> list[HeldSnapshot]:
        """Oldest first."""
        return list(self._held.values())

    def __contains__(self, held: HeldSnapshot) -> bool:
        return self._held.get(held.id) is held

    def find(self, snapshot_id: str) -> HeldSnapshot | None:
        return self._held.get(snapshot_id)

    async def get(self, id_or_name: str) -> HeldSnapshot:
        """Raises UnknownSnapshotError, or SnapshotGoneError with the reason."""
        held = self._held.get(id_or_name) or self._held.get(self._names.get(id_or_name, ""))
        if held is not None:
            return held
        gone = await self._store.get_gone(id_or_name)
        if gone is not None:
            raise SnapshotGoneError(
                f"The snapshot {id_or_name!r} is gone: {gone.gone_reason}.",
                hint="Take it again; a portable form (portable: later or now) outlasts the gateway.",
            )
        raise UnknownSnapshotError(
            f"There is no snapshot {id_or_name!r}.",
            hint=suggest(id_or_name, self._names) or "GET /api/v1/snapshots lists them.",
        )

    # Names and times

    @contextmanager
    def naming(self, name: str | None, snapshot_id: str) -> Generator[None]:
        """Take a name for a snapshot that is about to be; it is free again when none comes about.

        Raises:
            NameTakenError, InvalidRequestError
        """
        self.take_name(name, snapshot_id)
        try:
            yield
        finally:
            if snapshot_id not in self._held:
                self._free_name(name, snapshot_id)

    def take_name(self, name: str | None, snapshot_id: str) -> None:
        """Raises NameTakenError, InvalidRequestError."""
        if name is None:
            return
        if SNAPSHOT_ID.match(name):
            raise InvalidRequestError(f"name: {name!r} looks like an id", hint="Choose another name.")
        if self._names.get(name, snapshot_id) != snapshot_id:
            raise NameTakenError(
                f"There is a snapshot named {name!r}.",
                hint=f"Use it, delete it (DELETE /api/v1/snapshots/{name}), or choose another name.",
            )
        self._names[name] = snapshot_id

    def rename(self, held: HeldSnapshot, name: str) -> None:
        """Raises NameTakenError, InvalidRequestError."""
        self.take_name(name, held.id)
        if held.name != name:
            self._free_name(held.name, held.id)
        held.name = name

    def _free_name(self, name: str | None, snapshot_id: str) -> None:
        if name is not None and self._names.get(name) == snapshot_id:
            del self._names[name]

    def now(self) -> float:
        """The time, never the same twice: pages of a list are joined by it."""
        self._last_time = max(time.time(), self._last_time + 1e-6)
        return self._last_time

    # Holding

    def add(self, held: HeldSnapshot) -> None:
        """Hold a snapshot, and notice when its dormant process ends."""
        self._held[held.id] = held
        if held.frozen is not None:
            self._tasks.start_soon(self._watch, held)

    async def insert(self, held: HeldSnapshot) -> None:
        """Write its row. Raises StorageUnavailableError."""
        held.has_row = True
        await self._store.insert(held.record())

    def save(self, held: HeldSnapshot) -> None:
        """Write what may change of it, as soon as the database takes it."""
        if held.has_row:
            self._store.post_update(
                held.id,
                name=held.name,
                portable_status=held.portable_status,
                portable_bytes=held.portable_bytes,
                detail=held.detail(),
                expires_at=held.expires_at,
                keep=held.keep,
            )

    def kept(self, layers: Iterable[str]) -> None:
        """These layers outlast their sandboxes: they are removed when no snapshot needs them."""
        self._kept_layers.update(layers)

    def folder(self, held: HeldSnapshot) -> Path:
        """Of its own, for its variables; made by whoever writes them."""
        return self._folder / held.id

    def variables(self, held: HeldSnapshot) -> Path:
        return self.folder(held) / VARIABLES

    # The end

    async def release_live(self, held: HeldSnapshot, reason: str) -> None:
        """End its dormant process; what else there is of it stays. Idempotent."""
        frozen, held.frozen = held.frozen, None
        if frozen is None:
            return
        held.live_lost, held.memory_bytes, held.expires_at = reason, 0, None
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_DEADLINE_S) as scope:
            try:
                await frozen.aclose()
            except Exception:
                log.exception("the dormant process of %s failed to close", held.id)
        if scope.cancelled_caught:
            log.error("the dormant process of %s did not close in time", held.id)

    async def discard(self, held: HeldSnapshot, gone: str | None = None) -> None:
        """Give back all of it. Idempotent.

        Args:
            gone: why it is no more, for who asks for it later; None when it was deleted.
        """
        if self._held.pop(held.id, None) is None:
            return
        self._free_name(held.name, held.id)
        if held.has_row and gone is not None:  # first, so that nobody finds it neither here nor there
            self._store.mark_gone([held.id], gone)
        elif held.has_row:
            self._store.post_delete(held.id)
        self.closing += 1
        try:
            with anyio.CancelScope(shield=True):
                await self.release_live(held, gone or "it was deleted")
                await self.remove_files(held)
        finally:
            self.closing -= 1

    async def forget_gone(self, id_or_name: str) -> bool:
        """Delete the row of one that is gone; whether there was one. Raises StorageUnavailableError."""
        gone = await self._store.get_gone(id_or_name)
        return gone is not None and await self._store.delete(gone.id)

    async def remove_files(self, held: HeldSnapshot) -> None:
        """Remove what is kept of one that is not held any more; layers that others need stay."""
        await self._drop_layers(held)
        await anyio.to_thread.run_sync(_remove_folder, self.folder(held))

    async def _drop_layers(self, held: HeldSnapshot) -> None:
        kept = [layer for layer in held.layers if layer in self._kept_layers]
        if not kept:
            return
        needed = {layer for other in self._held.values() for layer in other.layers}
        unneeded = [layer for layer in kept if layer not in needed]
        if not unneeded:
            return
        self._kept_layers.difference_update(unneeded)
        try:
            with anyio.move_on_after(CLOSE_DEADLINE_S):
                await self._backend.drop_layers(unneeded)
        except (OSError, *BACKEND_ERRORS):
            log.exception("layers were not removed; the next start sweeps them")

    async def _watch(self, held: HeldSnapshot) -> None:
        frozen = held.frozen
        if frozen is None:
            return
        ended = await frozen.wait()
        if held.frozen is not frozen:
            return  # it was let go, and whoever did that knows why
        reason = f"its dormant process ended ({ended.code}): {ended.reason}"
        log.warning("snapshot %s: %s", held.id, reason)
        if held.is_portable:
            await self.release_live(held, reason)
            held.notes.append(f"the live form is gone: {reason}")
            self.save(held)
        else:
            await self.discard(held, reason)

    # From one gateway to the next

    async def load(self) -> None:
        """Take over what an earlier gateway left; what is not whole is gone, and what nobody needs is removed.

        Raises:
            StorageUnavailableError
        """
        gone: list[str] = []
        for record in await self._store.load():
            held = from_record(record)
            if held.is_portable and self._is_whole(held):
                self._held[held.id] = held
                if held.name is not None:
                    self._names[held.name] = held.id
                self.kept(held.layers)
                self._last_time = max(self._last_time, held.created_at)
                if record.expires_at is not None:  # that was the live form's
                    self.save(held)
            else:
                gone.append(record.id)
                reason = "parts of it are missing on the disk" if held.is_portable else LIVE_ONLY
                self._store.mark_gone([record.id], reason)
        await self._backend.sweep_layers(sorted(self._kept_layers))
        await anyio.to_thread.run_sync(_sweep, self._folder, set(self._held))
        if gone:
            log.info("%d snapshots of an earlier gateway are gone", len(gone))

    def _is_whole(self, held: HeldSnapshot) -> bool:
        has_variables = held.language == "shell" or self.variables(held).is_file()
        return has_variables and self._backend.has_layers(held.layers)

    async def close(self) -> None:
        """End every dormant process; what is portable is there for the next gateway."""
        async with anyio.create_task_group() as group:
            for held in self.all():
                if held.has_row and not held.is_portable:
                    self._store.mark_gone([held.id], LIVE_ONLY)
                group.start_soon(self.release_live, held, "the gateway was stopped")
        self._held.clear()

    @property
    def is_needed(self) -> bool:
        """Whether something would be lost if the gateway stopped now."""
        return self.closing > 0 or any(h.frozen is not None and not h.is_portable for h in self._held.values())

    def page(self, before: float | None, limit: int, *, checkpoints: bool) -> tuple[list[HeldSnapshot], bool]:
        """Newest first, made before a time; and whether there are more."""
        found = [
            held
            for held in reversed(self._held.values())
            if (checkpoints or not held.checkpoint) and (before is None or held.created_at < before)
        ]
        return found[:limit], len(found) > limit


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path, needed: set[str]) -> None:
    """Remove the folders of snapshots that are no more."""
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry not in needed:
            _remove_folder(folder / entry)
