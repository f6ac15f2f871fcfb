"""The gateway's own errors: one tree, each with a stable code, an HTTP status and what to do about it.

    GatewayError
    ├── InvalidRequestError        422 invalid_request
    ├── UnknownEnvironmentError    404 unknown_environment
    ├── UnknownExecutionError      404 unknown_execution
    ├── UnknownRequestError        404 unknown_request
    ├── UnknownVariableError       404 unknown_variable
    ├── UnknownFileError           404 unknown_file
    ├── UnknownSnapshotError       404 unknown_snapshot
    ├── NotFoundError              404 not_found
    ├── MethodNotAllowedError      405 method_not_allowed
    ├── NameTakenError             409 name_taken
    ├── RequestExistsError         409 request_exists
    ├── RequestRunningError        409 request_running
    ├── NoCheckpointError          409 no_checkpoint
    ├── NotPortableError           409 not_portable
    ├── ExecutionEndedError        410 execution_ended
    ├── SnapshotGoneError          410 snapshot_gone
    ├── TooLargeError              413 too_large
    ├── NotTransferableError       422 not_transferable
    ├── FileOperationError         422 file_error
    ├── CannotForkError            422 cannot_fork
    ├── ScriptFailedError          422 script_failed
    ├── InternalError              500 internal
    ├── BuildFailedError           502 build_failed
    ├── SandboxUnavailableError    503 sandbox_unavailable
    ├── StartFailedError           503 start_failed
    ├── CapacityError              503 capacity
    ├── StorageUnavailableError    503 storage_unavailable
    └── DeadlineError              504 timeout

What user code does wrong is never one of these: that is an `ExecutionResult`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from faas.types import Problem

from faas_gateway.backends.base import (
    BackendUnavailable,
    BuildFailed,
    CannotFork,
    FileProblem,
    LayerRefused,
    NotTransferable,
    SandboxEnded,
    StartFailed,
    UnknownVariable,
)

OUTPUT_TAIL_CHARS = 4000


class GatewayError(Exception):
    """What a client is told when the gateway cannot do what it was asked.

    Args:
        detail: what went wrong, in one or two sentences.
        hint: what to do about it.
        errors: for bodies and queries that do not validate, one entry per field.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, hint: str = "", errors: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.errors = list(errors)

    def problem(self) -> Problem:
        return Problem(
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            hint=self.hint,
            errors=self.errors,
        )


class InvalidRequestError(GatewayError):
    code, status, title = "invalid_request", 422, "The request is not valid"


class UnknownEnvironmentError(GatewayError):
    code, status, title = "unknown_environment", 404, "No such environment"


class UnknownExecutionError(GatewayError):
    code, status, title = "unknown_execution", 404, "No such execution"


class UnknownRequestError(GatewayError):
    code, status, title = "unknown_request", 404, "No such request"


class UnknownVariableError(GatewayError):
    code, status, title = "unknown_variable", 404, "No such variable"


class UnknownFileError(GatewayError):
    code, status, title = "unknown_file", 404, "No such file"


class UnknownSnapshotError(GatewayError):
    code, status, title = "unknown_snapshot", 404, "No such snapshot"


class NotFoundError(GatewayError):
    code, status, title = "not_found", 404, "No such route"


