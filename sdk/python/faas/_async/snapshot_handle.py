"""A snapshot that can be worked with: all that the gateway says of it, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from faas.errors import ConfigurationError
from faas.types import BranchRequest, Diff, Snapshot, SnapshotForm

if TYPE_CHECKING:
    from faas._async.execution import Execution
    from faas._async.snapshots import SnapshotManager

__all__ = ["SnapshotHandle"]


class SnapshotHandle(Snapshot):
    """A `faas.types.Snapshot` with methods. Its fields are as the gateway last said; `refresh` asks anew.

    Example:
        >>> base = await execution.snapshot("prepared")
        >>> async with await base.restore() as session:
        ...     result = await session.execute("train(data)")
    """

    _manager: SnapshotManager | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, snapshot: Snapshot, manager: SnapshotManager) -> SnapshotHandle:
        """A snapshot with methods; `manager` is what they use."""
        handle = cls.model_construct(snapshot.model_fields_set, **dict(snapshot))
        handle._manager = manager
        return handle

    @property
    def _snapshots(self) -> SnapshotManager:
        if self._manager is None:
            raise ConfigurationError("This snapshot belongs to no client", hint="client.snapshots.get(snapshot.id)")
        return self._manager

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<{type(self).__name__} {self.id}{name} {self.environment} {'+'.join(self.forms) or 'no form'}>"

    async def restore(
        self,
        *,
        form: SnapshotForm | None = None,
        reseed: bool = False,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> Execution:
        """Open one execution that goes on from here. As `client.snapshots.restore`."""
        return await self._snapshots.restore(
            self.id,
            form=form,
            reseed=reseed,
            env_vars=env_vars,
            labels=labels,
            ttl_s=ttl_s,
            idle_timeout_s=idle_timeout_s,
        )

    async def branch(
        self,
        branches: int | Sequence[BranchRequest | Mapping[str, Any]] | None = None,
        *,
        variables: Sequence[Mapping[str, object]] | None = None,
        names: Sequence[str] | None = None,
        labels: Sequence[Mapping[str, str]] | None = None,
        env_vars: Sequence[Mapping[str, str]] | None = None,
        form: SnapshotForm | None = None,
        reseed: bool = False,
        ttl_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> list[Execution]:
        """Open several executions that go on from here, each with its own variables. As `client.snapshots.branch`."""
        return await self._snapshots.branch(
            self.id,
            branches,
            variables=variables,
            names=names,
            labels=labels,
            env_vars=env_vars,
            form=form,
            reseed=reseed,
            ttl_s=ttl_s,
            idle_timeout_s=idle_timeout_s,
        )

    async def refresh(self) -> SnapshotHandle:
        """Bring the fields up to date: whether its portable form is ready, what it costs, ... Returns itself."""
        return self._take(await self._snapshots.get(self.id))

    async def rename(self, name: str) -> SnapshotHandle:
        """Give it another name. Returns itself."""
        return self._take(await self._snapshots.rename(self.id, name))

    async def diff(self, other: str | Snapshot) -> Diff:
        """Return the variables and files that differ, as a way from this one to the other."""
        return await self._snapshots.diff(self.id, other)

    async def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the portable form into one file here, and return its path. As `client.snapshots.export`."""
        return await self._snapshots.export(self, path)

    async def delete(self) -> None:
        """Delete it. Executions that were restored from it go on."""
        await self._snapshots.delete(self.id)

    def _take(self, fresh: Snapshot) -> SnapshotHandle:
        for field in Snapshot.model_fields:
            setattr(self, field, getattr(fresh, field))
        return self
