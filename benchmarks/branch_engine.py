"""The engine alone: branches through the backend, without a gateway, HTTP or the SDK."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import data
from faas_gateway import backends
from faas_gateway.backends.base import BranchSpec, CodeRequest, FrozenSandbox, Limits, Sandbox, SandboxSpec
from faas_gateway.managers.catalogue import CATALOGUE
from faas_gateway.managers.limits import to_limits

IDLE_S = 600.0
PAUSE_S = 1.0


class _Printed:
    """A sink that keeps the text."""

    def __init__(self) -> None:
        self.text = ""

    def stream(self, name: str, text: str) -> None:
        self.text += text

    def message(self, msg: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        """Nothing that is asked here sends one."""


async def seconds(state: Path, code: str, count: int, rounds: int) -> list[float]:
    """From the call to the last answer of so many branches of a session that has run this code."""
    (shipped,) = (s for s in CATALOGUE if s.recipe.name == data.ENVIRONMENT)
    limits = to_limits(shipped.resources)
    async with backends.load("native")(state, idle_template_s=IDLE_S) as backend:
        image = await backend.build(shipped.recipe, lambda _: None)
        session = await backend.create(SandboxSpec(_id(), image, limits))
        await _run(session, code)
        frozen, following = await session.freeze(_id())
        try:
            return [await _branches(frozen, limits, count) for _ in range(rounds)]
        finally:
            await following.aclose()
            await frozen.aclose()


async def _branches(frozen: FrozenSandbox, limits: Limits, count: int) -> float:
    specs = [BranchSpec(_id(), limits) for _ in range(count)]
    started = time.perf_counter()
    made: list[Sandbox] = []
    for result in await frozen.branch(specs):
        if isinstance(result, Exception):
            raise result
        made.append(result[0])
    answers = await asyncio.gather(*(_run(sandbox, data.ASK) for sandbox in made))
    took = time.perf_counter() - started
    await asyncio.gather(*(sandbox.aclose() for sandbox in made))
    if set(answers) != {data.ANSWER}:
        raise data.WrongAnswer(f"branches answered {set(answers)}")
    await asyncio.sleep(PAUSE_S)
    return took


async def _run(sandbox: Sandbox, code: str) -> str:
    printed = _Printed()
    reply = await sandbox.execute(CodeRequest(_id(), code), printed)
    if reply.status != "ok":
        raise data.WrongAnswer(f"{reply.ename}: {reply.evalue}")
    return printed.text


def _id() -> str:
    return f"bench-{secrets.token_hex(6)}"
