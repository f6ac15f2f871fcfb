"""One tree: sessions and snapshots of a gateway, each beside its model. Operations are plain data that can be replayed.

An operation changes the model, does the same over HTTP, and compares what came of both. What cannot be done in the
model (its session was never opened, since an operation before it was left out) raises Inapplicable.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trees_cells
import trees_look
import trees_shell
from faas import Execution, FaaSClient, SnapshotHandle, errors
from trees_model import File, Handle, Inapplicable, State, need

LOOK = f"exec(compile({Path(trees_look.__file__).read_text()!r} + '''\nimport json\nprint(json.dumps(session(space)))''', 'look', 'exec'), {{'space': globals()}})"
GONE = (errors.UnknownSnapshotError, errors.SnapshotGoneError)
ENDED = (errors.ExecutionEndedError, errors.UnknownExecutionError)
PORTABLE_WAIT_S = 30.0

Operation = tuple[Any, ...]


class Difference(AssertionError):
    """The gateway and the model do not agree."""


def same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Difference(f"{what}: the model has\n  {expected!r}\nthe gateway has\n  {found!r}")


@dataclass
class Node:
    """A session."""

    execution: Execution
    state: State
    kept: int = 0
    """Of its checkpoints; 0: it has none."""
    ring: list[tuple[str, State]] = field(default_factory=list)
    position: int = -1
    """Of the checkpoint that it stands at."""

    def request_done(self, request_id: str) -> None:
        if self.kept:
            self.state.frozen()
            del self.ring[self.position + 1 :]
            self.ring.append((request_id, self.state.copy()))
            del self.ring[: -self.kept]
            self.position = len(self.ring) - 1


@dataclass
class Taken:
    """A snapshot."""

    handle: SnapshotHandle
    state: State
    portable: str
    deleted: bool = False


class World:
    """A tree, and what can be done in it.

    prefix: of names, which are the gateway's own.
    """

    def __init__(self, client: FaaSClient, prefix: str, *, shell: bool) -> None:
        self.client = client
        self.prefix = prefix
        self.shell = shell
        self.nodes: dict[int, Node] = {}
        self.ended: dict[int, Node] = {}
        self.taken: dict[int, Taken] = {}
        self.names: dict[str, int] = {}
        self.form = "live"
        """`any`: what has no portable form but its sharing does not come about."""

    async def apply(self, operation: Operation) -> None:
        """Raises Inapplicable, Difference."""
        kind, *about = operation
        act: Callable[..., Awaitable[None]] = getattr(self, f"do_{kind}")
        try:
            await act(*about)
        except errors.FaaSError as exc:
            if isinstance(exc, errors.BranchError):
                await asyncio.gather(*(branch.close() for branch in exc.branches))
            raise Difference(f"{kind} was refused: {exc!r}") from exc

    async def close(self) -> None:
        """End all that is open, delete all that is held."""
        await asyncio.gather(*(node.execution.close() for node in self.nodes.values()))
        await asyncio.gather(*(t.handle.delete() for t in self.taken.values() if not t.deleted))

    # Sessions

    async def do_open(self, node: int, kept: int) -> None:
        need(node not in self.nodes and node not in self.ended)
        checkpoint: Any = {"checkpoint": "every-request", "checkpoints_kept": kept} if kept else {}
        environment = "alpine-fast" if self.shell else "python"
        execution = await self.client.executions.create(environment, env_vars={"T_GIVEN": "yes"}, **checkpoint)
        made = self.nodes[node] = Node(execution, State(environ={"T_GIVEN": "yes"}), kept)
        made.request_done("start")
        await self._begin(made)

    async def _begin(self, node: Node) -> None:
        """What the session needs for its cells, and a random state that the model knows."""
        node.state.random.seed(5)
        await self._execute(node, trees_shell.PRELUDE if self.shell else trees_cells.PRELUDE + "random.seed(5)", "")

    async def do_run(self, node: int, cells: list[tuple[Any, ...]]) -> None:
        there = self._node(node)
        state = there.state.copy()
        said = [self.cell(state, cell) for cell in cells]
        need(self.form == "live" or not state.mutables_without_name())
        there.state = state
        code = "\n".join(code for code, _ in said)
        await self._execute(there, code if self.shell else f"{code}\npass", "".join(output for _, output in said))

    def cell(self, state: State, cell: tuple[Any, ...]) -> tuple[str, str]:
        """Code, and what it prints. Changes the state, or raises Inapplicable."""
        return (trees_shell if self.shell else trees_cells).apply(state, cell)

    async def _execute(self, node: Node, code: str, output: str) -> None:
        result = await node.execution.execute(code)
        node.request_done(result.request_id)
        same((result.status, result.stdout), ("success", output), f"{code}\nsaid {result.stderr} {result.error}")

    async def do_put(self, node: int, path: str, text: str) -> None:
        """Through the gateway, beside the code: a new file in the place of what was there."""
        there = self._node(node)
        old = there.state.files.get(path)
        there.state.need_parent(path)
        need(old is None or isinstance(old, File))
        there.state.files[path] = File(bytearray(text.encode()), 0o644 if old is None else old.mode)
        await there.execution.files.write(path, text)

    async def do_end(self, node: int) -> None:
        there = self._node(node)
        self.ended[node] = self.nodes.pop(node)
        await there.execution.close()
        for act in (there.execution.execute("1"), there.execution.snapshot()):
            await self._refused(act, ENDED, 410, 404)

    async def do_rewind(self, node: int, back: int) -> None:
        """To the checkpoint that is so many before the last one, or to none."""
        there = self._node(node)
        if not there.kept or back >= len(there.ring):
            await self._refused(there.execution.rewind("no-such-request"), errors.FaaSError, 404, 409)
            return
        there.position = len(there.ring) - 1 - back
        request_id, state = there.ring[there.position]
        there.state = state.copy()
        there.state.frozen()
        info = await there.execution.rewind(request_id)
        same(info.checkpoints, [request for request, _ in there.ring], "the ring of checkpoints")
        if request_id == "start":
            await self._begin(there)

    # Snapshots

    async def do_snapshot(self, node: int, number: int, name: str | None, portable: Any) -> None:
        there = self._node(node)
        need(number not in self.taken)
        whole = None if name is None else f"{self.prefix}-{name}"
        if name in self.names:
            await self._refused(there.execution.snapshot(whole), errors.NameTakenError, 409)
            return
        there.state.frozen()
        handle = await there.execution.snapshot(whole, portable=portable)
        self.taken[number] = taken = Taken(handle, there.state.copy(), portable)
        if name is not None:
            self.names[name] = number
        same("live" in handle.forms, True, f"it was taken alive ({handle.notes})")
        if portable == "now":
            self._check_portable(taken)

    async def do_restore(
        self, number: int, nodes: list[int], form: Any, reseed: bool, variables: Mapping[str, Any] | None
    ) -> None:
        taken = self.taken.get(number)
        need(taken is not None and not any(n in self.nodes or n in self.ended for n in nodes))
        assert taken is not None
        snapshots = self.client.snapshots
        if taken.deleted:
            await self._refused(snapshots.restore(taken.handle.id, len(nodes), form=form), GONE, 404, 410)
            return
        if form == "portable" and taken.portable == "never":
            await self._refused(snapshots.restore(taken.handle.id, form=form), GONE, 410)
            return
        if form == "portable":
            await self._until_portable(taken)
        extra = {"T_BRANCH": f"n{number}"}
        branches = [{"env_vars": extra, "labels": {"of": str(n)}, "variables": dict(variables or {})} for n in nodes]
        made = await snapshots.branch(taken.handle.id, branches, form=form, reseed=reseed)
        for index, (n, execution) in enumerate(zip(nodes, made, strict=True)):
            state = taken.state.portable() if form == "portable" else taken.state.copy()
            state.environ.update(extra)
            state.variables.update(json.loads(json.dumps(variables or {})))
            state.frozen()
            self.nodes[n] = Node(execution, state)
            info = execution.info
            told = (info.snapshot_id, info.branch_index, info.restored_from, info.labels)
            same(told, (taken.handle.id, index, form or "live", {"of": str(n)}), "what a branch says of itself")
        if reseed and not self.shell:
            await self._adopt_seeds(taken, [self.nodes[n] for n in nodes])

    async def _adopt_seeds(self, taken: Taken, nodes: list[Node]) -> None:
        """Each has states of its own: that they differ is checked, and what they are is taken over."""
        met = {taken.state.random.getstate()}
        for node in nodes:
            own = [n for n, v in node.state.variables.items() if type(v).__name__ == "Random"]
            result = await node.execution.execute(f"print([r.getstate() for r in (random, {', '.join(own)})])")
            states = eval(result.stdout)
            for generator, name, state in zip(
                (node.state.random, *(node.state.variables[n] for n in own)), ("random", *own), states, strict=True
            ):
                if state in met or generator.getstate() == state:
                    raise Difference(f"{name} was not reseeded")
                met.add(state)
                generator.setstate(state)

    async def do_delete(self, number: int) -> None:
        taken = self.taken.get(number)
        need(taken is not None)
        assert taken is not None
        if taken.deleted:
            await self._refused(taken.handle.delete(), GONE, 404, 410)
            return
        taken.deleted = True
        self.names = {name: n for name, n in self.names.items() if n != number}
        await taken.handle.delete()
        await self._refused(self.client.snapshots.get(taken.handle.id), GONE, 404, 410)

    async def do_rename(self, number: int, name: str) -> None:
        taken = self.taken.get(number)
        need(taken is not None and not taken.deleted)
        assert taken is not None
        if self.names.get(name, number) != number:
            await self._refused(taken.handle.rename(f"{self.prefix}-{name}"), errors.NameTakenError, 409)
            return
        self.names = {old: n for old, n in self.names.items() if n != number} | {name: number}
        await taken.handle.rename(f"{self.prefix}-{name}")
        same((await self.client.snapshots.get(f"{self.prefix}-{name}")).id, taken.handle.id, "by its new name")

    async def do_together(self, *operations: Operation) -> None:
        """Operations that have nothing to do with one another, at the same time."""
        results = await asyncio.gather(*(self.apply(each) for each in operations), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # Looking

    async def do_look(self, node: int) -> None:
        there = self._node(node)
        if self.shell:
            result = await there.execution.execute(trees_shell.LOOK)
            found, expected = trees_shell.parse(result.stdout), trees_shell.look(there.state)
        else:
            result = await there.execution.execute(LOOK)
            same(result.status, "success", f"looking: {result.error}")
            found, expected = json.loads(result.stdout), json.loads(json.dumps(there.state.look()))
            _adopt_times(there.state, found, expected)
        for part in expected:
            if found[part] != expected[part]:
                raise Difference(_tell(part, found[part], expected[part]))
        there.request_done(result.request_id)

    async def do_look_from_outside(self, node: int, path: str) -> None:
        """Through the gateway, without the session."""
        there = self._node(node)
        file = there.state.files.get(path)
        if isinstance(file, File):
            same(await there.execution.files.read(path), bytes(file.data), f"{path} from outside")
        elif file is None:
            await self._refused(there.execution.files.list(path), errors.UnknownFileError, 404)
        if not self.shell:
            named = {info.name for info in await there.execution.variables.list()}
            same(set(there.state.variables) - named, set(), "variables that are not listed")

    async def _until_portable(self, taken: Taken) -> None:
        deadline = asyncio.get_running_loop().time() + PORTABLE_WAIT_S
        while (await taken.handle.refresh()).portable_status == "pending":
            if asyncio.get_running_loop().time() > deadline:
                raise Difference(f"the portable form is not there after {PORTABLE_WAIT_S:g} s")
            await asyncio.sleep(0.1)
        self._check_portable(taken)

    def _check_portable(self, taken: Taken) -> None:
        handle = taken.handle
        same((handle.portable_status, handle.portable_error), ("ready", None), "the portable form")
        same({loss.name for loss in handle.excluded}, taken.state.lost_in_portable(), "what has no portable form")

    def _node(self, number: int) -> Node:
        need(number in self.nodes)
        return self.nodes[number]

    @staticmethod
    async def _refused(act: Awaitable[object], expected: Any, *statuses: int) -> None:
        try:
            got = await act
        except expected as exc:
            if exc.status not in statuses:
                raise Difference(f"refused with {exc.status}, not {statuses}: {exc}") from exc
        else:
            raise Difference(f"not refused: {got!r}")


def _adopt_times(state: State, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Times that nobody has seen yet are as they are seen, and stay so. What a handle adrift reads is not told."""
    for path, node in state.files.items():
        there = found["files"].get(path)
        if isinstance(node, File) and node.mtime is None and there is not None and there[0] == "file":
            node.mtime = expected["files"][path][3] = there[3]
    for name, value in state.variables.items():
        if isinstance(value, Handle) and value.adrift and len(found["variables"].get(name, ())) == 4:
            found["variables"][name][3] = None


def _tell(part: str, found: Any, expected: Any) -> str:
    if not isinstance(found, dict):
        return f"{part}: the model has {expected!r}, the gateway {found!r}"
    lines = [
        f"  {name}: the model has {expected.get(name)!r}, the gateway {found.get(name)!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    return "\n".join([part, *lines])


__all__ = ["Difference", "Inapplicable", "Operation", "World"]
