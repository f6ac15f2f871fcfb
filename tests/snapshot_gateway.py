"""An open gateway over the fake backend, without HTTP: for tests of what the managers decide about snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson
from faas.types import (
    BranchInput,
    BranchPage,
    ExecuteInput,
    ExecutionCreate,
    ExecutionResult,
    RestoreInput,
    RunInput,
    Snapshot,
    SnapshotCreate,
)
from fakes import FakeBackend

from faas_gateway.managers.execution import LiveExecution
from faas_gateway.managers.gateway import Gateway, open_gateway
from faas_gateway.settings import Settings


def silent(_report: object) -> None:
    """Nobody looks at the progress."""


@dataclass
class Opened:
    gateway: Gateway
    backend: FakeBackend

    async def open(self, **body: Any) -> LiveExecution:
        return await self.gateway.executions.create(ExecutionCreate(**body), silent)

    async def run(self, execution: LiveExecution, code: str, request_id: str | None = None) -> str:
        """What the code prints; it has to succeed."""
        request = execution.execute(ExecuteInput(code=code, request_id=request_id))
        with anyio.fail_after(10):
            await request.done.wait()
        result = ExecutionResult.model_validate(orjson.loads(request.read_result()))
        assert result.status == "success", result
        return result.stdout.strip()

    async def command(self, execution: LiveExecution, script: str) -> str:
        request = execution.run(RunInput(command=[script]))
        with anyio.fail_after(10):
            await request.done.wait()
        return ExecutionResult.model_validate(orjson.loads(request.read_result())).stdout.strip()

    async def snapshot(self, execution: LiveExecution, **body: Any) -> Snapshot:
        body = {"portable": "never", **body}
        return await self.gateway.snapshots.create(SnapshotCreate(execution_id=execution.terms.id, **body), silent)

    async def restore(self, snapshot: str, count: int = 1, **body: Any) -> BranchPage:
        return await self.gateway.snapshots.restore(snapshot, RestoreInput(branch_count=count, **body))

    async def branch(self, snapshot: str, *branches: dict[str, Any], **body: Any) -> BranchPage:
        return await self.gateway.snapshots.branch(snapshot, BranchInput.model_validate({"branches": branches, **body}))

    def execution(self, page: BranchPage, index: int = 0) -> LiveExecution:
        info = page.items[index].execution
        assert info is not None, page.items[index].problem
        found = self.gateway.executions.find_open(info.id)
        assert found is not None
        return found

    async def get(self, snapshot: str) -> Snapshot:
        return await self.gateway.snapshots.get(snapshot)

    async def until(self, condition: Callable[[], bool], seconds: float = 5) -> None:
        with anyio.fail_after(seconds):
            while not condition():
                await anyio.sleep(0.005)

    async def until_portable(self, snapshot: str) -> Snapshot:
        with anyio.fail_after(5):
            while (found := await self.get(snapshot)).portable_status == "pending":
                await anyio.sleep(0.01)
        return found


@asynccontextmanager
async def opened(folder: Path, **changes: Any) -> AsyncGenerator[Opened]:
    """A gateway on a state folder, which another one may have used before; nothing may be left open by it."""
    quick: dict[str, Any] = {"portable_delay_s": 0.05, "grace_s": 0.3}
    settings = dataclasses.replace(Settings(state_dir=folder / "state"), **{**quick, **changes})
    backend = FakeBackend(settings.state_dir, idle_template_s=60)
    try:
        async with open_gateway(settings, backend) as gateway:
            yield Opened(gateway, backend)
            await gateway.executions.shutdown()
            await gateway.snapshots.shutdown()
            assert not backend.open, "sandboxes were left open"
            assert not backend.frozen, "dormant processes were left"
    finally:
        parts = list(settings.snapshots_dir.glob("*/*.part")) if settings.snapshots_dir.exists() else []
        assert not parts, "half-written files were left"
