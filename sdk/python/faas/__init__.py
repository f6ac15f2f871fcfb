"""Run code in sandboxes: `FaaSClient` is async, `SyncFaaSClient` has the same methods without `await`.

Example:
    >>> from faas import SyncFaaSClient
    >>> with SyncFaaSClient() as client:
    ...     print(client.execute("echo 'Hello World'").stdout)
    Hello World

Names load on first use, so `import faas` itself brings in neither an HTTP client nor a validation library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from faas._version import __version__

if TYPE_CHECKING:
    from faas._async.client import FaaSClient
    from faas._async.execution import Execution
    from faas._async.snapshot_handle import SnapshotHandle
    from faas._sync.client import SyncFaaSClient
    from faas._sync.execution import SyncExecution
    from faas._sync.snapshot_handle import SyncSnapshotHandle
    from faas.errors import (
        APIError,
        BranchError,
        BuildError,
        CannotForkError,
        CapacityError,
        ConfigurationError,
        ConflictError,
        ConnectError,
        ConnectionLostError,
        ConnectTimeoutError,
        DeadlineError,
        ExecutionEndedError,
        FaaSError,
        FileError,
        GatewayStartError,
        InternalError,
        InvalidRequestError,
        NameTakenError,
        NoCheckpointError,
        NotFoundError,
        NotPortableError,
        NotTransferableError,
        ProtocolError,
        RequestExistsError,
        RequestRunningError,
        SandboxUnavailableError,
        ScriptFailedError,
        SnapshotGoneError,
        StartError,
        StorageUnavailableError,
        TooLargeError,
        TransportError,
        TransportTimeoutError,
        UnavailableError,
        UnknownEnvironmentError,
        UnknownExecutionError,
        UnknownFileError,
        UnknownRequestError,
        UnknownSnapshotError,
        UnknownVariableError,
        UnsafeArchiveError,
    )

__all__ = [
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
    "Execution",
    "ExecutionEndedError",
    "FaaSClient",
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
    "SnapshotHandle",
    "StartError",
    "StorageUnavailableError",
    "SyncExecution",
    "SyncFaaSClient",
    "SyncSnapshotHandle",
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
    "__version__",
]

_ELSEWHERE = {
    "FaaSClient": "faas._async.client",
    "SyncFaaSClient": "faas._sync.client",
    "Execution": "faas._async.execution",
    "SyncExecution": "faas._sync.execution",
    "SnapshotHandle": "faas._async.snapshot_handle",
    "SyncSnapshotHandle": "faas._sync.snapshot_handle",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'faas' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "faas.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