class MethodNotAllowedError(GatewayError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class NameTakenError(GatewayError):
    code, status, title = "name_taken", 409, "The name is taken"


class RequestExistsError(GatewayError):
    code, status, title = "request_exists", 409, "The request id is taken"


class RequestRunningError(GatewayError):
    code, status, title = "request_running", 409, "The request is still running"


class NoCheckpointError(GatewayError):
    code, status, title = "no_checkpoint", 409, "There is no checkpoint to go back to"


class NotPortableError(GatewayError):
    code, status, title = "not_portable", 409, "The snapshot has no portable form"


class ExecutionEndedError(GatewayError):
    code, status, title = "execution_ended", 410, "The execution has ended"


class SnapshotGoneError(GatewayError):
    code, status, title = "snapshot_gone", 410, "The snapshot is gone"


class TooLargeError(GatewayError):
    code, status, title = "too_large", 413, "The body is too large"


class NotTransferableError(GatewayError):
    code, status, title = "not_transferable", 422, "The value cannot travel"


class FileOperationError(GatewayError):
    code, status, title = "file_error", 422, "The file operation failed"


class CannotForkError(GatewayError):
    code, status, title = "cannot_fork", 422, "The session cannot be forked alive"


class ScriptFailedError(GatewayError):
    code, status, title = "script_failed", 422, "The script of the snapshot failed"


class InternalError(GatewayError):
    code, status, title = "internal", 500, "Internal error"


class BuildFailedError(GatewayError):
    code, status, title = "build_failed", 502, "The environment could not be built"


class SandboxUnavailableError(GatewayError):
    code, status, title = "sandbox_unavailable", 503, "This machine cannot make sandboxes"


class StartFailedError(GatewayError):
    code, status, title = "start_failed", 503, "The sandbox could not be started"


class CapacityError(GatewayError):
    code, status, title = "capacity", 503, "The gateway is full"


class StorageUnavailableError(GatewayError):
    code, status, title = "storage_unavailable", 503, "The gateway cannot write its database"


class DeadlineError(GatewayError):
    code, status, title = "timeout", 504, "A deadline passed"


def suggest(given: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest known name, else an empty string."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else ""


def _ended(exc: SandboxEnded) -> GatewayError:
    return ExecutionEndedError(
        f"The execution has ended ({exc.ended.code}): {exc.ended.reason}",
        hint=exc.ended.hint or "Open a new execution.",
    )


def _file(exc: FileProblem) -> GatewayError:
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return UnknownFileError(str(exc), hint="Paths are relative to /workspace unless they start with a slash.")
    hints = {
        errno.ENOSPC: "The sandbox's disk is full: delete files, or open an execution with more disk_mb.",
        errno.EDQUOT: "The sandbox's disk is full: delete files, or open an execution with more disk_mb.",
        errno.EROFS: "Only /workspace, /tmp and the home directory of the sandbox can be written.",
        errno.EACCES: "Only /workspace, /tmp and the home directory of the sandbox can be written.",
        errno.EISDIR: "It is a folder.",
    }
    return FileOperationError(str(exc), hint=hints.get(exc.errno, ""))


def _fork(exc: CannotFork) -> GatewayError:
    return CannotForkError(
        f"The session cannot be forked alive: {exc}",
        hint="End what stands in the way, or allow the portable form (portable: later or now).",
        errors=[{"field": loss.name, "type": loss.kind, "message": loss.reason} for loss in exc.losses],
    )


def _build(exc: BuildFailed) -> GatewayError:
    tail = exc.output[-OUTPUT_TAIL_CHARS:]
    return BuildFailedError(f"{exc}\n{tail}" if tail else str(exc), hint="The build is tried again by the next call.")


_FROM_BACKEND: dict[type[Exception], Callable[[Any], GatewayError]] = {
    SandboxEnded: _ended,
    FileProblem: _file,
    BuildFailed: _build,
    CannotFork: _fork,
    LayerRefused: lambda exc: InvalidRequestError(f"The files of the snapshot are refused: {exc}."),
    NotTransferable: lambda exc: NotTransferableError(str(exc)),
    UnknownVariable: lambda exc: UnknownVariableError(
        str(exc) or "The session has no such variable.",
        hint="List the session's variables to see their names.",
    ),
    BackendUnavailable: lambda exc: SandboxUnavailableError(exc.problem, hint=exc.remedy),
    StartFailed: lambda exc: StartFailedError(str(exc), hint="`faas doctor` says what this machine can do."),
}

BACKEND_ERRORS: tuple[type[Exception], ...] = tuple(_FROM_BACKEND)
"""All that a backend may raise; `from_backend` turns each into a GatewayError."""


def from_backend(exc: Exception) -> GatewayError:
    """The gateway's error for one that a backend raised, or for a GatewayError itself."""
    if isinstance(exc, GatewayError):
        return exc
    for kind in type(exc).__mro__:
        if kind in _FROM_BACKEND:
            return _FROM_BACKEND[kind](exc)
    raise exc
