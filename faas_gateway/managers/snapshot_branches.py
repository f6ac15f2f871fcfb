"""Restore and branch: executions out of a snapshot, all at once, each with what was asked for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from faas import values
from faas.types import IDENTIFIER_PATTERN, BranchInput, BranchOutcome, BranchPage, BranchRequest, RestoreInput

from faas_gateway.backends.base import Ended
from faas_gateway.errors import BACKEND_ERRORS, GatewayError, InvalidRequestError, NotTransferableError, from_backend
from faas_gateway.managers.execution import LiveExecution
from faas_gateway.managers.executions import ExecutionManager
from faas_gateway.managers.snapshot_sandboxes import Made, MadeSet, SnapshotSandboxes
from faas_gateway.managers.snapshot_state import HeldSnapshot
from faas_gateway.managers.terms import Terms

PUSHES_AT_ONCE = 32


@dataclass
class _Branch:
    """One branch on its way."""

    index: int
    request: BranchRequest
    variables: dict[str, bytes]
    id: str = ""
    """Of its execution; empty when there was no room, or its name was taken."""
    execution: LiveExecution | None = None
    failure: Exception | None = None


class Brancher:
    """Makes executions of snapshots.

    Args:
        executions: takes them.
        sandboxes: makes their sandboxes.
    """

    def __init__(self, executions: ExecutionManager, sandboxes: SnapshotSandboxes) -> None:
        self._executions = executions
        self._sandboxes = sandboxes

    async def restore(self, held: HeldSnapshot, body: RestoreInput) -> BranchPage:
        """`branch_count` equal branches. Raises as `branch`."""
        request = BranchRequest(env_vars=body.env_vars, labels=body.labels)
        return await self.branch(
            held,
            BranchInput(
                branches=[request] * body.branch_count,
                form=body.form,
                reseed=body.reseed,
                ttl_s=body.ttl_s,
                idle_timeout_s=body.idle_timeout_s,
            ),
        )

    async def branch(self, held: HeldSnapshot, body: BranchInput) -> BranchPage:
        """Branches, as many of them as can be made: what kept one from it stands in its place.

        Raises:
            SnapshotGoneError: the snapshot has not the form that was asked for, or none.
            InvalidRequestError, NotTransferableError: a variable has no name or value that can be set.
            StorageUnavailableError: none is there, since they could not be written down.
        """
        check_variables(held, body.branches)
        encoded = await anyio.to_thread.run_sync(_encode, body.branches)
        branches = [_Branch(n, request, encoded[n]) for n, request in enumerate(body.branches)]
        await self._executions.starter.probe()
        base = await self._sandboxes.terms(held, "")
        reserved = self._reserve(branches)
        try:
            made = await self._make(held, body, base, reserved)
        finally:
            for branch in reserved:
                opened = branch.execution is not None
                self._executions.reservations.settle(branch.id, branch.request.name, opened=opened)
        try:
            await self._set_variables(reserved)
        except BaseException:
            for branch in reserved:
                if branch.execution is not None:
                    self._executions.abandon(branch.execution)
            raise
        return BranchPage(
            snapshot_id=held.id, form=made.form, items=[self._outcome(b) for b in branches], notes=made.notes
        )

    def abandon(self, page: BranchPage) -> None:
        """End the branches that nobody was told of: their client left."""
        for outcome in page.items:
            execution = self._executions.find_open(outcome.execution.id) if outcome.execution is not None else None
            if execution is not None:
                self._executions.abandon(execution)

    def _reserve(self, branches: Sequence[_Branch]) -> list[_Branch]:
        """Those for which there is room, with an id and their name."""
        reserved: list[_Branch] = []
        for branch in branches:
            try:
                # Its scope is of no use: they come all at once, and are ended once they are there.
                branch.id, _scope = self._executions.reservations.take(branch.request.name)
            except GatewayError as exc:
                branch.failure = exc
            else:
                reserved.append(branch)
        return reserved

    async def _make(self, held: HeldSnapshot, body: BranchInput, base: Terms, branches: Sequence[_Branch]) -> MadeSet:
        terms = [self._terms(held, body, base, branch) for branch in branches]
        made = await self._sandboxes.make(held, terms, body.form, reseed=body.reseed)
        adopted: list[tuple[Terms, Made]] = []
        owners: list[_Branch] = []
        for branch, wanted, result in zip(branches, terms, made.items, strict=True):
            if isinstance(result, Exception):
                branch.failure = result
                continue
            whole = replace(
                wanted,
                env_vars={**held.env_vars, **wanted.env_vars},
                notes=(*wanted.notes, *made.notes),
                restored_from=made.form,
                receipt=result.receipt,
                generation=held.depth + 1 if made.form == "live" else 0,
            )
            adopted.append((whole, result))
            owners.append(branch)
        executions = await self._executions.adopt([(t, m.sandbox) for t, m in adopted])
        for branch, execution in zip(owners, executions, strict=True):
            branch.execution = execution
            execution.last_request_id = held.request_id
        return made

    @staticmethod
    def _terms(held: HeldSnapshot, body: BranchInput, base: Terms, branch: _Branch) -> Terms:
        request = branch.request
        return replace(
            base,
            id=branch.id,
            name=request.name,
            labels=request.labels,
            created_at=time.time(),
            env_vars={
                **request.env_vars,
                "FAAS_BRANCH_INDEX": str(branch.index),
                "FAAS_SNAPSHOT_ID": held.id,
            },
            ttl_s=body.ttl_s,
            idle_timeout_s=body.idle_timeout_s,
            branch_index=branch.index,
        )

    async def _set_variables(self, branches: Sequence[_Branch]) -> None:
        if not any(branch.variables for branch in branches):
            return
        limiter = anyio.CapacityLimiter(PUSHES_AT_ONCE)

        async def push(branch: _Branch, execution: LiveExecution) -> None:
            async with limiter:
                try:
                    for name, value in branch.variables.items():
                        await execution.access.push_variable(name, _once(value))
                except (GatewayError, *BACKEND_ERRORS) as exc:
                    branch.failure, branch.execution = exc, None
                    await execution.end(Ended("closed", "its variables could not be set"))

        async with anyio.create_task_group() as group:
            for branch in branches:
                if branch.execution is not None and branch.variables:
                    group.start_soon(push, branch, branch.execution)

    def _outcome(self, branch: _Branch) -> BranchOutcome:
        if branch.execution is not None:
            return BranchOutcome(index=branch.index, execution=self._executions.describe(branch.execution))
        assert branch.failure is not None
        return BranchOutcome(index=branch.index, problem=from_backend(branch.failure).problem())


def check_variables(held: HeldSnapshot, requests: Sequence[BranchRequest]) -> None:
    """Raises InvalidRequestError, NotTransferableError."""
    for index, request in enumerate(requests):
        if request.variables and held.language == "shell":
            raise NotTransferableError(
                "The branches are shell sessions, which have no variables.", hint="Give them env_vars."
            )
        for name in request.variables:
            if not IDENTIFIER_PATTERN.match(name):
                raise InvalidRequestError(f"branches.{index}.variables: {name!r} is not a Python identifier")


def _encode(requests: Sequence[BranchRequest]) -> list[dict[str, bytes]]:
    try:
        return [{name: values.from_json(v) for name, v in request.variables.items()} for request in requests]
    except values.ValueEncodeError as exc:
        raise NotTransferableError(str(exc)) from exc


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
