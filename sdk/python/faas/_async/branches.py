"""Branches of a snapshot as executions, those that could not be made included."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from faas import _calls
from faas._async import _io
from faas._async.execution import Execution
from faas._async.transport import Transport
from faas._http import problem_error
from faas.errors import BranchError, FaaSError, ProtocolError
from faas.types import BranchPage

__all__ = ["make_branches", "whole_or_error"]

_logger = logging.getLogger("faas")
_PUSHES_AT_ONCE = 16
_CLOSE_DEADLINE_S = 10.0


async def make_branches(
    transport: Transport, call: _calls.Call, count: int, pushes: Sequence[Mapping[str, object]] = ()
) -> list[Execution | FaaSError]:
    """Send a request that branches, and give each branch the variables that did not travel in it.

    A branch that cannot be given its variables is ended, and counts as one that could not be made. A caller that
    is cancelled meanwhile leaves no branch behind: before the answer the gateway ends them, then we do.

    Returns:
        An execution or the reason why there is none, for each branch, in order.
    """
    made = _outcomes(transport, await transport.request(call), count)
    todo = [(index, variables) for index, variables in enumerate(pushes) if variables]

    async def give(item: tuple[int, Mapping[str, object]]) -> None:
        index, variables = item
        branch = made[index]
        if isinstance(branch, Execution):
            try:
                await branch.variables.push(**variables)
            except FaaSError as error:
                await _close(branch)
                made[index] = error

    try:
        await _io.for_each(give, todo, _PUSHES_AT_ONCE)
    except BaseException:
        open_ones = [branch for branch in made if isinstance(branch, Execution)]

        async def close_all() -> None:
            await _io.for_each(_close, open_ones, _PUSHES_AT_ONCE)

        await _io.shielded(_CLOSE_DEADLINE_S, close_all)
        raise
    return made


def whole_or_error(made: Sequence[Execution | FaaSError]) -> list[Execution]:
    """The executions.

    Raises:
        BranchError: one or more could not be made.
    """
    branches = {index: branch for index, branch in enumerate(made) if isinstance(branch, Execution)}
    errors = {index: error for index, error in enumerate(made) if isinstance(error, FaaSError)}
    if errors:
        raise BranchError(branches, errors)
    return list(branches.values())


async def _close(branch: Execution) -> None:
    try:
        await branch.close()
    except FaaSError as error:
        _logger.debug("closing branch %s: %s", branch.id, error)


def _outcomes(transport: Transport, content: bytes, count: int) -> list[Execution | FaaSError]:
    made: list[Execution | FaaSError] = [
        ProtocolError(f"The gateway's answer says nothing of branch {index}") for index in range(count)
    ]
    for item in _calls.parse(BranchPage, content).items:
        if not 0 <= item.index < count:
            raise ProtocolError(f"The gateway's answer has a branch {item.index}, which was not asked for")
        if item.execution is not None:
            made[item.index] = Execution(transport, item.execution)
        elif item.problem is not None:
            made[item.index] = problem_error(item.problem)
    return made
