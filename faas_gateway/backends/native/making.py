"""Making a sandbox from a warm process, by one call of the launcher."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable

from faas_gateway.backends.base import Image, Limits
from faas_gateway.backends.native import rootfs
from faas_gateway.backends.native.agents import Agents
from faas_gateway.backends.native.launcher.cgroups import Group
from faas_gateway.backends.native.limits import command_rlimits, enforcement, launcher_arguments
from faas_gateway.backends.native.link import Answer, Launcher
from faas_gateway.backends.native.pump import Channel
from faas_gateway.backends.native.python_session import PythonSandbox
from faas_gateway.backends.native.session import NativeSandbox
from faas_gateway.backends.native.shell_session import ShellSandbox

NEW_S = 40.0


async def make(
    launcher: Launcher,
    box: str,
    image: Image,
    limits: Limits,
    has_memory_group: bool,
    on_closed: Callable[[NativeSandbox], None],
) -> NativeSandbox:
    """A new sandbox forked from the image's warm process. Raises LauncherError, LauncherGone, StartFailed."""
    token = secrets.token_hex(8)
    arguments = launcher_arguments(limits, has_memory_group)
    answer = await launcher.call("new", NEW_S, template=image.version, box=box, token=token, **arguments)
    return _handle(launcher, box, image, limits, has_memory_group, on_closed, answer, token)


def _handle(
    launcher: Launcher,
    box: str,
    image: Image,
    limits: Limits,
    has_memory_group: bool,
    on_closed: Callable[[NativeSandbox], None],
    answer: Answer,
    token: str,
) -> NativeSandbox:
    detail: rootfs.NativeImage = image.detail
    folder = os.path.dirname(detail.executable) if detail.executable else "/usr/local/bin"
    agents = Agents(launcher, box, command_rlimits(limits, has_memory_group), rootfs.guest_environment(folder))
    m = answer.message
    group = Group(m["version"], m["groups"]) if m["groups"] else None
    enforced, degraded = enforcement(limits, m["enforced"], m["files"])
    kind = PythonSandbox if detail.executable else ShellSandbox
    *guest, init_pidfd = answer.take()
    sandbox = kind(box, launcher, agents, limits, group, enforced, degraded, init_pidfd, on_closed)
    if isinstance(sandbox, PythonSandbox):
        channel_fd, out, err, guest_pidfd = guest
        channel = Channel(socket.socket(fileno=channel_fd), sandbox.on_frame, sandbox.on_channel_end)
        sandbox.start(channel, out, err, guest_pidfd, token)
    return sandbox
