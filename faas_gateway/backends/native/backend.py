"""Sandboxes from namespaces, by a launcher process of our own: no Docker, no KVM, no root."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from faas_gateway.backends.base import (
    BackendUnavailable,
    Capabilities,
    Image,
    Limits,
    ProgressReport,
    Recipe,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
)
from faas_gateway.backends.native import images, making, probe, rootfs
from faas_gateway.backends.native.identity import HOST_UID
from faas_gateway.backends.native.layers import LayerStore
from faas_gateway.backends.native.link import Launcher, LauncherError, LauncherGone
from faas_gateway.backends.native.python_session import PythonSandbox
from faas_gateway.backends.native.session import NativeSandbox
from faas_gateway.backends.native.spares import Spares
from faas_gateway.backends.native.watch import watch

TEMPLATE_S = 330.0
WARM_SIZES = {"disk_bytes": 256 << 20, "tmpfs_bytes": 64 << 20, "inodes": 10_000}


@dataclass
class _Launched:
    launcher: Launcher
    hello: dict[str, Any]
    templates: set[str]

    @property
    def has_memory_group(self) -> bool:
        return "memory" in self.hello["controllers"]


class NativeBackend(SandboxBackend):
    """See `SandboxBackend`.

    state_dir: where layers and sandboxes' files are kept. idle_template_s: when a warm process that nobody uses is
    ended, seconds.
    """

    name = "native"

    def __init__(self, state_dir: Path, *, idle_template_s: float) -> None:
        self._store = state_dir / "native"
        self._layers = LayerStore(self._store / "layers")
        self._idle_template_s = idle_template_s
        self._launched: _Launched | None = None
        self._starting = anyio.Lock()
        self._warming: dict[str, anyio.Lock] = {}
        self._used: dict[str, float] = {}
        self._sandboxes: set[NativeSandbox] = set()

    async def __aenter__(self) -> NativeBackend:
        # sandboxes of a root gateway run as another user and walk from here; what lies above is not theirs to see
        for folder in (self._store, self._layers.root, self._store / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
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
            for sandbox in list(self._sandboxes):
                await sandbox.aclose()
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
            self._launched = _Launched(launcher, hello, set())
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
        self._used[spec.image.version] = anyio.current_time()
        sandbox = self._spares.take(spec.image, spec.limits)
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
            sandbox = await self._make(spec.id, spec.image, spec.limits)
        try:
            await sandbox.set_env_vars(spec.env_vars)
        except BaseException:
            await sandbox.aclose()
            raise
        return sandbox

    async def _make(self, box: str, image: Image, limits: Limits) -> NativeSandbox:
        try:
            sandbox = await self._fork(box, image, limits)
        except (LauncherError, LauncherGone):
            if self.is_warm(image):
                raise
            sandbox = await self._fork(box, image, limits)  # the warm process had ended since we last looked
        self._sandboxes.add(sandbox)
        self._group.start_soon(_watched, sandbox)
        return sandbox

    async def _fork(self, box: str, image: Image, limits: Limits) -> NativeSandbox:
        await self.warm(image, _silent)
        launched = await self._launcher()
        grouped = launched.has_memory_group
        try:
            return await making.make(launched.launcher, box, image, limits, grouped, self._sandboxes.discard)
        except LauncherError as e:
            await self._explain(e)
            raise

    async def _spare(self, image: Image, limits: Limits) -> NativeSandbox:
        sandbox = await self._make(f"s-{secrets.token_hex(6)}", image, limits)
        try:
            await sandbox.touch()
        except BaseException:
            await sandbox.aclose()
            raise
        return sandbox


async def _watched(sandbox: NativeSandbox) -> None:
    async with anyio.create_task_group() as group:

        async def until_end() -> None:
            await sandbox.wait()
            group.cancel_scope.cancel()

        group.start_soon(until_end)
        group.start_soon(watch, sandbox)


def _silent(_report: ProgressReport) -> None:
    """For a warm process that is started in passing."""
