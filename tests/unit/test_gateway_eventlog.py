"""The event log: every reader gets every event once, in order, from any position."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import anyio
import anyio.lowlevel
import pytest
from faas._sse import SSEParser
from hypothesis import given, settings
from hypothesis import strategies as st

from faas_gateway.managers.eventlog import BadPositionError, EventLog, LogFullError

EVENT = re.compile(rb"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n")


@pytest.fixture
def spool() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faas-log-") as folder:
        yield Path(folder)


class MakeLog(Protocol):
    def __call__(self, folder: Path, memory_bytes: int = ..., *, chunk_bytes: int = ...) -> EventLog: ...


@pytest.fixture
def make_log() -> Iterator[MakeLog]:
    """Makes logs that are discarded at the end of the test."""
    made: list[EventLog] = []

    def make(folder: Path, memory_bytes: int = 256 << 10, *, chunk_bytes: int = 256 << 10) -> EventLog:
        made.append(EventLog(folder, memory_bytes, chunk_bytes=chunk_bytes))
        return made[-1]

    yield make
    for log in made:
        log.discard()


def read_all(log: EventLog, after: int = 0) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in log.follow(after)])

    return anyio.run(read)


async def reader(log: EventLog, breaks: list[int], chunks_before_start: int) -> list[tuple[int, bytes, bytes]]:
    """Follow a log as a client with a bad line does: drop the connection now and then, go on after the last event."""
    for _ in range(chunks_before_start):
        await anyio.lowlevel.checkpoint()
    seen: list[tuple[int, bytes, bytes]] = []
    last = 0
    for chunks_until_break in [*breaks, 10**9]:
        parser = SSEParser()
        stream = log.follow(last)
        async for chunk in stream:
            for sse in parser.feed(chunk):
                last = int(sse.id)
                seen.append((last, sse.event.encode(), sse.data))
            chunks_until_break -= 1
            if chunks_until_break < 0:
                break
        else:
            return seen
        await stream.aclose()
    raise AssertionError("unreachable")


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from(["stream", "error"]), st.integers(0, 300), st.booleans()), max_size=25),
    readers=st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 30)), min_size=1, max_size=3),
    memory_bytes=st.sampled_from([1, 200, 1 << 20]),
    chunk_bytes=st.sampled_from([7, 150, 1 << 16]),
)
def test_every_reader_gets_every_event_once_in_order(
    events: list[tuple[str, int, bool]],
    readers: list[tuple[list[int], int]],
    memory_bytes: int,
    chunk_bytes: int,
) -> None:
    async def main(folder: str) -> None:
        log = EventLog(Path(folder), memory_bytes, chunk_bytes=chunk_bytes)
        written: list[tuple[int, bytes, bytes]] = []
        results: list[list[tuple[int, bytes, bytes]]] = []

        async def read(breaks: list[int], delay: int) -> None:
            results.append(await reader(log, breaks, delay))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for breaks, delay in readers:
                    group.start_soon(read, breaks, delay)
                for name, size, pause in events:
                    data = b"x" * size
                    written.append((log.append(name, data), name.encode(), data))
                    if pause:
                        await anyio.lowlevel.checkpoint()
                log.close()
        assert results == [written] * len(readers)
        log.discard()

    with tempfile.TemporaryDirectory(prefix="faas-log-") as folder:
        anyio.run(main, folder)
        assert os.listdir(folder) == []


def open_files() -> list[str]:
    return [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


def test_ids_are_the_positions_of_the_ends(spool: Path, make_log: MakeLog) -> None:
    log = make_log(spool)
    ids = [log.append("stream", b"x" * size) for size in range(120)]
    log.close()
    text = read_all(log)
    ends = [(int(m.group(1)), m.end()) for m in EVENT.finditer(text)]
    assert ends == [(i, i) for i in ids]


@pytest.mark.parametrize("size", [55, 56, 57, 58, 60, 955, 960, 963, 964, 965, 9960, 9963, 9964, 9965])
def test_an_id_that_gains_a_digit_is_still_the_end(spool: Path, make_log: MakeLog, size: int) -> None:
    log = make_log(spool)
    end = log.append("a", b"x" * size)
    log.close()
    assert end == len(read_all(log)) == log.size


def test_resuming_after_an_event_gives_what_follows(spool: Path, make_log: MakeLog) -> None:
    log = make_log(spool, memory_bytes=100)
    ids = [log.append("stream", b'{"n":%d}' % n) for n in range(50)]
    log.close()
    rest = read_all(log, ids[30])
    assert [m.group(3) for m in EVENT.finditer(rest)] == [b'{"n":%d}' % n for n in range(31, 50)]
    assert read_all(log, ids[-1]) == b""


@pytest.mark.parametrize("offset", [-1, 1, -2, 5])
def test_a_position_inside_an_event_is_refused(spool: Path, make_log: MakeLog, offset: int) -> None:
    log = make_log(spool, memory_bytes=100)
    ids = [log.append("stream", b"x" * 40) for _ in range(5)]
    with pytest.raises(BadPositionError):
        log.check(ids[2] + offset)


def test_a_position_beyond_the_end_is_refused(spool: Path, make_log: MakeLog) -> None:
    log = make_log(spool)
    end = log.append("stream", b"x")
    for position in (end + 1, 10**18, -5, 1):
        with pytest.raises(BadPositionError):
            log.check(position)


def test_a_large_log_goes_to_a_file_that_has_no_name(spool: Path, make_log: MakeLog) -> None:
    log = make_log(spool, memory_bytes=1000)
    for _ in range(100):
        log.append("stream", b"y" * 500)
    assert any(str(spool) in target for target in open_files())
    assert os.listdir(spool) == []
    log.discard()
    assert not any(str(spool) in target for target in open_files())


def test_a_reader_of_a_discarded_log_reads_on_to_the_end(spool: Path, make_log: MakeLog) -> None:
    async def main() -> None:
        log = make_log(spool, memory_bytes=100, chunk_bytes=64)
        for _ in range(20):
            log.append("stream", b"z" * 50)
        size = log.size
        stream = log.follow()
        first = await anext(stream)
        log.discard()
        rest = b"".join([chunk async for chunk in stream])
        assert len(first) + len(rest) == size

    anyio.run(main)


def test_silence_yields_an_empty_chunk(spool: Path, make_log: MakeLog) -> None:
    async def main() -> None:
        log = make_log(spool)
        log.append("stream", b"x")
        stream = log.follow(silence_s=0.01)
        assert await anext(stream) != b""
        assert await anext(stream) == b""
        log.close()
        assert [chunk async for chunk in stream] == []

    anyio.run(main)


def test_a_spool_folder_that_cannot_be_made_is_a_full_log_which_still_takes_its_end(
    spool: Path, make_log: MakeLog
) -> None:
    blocked = spool / "file"
    blocked.write_bytes(b"")
    log = make_log(blocked / "folder", memory_bytes=100)
    log.append("stream", b"x" * 60)
    with pytest.raises(LogFullError):
        log.append("stream", b"x" * 60)
    log.append("result", b"{}", last=True)
    log.close()
    assert [m.group(2) for m in EVENT.finditer(read_all(log))] == [b"stream", b"result"]


def test_a_closed_log_takes_nothing(spool: Path, make_log: MakeLog) -> None:
    log = make_log(spool)
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append("stream", b"x")
