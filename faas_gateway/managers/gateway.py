"""A gateway as a whole: opens what it needs in order, and closes it in reverse."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from faas import __version__
from faas.types import Health

from faas_gateway.backends.base import SandboxBackend
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.executions import ExecutionManager
from faas_gateway.managers.one_shots import OneShots
from faas_gateway.managers.snapshots import SnapshotManager
from faas_gateway.settings import Settings
from faas_gateway.store import open_store

LOST_REASON = "the gateway stopped while it was open"


@dataclass
class Gateway:
    """What the routes call."""

    settings: Settings
    environments: EnvironmentManager
    executions: ExecutionManager
    one_shots: OneShots
    snapshots: SnapshotManager
    backend_name: str

    def health(self) -> Health:
        return Health(version=__version__, pid=os.getpid(), backend=self.backend_name)


@asynccontextmanager
async def open_gateway(settings: Settings, backend: SandboxBackend) -> AsyncGenerator[Gateway]:
    """Open the database and the backend; on leaving, end every execution and dormant snapshot, and close both.

    Raises:
        StorageUnavailableError: the database cannot be opened.
        BackendUnavailable: the backend cannot work at all.
    """
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with (
        open_store(settings.database, deadline_s=settings.storage_deadline_s, rows_kept=settings.rows_kept) as store,
        backend,
    ):
        await store.mark_lost(LOST_REASON)
        async with anyio.create_task_group() as tasks:
            environments = EnvironmentManager(backend)
            executions = ExecutionManager(backend, environments, store, settings, tasks)
            snapshots = SnapshotManager(backend, environments, executions, store.snapshots, settings, tasks)
            try:
                await snapshots.start()
                one_shots = OneShots(executions, settings)
                yield Gateway(settings, environments, executions, one_shots, snapshots, backend.name)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(settings.stop_deadline_s):
                    await executions.shutdown()
                    await snapshots.shutdown()
                tasks.cancel_scope.cancel()
