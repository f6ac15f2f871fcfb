"""Every backend, against the contract in faas_gateway/backends/base.py, with no gateway above it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from contract import Create
from live import wait_until

from faas_gateway import backends
from faas_gateway.backends.base import Image, Limits, Recipe, Sandbox, SandboxBackend, SandboxSpec


class NativeCensus:
    """What a native backend in this state directory holds: taken before it is left, it must all be gone after."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._runs = list((state / "native" / "runs").iterdir())
        self._processes: list[psutil.Process] = []
        for run in self._runs:
            launcher = psutil.Process(int(run.name.split("-")[0]))
            self._processes += [launcher, *launcher.children(recursive=True)]
        self._groups = [Path(line) for run in self._runs for line in (run / "cgroups").read_text().splitlines()]

    def sandboxes(self) -> list[str]:
        return [box.name for run in self._runs for box in (run / "boxes").iterdir()]

    def left(self) -> list[object]:
        alive: list[object] = [p for p in self._processes if p.is_running()]
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self._state) in line]
        runs = list((self._state / "native" / "runs").iterdir())
        return [*alive, *mounts, *runs, *(g for g in self._groups if g.exists())]


CENSUS: dict[str, Callable[[Path], NativeCensus]] = {"native": NativeCensus}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module", params=backends.names())
async def backend(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[SandboxBackend]:
    async with backends.load(request.param)(state, idle_template_s=600) as backend:
        yield backend
        census = CENSUS[request.param](state)
    wait_until(lambda: not census.left(), 10, f"nothing left behind ({census.left()})")


@pytest.fixture
def sandboxes_held(backend: SandboxBackend, state: Path) -> Callable[[], list[str]]:
    """Names the sandboxes that the backend holds something of now."""
    return lambda: CENSUS[backend.name](state).sandboxes()


@pytest.fixture(scope="module")
async def python(backend: SandboxBackend) -> Image:
    return await backend.build(Recipe("python", "python", preload=("random", "uuid")), lambda _: None)


@pytest.fixture(scope="module")
async def shell(backend: SandboxBackend) -> Image:
    return await backend.build(Recipe("alpine-fast", "shell"), lambda _: None)


@pytest.fixture
async def create(backend: SandboxBackend) -> AsyncIterator[Create]:
    """Make sandboxes that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def create(image: Image, env_vars: dict[str, str] | None = None, **limits: Any) -> Sandbox:
            spec = SandboxSpec(f"test-{secrets.token_hex(6)}", image, Limits(**limits), env_vars or {})
            sandbox = await backend.create(spec)
            stack.push_async_callback(sandbox.aclose)
            return sandbox

        yield create
