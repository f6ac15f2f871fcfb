"""Everything the SDK raises.

    FaaSError
    ├── ConfigurationError             an endpoint, a directory or an argument of the client is not usable
    ├── TransportError                 no answer: the gateway was not reached, or fell silent
    │   ├── ConnectError               nothing listens at the endpoint
    │   │   └── ConnectTimeoutError
    │   ├── TransportTimeoutError      the gateway is there and did not answer in time
    │   ├── ConnectionLostError        the connection broke, and what ran may be gone with the gateway
    │   ├── ProtocolError              what came is not what a gateway says
    │   └── GatewayStartError          the embedded gateway could not be started
    ├── UnsafeArchiveError             a folder that came out of a sandbox was refused
    ├── BranchError                    some branches of a snapshot could not be made; holds those that could
    └── APIError                       the gateway answered with a problem: code, status, detail, hint, errors
        ├── InvalidRequestError        invalid_request, method_not_allowed
        ├── NotFoundError              not_found
        │   ├── UnknownEnvironmentError
        │   ├── UnknownExecutionError
        │   ├── UnknownRequestError
        │   ├── UnknownVariableError
        │   ├── UnknownFileError
        │   └── UnknownSnapshotError
        ├── ConflictError
        │   ├── NameTakenError
        │   ├── RequestRunningError
        │   ├── RequestExistsError
        │   ├── NoCheckpointError      no_checkpoint: the session cannot be rewound to that request
        │   └── NotPortableError       not_portable: the snapshot has a live form only
        ├── ExecutionEndedError
        ├── SnapshotGoneError
        ├── CannotForkError            cannot_fork: errors names what stands in the way
        ├── ScriptFailedError          script_failed: detail has the end of the output
        ├── NotTransferableError
        ├── FileError
        ├── TooLargeError
        ├── BuildError                 build_failed
        ├── UnavailableError
        │   ├── SandboxUnavailableError
        │   ├── StartError             start_failed
        │   ├── CapacityError
        │   └── StorageUnavailableError
        ├── DeadlineError              timeout: the gateway waited for something, and gave up
        └── InternalError

User code that fails is not here: it is an `ExecutionResult` whose status is not `success`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ERROR_BY_CODE",
    "APIError",
    "BranchError",
    "BuildError",
    "CannotForkError",
    "CapacityError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "DeadlineError",
    "ExecutionEndedError",
    "FaaSError",
    "FileError",
    "GatewayStartError",
    "InternalError",
    "InvalidRequestError",
    "NameTakenError",
    "NoCheckpointError",
    "NotFoundError",
    "NotPortableError",
    "NotTransferableError",
    "ProtocolError",
    "RequestExistsError",
    "RequestRunningError",
    "SandboxUnavailableError",
    "ScriptFailedError",
    "SnapshotGoneError",
    "StartError",
    "StorageUnavailableError",
    "TooLargeError",
    "TransportError",
    "TransportTimeoutError",
    "UnavailableError",
    "UnknownEnvironmentError",
    "UnknownExecutionError",
    "UnknownFileError",
    "UnknownRequestError",
    "UnknownSnapshotError",
    "UnknownVariableError",
    "UnsafeArchiveError",
    "api_error",
    "invalid",
]


class FaaSError(Exception):
    """Root of the tree. `str(error)` is a sentence that says what went wrong, and then what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """What went wrong, without the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        lead = "" if self.hint.endswith("?") else "Try: "
        return f"{_sentence(self.message)} {lead}{_sentence(self.hint)}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments cannot be pickled otherwise, and a process pool must bring ours.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[FaaSError], args: tuple[Any, ...], state: dict[str, Any]) -> FaaSError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?:\n`'\")" else text + "."


class ConfigurationError(FaaSError, ValueError):
    """An endpoint, a directory or an argument of the client is not usable."""


class TransportError(FaaSError):
    """No answer came: the gateway was not reached, broke off, or fell silent."""


class ConnectError(TransportError):
    """Nothing listens at the endpoint."""


class ConnectTimeoutError(ConnectError):
    """The endpoint did not take the connection in time."""


class TransportTimeoutError(TransportError):
    """The gateway is there and did not answer, or did not take the request, in time."""


class ConnectionLostError(TransportError):
    """The connection broke. What ran may be gone with the gateway; the message says what is known."""


class ProtocolError(TransportError):
    """What came is not what a gateway says: another server, or another version."""


class GatewayStartError(TransportError):
    """The embedded gateway could not be started; the message quotes the end of its log."""


class UnsafeArchiveError(FaaSError):
    """What came out of a sandbox was refused: a link or path that leaves its folder, or it is too large."""


class APIError(FaaSError):
    """The gateway answered with a problem.

    Attributes:
        code: stable name of the problem.
        status: HTTP status.
        detail: what went wrong.
        hint: what to do about it, may be empty.
        errors: the single fields at fault, for `invalid_request`.
        request_id: the `X-Request-Id` of the answer, to be found in the gateway's log.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int,
        hint: str = "",
        errors: Sequence[Mapping[str, Any]] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(detail, hint=hint)
        self.code = code
        self.status = status
        self.errors = [dict(error) for error in errors]
        self.request_id = request_id

    @property
    def detail(self) -> str:
        """What went wrong."""
        return self.message


