"""Server-sent events of one answer."""

from __future__ import annotations

from faas._async.transport import StreamedResponse, Transport
from faas._calls import EVENTS, Call
from faas._sse import ServerSentEvent, SSEParser
from faas.errors import ConnectionLostError, ProtocolError

__all__ = ["EventSource"]


class EventSource:
    """An open stream of events. Close it."""

    def __init__(self, response: StreamedResponse) -> None:
        self._response = response
        self._parser = SSEParser()

    @classmethod
    async def open(cls, transport: Transport, call: Call, *, restart: bool = True) -> EventSource:
        """Send a call whose answer is a stream of events.

        Raises:
            APIError: the gateway answered with a problem.
            TransportError: it did not answer, or with something else.
        """
        response = await transport.open(call, restart=restart)
        if response.content_type != EVENTS:
            await response.aclose()
            raise ProtocolError(f"The gateway answered with {response.content_type or 'nothing'} in place of events")
        return cls(response)

    async def read(self) -> list[ServerSentEvent]:
        """Wait for events, one or more.

        Raises:
            ConnectionLostError: the stream ended; whether it should have, the caller knows from the events.
            TransportTimeoutError: there was not even a ping.
        """
        while True:
            piece = await self._response.read()
            if not piece:
                raise ConnectionLostError("The gateway's stream of events ended early")
            events = self._parser.feed(piece)
            if events:
                return events

    async def finish(self) -> None:
        """Close after the last event: reads the end of the stream, so that the connection stays usable."""
        try:
            while await self._response.read():
                pass
        finally:
            await self._response.aclose()

    async def aclose(self) -> None:
        """Drop the stream. Idempotent."""
        await self._response.aclose()
