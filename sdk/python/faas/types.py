"""The wire: every model that crosses HTTP, used by the SDK and by the gateway that serves it.

Requests refuse unknown fields, so a misspelt option is an error and not a surprise. Responses ignore them, so an
older client can talk to a newer gateway.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from faas._names import SHIPPED_ENVIRONMENTS

__all__ = [
    "SHIPPED_ENVIRONMENTS",
    "CellOrigin",
    "CodeError",
    "Environment",
    "EnvironmentPage",
    "ExecuteInput",
    "ExecutionCreate",
    "ExecutionInfo",
    "ExecutionPage",
    "ExecutionResult",
    "FileInfo",
    "FileList",
    "Health",
    "Interpreter",
    "OneShotCreate",
    "OutputEvent",
    "Problem",
    "Progress",
    "ResourceUsage",
    "Resources",
    "RunInput",
    "VariableInfo",
    "VariableList",
]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
IDENTIFIER_PATTERN = re.compile(r"^[^\W\d]\w*$")
MAX_CODE_CHARS = 8 << 20
MAX_ENV_VARS = 256

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
EnvVarName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EnvVarValue = Annotated[str, StringConstraints(max_length=64 << 10, pattern=r"^[^\x00]*$")]
EnvVars = Annotated[dict[EnvVarName, EnvVarValue], Field(max_length=MAX_ENV_VARS)]
Labels = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=256)]],
    Field(max_length=64),
]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]

ExecutionStatus = Literal["starting", "idle", "busy", "terminated", "failed", "lost"]
ResultStatus = Literal["success", "error", "timeout", "cancelled"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Resources(_Request):
    """Limits of one sandbox. A limit that is not given takes the environment's, then the gateway's default."""

    cpus: float | None = Field(default=None, gt=0, le=1024, description="CPU cores, fractions allowed")
    memory_mb: int | None = Field(default=None, ge=32, le=16 << 20, description="memory of all processes together, MiB")
    disk_mb: int | None = Field(
        default=None, ge=1, le=64 << 20, description="bytes written to the sandbox's files, MiB"
    )
    pids: int | None = Field(default=None, ge=4, le=1 << 20, description="processes and threads at one time")
    timeout_s: float | None = Field(default=None, gt=0, le=30 * 86400, description="wall time of one request, seconds")
    cpu_time_s: float | None = Field(default=None, gt=0, description="CPU time of the whole execution, seconds")
    output_mb: int | None = Field(default=None, ge=1, le=16 << 10, description="output of one request, MiB")
    open_files: int | None = Field(default=None, ge=16, le=1 << 20, description="open files per process")
    gpus: int = Field(default=0, ge=0, le=0, description="not available on the native backend")


class Interpreter(_Request):
    """The Python of the notebook that asks, for the environment `notebook` on the embedded gateway."""

    executable: str = Field(max_length=4096, description="sys.executable")
    prefix: str = Field(max_length=4096, description="sys.prefix")
    base_prefix: str = Field(max_length=4096, description="sys.base_prefix")
    path: list[str] = Field(default_factory=list, max_length=256, description="directories of sys.path")


class CellOrigin(_Request):
    """Where code stands in a notebook, so that a traceback points at the cell that the user sees."""

    execution_count: int = Field(ge=1, le=1 << 31, description="the number in In[...]")
    magic_line: str | None = Field(
        default=None, max_length=4096, description="first line of the cell when the code starts on its second"
    )


class ExecutionCreate(_Request):
    """Body of POST /executions."""

    environment: Name = "python"
    name: Name | None = None
    resources: Resources | None = None
    network: Literal["none"] = "none"
    ttl_s: float | None = Field(default=None, gt=0, description="ends this long after it was opened, seconds")
    idle_timeout_s: float | None = Field(
        default=None, gt=0, description="ends after this long without a request, seconds"
    )
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    interpreter: Interpreter | None = None


class ExecuteInput(_Request):
    """Body of POST /executions/{id}/execute."""

    code: str = Field(max_length=MAX_CODE_CHARS)
    timeout: float | None = Field(default=None, gt=0, le=30 * 86400, description="wall time, seconds")
    request_id: RequestId | None = Field(default=None, description="chosen by the client, so that it can interrupt")
    cell: CellOrigin | None = None


class OneShotCreate(_Request):
    """Body of POST /execute: create, run, destroy."""

    code: str = Field(max_length=MAX_CODE_CHARS)
    environment: Name = "alpine-fast"
    timeout: float = Field(default=30, gt=0, le=30 * 86400, description="wall time, seconds")
    resources: Resources | None = None
    network: Literal["none"] = "none"
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    interpreter: Interpreter | None = None
    request_id: RequestId | None = None


class RunInput(_Request):
    """Body of POST /executions/{id}/run: a command, not code."""

    command: list[Annotated[str, StringConstraints(max_length=128 << 10, pattern=r"^[^\x00]*$")]] = Field(
        min_length=1, max_length=4096
    )
    stdin: str | None = Field(default=None, max_length=16 << 20)
    env_vars: EnvVars = Field(default_factory=dict)
    cwd: str | None = Field(default=None, max_length=4096)
    timeout: float = Field(default=30, gt=0, le=30 * 86400, description="wall time, seconds")
    request_id: RequestId | None = None


class CodeError(_Response):
    """Why a request did not succeed. `code` is the cause; the rest is as in a Jupyter `error` message."""

    code: str = Field(description="exception, exit_code, timeout, cancelled, oom, died, disk_full, ...")
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = Field(default_factory=list)
    hint: str = Field(default="", description="what to do about it")


class ExecutionResult(_Response):
    """What came of one request. User code that fails is a result, never an HTTP error."""

    request_id: str
    execution_id: str
    status: ResultStatus
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    duration: float = Field(default=0.0, description="seconds")
    truncated: bool = Field(default=False, description="stdout, stderr or outputs are not whole")
    cached: bool = False
    outputs: list[dict[str, Any]] = Field(
        default_factory=list[dict[str, Any]], description="display_data and execute_result as in nbformat, mime bundles"
    )
    error: CodeError | None = None
    execution_count: int | None = None
    notes: list[str] = Field(default_factory=list, description="what is degraded, or stands in for something else")


class ResourceUsage(_Response):
    """What an execution uses now."""

    cpu_time_s: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0
    requests: int = 0


class ExecutionInfo(_Response):
    """One sandbox's life, from creation to termination."""

    id: str
    name: str | None = None
    status: ExecutionStatus
    environment: str
    environment_version: str = ""
    base_image: str = ""
    language: str = "python"
    snapshot_id: str | None = None
    branch_index: int | None = None
    backend: str = ""
    isolation: str = ""
    resources: Resources = Field(default_factory=lambda: Resources())
    enforcement: dict[str, str] = Field(
        default_factory=dict, description="limit to mechanism: cgroup v2, cgroup v1, rlimit, watched, none"
    )
    degraded: list[str] = Field(default_factory=list, description="what holds less firmly here than it could")
    notes: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    usage: ResourceUsage = Field(default_factory=lambda: ResourceUsage())
    created_at: dt.datetime
    last_active_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    end_code: str | None = Field(default=None, description="closed, oom, died, expired, idle, lost, ...")
    end_reason: str | None = None


