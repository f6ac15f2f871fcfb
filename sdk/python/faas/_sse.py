"""Server-sent events from bytes: a parser without I/O, fast enough for output by the megabyte.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NamedTuple

from faas.errors import ProtocolError

__all__ = ["SSEParser", "ServerSentEvent"]

MAX_EVENT_BYTES = 256 << 20


class ServerSentEvent(NamedTuple):
    event: str
    data: bytes
    id: str


class SSEParser:
    """Feed it the body in pieces of any size; it gives the events that became whole.

    It holds no more than the event that is not whole yet, and refuses one of more than `max_event_bytes`.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._skip_lf = False
        self._at_start = True

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next piece and return the events that it completes.

        Raises:
            ProtocolError: one event is larger than the limit.
        """
        if self._skip_lf or b"\r" in data:
            data = self._only_lf(data)
        buffer = self._buffer
        # The blank line that ends an event may begin with the last byte of the piece before.
        scan = max(0, len(buffer) - 1)
        buffer += data
        events: list[ServerSentEvent] = []
        start = 0
        while (end := buffer.find(b"\n\n", scan)) >= 0:
            event = self._event(bytes(buffer[start:end]))
            if event is not None:
                events.append(event)
            # The second newline stays: it may be the first of another blank line, and alone it means nothing.
            start = scan = end + 1
        if start:
            del buffer[:start]
        if len(buffer) > self._max:
            raise ProtocolError(f"The gateway sent an event of more than {self._max >> 20} MiB")
        return events

    def _only_lf(self, data: bytes) -> bytes:
        """CR, LF and CRLF all end a line; a CRLF may be cut in two by the end of a piece."""
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
            self._skip_lf = False
        if data:
            self._skip_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event(self, block: bytes) -> ServerSentEvent | None:
        if self._at_start:
            self._at_start = False
            block = block.removeprefix(b"\xef\xbb\xbf")
        name = b"message"
        event_id = b""
        data: list[bytes] = []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value or b"message"
            elif field == b"id" and b"\0" not in value:
                event_id = value
        if not data:
            return None
        body = data[0] if len(data) == 1 else b"\n".join(data)
        return ServerSentEvent(name.decode(errors="replace"), body, event_id.decode(errors="replace"))
