"""Export and import: a snapshot as one file, from one machine to another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
from faas.types import Resources

from faas_gateway.backends.base import SandboxBackend
from faas_gateway.errors import DeadlineError, NotPortableError, StorageUnavailableError
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.snapshot_file import LAYER, VARIABLES, FileReader, Meta, write_file
from faas_gateway.managers.snapshot_portable import PortableWriter, failure_reason
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_state import HeldSnapshot
from faas_gateway.settings import Settings

NAMES_TOLD = 20


class Transfer:
    """Makes such files, and snapshots of them.

    Args:
        registry: of the snapshots.
        writer: makes one portable that is not yet.
        environments: which there are here.
        backend: has the files.
        settings: deadlines and limits.
    """

    def __init__(
        self,
        registry: SnapshotRegistry,
        writer: PortableWriter,
        environments: EnvironmentManager,
        backend: SandboxBackend,
        settings: Settings,
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._environments = environments
        self._backend = backend
        self._settings = settings

    async def export(self, held: HeldSnapshot) -> AsyncGenerator[bytes]:
        """The file, in chunks; the snapshot may be deleted meanwhile.

        Raises:
            NotPortableError: it has no portable form, and none can be made.
            StorageUnavailableError, DeadlineError
        """
        if not held.is_portable and not await self._writer.now(held):
            raise NotPortableError(
                f"Snapshot {held.title} has no portable form: {held.portable_error or held.live_lost}.",
                hint="Take it again, with portable: now.",
            )
        try:
            with held.in_use():
                layer = await self._export_layer(held)
                try:
                    variables = self._open_variables(held)
                except OSError:
                    os.close(layer)
                    raise
        except OSError as exc:
            raise StorageUnavailableError(f"The snapshot cannot be read: {failure_reason(exc)}.") from exc
        try:
            meta = Meta(
                id=held.id,
                name=held.name,
                environment=held.environment,
                version=held.version,
                language=held.language,
                network=held.network,
                resources=held.resources,
                labels=held.labels,
                excluded=held.excluded,
                env_var_names=sorted(held.env_vars)[:1000],
            )
            async for chunk in write_file(meta, layer, variables):
                yield chunk
        finally:
            os.close(layer)
            if variables is not None:
                os.close(variables)

    async def take(self, held_id: str, name: str | None, chunks: AsyncIterator[bytes]) -> HeldSnapshot:
        """Read such a file into a snapshot, which is held then; its row is the caller's to write.

        Raises:
            InvalidRequestError, TooLargeError, DeadlineError, StorageUnavailableError
            UnknownEnvironmentError: its environment is not there.
        """
        reader = FileReader(chunks, self._settings.body_stall_s, self._settings.import_bytes)
        meta = await reader.read_meta()
        shipped = self._environments.get_shipped(meta.environment)
        recipe = self._environments.recipe(shipped, None)
        language = self._environments.language(recipe, meta.language)
        held = HeldSnapshot(
            id=held_id,
            name=name,
            execution_id="",
            parent_id=None,
            request_id=None,
            environment=meta.environment,
            version=meta.version,
            language=language,
            network=meta.network,
            resources=lower(meta.resources, shipped.resources),
            created_at=self._registry.now(),
            labels=meta.labels,
            excluded=meta.excluded,
            notes=[f"imported; it was snapshot {meta.name or meta.id} where it was made"],
        )
        if held.resources != meta.resources:
            held.notes.append("limits above those of the environment were lowered to them")
        if meta.env_var_names:
            told = ", ".join(meta.env_var_names[:NAMES_TOLD])
            held.notes.append(f"environment variables are not in the file, give them to its branches: {told}")
        try:
            with anyio.move_on_after(self._settings.capture_deadline_s) as scope:
                await self._read_content(reader, held)
            if scope.cancelled_caught:
                raise DeadlineError(f"The import took longer than {self._settings.capture_deadline_s:g} s.")
        except OSError as exc:
            with anyio.CancelScope(shield=True):
                await self._registry.remove_files(held)
            raise StorageUnavailableError(
                f"The snapshot could not be written: {failure_reason(exc)}.", hint="Make room on the disk."
            ) from exc
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._registry.remove_files(held)
            raise
        held.portable_status = "ready"
        self._registry.add(held)
        return held

    async def _read_content(self, reader: FileReader, held: HeldSnapshot) -> None:
        path = self._registry.variables(held)
        layer = await anyio.to_thread.run_sync(_unnamed, path.parent)
        try:
            await reader.read_into(LAYER, layer)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                held.portable_bytes = await reader.read_into(VARIABLES, fd)
                await anyio.to_thread.run_sync(os.fsync, fd)
            finally:
                os.close(fd)
            os.lseek(layer, 0, os.SEEK_SET)
            held.layers = (held.id,)
            self._registry.kept(held.layers)  # before it is there: then it is removed whatever happens meanwhile
            held.layers = await self._backend.import_layer(held.id, layer)
            self._registry.kept(held.layers)
        finally:
            os.close(layer)

    async def _export_layer(self, held: HeldSnapshot) -> int:
        """Its files as one stream, in a file without a name: its size comes first in the tar."""
        fd = await anyio.to_thread.run_sync(_unnamed, self._settings.spool_dir)
        try:
            with anyio.move_on_after(self._settings.capture_deadline_s) as scope:
                await self._backend.export_layers(held.layers, fd)
            if scope.cancelled_caught:
                raise DeadlineError(f"Reading its files took longer than {self._settings.capture_deadline_s:g} s.")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _open_variables(self, held: HeldSnapshot) -> int | None:
        if held.language == "shell":
            return None
        return os.open(self._registry.variables(held), os.O_RDONLY | os.O_CLOEXEC)


def lower(given: Resources, environment: Resources) -> Resources:
    """Limits out of a file that somebody else made: never higher than the environment's own."""
    lowered: dict[str, object] = {}
    for name, limit in environment.model_dump().items():
        value = getattr(given, name)
        lowered[name] = value if limit is None else limit if value is None else min(value, limit)
    return Resources.model_validate(lowered)


def _unnamed(folder: Path) -> int:
    """An empty file that goes with its descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, path = tempfile.mkstemp(dir=folder)
    os.unlink(path)
    return fd
