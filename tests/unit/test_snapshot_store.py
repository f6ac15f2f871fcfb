"""Rows of snapshots, and the database of a gateway that knew none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from faas_gateway.errors import StorageUnavailableError
from faas_gateway.store import SnapshotRecord, open_store
from faas_gateway.store.schema import SCHEMA_VERSION

pytestmark = pytest.mark.anyio

#: As the first version made them.
VERSION_1 = """
CREATE TABLE executions (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR NOT NULL, name VARCHAR,
  environment VARCHAR NOT NULL, version VARCHAR NOT NULL, status VARCHAR NOT NULL, resources JSON NOT NULL,
  labels JSON NOT NULL, detail JSON NOT NULL, created_at FLOAT NOT NULL, last_active_at FLOAT, ended_at FLOAT,
  end_code VARCHAR, end_reason VARCHAR, UNIQUE (id));
CREATE TABLE requests (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR NOT NULL,
  execution_id VARCHAR NOT NULL, status VARCHAR NOT NULL, started_at FLOAT NOT NULL, duration_s FLOAT NOT NULL,
  exit_code INTEGER NOT NULL, error_code VARCHAR);
INSERT INTO executions (id, environment, version, status, resources, labels, detail, created_at)
  VALUES ('exec_old', 'python', 'v', 'terminated', '{}', '{"a":"b"}', '{}', 1.0);
INSERT INTO requests (id, execution_id, status, started_at, duration_s, exit_code)
  VALUES ('req_old', 'exec_old', 'success', 1.0, 0.5, 0);
PRAGMA user_version=1;
"""


def record(n: int, **fields: object) -> SnapshotRecord:
    base = {
        "id": f"snap_{n}", "execution_id": "exec_1", "environment": "python", "version": "v", "language": "python",
        "created_at": float(n), **fields,
    }  # fmt: skip
    return SnapshotRecord(**base)  # type: ignore[arg-type]


async def test_a_database_of_the_first_version_keeps_its_rows_and_takes_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    for _ in range(2):  # the second time there is nothing to migrate
        async with open_store(path, deadline_s=5, rows_kept=100) as store:
            old = await store.get("exec_old")
            assert old is not None
            assert (old.status, old.labels) == ("terminated", {"a": "b"})
    async with open_store(path, deadline_s=5, rows_kept=100) as store:
        await store.snapshots.insert(record(1))
        assert [r.id for r in await store.snapshots.load()] == ["snap_1"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("SELECT id FROM requests").fetchall() == [("req_old",)]
    connection.close()


async def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = record(
        1, name="n", parent_id="snap_0", request_id="req_1", resources={"pids": 4}, labels={"a": "b"},
        layers=["l2", "l1"], portable_status="ready", portable_bytes=5, detail={"depth": 3}, expires_at=9.0, keep=True,
    )  # fmt: skip
    async with open_store(tmp_path / "gateway.db", deadline_s=5, rows_kept=100) as store:
        await store.snapshots.insert(written)
        (found,) = await store.snapshots.load()
        assert vars(found) | {"seq": 0} == vars(written)


async def test_what_is_gone_says_so_by_id_and_name_and_frees_the_name(tmp_path: Path) -> None:
    async with open_store(tmp_path / "gateway.db", deadline_s=5, rows_kept=100) as store:
        rows = store.snapshots
        await rows.insert(record(1, name="n"))
        with pytest.raises(StorageUnavailableError, match="UNIQUE"):
            await rows.insert(record(2, name="n"))
        rows.mark_gone(["snap_1"], "why")
        rows.mark_gone(["snap_1"], "why")
        await rows.insert(record(2, name="n"))
        assert [r.id for r in await rows.load()] == ["snap_2"]
        for key in ("snap_1", "n"):
            found = await rows.get_gone(key)
            assert found is not None
            assert (found.id, found.gone_reason) == ("snap_1", "why")
        assert await rows.get_gone("snap_2") is None
        assert await rows.delete("snap_1")
        assert not await rows.delete("snap_1")
