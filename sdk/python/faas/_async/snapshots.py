"""Snapshots: taking them, finding them, and executions that go on from one."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from faas import _calls, _snapshot_calls
from faas._async import _io
from faas._async.branches import make_branches, whole_or_error
from faas._async.events import EventSource
from faas._async.execution import Execution
from faas._async.snapshot_handle import SnapshotHandle
from faas._async.transport import Transport
from faas._branches import SnapshotNode, branch_fields, build_tree, export_path
from faas._events import problem_of, read_model
from faas._pack import file_chunks
from faas._snapshot_calls import PortableWhen
from faas._unpack import FileWriter
from faas.errors import FaaSError
from faas.types import (
    BranchRequest,
    Diff,
    ExecutionInfo,
    Language,
    Network,
    Progress,
    Resources,
    Snapshot,
    SnapshotCheck,
    SnapshotForm,
    SnapshotPage,
)

__all__ = ["SnapshotManager"]

_BATCH_BYTES = 1 << 20
_NO_LIMIT = 1 << 62


class SnapshotManager:
    """`client.snapshots`. Wherever a snapshot or an execution is asked for, its id, its name or a handle will do."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        execution: str | Execution | ExecutionInfo,
        name: str | None = None,
        *,
        portable: PortableWhen = "later",
        timeout: float = 60,
        labels: Mapping[str, str] | None = None,
    ) -> SnapshotHandle:
        """Take a snapshot of an open execution, which goes on.

        Args:
            execution: of what.
            name: stands for the id everywhere.
            portable: when the form is written that outlasts the gateway and can be exported: `later` in the
                background, `now` before this returns, or `never`.
            timeout: how long to wait for code that runs, seconds.
            labels: to find it by.

        Raises:
            DeadlineError: the code still ran at the end of `timeout`.
            CannotForkError: it cannot be forked alive, and `portable` is `never`.
            UnknownExecutionError, ExecutionEndedError, NameTakenError, CapacityError, StorageUnavailableError
        """
        call = _snapshot_calls.create_snapshot(
            execution_id=_id_of(execution), name=name, portable=portable, timeout=timeout, labels=labels
        )
        return self._handle(await self._transport.request(call))

    async def create_from_script(
        self,
        script: str,
        name: str | None = None,
        *,
        environment: str = "python",
        language: Language = "shell",
        timeout: float = 600,
        resources: Resources | Mapping[str, object] | None = None,
        network: Network = "full",
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        portable: PortableWhen = "later",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SnapshotHandle:
        """Run a script in a new execution, take a snapshot of what it leaves, and end the execution.

        Args:
            script: commands, or Python with `language="python"`.
            name: stands for the id everywhere.
            environment: what is in the sandbox.
            language: of the script, and of what its branches then run.
            timeout: wall time of the script, seconds.
            resources: limits, also of the branches; what is not given is the environment's.
            network: of the script; `full` lets it download.
            env_vars: environment variables of the script.
            labels: to find it by.
            portable: as for `create`.
            on_progress: called with each step, and with what the script prints.

        Raises:
            ScriptFailedError: the script failed or took too long; `detail` has the end of its output.
            UnknownEnvironmentError, NameTakenError, BuildError, StartError, CapacityError
        """
        call = _snapshot_calls.create_from_script(
            script=script,
            name=name,
            environment=environment,
            language=language,
            timeout=timeout,
            resources=resources,
            network=network,
            env_vars=env_vars,
            labels=labels,
            portable=portable,
        )
        source = await EventSource.open(self._transport, call)
        try:
            while True:
                for sse in await source.read():
                    if sse.event == "progress" and on_progress is not None:
                        on_progress(read_model(Progress, sse))
                    elif sse.event == "problem":
                        raise problem_of(sse)
                    elif sse.event == "snapshot":
                        snapshot = self._handle(sse.data)
                        await source.finish()
                        return snapshot
        finally:
            await source.aclose()

    async def check(self, execution: str | Execution | ExecutionInfo) -> SnapshotCheck:
        """Return what of an execution would not survive a snapshot taken now. Nothing is changed.

        Raises:
            UnknownExecutionError, ExecutionEndedError
            DeadlineError: code has been running for too long meanwhile.
        """
        content = await self._transport.request(_snapshot_calls.check_execution(_id_of(execution)))
        return _calls.parse(SnapshotCheck, content)

    @overload
    async def restore(
        self,
        snapshot: str | Snapshot,
        branch_count: Literal[1] = ...,
        *,
        return_exceptions: bool = ...,
        form: SnapshotForm | None = ...,
        reseed: bool = ...,
        env_vars: Mapping[str, str] | None = ...,
        labels: Mapping[str, str] | None = ...,
        ttl_s: float | None = ...,
        idle_timeout_s: float | None = ...,
    ) -> Execution: ...
    @overload
    async def restore(
        self,
        snapshot: str | Snapshot,
        branch_count: int,
        *,
        return_exceptions: Literal[False] = ...,
        form: SnapshotForm | None = ...,
        reseed: bool = ...,
        env_vars: Mapping[str, str] | None = ...,
        labels: Mapping[str, str] | None = ...,
        ttl_s: float | None = ...,
        idle_timeout_s: float | None = ...,
    ) -> builtins.list[Execution]: ...
    @overload
    async def restore(
        self,
        snapshot: str | Snapshot,
        branch_count: int,
        *,
        return_exceptions: bool,
        form: SnapshotForm | None = ...,
        reseed: bool = ...,
        env_vars: Mapping[str, str] | None = ...,
        labels: Mapping[str, str] | None = ...,
        ttl_s: float | None = ...,
        idle_timeout_s: float | None = ...,
    ) -> builtins.list[Execution | FaaSError]: ...
    async def restore(
        self,
        snapshot: str | Snapshot,
        branch_count: int = 1,
        *,
        return_exceptions: bool = False,
        form: SnapshotForm | None = None,
        reseed: bool = False,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> Any:
        """Open executions that go on from a snapshot, each on its own.

        Cancelling ends those that were made.

        Args:
            snapshot: where to go on from.
            branch_count: how many. For a number that is only known later use `branch`, which always returns a list.
            return_exceptions: put the reasons why branches could not be made into the list, in their places.
            form: `live` or `portable`; None is the best there is. `restored_from` of each says which it was.
            reseed: give the random generators of numpy and `random` states of their own; otherwise all branches
                draw the same numbers. Those of OpenSSL, `secrets` and `uuid` never repeat.
            env_vars: environment variables on top of the snapshot's.
            labels: of each.
            ttl_s: each ends this long after it was opened, seconds.
            idle_timeout_s: each ends after this long without a request, seconds.

        Returns:
            One execution for a branch_count of 1, else a list in the order of `branch_index`.

        Raises:
            BranchError: some, or the one, could not be made; it holds those that were, which stay open.
            UnknownSnapshotError, SnapshotGoneError, NotPortableError
        """
        call = _snapshot_calls.restore_snapshot(
            _id_of(snapshot),
            branch_count=branch_count,
            form=form,
            reseed=reseed,
            env_vars=env_vars,
            labels=labels,
            ttl_s=ttl_s,
            idle_timeout_s=idle_timeout_s,
        )
        made = await make_branches(self._transport, call, branch_count)
        if branch_count == 1:
            return whole_or_error(made)[0]
        return made if return_exceptions else whole_or_error(made)

    @overload
    async def branch(
        self,
        snapshot: str | Snapshot,
        branches: int | Sequence[BranchRequest | Mapping[str, Any]] | None = ...,
        *,
        variables: Sequence[Mapping[str, object]] | None = ...,
        names: Sequence[str] | None = ...,
        labels: Sequence[Mapping[str, str]] | None = ...,
        env_vars: Sequence[Mapping[str, str]] | None = ...,
        return_exceptions: Literal[False] = ...,
        form: SnapshotForm | None = ...,
        reseed: bool = ...,
        ttl_s: float | None = ...,
        idle_timeout_s: float | None = ...,
    ) -> builtins.list[Execution]: ...
    @overload
    async def branch(
        self,
        snapshot: str | Snapshot,
        branches: int | Sequence[BranchRequest | Mapping[str, Any]] | None = ...,
        *,
        return_exceptions: bool,
        variables: Sequence[Mapping[str, object]] | None = ...,
        names: Sequence[str] | None = ...,
        labels: Sequence[Mapping[str, str]] | None = ...,
        env_vars: Sequence[Mapping[str, str]] | None = ...,
        form: SnapshotForm | None = ...,
        reseed: bool = ...,
        ttl_s: float | None = ...,
        idle_timeout_s: float | None = ...,
    ) -> builtins.list[Execution | FaaSError]: ...
    async def branch(
        self,
        snapshot: str | Snapshot,
        branches: int | Sequence[BranchRequest | Mapping[str, Any]] | None = None,
        *,
        variables: Sequence[Mapping[str, object]] | None = None,
        names: Sequence[str] | None = None,
        labels: Sequence[Mapping[str, str]] | None = None,
        env_vars: Sequence[Mapping[str, str]] | None = None,
        return_exceptions: bool = False,
        form: SnapshotForm | None = None,
        reseed: bool = False,
        ttl_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> Any:
        """Open executions that go on from a snapshot, each with variables, names and labels of its own.

        Give what differs as lists of one length, `variables=[{"lr": 0.1}, {"lr": 0.2}]`, or `branches` as a list of
        `BranchRequest`s or dicts with `variables`, `name`, `labels` and `env_vars`, or their number. Plain values
        travel in the request; arrays, frames and whatever else `execution.variables` takes are sent to the branches
        after it.

        Args:
            snapshot: where to go on from.
            branches: what each is to have, or how many.
            variables, names, labels, env_vars: one of each for each branch.
            return_exceptions, form, reseed, ttl_s, idle_timeout_s: as for `restore`.

        Raises:
            BranchError: some could not be made, or not be given their variables; it holds those that were made.
            UnknownSnapshotError, SnapshotGoneError, NotPortableError
        """
        fields, pushes = branch_fields(branches, variables, names, labels, env_vars)
        call = _snapshot_calls.branch_snapshot(
            _id_of(snapshot), branches=fields, form=form, reseed=reseed, ttl_s=ttl_s, idle_timeout_s=idle_timeout_s
        )
        made = await make_branches(self._transport, call, len(fields), pushes)
        return made if return_exceptions else whole_or_error(made)

    async def get(self, snapshot: str | Snapshot) -> SnapshotHandle:
        """Return a snapshot as it is now.

        Raises:
            UnknownSnapshotError: there is none of that id or name.
        """
        return self._handle(await self._transport.request(_snapshot_calls.get_snapshot(_id_of(snapshot))))

    async def list(self, *, checkpoints: bool = False, limit: int | None = None) -> builtins.list[SnapshotHandle]:
        """Return snapshots, newest first.

        Args:
            checkpoints: also those that executions keep to be rewound to.
            limit: at most so many; None is all.
        """
        found: list[SnapshotHandle] = []
        cursor: str | None = None
        while limit is None or len(found) < limit:
            size = _calls.PAGE_SIZE if limit is None else min(_calls.PAGE_SIZE, limit - len(found))
            call = _snapshot_calls.list_snapshots(checkpoints, size, cursor)
            page = _calls.parse(SnapshotPage, await self._transport.request(call))
            found += [self._with_methods(snapshot) for snapshot in page.items]
            cursor = page.next_cursor
            if not cursor:
                break
        return found[:limit]

    async def tree(self, *, checkpoints: bool = False) -> builtins.list[SnapshotNode[SnapshotHandle]]:
        """Return snapshots as trees: those without a parent, oldest first, each with its children."""
        return build_tree(await self.list(checkpoints=checkpoints))

    async def rename(self, snapshot: str | Snapshot, name: str) -> SnapshotHandle:
        """Give a snapshot another name.

        Raises:
            NameTakenError: another snapshot has it.
        """
        return await self.update(snapshot, name=name)

    async def update(
        self, snapshot: str | Snapshot, *, name: str | None = None, keep: bool | None = None
    ) -> SnapshotHandle:
        """Change what is given.

        Args:
            snapshot: which.
            name: its name from now on.
            keep: whether it neither expires nor makes room for others.
        """
        call = _snapshot_calls.update_snapshot(_id_of(snapshot), name=name, keep=keep)
        return self._handle(await self._transport.request(call))

    async def delete(self, snapshot: str | Snapshot) -> None:
        """Delete a snapshot. Executions and snapshots that came from it go on.

        Raises:
            UnknownSnapshotError: there is none of that id or name.
        """
        await self._transport.request(_snapshot_calls.delete_snapshot(_id_of(snapshot)))

    async def diff(self, before: str | Snapshot, after: str | Snapshot) -> Diff:
        """Return the variables and files that differ between two snapshots, as a way from the first to the second."""
        call = _snapshot_calls.diff_snapshots(_id_of(before), _id_of(after))
        return _calls.parse(Diff, await self._transport.request(call))

    async def export(self, snapshot: str | Snapshot, path: str | os.PathLike[str]) -> Path:
        """Write a snapshot's portable form into one file here, and return its path.

        Args:
            snapshot: which.
            path: of the file, or an existing folder to put it into. What was there is replaced once the new file
                is whole.

        Raises:
            NotPortableError: it has no portable form.
            OSError: the file cannot be written.
        """
        name = snapshot if isinstance(snapshot, str) else snapshot.name or snapshot.id
        async with await self._transport.open(_snapshot_calls.export_snapshot(_id_of(snapshot))) as response:
            target = await _io.run_blocking(export_path, path, name)
            writer = await _io.run_blocking(FileWriter, target, _NO_LIMIT)
            try:
                batch = bytearray()
                async for piece in response.pieces():
                    batch += piece
                    if len(batch) >= _BATCH_BYTES:
                        await _io.run_blocking(writer.feed, bytes(batch))
                        batch.clear()
                await _io.run_blocking(writer.feed, bytes(batch))
                await _io.run_blocking(writer.finish)
            finally:
                writer.close()
        return target

    async def import_(self, path: str | os.PathLike[str], name: str | None = None) -> SnapshotHandle:
        """Take in a file that `export` wrote, here or elsewhere.

        Args:
            path: of the file.
            name: of the snapshot from now on; None is the name in the file, if it is free.

        Raises:
            OSError: the file cannot be read.
            InvalidRequestError: it is no snapshot, or a damaged one.
            NameTakenError, UnknownEnvironmentError, StorageUnavailableError
        """
        source = Path(path)
        await _io.run_blocking(_check_readable, source)
        call = _snapshot_calls.import_snapshot(name, partial(file_chunks, source))
        return self._handle(await self._transport.request(call))

    def _handle(self, content: bytes) -> SnapshotHandle:
        return self._with_methods(_calls.parse(Snapshot, content))

    def _with_methods(self, snapshot: Snapshot) -> SnapshotHandle:
        return SnapshotHandle.of(snapshot, self)


def _id_of(given: str | Snapshot | Execution | ExecutionInfo) -> str:
    return given if isinstance(given, str) else given.id


def _check_readable(path: Path) -> None:
    """A missing file, or a folder, is an error before anything is sent."""
    with path.open("rb"):
        pass
