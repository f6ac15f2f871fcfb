"""A backend that implements the contract without sandboxes; see `fake_sandbox` for what its guest understands."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import anyio
from fake_frozen import Home, from_tar, to_tar
from fake_sandbox import FakeSandbox, Faults, State

from faas_gateway.backends.base import (
    BackendUnavailable,
    BuildFailed,
    Capabilities,
    Image,
    Layers,
    ProgressReport,
    Recipe,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
    StartFailed,
)


class FakeBackend(SandboxBackend):
    """Makes fake sandboxes; `open` holds those that were not closed."""

    name = "fake"

    def __init__(self, state_dir: Path, *, idle_template_s: float) -> None:
        self.state_dir = state_dir
        self.faults = Faults.from_environment()
        self.home = Home(state_dir / "fake-layers", self.faults)
        self.open = self.home.open
        self.frozen = self.home.frozen
        self.made = 0
        self.builds = 0
        self._warm: set[str] = set()
        self._built: set[Recipe] = set()

    async def __aenter__(self) -> FakeBackend:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for sandbox in list(self.open.values()):
            await sandbox.aclose()
        for frozen in list(self.frozen.values()):
            await frozen.aclose()

    async def probe(self) -> Capabilities:
        problem = "user namespaces are switched off" if self.faults.unavailable else ""
        remedy = "sysctl -w user.max_user_namespaces=10000" if self.faults.unavailable else ""
        return Capabilities("fake", "none", not self.faults.unavailable, problem, remedy)

    def version_of(self, recipe: Recipe) -> str:
        return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]

    def is_built(self, recipe: Recipe) -> bool:
        return recipe in self._built

    async def build(self, recipe: Recipe, report: Report) -> Image:
        self._check()
        self.builds += 1
        if self.faults.build_s:
            report(ProgressReport("build", "installing packages", 0.5))
            await anyio.sleep(self.faults.build_s)
        if self.faults.build_fails:
            raise BuildFailed("pip install numpy", "ERROR: no matching distribution")
        self._built.add(recipe)
        return Image(recipe, self.version_of(recipe))

    async def warm(self, image: Image, report: Report) -> None:
        self._check()
        self._warm.add(image.version)

    def is_warm(self, image: Image) -> bool:
        return image.version in self._warm

    async def cool(self, image: Image) -> None:
        self._warm.discard(image.version)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        return await self._make(spec, State(env=dict(spec.env_vars)))

    async def _make(self, spec: SandboxSpec, state: State) -> Sandbox:
        self._check()
        if self.faults.start_s:
            await anyio.sleep(self.faults.start_s)
        if self.faults.start_fails:
            raise StartFailed("clone: Operation not permitted")
        sandbox = FakeSandbox(spec, self.home, state)
        assert spec.id not in self.open, "the id of a sandbox is taken"
        self.open[spec.id] = sandbox
        self.made += 1
        return sandbox

    # Snapshots

    async def restore(self, spec: SandboxSpec, layers: Layers) -> Sandbox:
        state = State(env=dict(spec.env_vars), files=self.home.files_of(layers), layers=layers)
        return await self._make(spec, state)

    def has_layers(self, layers: Layers) -> bool:
        return all(self.home.has(layer) for layer in layers)

    def layer_bytes(self, layer: str) -> int:
        return sum(len(node.data or b"") for node in self.home.changes((layer,)).values() if node is not None)

    async def drop_layers(self, layers: Sequence[str]) -> None:
        for layer in layers:
            self.home.drop(layer)

    async def sweep_layers(self, needed: Sequence[str]) -> None:
        for layer in self.home.kept_names():
            if layer not in needed:
                self.home.drop(layer)

    async def export_layers(self, layers: Layers, fd: int) -> None:
        with open(fd, "wb", closefd=False) as file:
            file.write(to_tar(self.home.changes(layers)))

    async def import_layer(self, layer: str, fd: int) -> Layers:
        with open(fd, "rb", closefd=False) as file:
            self.home.add(layer, from_tar(file.read()))
        return (layer,)

    async def list_layer_files(self, layers: Layers) -> dict[str, tuple[str, int, float]]:
        found: dict[str, tuple[str, int, float]] = {}
        for path, node in self.home.changes(layers).items():
            if node is None:
                found[path] = ("deleted", 0, 0.0)
            else:
                found[path] = ("directory" if node.data is None else "file", len(node.data or b""), node.mtime)
        return found

    def _check(self) -> None:
        if self.faults.unavailable:
            raise BackendUnavailable("user namespaces are switched off", "sysctl -w user.max_user_namespaces=10000")
