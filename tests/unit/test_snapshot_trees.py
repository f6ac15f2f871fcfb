"""Random trees of run, snapshot, branch, write, delete, rewind and restart, against a plain model of each session."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from faas.types import RewindInput
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_gateway import Opened, opened

from faas_gateway.backends.base import Ended
from faas_gateway.managers.execution import LiveExecution

NAMES = ("a", "b", "c")
STEPS = 40
MOST_SESSIONS = 6


@dataclass
class Model:
    """What a session has, or had when a snapshot was taken of it."""

    variables: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Model:
        return Model(dict(self.variables), dict(self.files))


@dataclass
class Session:
    execution: LiveExecution
    model: Model
    history: dict[str, Model] = field(default_factory=dict)
    """What it can be rewound to."""


class Tree:
    """Drives a gateway and the model side by side."""

    def __init__(self, live: Opened, seed: int, kept: dict[str, Model]) -> None:
        self.live = live
        self.random = random.Random(seed)
        self.sessions: list[Session] = []
        self.snapshots: dict[str, Model] = {}
        self.portable = kept
        """Those that a restart leaves."""
        self.snapshots.update(kept)
        self.count = 0

    async def step(self) -> None:
        chosen = self.random.choice(
            [
                self.run,
                self.run,
                self.write,
                self.delete_file,
                self.snapshot,
                self.branch,
                self.rewind,
                self.forget,
                self.end,
            ]
        )
        if not self.sessions and chosen != self.branch:
            chosen = self.open
        await chosen()
        if self.sessions:
            await self.compare(self.random.choice(self.sessions))

    async def open(self) -> None:
        execution = await self.live.open(checkpoint="every-request", checkpoints_kept=8)
        self.sessions.append(Session(execution, Model(), {"start": Model()}))

    async def run(self) -> None:
        session, name, value = self.pick(), self.random.choice(NAMES), self.random.randrange(1000)
        self.count += 1
        request = f"request-{self.count}"
        await self.live.run(session.execution, f"set {name} {value}", request)
        session.model.variables[name] = value
        await self.remember(session, request)

    async def remember(self, session: Session, request: str) -> None:
        """After a request, what it can be rewound to is what the ring says."""
        session.history[request] = session.model.copy()
        with anyio.fail_after(5):
            while session.execution.terms.checkpoints_kept and request not in session.execution.checkpoints:
                await anyio.sleep(0.001)
        ring = session.execution.checkpoints
        session.history = {key: model for key, model in session.history.items() if key in ring}

    async def write(self) -> None:
        session, name, text = self.pick(), self.random.choice(NAMES), str(self.random.randrange(1000))

        async def chunks() -> AsyncIterator[bytes]:
            yield text.encode()

        await session.execution.access.write_file(f"{name}.txt", chunks(), untar=False)
        session.model.files[name] = text

    async def delete_file(self) -> None:
        session = self.pick()
        if session.model.files:
            name = self.random.choice(sorted(session.model.files))
            await session.execution.access.delete_file(f"{name}.txt")
            del session.model.files[name]

    async def snapshot(self) -> None:
        session = self.pick()
        portable = self.random.choice(["now", "later", "never"])
        found = await self.live.snapshot(session.execution, portable=portable)
        self.snapshots[found.id] = session.model.copy()
        if portable == "now":
            self.portable[found.id] = session.model.copy()

    async def branch(self) -> None:
        if not self.snapshots or len(self.sessions) >= MOST_SESSIONS:
            return
        snapshot = self.random.choice(sorted(self.snapshots))
        form = "portable" if snapshot in self.portable and self.random.random() < 0.5 else None
        page = await self.live.restore(snapshot, self.random.randrange(1, 3), form=form)
        for index in range(len(page.items)):
            self.sessions.append(Session(self.live.execution(page, index), self.snapshots[snapshot].copy()))

    async def rewind(self) -> None:
        session = self.pick()
        if session.execution.checkpoints:
            request = self.random.choice(session.execution.checkpoints)
            await self.live.gateway.snapshots.rewind(session.execution.terms.id, RewindInput(request_id=request))
            session.model = session.history[request].copy()

    async def forget(self) -> None:
        if self.snapshots:
            snapshot = self.random.choice(sorted(self.snapshots))
            await self.live.gateway.snapshots.delete(snapshot)
            del self.snapshots[snapshot]
            self.portable.pop(snapshot, None)

    async def end(self) -> None:
        session = self.pick()
        self.sessions.remove(session)
        await session.execution.end(Ended("closed", "done"))

    def pick(self) -> Session:
        return self.random.choice(self.sessions)

    async def compare(self, session: Session) -> None:
        found = {v.name: v.preview for v in await session.execution.access.list_variables()}
        assert found == {name: str(value) for name, value in session.model.variables.items()}
        files: dict[str, str] = {}
        for entry in await session.execution.access.list_files("."):
            chunks = [chunk async for chunk in session.execution.access.read_file(entry.name)]
            files[entry.name.removesuffix(".txt")] = b"".join(chunks).decode()
        assert files == session.model.files


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_random_trees_agree_with_a_plain_model(seed: int) -> None:
    async def grow(folder: Path) -> None:
        kept: dict[str, Model] = {}
        for life in range(2):
            async with opened(folder) as live:
                tree = Tree(live, seed + life, kept)
                for _ in range(STEPS):
                    await tree.step()
                for session in tree.sessions:
                    await tree.compare(session)

    with tempfile.TemporaryDirectory(prefix="faas-trees-") as folder:
        anyio.run(grow, Path(folder))
