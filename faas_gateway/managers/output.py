"""The sink of one request: takes what the sandbox sends, checks and bounds it, and feeds the log and the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from faas_gateway.managers.eventlog import EventLog, LogFullError
from faas_gateway.managers.messages import MalformedError, check_message, clean_text, encode_json
from faas_gateway.managers.results import ResultBuilder, StreamName, cut_utf8, utf8_size
from faas_gateway.settings import MIB

#: Text of one `stream` event, characters: large enough to be cheap, small enough for a client to show at once.
EVENT_CHARS = 256 << 10


class Output:
    """Implements `backends.base.Sink`.

    Texts of one stream that arrive within one pass of the event loop become one event. Everything counts against
    the limit; what comes after it is dropped.

    Args:
        log: gets the events.
        result: gets the texts and outputs.
        limit_bytes: of texts and messages together.
        message_bytes: of one message.
        on_overflow: called once, with the reason, when collecting stopped.
    """

    def __init__(
        self,
        log: EventLog,
        result: ResultBuilder,
        *,
        limit_bytes: int,
        message_bytes: int,
        on_overflow: Callable[[str], None],
    ) -> None:
        self._log = log
        self._result = result
        self._limit = limit_bytes
        self._room = limit_bytes
        self._message_bytes = message_bytes
        self._on_overflow = on_overflow
        self._pending: list[str] = []
        self._pending_name: StreamName = "stdout"
        self._pending_chars = 0
        self._flush_handle: asyncio.Handle | None = None
        self._open = True

    def stream(self, name: Literal["stdout", "stderr"], text: str) -> None:
        if not self._open or not text:
            return
        if self._pending and name != self._pending_name:
            self.flush()
            if not self._open:
                return
        self._pending_name = name
        self._pending.append(text)
        self._pending_chars += len(text)
        if self._pending_chars >= EVENT_CHARS:
            self.flush()
        elif self._flush_handle is None:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush_later)

    def message(self, msg: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        if not self._open:
            return
        self.flush()
        if not self._open:
            return
        try:
            checked = check_message(msg, buffers, self._message_bytes)
        except MalformedError:
            self._result.dropped()
            return
        if checked is None:
            return
        if checked.msg_type == "stream":
            self.stream(checked.content["name"], checked.content["text"])
            return
        if len(checked.data) > self._room:
            self._stop(self._over_limit())
            return
        self._room -= len(checked.data)
        self._append(checked.msg_type, checked.data)
        if self._open:
            self._result.message(checked)

    def flush(self) -> None:
        """Turn the texts that wait into events now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._pending:
            return
        text, name = clean_text("".join(self._pending)), self._pending_name
        self._pending.clear()
        self._pending_chars = 0
        size = utf8_size(text)
        over = size > self._room
        if over:
            text = cut_utf8(text, self._room)
            size = self._room
        self._room -= size
        self._add_text(name, text)
        if over and self._open:
            self._stop(self._over_limit())

    def finish(self) -> None:
        """Flush, and take nothing more: what a sandbox sends after the end of a request belongs to nobody."""
        if self._open:
            self.flush()
        self._open = False

    def _flush_later(self) -> None:
        self._flush_handle = None
        if self._open:
            self.flush()

    def _add_text(self, name: StreamName, text: str, *, last: bool = False) -> None:
        for start in range(0, len(text), EVENT_CHARS):
            part = text[start : start + EVENT_CHARS]
            content = {"name": name, "text": part}
            event: dict[str, Any] = {"msg_type": "stream", "content": content, "metadata": {}, "buffers": []}
            if not self._append("stream", encode_json(event), last=last):
                return
            self._result.stream(name, part)

    def _append(self, event: str, data: bytes, *, last: bool = False) -> bool:
        try:
            self._log.append(event, data, last=last)
        except LogFullError as exc:
            self._stop(f"the gateway cannot store more output: {exc}")
            return False
        return True

    def _over_limit(self) -> str:
        return f"the output went over its limit of {self._limit // MIB} MiB (output_mb)"

    def _stop(self, reason: str) -> None:
        self._open = False
        self._result.lost = True
        self._add_text("stderr", f"\n[output stopped: {reason}]\n", last=True)
        self._on_overflow(reason)
