"""Export and import: the file comes back as it was, and one that an enemy made is refused whole."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from faas.types import Resources, SnapshotUpdate
from hypothesis import given
from hypothesis import strategies as st
from snapshot_gateway import Opened, opened

from faas_gateway.backends.base import Ended, LayerRefused
from faas_gateway.errors import (
    DeadlineError,
    GatewayError,
    InvalidRequestError,
    NameTakenError,
    NotPortableError,
    TooLargeError,
    UnknownEnvironmentError,
)
from faas_gateway.managers.snapshot_file import LAYER, META, VARIABLES, FileReader
from faas_gateway.managers.snapshot_transfer import lower

pytestmark = pytest.mark.anyio


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as gateway:
        yield gateway


async def exported(live: Opened, snapshot: str) -> bytes:
    return b"".join([chunk async for chunk in await live.gateway.snapshots.export(snapshot)])


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def meta(**fields: Any) -> bytes:
    whole = {"format": 1, "id": "snap_x", "environment": "python", "version": "v", "language": "python", **fields}
    return json.dumps(whole).encode()


def packed(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def empty_layer() -> bytes:
    return packed()


async def test_it_comes_back_on_another_machine(live: Opened, tmp_path: Path) -> None:
    execution = await live.open(env_vars={"SECRET": "s3cret"})
    await live.run(execution, "set x 1\nwrite f.txt text\nopaque lock")
    first = await live.snapshot(execution, portable="now")
    await live.run(execution, "write f.txt newer")
    found = await live.snapshot(execution, name="mine", labels={"a": "b"})  # written when it is exported
    data = await exported(live, "mine")
    assert b"s3cret" not in data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["meta.json", "layer.tar", "variables.bin"]
    assert (await live.get(found.id)).forms == ["live", "portable"]
    assert first.id != found.id
    async with opened(tmp_path / "elsewhere") as other:
        imported = await other.gateway.snapshots.import_file("theirs", pieces(data))
        assert (imported.name, imported.forms, imported.labels) == ("theirs", ["portable"], {"a": "b"})
        assert [loss.name for loss in imported.excluded] == ["lock"]
        assert "SECRET" in " ".join(imported.notes)
        branch = other.execution(await other.restore("theirs"))
        assert await other.run(branch, "show x\ncat f.txt\nenv SECRET") == "1\nnewer"
        again = await other.gateway.snapshots.import_file(None, pieces(data, 7))
        await other.gateway.snapshots.delete(imported.id)
        assert await other.run(other.execution(await other.restore(again.id)), "show x") == "1"
        await other.gateway.snapshots.update(again.id, SnapshotUpdate(name="x"))
        with pytest.raises(NameTakenError):
            await other.gateway.snapshots.import_file("x", pieces(data))
    async with opened(tmp_path / "elsewhere") as other:
        assert (await other.get(again.id)).forms == ["portable"]


async def test_a_shell_session_travels_too(live: Opened, tmp_path: Path) -> None:
    execution = await live.open(environment="alpine-fast")
    await live.run(execution, "write f.txt text")
    data = await exported(live, (await live.snapshot(execution)).id)
    async with opened(tmp_path / "elsewhere") as other:
        imported = await other.gateway.snapshots.import_file(None, pieces(data))
        assert await other.run(other.execution(await other.restore(imported.id)), "cat f.txt") == "text"


async def test_deleting_while_it_is_exported_does_not_break_the_file(live: Opened, tmp_path: Path) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    found = await live.snapshot(execution, portable="now")
    chunks = await live.gateway.snapshots.export(found.id)
    data = await anext(chunks)
    await live.gateway.snapshots.delete(found.id)
    data += b"".join([chunk async for chunk in chunks])
    async with opened(tmp_path / "elsewhere") as other:
        assert (await other.gateway.snapshots.import_file(None, pieces(data))).forms == ["portable"]


async def test_what_cannot_be_made_portable_cannot_be_exported(live: Opened) -> None:
    found = await live.snapshot(await live.open())
    live.backend.faults.disk_full = True
    with pytest.raises(NotPortableError, match="disk of the gateway is full"):
        await exported(live, found.id)


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", InvalidRequestError, "not whole"),
        (b"x" * 2000, InvalidRequestError, "not the file of a snapshot"),
        (packed((LAYER, b"")), InvalidRequestError, "meta.json at this place"),
        (packed(("../../etc/passwd", b"x")), InvalidRequestError, "meta.json at this place"),
        (packed((META, b""), kind=tarfile.SYMTYPE), InvalidRequestError, "meta.json at this place"),
        (packed((META, b"{}")), InvalidRequestError, "id: "),
        (packed((META, b"not json")), InvalidRequestError, "meta.json"),
        (packed((META, meta(format=2))), InvalidRequestError, "format 2"),
        (packed((META, meta(environment="../x"))), InvalidRequestError, "environment"),
        (packed((META, meta(environment="nowhere"))), UnknownEnvironmentError, "nowhere"),
        (packed((META, meta(environment="alpine-fast"))), InvalidRequestError, "language"),
        (packed((META, meta(resources={"memory_mb": -1}))), InvalidRequestError, "memory_mb"),
        (packed((META, b" " * (5 << 20))), TooLargeError, "4 MiB"),
        (packed((META, meta()), (VARIABLES, b"")), InvalidRequestError, "layer.tar at this place"),
        (packed((META, meta()), (LAYER, b"x" * 5000))[:4000], InvalidRequestError, "not whole"),
        (packed((META, meta()), (LAYER, b"x" * 5000), (VARIABLES, b"")), LayerRefused, "layer cannot be read"),
    ],
)
async def test_a_hostile_file_is_refused_and_leaves_nothing(
    live: Opened, data: bytes, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        await live.gateway.snapshots.import_file("n", pieces(data))
    assert said in str(caught.value)
    assert not list(live.gateway.settings.snapshots_dir.glob("*"))
    assert not live.backend.home.kept_names()
    good = packed((META, meta()), (LAYER, empty_layer()), (VARIABLES, b"{}"))
    assert (await live.gateway.snapshots.import_file("n", pieces(good))).name == "n"


async def test_a_file_larger_than_it_may_be_and_one_that_stalls_are_refused(tmp_path: Path) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield packed((META, meta()))[:600]
        await anyio.sleep(20)

    async with opened(tmp_path, import_bytes=4096, body_stall_s=0.1) as live:
        with pytest.raises(TooLargeError):
            await live.gateway.snapshots.import_file(None, pieces(packed((META, meta()), (LAYER, b"x" * 9000))))
        with anyio.fail_after(3), pytest.raises(DeadlineError, match="stopped coming"):
            await live.gateway.snapshots.import_file(None, stalling())
        assert not list(live.gateway.settings.snapshots_dir.glob("*"))


async def test_a_client_that_leaves_while_it_sends_leaves_nothing(live: Opened) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield packed((META, meta()), (LAYER, b"x" * 5000))[:3000]
        await anyio.sleep(20)

    with anyio.move_on_after(0.1) as scope:
        await live.gateway.snapshots.import_file("n", slow())
    assert scope.cancelled_caught
    assert not list(live.gateway.settings.snapshots_dir.glob("*"))


def test_limits_of_a_file_are_never_above_the_environments() -> None:
    lowered = lower(Resources(memory_mb=1 << 20, pids=8, timeout_s=5), Resources(memory_mb=100, pids=64, disk_mb=7))
    assert (lowered.memory_mb, lowered.pids, lowered.disk_mb, lowered.timeout_s) == (100, 8, 7, 5)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_no_bytes_make_the_reader_fail_otherwise_than_with_an_error_of_ours(data: bytes, size: int) -> None:
    async def read() -> None:
        reader = FileReader(pieces(packed((META, meta()))[:512] + data, size), 1, 1 << 20)
        await reader.read_meta()
        await reader.read_into(LAYER, -1)

    with pytest.raises(GatewayError):
        anyio.run(read)


async def test_an_import_outlives_what_it_was_made_of(live: Opened) -> None:
    execution = await live.open()
    await live.run(execution, "set x 1")
    found = await live.snapshot(execution)
    data = await exported(live, found.id)
    await execution.end(Ended("closed", "done"))
    await live.gateway.snapshots.delete(found.id)
    imported = await live.gateway.snapshots.import_file(None, pieces(data))
    assert await live.run(live.execution(await live.restore(imported.id)), "show x") == "1"
