"""Environments: named recipes for sandboxes."""

from __future__ import annotations

from faas import _calls
from faas._async.transport import Transport
from faas.types import Environment, EnvironmentPage

__all__ = ["EnvironmentManager"]


class EnvironmentManager:
    """`client.environments`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> list[Environment]:
        """Return all environments that the gateway offers."""
        found: list[Environment] = []
        cursor: str | None = None
        while True:
            call = _calls.list_environments(cursor)
            page = _calls.parse(EnvironmentPage, await self._transport.request(call))
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                return found

    async def get(self, name: str) -> Environment:
        """Return one environment.

        Raises:
            UnknownEnvironmentError: there is none of that name.
        """
        return _calls.parse(Environment, await self._transport.request(_calls.get_environment(name)))
