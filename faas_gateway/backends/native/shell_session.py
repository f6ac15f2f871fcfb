"""A sandbox whose code is shell: each request is a fresh `sh` that takes over where the last one stopped.

Working directory and variables are kept in a file between requests (every variable is exported, `set -a`), so there
is no process to lose, `exit` ends one request only, and the state is plain text that a snapshot can carry.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from faas_gateway.backends.base import (
    CannotFork,
    CaptureReport,
    CodeRequest,
    CommandRequest,
    Loss,
    NotTransferable,
    Reply,
    Sink,
)
from faas_gateway.backends.native.agents import Script
from faas_gateway.backends.native.frozen import NativeFrozen
from faas_gateway.backends.native.session import NativeSandbox

_STATE = "/run/faas/state.sh"
# builtins only: a fork each would double the time of a short command. The agent puts STATE.new in its place.
_RUNNER = f"""
[ -r {_STATE} ] && . {_STATE} && cd -- "$__faas_folder"
eval "$__faas_given"
unset __faas_given
__faas_save() {{
  __faas_status=$?
  __faas_folder=$PWD
  {{ export -p; printf 'umask '; umask; printf '%s\\n' '# whole'; }} >{_STATE}.new 2>/dev/null
  return $__faas_status
}}
trap __faas_save EXIT
set -a
. "$0"
"""


def _given(env_vars: Mapping[str, str]) -> str:
    """Shell code that sets what a session was given and does not have yet: a branch is given what its source was not.

    What the state remembers as given before is left as the session's own code may have changed it since.
    """
    lines: list[str] = []
    for name, value in env_vars.items():
        if name.isascii() and name.isidentifier():
            quoted, was = shlex.quote(value), f"__faas_was_{name}"
            lines.append(f'[ "${{{was}-}}" = ={quoted} ] || export {name}={quoted} {was}=={quoted}')
    return "\n".join(lines)


class ShellSandbox(NativeSandbox):
    async def execute(self, request: CodeRequest, sink: Sink) -> Reply:
        cell = f"/run/faas/cell-{request.id[:64]}"
        given = {"__faas_given": _given(self._agents.env)}
        command = CommandRequest(request.id, ("/bin/sh", "-c", _RUNNER, cell), env_vars=given)
        reply = await self.run_script(command, sink, Script(cell, request.code + "\n", _STATE))
        if self.writes_blocked and reply.status == "error":
            return replace(reply, code="disk_full", hint="The sandbox's disk limit is reached: delete files first.")
        return reply

    async def list_variables(self) -> list[dict[str, Any]]:
        raise NotTransferable("a shell session has no Python variables; use files")

    async def pull_variable(self, name: str) -> AsyncIterator[bytes]:
        raise NotTransferable("a shell session has no Python variables; use files")
        yield b""

    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        raise NotTransferable("a shell session has no Python variables; use files")

    # ---- snapshots: all of the session's state is files
    async def check_fork(self) -> list[Loss]:
        usage = await self.usage()
        if not usage.processes:
            return []
        reason = "it would be left behind: the files alone are copied while it runs"
        return [Loss("process", f"{usage.processes} in the background", reason, "portable_only")]

    async def freeze(self, frozen_id: str) -> tuple[NativeFrozen, NativeSandbox]:
        losses = await self.check_fork()
        if losses:
            raise CannotFork(losses)
        return await super().freeze(frozen_id)

    async def capture_variables(self, fd: int) -> CaptureReport:
        return CaptureReport()

    async def restore_variables(self, fd: int) -> CaptureReport:
        return CaptureReport()

    async def fingerprints(self) -> list[dict[str, Any]]:
        return []

    async def reseed(self) -> None:
        """There is no generator in a shell."""
