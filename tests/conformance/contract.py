"""Speaking to a sandbox through the contract alone."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from faas_gateway.backends.base import CodeRequest, CommandRequest, Reply, Sandbox

Create = Callable[..., Awaitable[Sandbox]]
"""The fixture `create`: an image, `env_vars`, and limits by name."""


@dataclass
class Recorder:
    """A sink that keeps everything, in order."""

    events: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    def stream(self, name: str, text: str) -> None:
        if self.events and self.events[-1][0] == name:
            text = self.events.pop()[1] + text
        self.events.append((name, text))

    def message(self, msg: Any, buffers: Any) -> None:
        self.events.append((msg["msg_type"], msg["content"]))

    def text(self, name: str = "stdout") -> str:
        return "".join(text for kind, text in self.events if kind == name)


async def execute(sandbox: Sandbox, code: str, **options: Any) -> tuple[Reply, Recorder]:
    recorder = Recorder()
    reply = await sandbox.execute(CodeRequest(secrets.token_hex(8), code, **options), recorder)
    return reply, recorder


async def run(sandbox: Sandbox, *argv: str, **options: Any) -> tuple[Reply, Recorder]:
    recorder = Recorder()
    reply = await sandbox.run(CommandRequest(secrets.token_hex(8), argv, **options), recorder)
    return reply, recorder


async def value(sandbox: Sandbox, code: str) -> str:
    """What code prints that has to succeed."""
    reply, recorder = await execute(sandbox, code)
    assert reply.status == "ok", (reply, recorder.text("stderr"))
    return recorder.text().strip()


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
