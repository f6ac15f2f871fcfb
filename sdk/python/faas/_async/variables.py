"""Variables of a session, copied in and out without a pickle that anyone would have to trust."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Iterator

from faas import _calls, values
from faas._async import _io
from faas._async.transport import Transport
from faas.errors import NotTransferableError, invalid
from faas.types import VariableInfo, VariableList

__all__ = ["Variables"]


class Variables:
    """`execution.variables`."""

    def __init__(self, transport: Transport, execution_id: str) -> None:
        self._transport = transport
        self._execution_id = execution_id

    async def list(self) -> builtins.list[VariableInfo]:
        """Return names, types, shapes and sizes of the session's variables.

        Raises:
            DeadlineError: a cell has been running for too long meanwhile.
        """
        content = await self._transport.request(_calls.list_variables(self._execution_id))
        return _calls.parse(VariableList, content).items

    async def pull(self, name: str) -> object:
        """Return a copy of a variable's value.

        Raises:
            UnknownVariableError: there is none of that name.
            NotTransferableError: its value has no safe form to travel in.
        """
        content = await self._transport.request(_calls.pull_variable(self._execution_id, name))
        try:
            return await _io.run_blocking(values.decode, content)
        except values.ValueDecodeError as error:
            raise _not_transferable(f"The value of {name!r} cannot be read here: {error}") from error

    async def push(self, name: str | None = None, value: object = None, /, **variables: object) -> None:
        """Set variables of the session to copies of values: `push("x", 1)` or `push(x=1, y=2)`.

        Raises:
            NotTransferableError: a value has no safe form to travel in; variables before it are set.
        """
        if name is not None:
            variables = {name: value, **variables}
        elif value is not None:
            raise invalid("push takes a name and a value, or keyword arguments")
        for key, item in variables.items():
            pieces = await _io.run_blocking(_encoded, key, item)
            await self._transport.request(_calls.push_variable(self._execution_id, key, pieces))


class _Encoded:
    """An encoded value that can be sent again. Its first piece is made at once: a refusal comes early."""

    def __init__(self, name: str, value: object) -> None:
        self._name = name
        self._value = value
        self._begun: Iterator[bytes] | None = self._pieces()
        self._first = list(itertools.islice(self._begun, 1))

    def __call__(self) -> Iterator[bytes]:
        begun, self._begun = self._begun, None
        return itertools.chain(self._first, begun) if begun is not None else self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        try:
            for piece in values.encode(self._value):
                yield bytes(piece)
        except values.ValueEncodeError as error:
            raise _not_transferable(f"{self._name!r} cannot be sent: {error}") from error


def _encoded(name: str, value: object) -> _Encoded:
    return _Encoded(name, value)


def _not_transferable(detail: str) -> NotTransferableError:
    return NotTransferableError(detail, code="not_transferable", status=422)
