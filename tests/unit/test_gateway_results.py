"""What a request leaves behind: nbformat's meaning of outputs, bounds, and messages that are not to be believed."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from faas.types import ExecutionResult

from faas_gateway.managers.messages import MalformedError, Message, check_message, clean_text
from faas_gateway.managers.results import ResultBuilder

MIB = 1 << 20


def check(msg: Any, buffers: list[bytes] | None = None, max_bytes: int = MIB) -> Message | None:
    return check_message(msg, buffers or [], max_bytes)


def display(text: str, display_id: str | None = None, msg_type: str = "display_data", **content: Any) -> Message:
    transient = {"display_id": display_id} if display_id else {}
    message = check(
        {
            "msg_type": msg_type,
            "content": {"data": {"text/plain": text}, "metadata": {}, "transient": transient, **content},
            "metadata": {},
        }
    )
    assert message is not None
    return message


def clear(wait: bool) -> Message:
    message = check({"msg_type": "clear_output", "content": {"wait": wait}, "metadata": {}})
    assert message is not None
    return message


def builder(text_bytes: int = 1000, outputs_bytes: int = 10_000) -> ResultBuilder:
    return ResultBuilder(text_bytes=text_bytes, outputs_bytes=outputs_bytes)


def texts(built: ResultBuilder) -> list[str]:
    return [output["data"]["text/plain"] for output in built.outputs]


def test_displays_and_results_come_in_order_as_nbformat_has_them() -> None:
    built = builder()
    built.message(display("a"))
    built.message(display("b", msg_type="execute_result", execution_count=7))
    assert built.outputs == [
        {"output_type": "display_data", "data": {"text/plain": "a"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": "b"}, "metadata": {}, "execution_count": 7},
    ]


def test_an_update_changes_every_output_of_its_display_id_and_adds_none() -> None:
    built = builder()
    for message in (display("one", "x"), display("two"), display("three", "x")):
        built.message(message)
    built.message(display("new", "x", "update_display_data"))
    built.message(display("nobody", "unknown", "update_display_data"))
    assert texts(built) == ["new", "two", "new"]


def test_clear_output_removes_outputs_but_not_texts() -> None:
    built = builder()
    built.stream("stdout", "kept")
    built.message(display("gone", "x"))
    built.message(clear(wait=False))
    built.message(display("gone too", "x", "update_display_data"))
    assert built.outputs == []
    assert built.stdout == "kept"


def test_clear_output_with_wait_happens_at_the_next_output() -> None:
    built = builder()
    built.message(display("old"))
    built.message(clear(wait=True))
    assert texts(built) == ["old"]
    built.message(display("new"))
    built.message(display("newer"))
    assert texts(built) == ["new", "newer"]


def test_text_beyond_the_bound_is_cut_at_a_character() -> None:
    built = builder(text_bytes=5)
    built.stream("stdout", "aé")
    built.stream("stdout", "éé")
    built.stream("stdout", "x")
    built.stream("stderr", "fits")
    assert built.stdout == "aéé"
    assert built.stderr == "fits"
    assert built.truncated


def test_outputs_beyond_the_bound_are_left_out() -> None:
    built = builder(outputs_bytes=500)
    built.message(display("small", "x"))
    built.message(display("y" * 600))
    built.message(display("y" * 600, "x", "update_display_data"))
    assert texts(built) == ["small"]
    assert built.truncated


def test_dropped_messages_are_counted_in_one_note() -> None:
    built = builder()
    assert built.notes() == []
    built.dropped()
    built.dropped()
    assert len(built.notes()) == 1
    assert built.notes()[0].startswith("2 ")


@pytest.mark.parametrize(
    "msg",
    [
        None,
        [],
        "text",
        {},
        {"msg_type": None, "content": {}},
        {"msg_type": ["stream"], "content": {}},
        {"msg_type": "shutdown_request", "content": {}},
        {"msg_type": "display_data"},
        {"msg_type": "display_data", "content": None},
        {"msg_type": "display_data", "content": {"data": "no bundle"}},
        {"msg_type": "display_data", "content": {"data": {}, "metadata": 3}},
        {"msg_type": "display_data", "content": {"data": {}, "transient": 3}},
        {"msg_type": "display_data", "content": {"data": {}}, "metadata": [1]},
        {"msg_type": "stream", "content": {"name": "stdlog", "text": "x"}},
        {"msg_type": "stream", "content": {"name": "stdout", "text": 3}},
        {"msg_type": "comm_msg", "content": {"data": {"x": object()}}},
    ],
)
def test_a_malformed_message_is_refused(msg: Any) -> None:
    with pytest.raises(MalformedError):
        check(msg)


def test_a_message_nested_without_end_is_refused() -> None:
    nested: Any = 1
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(MalformedError):
        check({"msg_type": "comm_msg", "content": {"data": nested}})


def test_a_message_larger_than_the_bound_is_refused() -> None:
    with pytest.raises(MalformedError):
        check({"msg_type": "comm_msg", "content": {"data": "x" * 2000}}, max_bytes=1000)
    with pytest.raises(MalformedError):
        check({"msg_type": "comm_msg", "content": {}}, [b"x" * 600, b"x" * 600], max_bytes=1000)
    with pytest.raises(MalformedError):
        check({"msg_type": "comm_msg", "content": {}}, [b""] * 2000)


@pytest.mark.parametrize("msg_type", ["status", "execute_input"])
def test_messages_of_no_use_are_left_out_without_a_note(msg_type: str) -> None:
    assert check({"msg_type": msg_type, "content": {}}) is None


def test_buffers_travel_as_base64() -> None:
    message = check({"msg_type": "comm_msg", "content": {"comm_id": "c"}}, [b"\x00\xff"])
    assert message is not None
    assert orjson.loads(message.data)["buffers"] == ["AP8="]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\ud800b", "a???b"),
        (2**70, 2**70),
        ({1: "x"}, {"1": "x"}),
        (float("nan"), None),
        ((1, 2), [1, 2]),
    ],
)
def test_what_json_cannot_carry_is_made_plain(value: Any, expected: Any) -> None:
    message = check({"msg_type": "display_data", "content": {"data": {"x": value}}})
    assert message is not None
    decoded = json.loads(message.data)["content"]["data"]["x"]
    assert decoded == expected or (isinstance(value, str) and decoded == clean_text(value))
    assert b"\n" not in message.data
    built = builder()
    built.message(message)
    result = ExecutionResult(request_id="r", execution_id="e", status="success", outputs=built.outputs)
    json.loads(result.model_dump_json())


def test_clean_text_replaces_only_what_utf8_cannot_carry() -> None:
    assert clean_text("plain") == "plain"
    assert clean_text("é😀") == "é😀"
    clean_text("a\ud800b").encode()