class ExecutionPage(_Response):
    items: list[ExecutionInfo]
    next_cursor: str | None = None


class Environment(_Response):
    """A named recipe, and the state of its build."""

    name: str
    version: str
    language: str
    base_image: str
    description: str = ""
    layers: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    resources: Resources = Field(default_factory=lambda: Resources())
    network: str = "none"
    cache_strategy: str = "layers"
    features: list[str] = Field(default_factory=list)
    status: Literal["ready", "not_built", "building", "failed"] = "not_built"
    warm: bool = Field(default=False, description="a preloaded process is waiting")
    notes: list[str] = Field(default_factory=list)


class EnvironmentPage(_Response):
    items: list[Environment]
    next_cursor: str | None = None


class Progress(_Response):
    """One step on the way to something that takes longer than a moment."""

    stage: str
    message: str = ""
    fraction: float | None = Field(default=None, ge=0, le=1)
    elapsed_s: float = 0.0


class OutputEvent(_Response):
    """One Jupyter message of a running request; `id` resumes the stream after it."""

    id: int = 0
    msg_type: str
    content: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    buffers: list[bytes] = Field(default_factory=list[bytes])

    @property
    def text(self) -> str:
        """The text of a `stream` message, empty for the others."""
        return str(self.content.get("text", "")) if self.msg_type == "stream" else ""


class FileInfo(_Response):
    path: str
    name: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int = Field(default=0, description="bytes")
    mode: int = 0
    modified_at: dt.datetime | None = None


class FileList(_Response):
    items: list[FileInfo]


class VariableInfo(_Response):
    """One variable of a session, as a variable inspector shows it."""

    name: str
    type: str
    module: str = ""
    shape: list[int] | None = None
    dtype: str | None = None
    size_bytes: int | None = None
    preview: str = ""


class VariableList(_Response):
    items: list[VariableInfo]


class Health(_Response):
    status: Literal["ok"] = "ok"
    version: str = ""
    pid: int = 0
    backend: str = ""


class Problem(_Response):
    """An error as application/problem+json (RFC 9457): a stable code, what went wrong, what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    code: str
    hint: str = ""
    errors: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
