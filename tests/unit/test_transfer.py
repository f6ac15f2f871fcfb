"""Bytes between a pipe and a file: whole, bounded, and never waited for without end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from faas_gateway.backends.native.transfer import TransferStalled, TransferTooLarge, receive, send

pytestmark = pytest.mark.anyio


class Pipe:
    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}
        self._threads: list[threading.Thread] = []

    def close(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    def writes(self, *pieces: bytes, pause_s: float = 0.0, ends: bool = True) -> None:
        def work() -> None:
            try:
                for piece in pieces:
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(self.write, view) :]
                    time.sleep(pause_s)
            except BrokenPipeError:
                pass
            if ends:
                self.close(self.write)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def end(self) -> None:
        self.close(self.read) if self.read in self._open else None
        for thread in self._threads:
            thread.join(10)
        for fd in list(self._open):
            self.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.end()


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_001])
async def test_a_pipe_into_a_file(pipe: Pipe, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    pipe.writes(data)
    with (tmp_path / "f").open("wb") as f:
        assert await receive(pipe.read, f.fileno(), size) == size
    assert (tmp_path / "f").read_bytes() == data


async def test_a_byte_too_many_is_noticed(pipe: Pipe, tmp_path: Path) -> None:
    pipe.writes(bytes(100_001))
    with (tmp_path / "f").open("wb") as f, pytest.raises(TransferTooLarge):
        await receive(pipe.read, f.fileno(), 100_000)
    assert (tmp_path / "f").stat().st_size <= 100_001


async def test_silence_ends_it(pipe: Pipe, tmp_path: Path) -> None:
    pipe.writes(b"x", ends=False)
    with (tmp_path / "f").open("wb") as f, pytest.raises(TransferStalled, match="nothing moved"):
        await receive(pipe.read, f.fileno(), 100, silence_s=0.3)


async def test_a_trickle_ends_too(pipe: Pipe, tmp_path: Path) -> None:
    pipe.writes(*[b"x"] * 50, pause_s=0.05)
    with (tmp_path / "f").open("wb") as f, pytest.raises(TransferStalled, match="in all"):
        await receive(pipe.read, f.fileno(), 100, silence_s=5, total_s=0.5)


async def test_cancelling_takes_effect_at_once_and_leaves_no_thread_at_the_descriptors(
    pipe: Pipe, tmp_path: Path
) -> None:
    before = threading.active_count()
    with (tmp_path / "f").open("wb") as f:
        start = time.monotonic()
        with anyio.move_on_after(0.2) as scope:
            await receive(pipe.read, f.fileno(), 100)
        assert scope.cancelled_caught
        assert time.monotonic() - start < 2
        os.write(pipe.write, b"late")
        await anyio.sleep(0.1)
        assert os.read(pipe.read, 10) == b"late"  # nobody else has taken it
    assert threading.active_count() <= before + 1


async def test_a_file_into_a_pipe(pipe: Pipe, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(data)
    found = bytearray()

    def reader() -> None:
        while piece := os.read(pipe.read, 100_000):
            found.extend(piece)

    thread = threading.Thread(target=reader)
    thread.start()
    with (tmp_path / "f").open("rb") as f:
        assert await send(f.fileno(), pipe.write, offset=1000) == len(data) - 1000
    pipe.close(pipe.write)
    thread.join(10)
    assert found == data[1000:]


async def test_a_reader_that_takes_nothing_is_not_waited_for(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1_000_000))
    with (tmp_path / "f").open("rb") as f, pytest.raises(TransferStalled):
        await send(f.fileno(), pipe.write, silence_s=0.3)


async def test_a_reader_that_is_gone_is_noticed(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1_000_000))
    pipe.close(pipe.read)
    with (tmp_path / "f").open("rb") as f, pytest.raises(BrokenPipeError):
        await send(f.fileno(), pipe.write)


async def test_a_reader_that_goes_once_it_has_all_is_no_error(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"all")
    pipe.close(pipe.read)
    with (tmp_path / "f").open("rb") as f:
        assert await send(f.fileno(), pipe.write, offset=3) == 0


async def test_a_full_disk_is_an_error_of_the_disk(pipe: Pipe) -> None:
    pipe.writes(bytes(100_000))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match=r"No space left|Invalid argument"):
            await receive(pipe.read, full, 1_000_000)
    finally:
        os.close(full)
