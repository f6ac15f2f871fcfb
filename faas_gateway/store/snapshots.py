"""Rows of snapshots: what a gateway knows of those that an earlier one made, also of those that went with it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from faas_gateway.store import schema
from faas_gateway.store.worker import Pending, Worker

GONE_KEPT = 10_000


@dataclass(frozen=True)
class SnapshotRecord:
    """One snapshot as the database has it; times in seconds since the epoch."""

    id: str
    execution_id: str
    environment: str
    version: str
    language: str
    created_at: float
    name: str | None = None
    parent_id: str | None = None
    request_id: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    layers: Sequence[str] = ()
    """Its files in the backend's store, top first."""
    portable_status: str = "none"
    portable_bytes: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expires_at: float | None = None
    keep: bool = False
    gone_at: float | None = None
    gone_reason: str | None = None
    """Set for one that can be restored no more; the row stays to say why."""
    seq: int = 0


class SnapshotStore:
    """The snapshots of one gateway's database. Made by `open_store`."""

    def __init__(self, worker: Worker, deadline_s: float) -> None:
        self._worker = worker
        self._deadline_s = deadline_s

    async def insert(self, record: SnapshotRecord) -> None:
        """Write a new snapshot. Raises StorageUnavailableError."""
        row = {k: v for k, v in vars(record).items() if k != "seq"} | {"layers": list(record.layers)}
        pending = self._worker.submit(lambda c: c.execute(schema.snapshots.insert(), row) and None)
        await pending.wait(self._deadline_s)

    async def update(self, snapshot_id: str, **values: Any) -> None:
        """Change columns of a row, and wait until that is written. Raises StorageUnavailableError."""
        await self._submit_update(snapshot_id, values).wait(self._deadline_s)

    def post_update(self, snapshot_id: str, **values: Any) -> None:
        """Change columns of a row, as soon as the database takes it."""
        statement = _update(snapshot_id, values)
        self._worker.post(lambda c: c.execute(statement))

    def mark_gone(self, snapshot_ids: Sequence[str], reason: str) -> None:
        """These can be restored no more; written as soon as the database takes it."""
        table = schema.snapshots
        values = {"gone_at": time.time(), "gone_reason": reason, "name": None}
        for snapshot_id in snapshot_ids:
            # The name is free for another one; who asks by it is still told what became of this one.
            statement = (
                table.update()
                .where(table.c.id == snapshot_id)
                .values({**values, "gone_name": sa.func.coalesce(table.c.name, table.c.gone_name)})
            )
            self._worker.post(lambda c, statement=statement: c.execute(statement))

    def post_delete(self, snapshot_id: str) -> None:
        """Remove a row, as soon as the database takes it."""
        table = schema.snapshots
        statement = table.delete().where(table.c.id == snapshot_id)
        self._worker.post(lambda c: c.execute(statement))

    async def delete(self, snapshot_id: str) -> bool:
        """Remove a row; says whether it was there. Raises StorageUnavailableError."""
        table = schema.snapshots
        statement = table.delete().where(table.c.id == snapshot_id)
        return await self._worker.submit(lambda c: c.execute(statement).rowcount > 0).wait(self._deadline_s)

    async def load(self) -> list[SnapshotRecord]:
        """All that are not gone, oldest first; prunes what is long gone. Raises StorageUnavailableError."""
        table = schema.snapshots
        statement = sa.select(*_columns()).where(table.c.gone_at.is_(None)).order_by(table.c.seq)
        gone = sa.select(table.c.seq).where(table.c.gone_at.is_not(None)).order_by(table.c.seq.desc())

        def read(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
            cut = connection.execute(gone.offset(GONE_KEPT).limit(1)).scalar()
            if cut is not None:
                connection.execute(table.delete().where(table.c.gone_at.is_not(None), table.c.seq <= cut))
            return connection.execute(statement).all()

        rows = await self._worker.submit(read).wait(self._deadline_s)
        return [_record(row) for row in rows]

    async def get_gone(self, id_or_name: str) -> SnapshotRecord | None:
        """One that is gone, by its id, else the newest that had the name. Raises StorageUnavailableError."""
        table = schema.snapshots
        base = sa.select(*_columns()).where(table.c.gone_at.is_not(None))
        by_id = base.where(table.c.id == id_or_name)
        by_name = base.where(table.c.gone_name == id_or_name).order_by(table.c.seq.desc()).limit(1)

        def read(connection: sa.Connection) -> SnapshotRecord | None:
            row = connection.execute(by_id).first() or connection.execute(by_name).first()
            return None if row is None else _record(row)

        return await self._worker.submit(read).wait(self._deadline_s)

    def _submit_update(self, snapshot_id: str, values: Mapping[str, Any]) -> Pending[None]:
        statement = _update(snapshot_id, values)
        return self._worker.submit(lambda c: c.execute(statement) and None)


def _update(snapshot_id: str, values: Mapping[str, Any]) -> sa.Update:
    table = schema.snapshots
    return table.update().where(table.c.id == snapshot_id).values(dict(values))


def _columns() -> list[sa.Column[Any]]:
    return [column for column in schema.snapshots.c if column.name != "gone_name"]


def _record(row: sa.Row[Any]) -> SnapshotRecord:
    return SnapshotRecord(**row._mapping)  # pyright: ignore[reportPrivateUsage]
