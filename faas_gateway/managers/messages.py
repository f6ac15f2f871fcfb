"""Jupyter messages from a guest, checked before they go anywhere. A guest is hostile: nothing of it is believed.

What passes is forwarded as it is, never evaluated. What does not is dropped, and its request's result says so.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

FORWARDED = frozenset(
    {
        "stream",
        "display_data",
        "execute_result",
        "update_display_data",
        "clear_output",
        "error",
        "comm_open",
        "comm_msg",
        "comm_close",
    }
)
#: Part of the protocol, but of no use to a client that asked for one request's output.
IGNORED = frozenset({"status", "execute_input", "execute_reply"})

MAX_DEPTH = 100
MAX_BUFFERS = 1024


class MalformedError(Exception):
    """Not a message that a guest of ours would send."""


@dataclass(frozen=True, slots=True)
class Message:
    """A checked message and its encoding as the data of an event."""

    msg_type: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    data: bytes


def encode_json(value: Any) -> bytes:
    """JSON without line breaks; for values of our own making."""
    return orjson.dumps(value)


def clean_text(text: str) -> str:
    """The text with what UTF-8 cannot carry (lone surrogates) replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def clean(value: Any, depth: int = 0) -> Any:
    """A copy made of plain JSON values only.

    Raises:
        MalformedError: it is nested too deep, or holds something that is not JSON.
    """
    if depth > MAX_DEPTH:
        raise MalformedError("nested too deep")
    match value:
        case None | bool() | int():
            return value
        case str():
            return clean_text(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            items = cast("dict[Any, Any]", value).items()
            return {clean_text(k if isinstance(k, str) else str(k)): clean(v, depth + 1) for k, v in items}
        case list() | tuple():
            return [clean(v, depth + 1) for v in cast("Sequence[Any]", value)]
        case _:
            raise MalformedError(f"{type(cast(object, value)).__name__} is not JSON")


def check_message(msg: Mapping[str, Any], buffers: Sequence[bytes], max_bytes: int) -> Message | None:
    """Check one message and encode it.

    Args:
        msg: msg_type, content, metadata, as the guest sent them.
        buffers: its binary buffers.
        max_bytes: of the encoding and the buffers together.

    Returns:
        The message, or None for one that is fine but not forwarded.

    Raises:
        MalformedError: drop it.
    """
    if not isinstance(cast(object, msg), Mapping):
        raise MalformedError("not an object")
    msg_type = msg.get("msg_type")
    if isinstance(msg_type, str) and msg_type in IGNORED:
        return None
    if not isinstance(msg_type, str) or msg_type not in FORWARDED:
        raise MalformedError("unknown msg_type")
    content: Any = msg.get("content")
    metadata: Any = msg.get("metadata") or {}
    if not isinstance(content, dict) or not isinstance(metadata, dict):
        raise MalformedError("content or metadata is not an object")
    content, metadata = cast("dict[str, Any]", content), cast("dict[str, Any]", metadata)
    _check_content(msg_type, content)
    if len(buffers) > MAX_BUFFERS or sum(map(len, buffers)) > max_bytes:
        raise MalformedError("buffers too large")
    encoded = [base64.b64encode(b).decode("ascii") for b in buffers]
    try:
        data = orjson.dumps({"msg_type": msg_type, "content": content, "metadata": metadata, "buffers": encoded})
    except (TypeError, RecursionError):
        # What orjson refuses: lone surrogates, integers beyond 64 bits, keys that are no text, great depth.
        content, metadata = clean(content), clean(metadata)
        whole = {"msg_type": msg_type, "content": content, "metadata": metadata, "buffers": encoded}
        data = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > max_bytes:
        raise MalformedError("message too large")
    return Message(msg_type, content, metadata, data)


def _check_content(msg_type: str, content: dict[str, Any]) -> None:
    if msg_type in ("display_data", "execute_result", "update_display_data"):
        if not isinstance(content.get("data"), dict) or not isinstance(content.get("metadata", {}), dict):
            raise MalformedError("no mime bundle")
        if not isinstance(content.get("transient") or {}, dict):
            raise MalformedError("transient is not an object")
    elif msg_type == "stream" and (
        content.get("name") not in ("stdout", "stderr") or not isinstance(content.get("text"), str)
    ):
        raise MalformedError("no stream text")
