"""The database: what is written is there, what cannot be written is said, and nothing waits without end."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from faas_gateway.errors import InvalidRequestError, StorageUnavailableError
from faas_gateway.managers.records import decode_cursor, encode_cursor
from faas_gateway.store import ExecutionFilter, ExecutionRecord, ExecutionStore, RequestRecord, open_store
from faas_gateway.store.schema import SCHEMA_VERSION

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def path() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faas-store-") as folder:
        yield Path(folder, "state", "gateway.db")


def opened(path: Path, deadline_s: float = 10, rows_kept: int = 1000) -> AbstractAsyncContextManager[ExecutionStore]:
    return open_store(path, deadline_s=deadline_s, rows_kept=rows_kept)


def record(n: int, **fields: object) -> ExecutionRecord:
    values = {"id": f"exec_{n}", "environment": "python", "version": "v", "created_at": float(n), **fields}
    return ExecutionRecord(**values)  # type: ignore[arg-type]


async def insert(store: ExecutionStore, *records: ExecutionRecord) -> None:
    for pending in [store.insert(r) for r in records]:
        await store.written(pending)


async def test_a_record_comes_back_as_it_was_written(path: Path) -> None:
    written = record(1, name="mine", labels={"a": "b"}, resources={"pids": 4}, detail={"notes": ["x"]})
    async with opened(path) as store:
        await insert(store, written)
        by_id, by_name = await store.get("exec_1"), await store.get("mine")
        assert by_id is not None
        assert vars(by_id) | {"seq": 0} == vars(written)
        assert by_name == by_id
        assert await store.get("other") is None


async def test_the_newest_of_a_name_is_found(path: Path) -> None:
    async with opened(path) as store:
        await insert(store, record(1, name="n"), record(2, name="n"))
        found = await store.get("n")
        assert found is not None
        assert found.id == "exec_2"


async def test_filters_hold_together_and_pages_join(path: Path) -> None:
    async with opened(path) as store:
        labels = [{"team": "red"}, {"team": "blue"}, {"team": "red", 'odd "key"': "x:y"}]
        await insert(store, *[record(n, labels=labels[n % 3], environment="pe"[n % 2]) for n in range(12)])

        async def ids(before: int | None = None, limit: int = 100, **wanted: object) -> list[int]:
            rows = await store.list(ExecutionFilter(**wanted), before_seq=before, limit=limit)  # type: ignore[arg-type]
            return [int(row.id[5:]) for row in rows]

        assert await ids() == list(range(11, -1, -1))
        assert await ids(labels={"team": "red"}) == [11, 9, 8, 6, 5, 3, 2, 0]
        assert await ids(labels={'odd "key"': "x:y"}, environment="e") == [11, 5]
        assert await ids(labels={"team": "green"}) == []
        page = await store.list(ExecutionFilter(), before_seq=None, limit=5)
        assert await ids(before=page[-1].seq, limit=3) == [6, 5, 4]


async def test_an_end_is_written_and_survives(path: Path) -> None:
    async with opened(path) as store:
        await insert(store, record(1))
        store.end(record(1, status="failed", end_code="oom", end_reason="too much", ended_at=5.0))
        store.add_request(RequestRecord("r", "exec_1", "error", 1.0, 0.5, 1, "exception"))
    async with opened(path) as store:
        found = await store.get("exec_1")
        assert found is not None
        assert (found.status, found.end_code, found.ended_at) == ("failed", "oom", 5.0)
    with sqlite3.connect(path) as connection:
        rows = connection.execute("select id, execution_id, error_code from requests").fetchall()
    connection.close()
    assert rows == [("r", "exec_1", "exception")]


async def test_what_was_open_is_lost_after_a_restart_and_what_ended_stays(path: Path) -> None:
    async with opened(path) as store:
        await insert(store, record(1), record(2, status="terminated"))
        assert await store.mark_lost("gone") == 1
        assert await store.mark_lost("gone") == 0
        lost, ended = await store.get("exec_1"), await store.get("exec_2")
        assert lost is not None
        assert ended is not None
        assert (lost.status, lost.end_code, lost.end_reason) == ("lost", "lost", "gone")
        assert ended.status == "terminated"


async def test_old_rows_are_pruned_and_open_ones_are_not(path: Path) -> None:
    async with opened(path, rows_kept=10) as store:
        await insert(store, record(0))
        await insert(store, *[record(n, status="terminated") for n in range(1, 50)])
        store.add_request(RequestRecord("r", "exec_1", "success", 1.0, 0.5, 0, None))
        store.add_request(RequestRecord("r", "exec_49", "success", 1.0, 0.5, 0, None))
        await insert(store, *[record(n, status="terminated") for n in range(50, 500)])
        rows = await store.list(ExecutionFilter(), before_seq=None, limit=1000)
        assert [row.id for row in rows][-1] == "exec_0"
        assert len(rows) == 11


async def test_a_locked_database_is_said_within_the_deadline_and_recovers(path: Path) -> None:
    async with opened(path, deadline_s=0.5) as store:
        await insert(store, record(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            await insert(store, record(2))
        assert time.monotonic() - started < 2
        store.end(record(1, status="terminated", end_code="closed"))
        with pytest.raises(StorageUnavailableError):
            await store.get("exec_1")
        await anyio.sleep(2.2)  # past the busy timeout: what was posted has failed once
        other.execute("ROLLBACK")
        other.close()
        with anyio.fail_after(20):
            while True:
                try:
                    found = await store.get("exec_1")
                except StorageUnavailableError:
                    continue
                assert found is not None
                if found.status == "terminated":
                    return
                await anyio.sleep(0.05)


async def test_one_bad_operation_does_not_take_the_others_with_it(path: Path) -> None:
    async with opened(path) as store:
        await insert(store, record(1))
        good, bad, other = store.insert(record(2)), store.insert(record(1)), store.insert(record(3))
        await store.written(good)
        await store.written(other)
        with pytest.raises(StorageUnavailableError, match="UNIQUE"):
            await store.written(bad)


async def test_a_newer_schema_is_a_clear_error(path: Path) -> None:
    async with opened(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 6}")
    connection.close()
    with pytest.raises(StorageUnavailableError) as caught:
        async with opened(path):
            pass
    assert f"version {SCHEMA_VERSION + 6}" in caught.value.detail
    assert str(path) in caught.value.hint


async def test_a_file_that_is_no_database_is_a_clear_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StorageUnavailableError, match="not a database"):
        async with opened(path):
            pass


async def test_the_database_is_private(path: Path) -> None:
    async with opened(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cursor", ["", "x", "ZTE", "eA==", "é", "A" * 300])
async def test_only_our_cursors_are_taken(cursor: str) -> None:
    if cursor == "ZTE":
        assert decode_cursor(cursor) == 1
        return
    with pytest.raises(InvalidRequestError):
        decode_cursor(cursor)


async def test_cursors_come_back() -> None:
    assert [decode_cursor(encode_cursor(n)) for n in (0, 1, 123456789)] == [0, 1, 123456789]
