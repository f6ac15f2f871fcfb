"""One request: its wait for its turn, its run in the sandbox, its limits, and the result that comes of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal

import anyio
from faas.types import ExecutionResult
from pydantic_core import to_json

from faas_gateway.backends.base import Ended, Reply, SandboxEnded, Sink
from faas_gateway.managers import outcomes
from faas_gateway.managers.beside import Place
from faas_gateway.managers.eventlog import EventLog
from faas_gateway.managers.messages import encode_json
from faas_gateway.managers.outcomes import Cause, Outcome
from faas_gateway.managers.output import Output
from faas_gateway.managers.results import ResultBuilder
from faas_gateway.managers.slot import SandboxSlot
from faas_gateway.managers.spool import SpooledBytes
from faas_gateway.settings import MIB, Settings

log = logging.getLogger(__name__)

Call = Callable[[Sink], Awaitable[Reply]]
Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class Request:
    """Code, or a command, that runs in an execution whether or not somebody listens.

    Args:
        request_id: unique in its execution.
        execution_id: of the execution.
        kind: `code` is stopped by an interrupt, a `command` by ending it.
        slot: holds the sandbox where it runs.
        settings: grace, and what is kept of the output.
        output_mb: its output limit, MiB.
        timeout_s: its wall time from the moment it runs, seconds; None for no limit.
        notes: for its result.
        spawn: starts a task that lives no longer than the execution.
        ended: how the execution ended, once it has.
    """

    def __init__(
        self,
        request_id: str,
        execution_id: str,
        *,
        kind: Literal["code", "command"],
        slot: SandboxSlot,
        settings: Settings,
        output_mb: int,
        timeout_s: float | None,
        notes: Sequence[str],
        spawn: Spawn,
        ended: Callable[[], Ended | None],
    ) -> None:
        self.id = request_id
        self.execution_id = execution_id
        self.log = EventLog(settings.spool_dir, settings.log_memory_bytes)
        self.done = anyio.Event()
        self.started_at: float | None = None
        """Seconds since the epoch, once it runs."""
        self.result: ExecutionResult | None = None
        """Set with `done`; without the output, which `read_result` has."""
        self.kind = kind
        self._slot = slot
        self._settings = settings
        self._timeout_s = timeout_s
        self._notes = list(notes)
        self._spawn = spawn
        self._ended = ended
        self._scope = anyio.CancelScope()
        self._encoded: SpooledBytes | None = None
        self._clock = 0.0
        self._running = False
        self._interrupted = False
        self._cause: Cause | None = None
        self._why = ""
        self._built = ResultBuilder(text_bytes=settings.result_text_bytes, outputs_bytes=settings.result_outputs_bytes)
        self._output = Output(
            self.log,
            self._built,
            limit_bytes=output_mb * MIB,
            message_bytes=settings.message_bytes,
            on_overflow=self._overflowed,
        )
        self.log.append("accepted", encode_json({"request_id": self.id, "execution_id": self.execution_id}))

    async def run(self, call: Call, place: Place) -> None:
        """Wait for the place, run, and leave the result; returns when that is done. Never raises.

        Args:
            call: the sandbox's method, bound to what it shall do.
            place: its turn, or its leave to run beside the queue. The caller leaves it.
        """
        outcome: Outcome | None = None
        try:
            with self._scope:
                await place.wait()
                outcome = self._cancelled() if self._interrupted else await self._run(call)
            if self._scope.cancelled_caught:
                outcome = self._cancelled()
        except Exception:
            log.exception("request %s failed in the gateway", self.id)
            ended = Ended("lost", "the gateway failed while it ran this; its log has the reason")
            outcome = outcomes.from_ended(ended, cause=None, why="")
        finally:
            if outcome is None:  # cancelled from outside: the execution is over
                ended = self._ended() or Ended("lost", "the gateway stopped while it ran")
                outcome = outcomes.from_ended(ended, cause=self._cause, why=self._why)
            self._finish(outcome)

    async def interrupt(self) -> None:
        """Ask it to stop: SIGINT for code that runs, the end for a command, no start for what waits. Idempotent."""
        if self.done.is_set():
            return
        self._interrupted = True
        if self.started_at is None or self.kind == "command":
            self._scope.cancel()
        else:
            await self._send_interrupt()

    async def wait(self, seconds: float) -> bool:
        """Whether it is done within the time, seconds."""
        if seconds > 0:
            with anyio.move_on_after(seconds):
                await self.done.wait()
        return self.done.is_set()

    def read_result(self) -> bytes:
        """The whole ExecutionResult as JSON, once it is done."""
        assert self._encoded is not None
        return self._encoded.read()

    @property
    def size(self) -> int:
        """Bytes that are kept of it."""
        return self.log.size + (self._encoded.size if self._encoded is not None else 0)

    def discard(self) -> None:
        """Give back what is kept of it. Idempotent."""
        self.log.discard()
        if self._encoded is not None:
            self._encoded.close()

    async def _run(self, call: Call) -> Outcome:
        self.started_at, self._clock = time.time(), time.monotonic()
        if self._timeout_s is not None:
            self._spawn(self._watch_time)
        self._running = True
        try:
            reply = await call(self._output)
        except SandboxEnded as exc:
            return outcomes.from_ended(exc.ended, cause=self._cause, why=self._why)
        finally:
            self._running = False
            self._output.finish()
        return outcomes.from_reply(reply, cause=self._cause, why=self._why, interrupted=self._interrupted)

    def _cancelled(self) -> Outcome:
        if self._cause is not None:
            return outcomes.stopped_command(self._cause, self._why)
        if self.started_at is None:
            return outcomes.cancelled("interrupted before it started")
        return outcomes.cancelled("interrupted")

    async def _watch_time(self) -> None:
        assert self._timeout_s is not None
        with anyio.move_on_after(self._timeout_s):
            await self.done.wait()
        if self._running and self._cause is None:
            self._cause, self._why = "timeout", f"it ran longer than its timeout of {self._timeout_s:g} s"
            await self._stop()

    def _overflowed(self, reason: str) -> None:
        if self._cause is None:
            self._cause, self._why = "output", reason
            if self._running:
                self._spawn(self._stop)

    async def _stop(self) -> None:
        """Interrupt it; if that does not help within the grace, kill its sandbox."""
        if not self._running:
            return
        if self.kind == "command":
            self._scope.cancel()
            return
        for _ in range(2):  # one that comes just before the code begins is ignored
            await self._send_interrupt()
            with anyio.move_on_after(self._settings.grace_s / 2):
                await self.done.wait()
                return
        if not self.done.is_set():
            reason = f"{self._why}, and it did not react to the interrupt"
            await self._slot.kill(Ended("killed", reason, "Open a new execution."))

    async def _send_interrupt(self) -> None:
        with anyio.move_on_after(self._settings.grace_s):
            await self._slot.interrupt()

    def _finish(self, outcome: Outcome) -> None:
        self._output.finish()
        slim = ExecutionResult(
            request_id=self.id,
            execution_id=self.execution_id,
            status=outcome.status,
            exit_code=outcome.exit_code,
            duration=time.monotonic() - self._clock if self.started_at is not None else 0.0,
            truncated=self._built.lost,
            error=outcome.error,
            execution_count=outcome.execution_count,
            notes=self._notes + self._built.notes(),
        )
        self._encoded = self._keep(slim)
        self.result = slim
        self.log.append("result", slim.model_dump_json().encode(), last=True)
        self.log.close()
        self.done.set()

    def _keep(self, slim: ExecutionResult) -> SpooledBytes:
        """Encode the whole result, and let go of what it was made of."""
        built, folder, memory = self._built, self._settings.spool_dir, self._settings.log_memory_bytes
        output = {"stdout": built.stdout, "stderr": built.stderr, "outputs": built.outputs}
        whole = {"truncated": built.truncated or built.lost}
        built.clear()
        try:
            return SpooledBytes(to_json(slim.model_copy(update=output | whole)), folder, memory)
        except OSError:
            slim.truncated = True
            slim.notes.append("the gateway had no space to keep the output")
            return SpooledBytes(slim.model_dump_json().encode(), folder, 1 << 30)
