"""Sandboxes from namespaces, by a launcher process of our own: no Docker, no KVM, no root."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from faas_gateway.backends.base import (
    BackendUnavailable,
    Capabilities,
    Image,
    LayerRefused,
    Layers,
    Limits,
    ProgressReport,
    Recipe,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
    StartFailed,
)
from faas_gateway.backends.native import images, making, network, probe, rootfs
from faas_gateway.backends.native.frozen import GONE, NativeFrozen
from faas_gateway.backends.native.identity import HOST_UID
from faas_gateway.backends.native.kept import InvalidLayer, KeptLayers, LayerTooLarge
from faas_gateway.backends.native.layers import LayerStore
from faas_gateway.backends.native.link import Launcher, LauncherError, LauncherGone
from faas_gateway.backends.native.python_session import PythonSandbox
from faas_gateway.backends.native.session import NativeSandbox
from faas_gateway.backends.native.spares import Spares
from faas_gateway.backends.native.watch import Pace

TEMPLATE_S = 330.0
WARM_SIZES = {"disk_bytes": 256 << 20, "tmpfs_bytes": 64 << 20, "inodes": 10_000}


@dataclass
class _Launched:
    launcher: Launcher
    maker: making.Maker
    templates: set[str]


class NativeBackend(SandboxBackend):
    """See `SandboxBackend`.

    state_dir: where layers and sandboxes' files are kept. idle_template_s: when a warm process that nobody uses is
    ended, seconds. network_allow: private destinations that sandboxes with a network may reach, as network.Allowance
    has it; FAAS_NETWORK_ALLOW when not given.
    """

    name = "native"

    def __init__(self, state_dir: Path, *, idle_template_s: float, network_allow: str | None = None) -> None:
        if network_allow is None:
            network_allow = os.environ.get("FAAS_NETWORK_ALLOW", "")
        try:
            self._policy = network.Policy.full(network.Allowance.parse(network_allow))
        except network.BadHost as e:
            raise BackendUnavailable(f"FAAS_NETWORK_ALLOW: {e}.", "correct it, or unset it") from e
        self._store = state_dir / "native"
        self._layers = LayerStore(self._store / "layers")
        self._kept = KeptLayers(self._store / "kept")
        self._idle_template_s = idle_template_s
        self._launched: _Launched | None = None
        self._starting = anyio.Lock()
        self._warming: dict[str, anyio.Lock] = {}
        self._used: dict[str, float] = {}
        self._sandboxes: set[NativeSandbox] = set()
        self._frozen: set[NativeFrozen] = set()
        self._pace = Pace()

    async def __aenter__(self) -> NativeBackend:
        # sandboxes of a root gateway run as another user and walk from here; what lies above is not theirs to see
        for folder in (self._store, self._layers.root, self._store / "runs", self._store / "kept"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        self._proxy = network.Proxy()
        await self._proxy.__aenter__()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._spares = Spares(self._group, self._spare)
        self._group.start_soon(self._cool_idle)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            if self._launched is not None:
                await self._launched.launcher.aclose()
            await self._spares.aclose()
            for held in (*self._sandboxes, *self._frozen):
                await held.aclose()
            await self._proxy.__aexit__(*exc)
        await self._group.__aexit__(None, None, None)

    # ---- the machine ------------------------------------------------------------------------------------
    async def probe(self) -> Capabilities:
        checks = await anyio.to_thread.run_sync(probe.run_checks, self._store)
        missing = probe.unavailable(checks)
        degraded = tuple(f"{c.name}: {c.detail}" for c in checks if c.state == "degraded")
        return Capabilities(
            name=self.name,
            isolation="namespaces",
            available=missing is None,
            problem=missing.detail if missing else "",
            remedy=missing.remedy if missing else "",
            degraded=degraded,
        )

    async def _launcher(self) -> _Launched:
        async with self._starting:
            if self._launched is not None and self._launched.launcher.alive:
                return self._launched
            if self._launched is not None:
                await self._launched.launcher.aclose(1.0)
            launcher = Launcher(self._store, HOST_UID if os.geteuid() == 0 else 0, self._on_event)
            hello = await launcher.start()
            maker = making.Maker(
                launcher,
                "memory" in hello["controllers"],
                self._group.start_soon,
                lambda: not any(s.busy or s.is_freezing for s in self._sandboxes),
                self._kept,
                self._proxy,
                self._policy,
                self._made,
                self._sandboxes.discard,
                self._frozen.add,
                self._frozen.discard,
            )
            self._launched = _Launched(launcher, maker, set())
            return self._launched

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "guest_exit":
            for sandbox in self._sandboxes:
                if sandbox.id == event["box"] and isinstance(sandbox, PythonSandbox):
                    sandbox.guest_status(int(event["status"]))
        elif kind == "template_gone" and self._launched is not None:
            self._launched.templates.discard(event["name"])
        elif kind == "launcher_gone":
            if self._launched is not None:
                self._launched.templates.clear()
            for sandbox in list(self._sandboxes):
                sandbox.lost()
            for frozen in list(self._frozen):
                frozen.lost(GONE)
        elif kind == "frozen_gone":
            for frozen in self._frozen:
                if frozen.id == event["box"]:
                    frozen.lost(GONE)

    # ---- environments -----------------------------------------------------------------------------------
    def version_of(self, recipe: Recipe) -> str:
        return images.plan(recipe).version

    def is_built(self, recipe: Recipe) -> bool:
        return all(self._layers.has(layer.name) for layer in images.plan(recipe).layers)

    async def build(self, recipe: Recipe, report: Report) -> Image:
        return await images.build(recipe, self._layers, report)

    def is_warm(self, image: Image) -> bool:
        return self._launched is not None and image.version in self._launched.templates

    async def warm(self, image: Image, report: Report) -> None:
        self._used[image.version] = anyio.current_time()
        if self.is_warm(image):
            return
        async with self._warming.setdefault(image.version, anyio.Lock()):
            launched = await self._launcher()
            if image.version in launched.templates:
                return
            report(ProgressReport("start", f"starting the warm process of {image.recipe.name}"))
            detail: rootfs.NativeImage = image.detail
            arguments: dict[str, Any] = {"name": image.version, "spec": detail.spec(), "sizes": WARM_SIZES}
            try:
                (await launched.launcher.call("template", TEMPLATE_S, **arguments)).close()
            except LauncherError as e:
                await self._explain(e)
                raise
            launched.templates.add(image.version)

    async def _explain(self, error: LauncherError) -> None:
        """A failure may mean that this machine cannot make sandboxes at all: then say so, and what mends it."""
        checks = await anyio.to_thread.run_sync(probe.run_checks, self._store)
        missing = probe.unavailable(checks)
        if missing is not None:
            raise BackendUnavailable(missing.detail, missing.remedy) from error

    async def cool(self, image: Image) -> None:
        await self._cool(image.version)

    async def _cool(self, version: str) -> None:
        await self._spares.drop_version(version)
        if self._launched is not None and version in self._launched.templates:
            self._launched.templates.discard(version)
            (await self._launched.launcher.call("cool", 10.0, name=version)).close()

    async def _cool_idle(self) -> None:
        """End warm processes that no session was forked from for long."""
        while True:
            await anyio.sleep(min(30.0, self._idle_template_s))
            launched, now = self._launched, anyio.current_time()
            for version in list(launched.templates) if launched is not None else []:
                if now - self._used.get(version, now) > self._idle_template_s:
                    await self._cool(version)

    # ---- sandboxes --------------------------------------------------------------------------------------
    async def create(self, spec: SandboxSpec) -> Sandbox:
        return await self._create(spec, ())

    async def restore(self, spec: SandboxSpec, layers: Layers) -> Sandbox:
        if not self.has_layers(layers):
            raise StartFailed("some of the snapshot's files are no longer there")
        return await self._create(spec, layers)

    async def _create(self, spec: SandboxSpec, layers: Layers) -> Sandbox:
        kind = making.Kind(spec.image, spec.language or spec.image.recipe.language, spec.network)
        self._used[spec.image.version] = anyio.current_time()
        sandbox = None if layers else self._spares.take(kind, spec.limits)
        if sandbox is not None:
            try:
                await sandbox.claim(spec.id)
            except (LauncherError, LauncherGone):
                await sandbox.aclose()
                sandbox = None
            except BaseException:
                await sandbox.aclose()
                raise
        if sandbox is None:
            sandbox = await self._make(spec.id, kind, spec.limits, layers)
        told = network.environment() | network.pip_environment() if kind.network == "full" else {}
        env_vars = {**told, **spec.env_vars}
        try:
            await sandbox.set_env_vars(env_vars)
        except BaseException:
            await sandbox.aclose()
            raise
        return sandbox

    async def _make(self, box: str, kind: making.Kind, limits: Limits, layers: Layers = ()) -> NativeSandbox:
        try:
            return await self._fork(box, kind, limits, layers)
        except (LauncherError, LauncherGone):
            if self.is_warm(kind.image):
                raise
            return await self._fork(box, kind, limits, layers)  # the warm process had ended since we last looked

    async def _fork(self, box: str, kind: making.Kind, limits: Limits, layers: Layers) -> NativeSandbox:
        await self.warm(kind.image, _silent)
        launched = await self._launcher()
        try:
            return await launched.maker.new(box, kind, limits, layers)
        except LauncherError as e:
            await self._explain(e)
            raise

    def _made(self, sandbox: NativeSandbox) -> None:
        self._sandboxes.add(sandbox)
        self._group.start_soon(_watched, sandbox, self._pace)

    async def _spare(self, kind: making.Kind, limits: Limits) -> NativeSandbox:
        sandbox = await self._make(f"s-{secrets.token_hex(6)}", kind, limits)
        try:
            await sandbox.touch()
        except BaseException:
            await sandbox.aclose()
            raise
        return sandbox

    # ---- files of snapshots -----------------------------------------------------------------------------
    def has_layers(self, layers: Layers) -> bool:
        return all(self._kept.has(name) for name in layers)

    def layer_bytes(self, layer: str) -> int:
        return self._kept.size_bytes(layer)

    async def drop_layers(self, layers: Sequence[str]) -> None:
        for name in layers:
            used = False
            if self._launched is not None and self._launched.launcher.alive:
                answer = await self._launched.launcher.call("unkeep", 10.0, folder=f"kept/{name}")
                used = bool(answer.message["used"])
            if not used:
                await anyio.to_thread.run_sync(self._kept.drop, name)

    async def sweep_layers(self, needed: Sequence[str]) -> None:
        await anyio.to_thread.run_sync(self._kept.sweep, needed)

    async def export_layers(self, layers: Layers, fd: int) -> None:
        await anyio.to_thread.run_sync(self._kept.export, layers, fd)

    async def import_layer(self, layer: str, fd: int) -> Layers:
        try:
            await anyio.to_thread.run_sync(self._kept.import_, layer, fd)
        except (InvalidLayer, LayerTooLarge) as e:
            raise LayerRefused(str(e)) from e
        return (layer,)

    async def list_layer_files(self, layers: Layers) -> dict[str, tuple[str, int, float]]:
        return await anyio.to_thread.run_sync(self._kept.listing, layers)


async def _watched(sandbox: NativeSandbox, pace: Pace) -> None:
    async with anyio.create_task_group() as group:

        async def until_end() -> None:
            await sandbox.wait()
            group.cancel_scope.cancel()

        group.start_soon(until_end)
        group.start_soon(pace.watch, sandbox)


def _silent(_report: ProgressReport) -> None:
    """For a warm process that is started in passing."""
