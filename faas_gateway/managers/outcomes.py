"""How a request ended, from what the sandbox said and what the gateway did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faas.types import CodeError, ResultStatus

from faas_gateway.backends.base import Ended, Reply
from faas_gateway.managers.messages import clean_text

#: Why the gateway stopped a request itself.
Cause = Literal["timeout", "output"]

EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_CANCELLED = 130  # 128 + SIGINT
EXIT_KILLED = 137  # 128 + SIGKILL

MAX_TEXT_CHARS = 256 << 10
MAX_TRACEBACK_LINES = 1000

#: Ends that somebody asked for: nothing went wrong in the sandbox.
TERMINATED = frozenset({"closed", "expired", "idle"})

HINTS = {
    "oom": "Open a new execution with more memory (memory_mb; --memory in a notebook).",
    "died": "The code ended its own session (exit, a signal, a crash in native code). Open a new execution.",
    "disk_full": "Open a new execution with more disk (disk_mb), or write less.",
    "cpu_time": "Open a new execution with more CPU time (cpu_time_s).",
    "pids": "Open a new execution with a higher pids limit, or start fewer processes and threads.",
    "lost": "Open a new execution and run the code again.",
    "expired": "Open a new execution, with a longer ttl_s.",
    "idle": "Open a new execution, with a longer idle_timeout_s.",
    "killed": "Open a new execution.",
    "closed": "Open a new execution.",
}

_RESULT_CODES = frozenset({"oom", "died", "disk_full", "cpu_time", "pids", "killed", "lost"})


@dataclass(frozen=True)
class Outcome:
    """The part of an ExecutionResult that does not come from its output."""

    status: ResultStatus
    exit_code: int = 0
    error: CodeError | None = None
    execution_count: int | None = None


def hint_for(ended: Ended) -> str:
    return ended.hint or HINTS.get(ended.code, "Open a new execution.")


def from_reply(reply: Reply, *, cause: Cause | None, why: str, interrupted: bool) -> Outcome:
    """The outcome of a request that its sandbox answered.

    Args:
        reply: the answer.
        cause: set when the gateway stopped the request.
        why: the reason for that, as a sentence.
        interrupted: whether a client asked for it to stop.
    """
    traceback = [_bounded(line) for line in reply.traceback[:MAX_TRACEBACK_LINES]]
    count = reply.execution_count
    if cause is not None:
        return _stopped(cause, why, survived=True, traceback=traceback, count=count)
    if reply.status == "ok":
        return Outcome("success", reply.exit_code, execution_count=count)
    error = CodeError(
        code=reply.code or ("exception" if reply.ename else "exit_code"),
        ename=_bounded(reply.ename),
        evalue=_bounded(reply.evalue),
        traceback=traceback,
        hint=reply.hint,
    )
    if interrupted:
        error.code = "cancelled"
        return Outcome("cancelled", reply.exit_code or EXIT_CANCELLED, error, count)
    return Outcome("error", reply.exit_code or 1, error, count)


def from_ended(ended: Ended, *, cause: Cause | None, why: str) -> Outcome:
    """The outcome of a request whose sandbox ended underneath it."""
    if cause is not None:
        return _stopped(cause, why, survived=False, traceback=[], count=None)
    if ended.code == "closed":
        error = CodeError(code="cancelled", evalue=_bounded(ended.reason), hint=hint_for(ended))
        return Outcome("cancelled", EXIT_KILLED, error)
    code = ended.code if ended.code in _RESULT_CODES else "killed"
    error = CodeError(code=code, evalue=_bounded(ended.reason), hint=hint_for(ended))
    return Outcome("error", EXIT_KILLED, error)


def cancelled(why: str) -> Outcome:
    """The outcome of a request that was stopped without an answer from its sandbox, which goes on."""
    return Outcome("cancelled", EXIT_CANCELLED, CodeError(code="cancelled", evalue=why))


def stopped_command(cause: Cause, why: str) -> Outcome:
    """The outcome of a command that the gateway stopped; the session is not touched by that."""
    return _stopped(cause, why, survived=True, traceback=[], count=None)


def _stopped(cause: Cause, why: str, *, survived: bool, traceback: list[str], count: int | None) -> Outcome:
    more = {
        "timeout": "Give it more time with timeout (--timeout in a notebook).",
        "output": "Print less, write to a file, or raise output_mb.",
    }[cause]
    session = (
        "The session and its state are kept."
        if survived
        else "The code did not react to the interrupt, so the session was ended; open a new execution."
    )
    error = CodeError(
        code="timeout" if cause == "timeout" else "output_truncated",
        ename="Timeout" if cause == "timeout" else "OutputLimit",
        evalue=why,
        traceback=traceback,
        hint=f"{session} {more}",
    )
    if cause == "timeout":
        return Outcome("timeout", EXIT_TIMEOUT, error, count)
    return Outcome("error", EXIT_CANCELLED if survived else EXIT_KILLED, error, count)


def _bounded(text: str) -> str:
    return clean_text(text[:MAX_TEXT_CHARS])
