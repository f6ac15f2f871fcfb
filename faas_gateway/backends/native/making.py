"""Making sandboxes: from a warm process, by freezing a running one, or as branches of a frozen one."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from faas_gateway.backends.base import BranchSpec, CannotFork, Image, Language, Layers, Limits, Receipt
from faas_gateway.backends.native import network, receipts, rootfs
from faas_gateway.backends.native.agents import Agents
from faas_gateway.backends.native.ahead import Ahead
from faas_gateway.backends.native.frozen import NativeFrozen
from faas_gateway.backends.native.kept import KeptLayers
from faas_gateway.backends.native.launcher.cgroups import Group
from faas_gateway.backends.native.limits import command_rlimits, enforcement, launcher_arguments
from faas_gateway.backends.native.link import Answer, Launcher
from faas_gateway.backends.native.pump import Channel, Output
from faas_gateway.backends.native.python_session import PythonSandbox
from faas_gateway.backends.native.session import Holdings, NativeSandbox
from faas_gateway.backends.native.shell_session import ShellSandbox
from faas_gateway.guest import wire

NEW_S = 40.0
AHEAD_S = 60.0
FREEZE_S = 60.0
BRANCHES_AT_ONCE = 12
"""More of them only wait for one another, and for processors."""


@dataclass(frozen=True)
class Kind:
    """What is the same in a session, its snapshots and their branches."""

    image: Image
    language: Language
    network: str = "none"

    @property
    def has_guest(self) -> bool:
        return self.language == "python"


class Maker:
    """Makes the sandboxes of one launcher. on_made, on_closed and on_frozen are told of each."""

    def __init__(
        self,
        launcher: Launcher,
        has_memory_group: bool,
        spawn: Callable[..., Any],
        is_quiet: Callable[[], bool],
        kept: KeptLayers,
        proxy: network.Proxy,
        policy: network.Policy,
        on_made: Callable[[NativeSandbox], None],
        on_closed: Callable[[NativeSandbox], None],
        on_frozen: Callable[[NativeFrozen], None],
        on_frozen_closed: Callable[[NativeFrozen], None],
    ) -> None:
        self.launcher = launcher
        self.kept = kept
        self._proxy = proxy
        self._policy = policy
        self._on_frozen = on_frozen
        self._on_frozen_closed = on_frozen_closed
        self._grouped = has_memory_group
        self._on_made = on_made
        self._on_closed = on_closed
        self.branching = anyio.CapacityLimiter(BRANCHES_AT_ONCE)
        self.ahead = Ahead(spawn, self._make_ahead, is_quiet)

    async def new(self, box: str, kind: Kind, limits: Limits, layers: Layers = ()) -> NativeSandbox:
        """A new sandbox of the image's warm process. Raises LauncherError, LauncherGone, StartFailed."""
        order = self._order(box, kind, limits)
        folders = [f"kept/{name}" for name in layers]
        answer = await self.launcher.call("new", NEW_S, template=kind.image.version, layers=folders, **order)
        return self._handle(box, kind, limits, layers, answer, order["token"])

    async def freeze(self, sandbox: NativeSandbox, frozen_id: str, layer: str) -> tuple[NativeFrozen, NativeSandbox]:
        """Freeze a sandbox, whose descriptors then are the frozen one's, and make the one in which its session goes on.

        Raises CannotFork, LauncherError, LauncherGone, StartFailed.
        """
        order = self._order(sandbox.id, sandbox.kind, sandbox.limits)
        arguments: dict[str, Any] = {"box": sandbox.id, "as": frozen_id, "layer": layer, "next": order}
        if isinstance(sandbox, PythonSandbox):
            control, theirs = wire.pair()
            with control:
                with theirs:
                    await sandbox.park(theirs)
                answer = await self.launcher.call("freeze", FREEZE_S, [control.fileno()], **arguments)
        else:
            answer = await self.launcher.call("freeze", FREEZE_S, **arguments)
        if "refused" in answer.message:
            answer.close()
            raise CannotFork(receipts.losses(answer.message["refused"]))
        layers = (layer, *sandbox.layers) if answer.message["holds_files"] else sandbox.layers
        following = self._handle(
            sandbox.id,
            sandbox.kind,
            sandbox.limits,
            layers,
            answer,
            order["token"],
            sandbox.env,
            sandbox.output,
            sandbox.holdings.outlet,
        )
        sandbox.holdings.outlet = None  # its ports go on with the session
        frozen = NativeFrozen(frozen_id, self, sandbox, following.layers, receipts.of_snapshot(answer.message))
        self._on_frozen(frozen)
        self.ahead.frozen(frozen, sandbox.limits)
        return frozen, following

    async def branch(self, frozen: NativeFrozen, spec: BranchSpec) -> tuple[NativeSandbox, Receipt]:
        """Raises LauncherError, LauncherGone, StartFailed."""
        order = self._order(spec.id, frozen.kind, spec.limits)
        order["reseed"] = spec.reseed
        async with self.branching:
            answer = await self.launcher.call("branch", NEW_S, frozen=frozen.id, **order)
        sandbox = self._handle(spec.id, frozen.kind, spec.limits, frozen.layers, answer, order["token"], frozen.env)
        return sandbox, receipts.of_branch(answer.message)

    async def _make_ahead(self, frozen: NativeFrozen, least: int, most: int, limits: Limits) -> None:
        order = self._order("", frozen.kind, limits) | {"frozen": frozen.id, "least": least, "most": most}
        (await self.launcher.call("ahead", AHEAD_S, None, **order)).close()

    def frozen_closed(self, frozen: NativeFrozen) -> None:
        self.ahead.closed(frozen)
        self._on_frozen_closed(frozen)

    def _order(self, box: str, kind: Kind, limits: Limits) -> dict[str, Any]:
        arguments = launcher_arguments(limits, self._grouped)
        listen = [network.HTTP_PORT, network.SOCKS_PORT] if kind.network == "full" else []
        return {"box": box, "token": secrets.token_hex(8), "guest": kind.has_guest, "listen": listen, **arguments}

    def _handle(
        self,
        box: str,
        kind: Kind,
        limits: Limits,
        layers: Layers,
        answer: Answer,
        token: str,
        env: Mapping[str, str] | None = None,
        output: Output | None = None,
        outlet: network.Outlet | None = None,
    ) -> NativeSandbox:
        detail: rootfs.NativeImage = kind.image.detail
        folder = os.path.dirname(detail.executable) if detail.executable else "/usr/local/bin"
        env = rootfs.guest_environment(folder) if env is None else env
        agents = Agents(self.launcher, box, command_rlimits(limits, self._grouped), env)
        m = answer.message
        group = Group(m["version"], m["groups"]) if m["groups"] else None
        enforced, degraded = enforcement(limits, m["enforced"], m["files"])
        fds = answer.take()
        token = m.get("token", token)  # one that was made ahead has its own
        guest, fds = (fds[:4], fds[4:]) if kind.has_guest else ([], fds)
        init_pidfd, upper, *listeners = fds
        if listeners:
            outlet = self._proxy.serve(*(socket.socket(fileno=fd) for fd in listeners), policy=self._policy)
        holdings = Holdings(kind, layers, m["files"], m["depth"], group, init_pidfd, upper, outlet)
        cls = PythonSandbox if kind.has_guest else ShellSandbox
        sandbox = cls(box, self, agents, limits, holdings, enforced, degraded, self._on_closed)
        if isinstance(sandbox, PythonSandbox):
            channel_fd, out, err, guest_pidfd = guest
            channel = Channel(socket.socket(fileno=channel_fd), sandbox.on_frame, sandbox.on_channel_end)
            sandbox.start(channel, out, err, guest_pidfd, token, output or Output())
        self._on_made(sandbox)
        return sandbox
