"""The sink of a request: coalescing, order, and the output limit."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.lowlevel
import orjson
import pytest
from faas._sse import ServerSentEvent, SSEParser

from faas_gateway.managers.eventlog import EventLog
from faas_gateway.managers.output import EVENT_CHARS, Output
from faas_gateway.managers.results import ResultBuilder

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Collected:
    log: EventLog
    result: ResultBuilder
    overflows: list[str] = field(default_factory=list)
    sink: Output = field(init=False)

    async def events(self) -> list[ServerSentEvent]:
        self.sink.finish()
        self.log.close()
        parser = SSEParser()
        return [event async for chunk in self.log.follow() for event in parser.feed(chunk)]

    async def streams(self) -> list[tuple[str, str]]:
        contents = [orjson.loads(e.data)["content"] for e in await self.events() if e.event == "stream"]
        return [(content["name"], content["text"]) for content in contents]


def collect(folder: str, limit_bytes: int = 1 << 20, log_bytes: int = 1 << 20) -> Collected:
    collected = Collected(
        EventLog(Path(folder, "spool"), log_bytes), ResultBuilder(text_bytes=1 << 20, outputs_bytes=1 << 20)
    )
    collected.sink = Output(
        collected.log,
        collected.result,
        limit_bytes=limit_bytes,
        message_bytes=1 << 20,
        on_overflow=collected.overflows.append,
    )
    return collected


@pytest.fixture
async def folder() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="faas-output-") as name:
        yield name


def clear() -> dict[str, Any]:
    return {"msg_type": "clear_output", "content": {"wait": False}, "metadata": {}}


async def test_texts_of_one_tick_become_one_event(folder: str) -> None:
    collected = collect(folder)
    for n in range(100):
        collected.sink.stream("stdout", f"{n}\n")
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    collected.sink.stream("stdout", "later")
    assert await collected.streams() == [("stdout", "".join(f"{n}\n" for n in range(100))), ("stdout", "later")]


async def test_order_between_streams_and_messages_is_kept(folder: str) -> None:
    collected = collect(folder)
    collected.sink.stream("stdout", "a")
    collected.sink.stream("stderr", "b")
    collected.sink.message(clear(), [])
    collected.sink.stream("stdout", "c")
    events = await collected.events()
    assert [e.event for e in events] == ["stream", "stream", "clear_output", "stream"]


async def test_a_stream_message_is_text_like_any_other(folder: str) -> None:
    collected = collect(folder)
    collected.sink.stream("stdout", "a")
    collected.sink.message({"msg_type": "stream", "content": {"name": "stdout", "text": "b"}}, [])
    collected.sink.finish()
    assert collected.result.stdout == "ab"


async def test_a_huge_text_becomes_several_events(folder: str) -> None:
    collected = collect(folder)
    collected.sink.stream("stdout", "x" * (EVENT_CHARS * 2 + 1))
    assert [len(text) for _, text in await collected.streams()] == [EVENT_CHARS, EVENT_CHARS, 1]


async def test_text_over_the_limit_is_cut_and_said_on_stderr(folder: str) -> None:
    collected = collect(folder, limit_bytes=10)
    collected.sink.stream("stdout", "12345")
    collected.sink.stream("stdout", "67890abcdef")
    collected.sink.stream("stdout", "never")
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    collected.sink.stream("stdout", "never")
    collected.sink.message(clear(), [])
    streams = await collected.streams()
    assert streams[0] == ("stdout", "1234567890")
    assert streams[1][0] == "stderr"
    assert "output_mb" in streams[1][1]
    assert len(streams) == 2
    assert collected.result.lost
    assert len(collected.overflows) == 1


async def test_a_message_over_the_limit_stops_the_output(folder: str) -> None:
    collected = collect(folder, limit_bytes=500)
    content = {"data": {"text/plain": "x" * 600}, "metadata": {}}
    collected.sink.message({"msg_type": "display_data", "content": content, "metadata": {}}, [])
    assert len(collected.overflows) == 1
    assert [name for name, _ in await collected.streams()] == ["stderr"]
    assert collected.result.outputs == []


async def test_a_full_disk_stops_the_output_and_says_so(folder: str) -> None:
    collected = collect(folder, log_bytes=200)
    Path(folder, "spool").write_bytes(b"")  # a file where the folder should be: nothing can be spooled
    for _ in range(3):
        collected.sink.stream("stdout", "x" * 150)
        collected.sink.flush()
    assert len(collected.overflows) == 1
    assert "cannot store" in (await collected.streams())[-1][1]


async def test_malformed_messages_are_noted_and_do_no_harm(folder: str) -> None:
    collected = collect(folder)
    collected.sink.message({"msg_type": "evil", "content": {}}, [])
    collected.sink.message("nothing", [])  # type: ignore[arg-type]
    collected.sink.stream("stdout", "fine")
    assert await collected.streams() == [("stdout", "fine")]
    assert collected.result.notes()[0].startswith("2 ")


async def test_what_comes_after_the_end_is_ignored(folder: str) -> None:
    collected = collect(folder)
    collected.sink.stream("stdout", "in time")
    collected.sink.finish()
    collected.sink.stream("stdout", "late")
    collected.sink.message(clear(), [])
    assert await collected.streams() == [("stdout", "in time")]
