"""Ids, names and room for executions: taken before there is an execution, given back when none comes about."""

from __future__ import annotations

import anyio

from faas_gateway.errors import CapacityError, InvalidRequestError, NameTakenError
from faas_gateway.ids import EXECUTION_ID, new_execution_id


class Reservations:
    """Of one gateway.

    Args:
        max_live: executions that are not yet ended, at one time.
    """

    def __init__(self, max_live: int) -> None:
        self.names: dict[str, str] = {}
        """Of executions that are open or being opened, to their ids."""
        self.starting: dict[str, anyio.CancelScope] = {}
        self.unclosed = 0
        """Executions whose sandbox has not yet given everything back."""
        self.stopping = False
        self._max_live = max_live

    def take(self, name: str | None) -> tuple[str, anyio.CancelScope]:
        """A new id, with the name taken. Its owner calls `settle`.

        Raises:
            CapacityError, NameTakenError, InvalidRequestError
        """
        if name is not None and EXECUTION_ID.match(name):
            raise InvalidRequestError(f"name: {name!r} looks like an id", hint="Choose another name.")
        if self.stopping:
            raise CapacityError("The gateway is stopping.", hint="Try again: a new one is started on demand.")
        if len(self.starting) + self.unclosed >= self._max_live:
            raise CapacityError(
                f"{self.unclosed} executions are open.",
                hint="End some that are no longer needed, and try again.",
            )
        if name is not None and name in self.names:
            raise NameTakenError(
                f"There is an open execution named {name!r}.",
                hint=f"Use it, end it (DELETE /api/v1/executions/{name}), or choose another name.",
            )
        execution_id, scope = new_execution_id(), anyio.CancelScope()
        if name is not None:
            self.names[name] = execution_id
        self.starting[execution_id] = scope
        return execution_id, scope

    def settle(self, execution_id: str, name: str | None, *, opened: bool) -> None:
        """It is open, or does not come about: then what was taken is given back."""
        del self.starting[execution_id]
        if not opened:
            self.free_name(name, execution_id)

    def free_name(self, name: str | None, execution_id: str) -> None:
        if name is not None and self.names.get(name) == execution_id:
            del self.names[name]
