"""Sandboxes from namespaces, by a launcher process of our own: no Docker, no KVM, no root."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from faas_gateway.backends.base import (
    BackendUnavailable,
    Capabilities,
    Image,
    ProgressReport,
    Recipe,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
    StartFailed,
)
from faas_gateway.backends.native import pip_layer, probe, rootfs, runtime_layer
from faas_gateway.backends.native.agents import Agents
from faas_gateway.backends.native.interpreter import HostPython, host_python
from faas_gateway.backends.native.layers import LayerStore, digest
from faas_gateway.backends.native.limits import command_rlimits, enforcement, launcher_arguments
from faas_gateway.backends.native.launcher.cgroups import Group
from faas_gateway.backends.native.link import Answer, Launcher, LauncherError, LauncherGone
from faas_gateway.backends.native.pump import Channel
from faas_gateway.backends.native.python_session import PythonSandbox
from faas_gateway.backends.native.session import NativeSandbox
from faas_gateway.backends.native.shell_session import ShellSandbox
from faas_gateway.backends.native.watch import watch

HOST_UID = 100_000
"""Who sandboxes are on the host when the gateway is run by root: nobody that owns anything."""
TEMPLATE_S, NEW_S = 330.0, 40.0
_REPORT_S = 0.25


@dataclass
class _Launched:
    launcher: Launcher
    hello: dict[str, Any]
    templates: set[str]


class NativeBackend(SandboxBackend):
    """See `SandboxBackend`. state_dir: where layers and sandboxes' files are kept; idle_template_s: when a warm process
    that nobody uses is ended, seconds."""

    name = "native"

    def __init__(self, state_dir: Path, *, idle_template_s: float) -> None:
        self._store = state_dir / "native"
        self._layers = LayerStore(self._store / "layers")
        self._idle_template_s = idle_template_s
        self._launched: _Launched | None = None
        self._starting = anyio.Lock()
        self._warming: dict[str, anyio.Lock] = {}
        self._used: dict[str, float] = {}
        self._sandboxes: dict[str, NativeSandbox] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self._checks: list[probe.Check] | None = None

    async def __aenter__(self) -> NativeBackend:
        # sandboxes of a root gateway run as another user and walk from here; what lies above is not theirs to see
        for folder in (self._store, self._layers.root, self._store / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._cool_idle)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            if self._launched is not None:
                await self._launched.launcher.aclose()
            for sandbox in list(self._sandboxes.values()):
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
            sandbox = self._sandboxes.get(event["box"])
            if isinstance(sandbox, PythonSandbox):
                sandbox.guest_status(int(event["status"]))
        elif kind == "template_gone" and self._launched is not None:
            self._launched.templates.discard(event["name"])
        elif kind == "launcher_gone":
            if self._launched is not None:
                self._launched.templates.clear()
            for sandbox in list(self._sandboxes.values()):
                sandbox.lost()

    # ---- environments -----------------------------------------------------------------------------------
    def _plan(self, recipe: Recipe) -> tuple[str, list[tuple[str, Callable[[Path, Report], Awaitable[None]]]]]:
        """The version's digest, and its layers, top first, each with what builds it."""
        python = host_python()
        layers: list[tuple[str, Callable[[Path, Report], Awaitable[None]]]] = []
        if recipe.language == "python" and recipe.interpreter is None:
            for layer in recipe.layers:
                layers.append((f"pip-{pip_layer.pip_digest(layer, python)}", _pip(layer, python)))
            layers.append((f"runtime-{runtime_layer.runtime_digest(python)}", _runtime(python)))
        elif recipe.language == "python":
            layers.append((f"guest-{runtime_layer.guest_digest()}", _guest()))
        about = [recipe.language, recipe.base_image, list(recipe.preload), [name for name, _ in layers]]
        if recipe.interpreter is not None:
            i = recipe.interpreter
            about += [i.executable, i.prefix, i.base_prefix, list(i.path)]
        return digest(about), layers

    def version_of(self, recipe: Recipe) -> str:
        return self._plan(recipe)[0]

    def is_built(self, recipe: Recipe) -> bool:
        return all(self._layers.has(name) for name, _ in self._plan(recipe)[1])

    async def build(self, recipe: Recipe, report: Report) -> Image:
        version, layers = self._plan(recipe)
        for name, builder in reversed(layers):
            if not self._layers.has(name):
                async with self._layers.building(name) as folder:
                    if folder is not None:
                        await builder(folder, report)
        names = tuple(name for name, _ in layers)
        if recipe.language == "shell":
            detail = rootfs.shell_image()
        elif recipe.interpreter is not None:
            detail = rootfs.callers_python(recipe, recipe.interpreter, names[0])
        else:
            detail = rootfs.our_python(recipe, host_python(), names)
        return Image(recipe, version, detail)

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
            sizes = {"disk_bytes": 256 << 20, "tmpfs_bytes": 64 << 20, "inodes": 10_000}
            arguments = {"name": image.version, "spec": detail.spec(), "sizes": sizes}
            (await self._call(launched, "template", TEMPLATE_S, **arguments)).close()
            launched.templates.add(image.version)

    async def cool(self, image: Image) -> None:
        await self._cool(image.version)

    async def _cool(self, version: str) -> None:
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
    async def _call(self, launched: _Launched, op: str, timeout: float, **arguments: Any) -> Answer:
        """A call whose failure may mean that this machine cannot make sandboxes at all: then say so, and why."""
        try:
            return await launched.launcher.call(op, timeout, **arguments)
        except LauncherError as e:
            checks = await anyio.to_thread.run_sync(probe.run_checks, self._store)
            missing = probe.unavailable(checks)
            if missing is not None:
                raise BackendUnavailable(missing.detail, missing.remedy) from e
            raise

    async def create(self, spec: SandboxSpec) -> Sandbox:
        try:
            return await self._create(spec)
        except (LauncherError, LauncherGone):
            # the warm process may have ended since we last looked; a second failure is the caller's
            if self.is_warm(spec.image) and self._launched is not None and self._launched.launcher.alive:
                raise
            return await self._create(spec)

    async def _create(self, spec: SandboxSpec) -> Sandbox:
        await self.warm(spec.image, _silent)
        launched = await self._launcher()
        has_group = "memory" in launched.hello["controllers"]
        token = secrets.token_hex(8)
        arguments = launcher_arguments(spec.limits, has_group)
        answer = await self._call(
            launched, "new", NEW_S, template=spec.image.version, box=spec.id, token=token, **arguments
        )
        return await self._adopt(spec, launched, answer, token, has_group)

    async def _adopt(
        self, spec: SandboxSpec, launched: _Launched, answer: Answer, token: str, has_group: bool
    ) -> Sandbox:
        """Make the handle of a sandbox that the launcher has made."""
        detail: rootfs.NativeImage = spec.image.detail
        folder = os.path.dirname(detail.executable) if detail.executable else "/usr/local/bin"
        env = {**rootfs.guest_environment(folder), **spec.env_vars}
        agents = Agents(launched.launcher, spec.id, command_rlimits(spec.limits, has_group), env)
        m = answer.message
        group = Group(m["version"], m["groups"]) if m["groups"] else None
        enforced, degraded = enforcement(spec.limits, m["enforced"], m["files"])
        kind = PythonSandbox if detail.executable else ShellSandbox
        sandbox = kind(
            spec.id,
            launched.launcher,
            agents,
            spec.limits,
            group,
            enforced,
            degraded,
            answer.fds.pop(),
            lambda: self._forget(spec.id),
        )
        self._sandboxes[spec.id] = sandbox
        try:
            if isinstance(sandbox, PythonSandbox):
                channel_fd, out, err, guest = answer.fds
                answer.fds.clear()
                channel = Channel(_socket(channel_fd), sandbox.on_frame, sandbox.on_channel_end)
                sandbox.start(channel, out, err, guest, token)
                await sandbox.initialise(spec.env_vars)
            assert self._group is not None
            self._group.start_soon(self._watched, sandbox)
        except BaseException:
            await sandbox.aclose()
            raise
        return sandbox

    async def _watched(self, sandbox: NativeSandbox) -> None:
        async with anyio.create_task_group() as group:

            async def until_end() -> None:
                await sandbox.wait()
                group.cancel_scope.cancel()

            group.start_soon(until_end)
            group.start_soon(watch, sandbox)

    def _forget(self, box: str) -> None:
        self._sandboxes.pop(box, None)


def _socket(fd: int) -> Any:
    import socket

    return socket.socket(fileno=fd)


def _silent(_report: ProgressReport) -> None:
    """For a warm process that is started in passing."""


def _pip(layer: Any, python: HostPython) -> Callable[[Path, Report], Awaitable[None]]:
    async def build(folder: Path, report: Report) -> None:
        report(ProgressReport("install packages", f"pip install {' '.join(layer.packages)}"))
        await pip_layer.install(layer, python, folder, report)

    return build


def _runtime(python: HostPython) -> Callable[[Path, Report], Awaitable[None]]:
    async def build(folder: Path, report: Report) -> None:
        report(ProgressReport("runtime", "copying IPython's kernel into a layer"))
        await anyio.to_thread.run_sync(runtime_layer.write_runtime, folder, python)

    return build


def _guest() -> Callable[[Path, Report], Awaitable[None]]:
    async def build(folder: Path, report: Report) -> None:
        report(ProgressReport("runtime", "laying down the guest"))
        await anyio.to_thread.run_sync(runtime_layer.write_guest, folder)

    return build


__all__ = ["NativeBackend", "StartFailed"]
