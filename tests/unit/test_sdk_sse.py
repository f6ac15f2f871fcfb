"""The parser of server-sent events."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import pytest
from faas._events import output_event
from faas._sse import ServerSentEvent, SSEParser
from faas.errors import ProtocolError
from hypothesis import given
from hypothesis import strategies as st

STREAM = (
    ": ping\n\n"
    'event: stream\nid: 1\ndata: {"a":\ndata: "ä€😀"}\n\n'
    "\n\n"
    "data:no space\n\n"
    "event: empty\n\n"
    "id: 7\nevent\ndata\nretry: 5\nunknown: x\n\n"
    "event: result\ndata: : \n\n"
)
EVENTS = [
    ServerSentEvent("stream", '{"a":\n"ä€😀"}'.encode(), "1"),
    ServerSentEvent("message", b"no space", ""),
    ServerSentEvent("message", b"", "7"),
    ServerSentEvent("result", b": ", ""),
]


def parse(pieces: list[bytes]) -> list[ServerSentEvent]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_pieces_of_any_size_and_every_line_end_give_the_same_events(newline: str, size: int):
    data = STREAM.replace("\n", newline).encode()
    assert parse([data[start : start + size] for start in range(0, len(data), size)]) == EVENTS


@given(
    cuts=st.lists(st.integers(0, len(STREAM.encode()))), newlines=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=1)
)
def test_cuts_anywhere_and_mixed_line_ends_change_nothing(cuts: list[int], newlines: list[str]):
    lines = STREAM.split("\n")
    text = lines[0] + "".join(newlines[i % len(newlines)] + line for i, line in enumerate(lines[1:]))
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert parse([data[a:b] for a, b in itertools.pairwise(edges)]) == EVENTS


def test_byte_order_mark_at_the_start_is_skipped():
    assert parse([b"\xef\xbb\xbfdata: x\n\n"]) == [ServerSentEvent("message", b"x", "")]


def test_event_that_never_ends_is_refused_at_the_limit():
    parser = SSEParser(max_event_bytes=1 << 20)
    for _ in range(16):
        parser.feed(b"x" * 65536)
    with pytest.raises(ProtocolError, match="more than 1 MiB"):
        parser.feed(b"x")


def test_id_with_a_nul_is_ignored():
    assert parse([b"id: 4\0\ndata: x\n\n"])[0].id == ""


def output(megabytes: int) -> bytes:
    text = ("x" * 99 + "\\n") * 655
    data = (
        f'data: {{"msg_type":"stream","content":{{"name":"stdout","text":"{text}"}},"metadata":{{}},"buffers":[]}}\n\n'
    )
    return b"".join(f"event: stream\nid: {n}\n{data}".encode() for n in range(megabytes * 15))


def test_parses_output_faster_than_100_mb_per_second():
    data = output(20)
    best = 0.0
    for _ in range(5):
        parser = SSEParser()
        started = time.process_time()
        for start in range(0, len(data), 65536):
            for event in parser.feed(data[start : start + 65536]):
                output_event(event)
        best = max(best, len(data) / (time.process_time() - started) / 1e6)
    assert best > 100, f"{best:.0f} MB/s"


def test_holds_no_more_than_the_current_event():
    data = output(20)
    parser = SSEParser()
    tracemalloc.start()
    try:
        for start in range(0, len(data), 65536):
            for event in parser.feed(data[start : start + 65536]):
                output_event(event)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_message_has_its_buffers_as_bytes():
    data = b'{"msg_type":"comm_msg","content":{"a":1},"metadata":{"b":2},"buffers":["AAEC","/w=="]}'
    event = output_event(ServerSentEvent("comm_msg", data, "5"))
    assert (event.id, event.msg_type, event.content, event.metadata) == (5, "comm_msg", {"a": 1}, {"b": 2})
    assert event.buffers == [b"\0\1\2", b"\xff"]
    assert event.text == ""


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b'{"msg_type":"x","buffers":["?"]}', b"null"])
def test_event_that_is_no_message_is_a_protocol_error(data: bytes):
    with pytest.raises(ProtocolError, match="not a message"):
        output_event(ServerSentEvent("stream", data, "5"))
    with pytest.raises(ProtocolError, match="not a message"):
        output_event(ServerSentEvent("stream", b'{"msg_type":"stream"}', "no number"))