class InvalidRequestError(APIError):
    """A field of the request is not allowed; `errors` lists all of them."""


class NotFoundError(APIError):
    """What was asked for does not exist."""


class UnknownEnvironmentError(NotFoundError):
    """No environment of that name."""


class UnknownExecutionError(NotFoundError):
    """No execution of that id or name."""


class UnknownRequestError(NotFoundError):
    """No request of that id in the execution."""


class UnknownVariableError(NotFoundError):
    """No variable of that name in the session."""


class UnknownFileError(NotFoundError):
    """No file at that path in the sandbox."""


class UnknownSnapshotError(NotFoundError):
    """No snapshot of that id or name."""


class ConflictError(APIError):
    """What was asked for contradicts what is there."""


class NameTakenError(ConflictError):
    """Another execution or snapshot has the name."""


class RequestRunningError(ConflictError):
    """The request has no result yet."""


class RequestExistsError(ConflictError):
    """The id of a request was used twice in one execution."""


class NoCheckpointError(ConflictError):
    """The session cannot be rewound to that request; `detail` says why, and what it can be rewound to."""


class NotPortableError(ConflictError):
    """The snapshot has no portable form, or none yet."""


class ExecutionEndedError(APIError):
    """The execution is no more; `detail` says why it ended."""


class SnapshotGoneError(APIError):
    """The snapshot is no more, or what it needs: it expired, or its only form was live and ended."""


class CannotForkError(APIError):
    """The session has something that cannot be forked safely, and goes on untouched; `errors` names it."""


class ScriptFailedError(APIError):
    """The script of a snapshot failed, so there is none; `detail` has the end of its output."""


class NotTransferableError(APIError):
    """A variable's value has no safe form to travel in."""


class FileError(APIError):
    """A file operation in the sandbox failed."""


class TooLargeError(APIError):
    """The request is larger than the gateway takes."""


class BuildError(APIError):
    """An environment could not be built; `detail` has the end of the output."""


class UnavailableError(APIError):
    """The gateway cannot do it now."""


class SandboxUnavailableError(UnavailableError):
    """This machine cannot make sandboxes; `hint` is what lifts the restriction."""


class StartError(UnavailableError):
    """The sandbox could not be started."""


class CapacityError(UnavailableError):
    """There is no room for another sandbox now."""


class StorageUnavailableError(UnavailableError):
    """The gateway's disk or database does not take writes now."""


class DeadlineError(APIError):
    """The gateway waited for something and gave up, for example for variables while a cell runs."""


class InternalError(APIError):
    """The gateway failed; its log has the details."""


