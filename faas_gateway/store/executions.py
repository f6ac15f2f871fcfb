"""Rows of executions and requests: written by one worker thread, read by the managers."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event

from faas_gateway.errors import StorageUnavailableError
from faas_gateway.store import schema
from faas_gateway.store.migrations import migrate
from faas_gateway.store.snapshots import SnapshotStore
from faas_gateway.store.worker import Pending, Worker

BUSY_TIMEOUT_MS = 2000
PRUNE_EVERY = 500
FLUSH_S = 0.1
REQUESTS_PER_EXECUTION_KEPT = 10


@dataclass(frozen=True)
class ExecutionRecord:
    """One execution as the database has it; times in seconds since the epoch."""

    id: str
    environment: str
    version: str
    created_at: float
    name: str | None = None
    status: str = "live"
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    last_active_at: float | None = None
    ended_at: float | None = None
    end_code: str | None = None
    end_reason: str | None = None
    seq: int = 0


@dataclass(frozen=True)
class RequestRecord:
    """One finished request."""

    id: str
    execution_id: str
    status: str
    started_at: float
    duration_s: float
    exit_code: int
    error_code: str | None


@dataclass(frozen=True)
class ExecutionFilter:
    """Which executions to list; empty means all."""

    statuses: tuple[str, ...] = ()
    environment: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class ExecutionStore:
    """The database of one gateway. Made by `open_store`, which also closes it."""

    def __init__(self, worker: Worker, deadline_s: float, rows_kept: int) -> None:
        self.snapshots = SnapshotStore(worker, deadline_s)
        self._worker = worker
        self._deadline_s = deadline_s
        self._rows_kept = rows_kept
        self._inserted = 0
        self._finished: list[dict[str, Any]] = []
        self._ended: list[sa.Update] = []
        self._flush_handle: asyncio.TimerHandle | None = None

    def insert(self, *records: ExecutionRecord) -> Pending[None]:
        """Write new executions; the caller waits for it before it tells anybody that there are any.

        Raises:
            StorageUnavailableError: the database does not keep up.
        """
        rows = [{k: v for k, v in vars(record).items() if k != "seq"} for record in records]
        pending = self._worker.submit(lambda c: c.execute(schema.executions.insert(), rows) and None)
        before, self._inserted = self._inserted, self._inserted + len(rows)
        if before // PRUNE_EVERY != self._inserted // PRUNE_EVERY:
            self._worker.post(self._prune)
        return pending

    async def written(self, pending: Pending[None]) -> None:
        """Wait for an insert. Raises StorageUnavailableError."""
        await pending.wait(self._deadline_s)

    async def settle(self) -> None:
        """Wait until all that was handed over is written; a database that cannot be written now is no failure here."""
        with suppress(StorageUnavailableError):
            await self._worker.submit(lambda _connection: None).wait(self._deadline_s)

    def end(self, record: ExecutionRecord, *, together: bool = False) -> None:
        """Write how an execution ended, as soon as the database takes it; `together` with others, a moment later."""
        values = {
            "status": record.status,
            "detail": record.detail,
            "last_active_at": record.last_active_at,
            "ended_at": record.ended_at,
            "end_code": record.end_code,
            "end_reason": record.end_reason,
        }
        table = schema.executions
        statement = table.update().where(table.c.id == record.id).values(values)
        if together:
            self._ended.append(statement)
            self._flush_soon()
        else:
            self._worker.post(lambda c: c.execute(statement))

    def add_request(self, record: RequestRecord) -> None:
        """Write a finished request soon: many of them at a time, and none while its answer is on its way."""
        self._finished.append(dict(vars(record)))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand what was to be written soon to the worker now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._finished:
            rows, self._finished = self._finished, []
            self._worker.post(lambda c: c.execute(schema.requests.insert(), rows))
        if self._ended:
            statements, self._ended = self._ended, []
            self._worker.post(lambda c: [c.execute(statement) for statement in statements])

    async def get(self, id_or_name: str) -> ExecutionRecord | None:
        """The execution of that id, else the newest of that name."""
        table = schema.executions
        by_id = sa.select(table).where(table.c.id == id_or_name)
        by_name = sa.select(table).where(table.c.name == id_or_name).order_by(table.c.seq.desc()).limit(1)

        def read(connection: sa.Connection) -> ExecutionRecord | None:
            row = connection.execute(by_id).first() or connection.execute(by_name).first()
            return None if row is None else _record(row)

        self.flush()
        return await self._worker.submit(read).wait(self._deadline_s)

    async def list(self, wanted: ExecutionFilter, *, before_seq: int | None, limit: int) -> list[ExecutionRecord]:
        """Newest first, from below a row's number on."""
        table = schema.executions
        statement = sa.select(table).order_by(table.c.seq.desc()).limit(limit)
        if before_seq is not None:
            statement = statement.where(table.c.seq < before_seq)
        if wanted.statuses:
            statement = statement.where(table.c.status.in_(wanted.statuses))
        if wanted.environment is not None:
            statement = statement.where(table.c.environment == wanted.environment)
        for key, value in wanted.labels.items():
            labels = sa.func.json_each(table.c.labels).table_valued("key", "value")
            found = sa.select(labels.c.key).where(labels.c.key == key, labels.c.value == value)
            statement = statement.where(found.exists())

        def read(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
            return connection.execute(statement).all()

        self.flush()
        rows = await self._worker.submit(read).wait(self._deadline_s)
        return [_record(row) for row in rows]

    async def mark_lost(self, reason: str) -> int:
        """Every execution that an earlier gateway left open is lost now; says how many."""
        table = schema.executions
        statement = (
            table.update()
            .where(table.c.status == "live")
            .values(status="lost", ended_at=time.time(), end_code="lost", end_reason=reason)
        )
        pending = self._worker.submit(lambda c: c.execute(statement).rowcount)
        self._worker.post(self._prune)
        return await pending.wait(self._deadline_s)

    def _prune(self, connection: sa.Connection) -> None:
        executions, requests = schema.executions, schema.requests
        ended = executions.c.status != "live"
        oldest = sa.select(executions.c.seq).where(ended).order_by(executions.c.seq.desc()).offset(self._rows_kept)
        cut = connection.execute(oldest.limit(1)).scalar()
        if cut is not None:
            gone = sa.select(executions.c.id).where(ended, executions.c.seq <= cut)
            connection.execute(requests.delete().where(requests.c.execution_id.in_(gone)))
            connection.execute(executions.delete().where(ended, executions.c.seq <= cut))
        newest = connection.execute(sa.select(sa.func.max(requests.c.seq))).scalar() or 0
        kept = self._rows_kept * REQUESTS_PER_EXECUTION_KEPT
        connection.execute(requests.delete().where(requests.c.seq <= newest - kept))


@asynccontextmanager
async def open_store(path: Path, *, deadline_s: float, rows_kept: int) -> AsyncGenerator[ExecutionStore]:
    """Open the database, made where there is none.

    Args:
        path: of the file; its folder is made.
        deadline_s: for every answer of the database, seconds.
        rows_kept: ended executions that pruning leaves.

    Raises:
        StorageUnavailableError: it cannot be opened, or was written by a newer gateway.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Private from the first moment on; SQLite gives its other files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sa.create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False, "isolation_level": None},
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    worker = Worker(engine)
    try:
        version = await worker.submit(migrate).wait(deadline_s)
        if version > schema.SCHEMA_VERSION:
            raise StorageUnavailableError(
                f"{path} has schema version {version}, this gateway knows up to {schema.SCHEMA_VERSION}: "
                "a newer version of faas wrote it.",
                hint=f"Upgrade faas, or move {path} away.",
            )
        store = ExecutionStore(worker, deadline_s, rows_kept)
        try:
            yield store
        finally:
            store.flush()
    finally:
        await worker.close(deadline_s)


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    # The busy timeout first: switching to WAL takes a lock itself.
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # IMMEDIATE, because a transaction that starts by reading is not made to wait when it comes to write.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _record(row: sa.Row[Any]) -> ExecutionRecord:
    return ExecutionRecord(**row._mapping)  # pyright: ignore[reportPrivateUsage]