class BranchError(FaaSError):
    """Some branches of a snapshot could not be made. Those that could stay open, and are yours to use and to close.

    Attributes:
        branches: handles on the branches that were made, in order; `branch_index` is the number of each.
        errors: number of a branch that was not made to the reason.
        total: how many were asked for.

    A copy that came through pickle has no handles, which are of one process; its `branch_ids` still are there.
    """

    def __init__(self, branches: Mapping[int, Any], errors: Mapping[int, FaaSError]) -> None:
        self.branches: list[Any] = [branches[index] for index in sorted(branches)]
        self.branch_ids: dict[int, str] = {index: branches[index].id for index in sorted(branches)}
        self.errors: dict[int, FaaSError] = {index: errors[index] for index in sorted(errors)}
        self.total = len(branches) + len(errors)
        super().__init__(self._summary(), hint=next((error.hint for error in self.errors.values() if error.hint), ""))

    def _summary(self) -> str:
        if self.total == 1:
            return f"The branch could not be made: {self.errors[next(iter(self.errors))].message}"
        reasons: dict[str, list[int]] = {}
        for index, error in self.errors.items():
            reasons.setdefault(error.message, []).append(index)
        told = [f"{_numbers(indices)}: {reason}" for reason, indices in list(reasons.items())[:_REASONS_TOLD]]
        if len(reasons) > _REASONS_TOLD:
            told.append(f"and {len(reasons) - _REASONS_TOLD} other reasons")
        kept = f"; the {len(self.branches)} that could be stay open" if self.branches else ""
        return f"{len(self.errors)} of {self.total} branches could not be made{kept}. {'; '.join(told)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, {**self.__dict__, "branches": []})


_REASONS_TOLD = 3


def _numbers(indices: list[int]) -> str:
    """`branch 3`, `branches 3, 4, 5 and 20 more`."""
    if len(indices) == 1:
        return f"branch {indices[0]}"
    shown = ", ".join(str(index) for index in indices[:8])
    return f"branches {shown}" + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")


#: From the code of a problem to the class that is raised for it: the only such table.
ERROR_BY_CODE: Mapping[str, type[APIError]] = {
    "invalid_request": InvalidRequestError,
    "method_not_allowed": InvalidRequestError,
    "not_found": NotFoundError,
    "unknown_environment": UnknownEnvironmentError,
    "unknown_execution": UnknownExecutionError,
    "unknown_request": UnknownRequestError,
    "unknown_variable": UnknownVariableError,
    "unknown_file": UnknownFileError,
    "unknown_snapshot": UnknownSnapshotError,
    "name_taken": NameTakenError,
    "request_running": RequestRunningError,
    "request_exists": RequestExistsError,
    "no_checkpoint": NoCheckpointError,
    "not_portable": NotPortableError,
    "execution_ended": ExecutionEndedError,
    "snapshot_gone": SnapshotGoneError,
    "cannot_fork": CannotForkError,
    "script_failed": ScriptFailedError,
    "not_transferable": NotTransferableError,
    "file_error": FileError,
    "too_large": TooLargeError,
    "build_failed": BuildError,
    "sandbox_unavailable": SandboxUnavailableError,
    "start_failed": StartError,
    "capacity": CapacityError,
    "storage_unavailable": StorageUnavailableError,
    "timeout": DeadlineError,
    "internal": InternalError,
}


def api_error(
    code: str,
    status: int,
    detail: str,
    *,
    hint: str = "",
    errors: Sequence[Mapping[str, Any]] = (),
    request_id: str = "",
) -> APIError:
    """The exception for a problem. A code of a newer gateway that is not known here is a plain `APIError`."""
    cls = ERROR_BY_CODE.get(code, APIError)
    return cls(detail, code=code, status=status, hint=hint, errors=errors, request_id=request_id)


def invalid(detail: str, *, hint: str = "", errors: Sequence[Mapping[str, Any]] = ()) -> InvalidRequestError:
    """The same error as the gateway's, for what can be refused before it is asked."""
    return InvalidRequestError(detail, code="invalid_request", status=422, hint=hint, errors=errors)
