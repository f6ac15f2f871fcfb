"""Executions: what opens one, what runs in it, and what comes of that."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from faas.types.common import (
    MAX_BRANCHES,
    MAX_CODE_CHARS,
    EnvVars,
    ExecutionStatus,
    Labels,
    Language,
    Loss,
    Name,
    Network,
    Problem,
    RequestId,
    RequestModel,
    Resources,
    ResponseModel,
    ResultStatus,
    SnapshotForm,
)


class Interpreter(RequestModel):
    """The Python of the notebook that asks, for the environment `notebook` on the embedded gateway."""

    executable: str = Field(max_length=4096, description="sys.executable")
    prefix: str = Field(max_length=4096, description="sys.prefix")
    base_prefix: str = Field(max_length=4096, description="sys.base_prefix")
    path: list[str] = Field(default_factory=list, max_length=256, description="directories of sys.path")


class CellOrigin(RequestModel):
    """Where code stands in a notebook, so that a traceback points at the cell that the user sees."""

    execution_count: int = Field(ge=1, le=1 << 31, description="the number in In[...]")
    magic_line: str | None = Field(
        default=None, max_length=4096, description="first line of the cell when the code starts on its second"
    )


class ExecutionCreate(RequestModel):
    """Body of POST /executions."""

    environment: Name = "python"
    name: Name | None = None
    language: Language | None = Field(default=None, description="of the code; the environment's, when not given")
    resources: Resources | None = None
    network: Network = "none"
    checkpoint: Literal["none", "every-request"] = Field(
        default="none", description="every-request: a live snapshot after each request, to rewind to"
    )
    checkpoints_kept: int = Field(default=20, ge=1, le=200, description="the oldest goes first")
    ttl_s: float | None = Field(default=None, gt=0, description="ends this long after it was opened, seconds")
    idle_timeout_s: float | None = Field(
        default=None, gt=0, description="ends after this long without a request, seconds"
    )
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    interpreter: Interpreter | None = None


class ExecuteInput(RequestModel):
    """Body of POST /executions/{id}/execute."""

    code: str = Field(max_length=MAX_CODE_CHARS)
    timeout: float | None = Field(default=None, gt=0, le=30 * 86400, description="wall time, seconds")
    request_id: RequestId | None = Field(default=None, description="chosen by the client, so that it can interrupt")
    cell: CellOrigin | None = None


class OneShotCreate(RequestModel):
    """Body of POST /execute: create, run, destroy."""

    code: str = Field(max_length=MAX_CODE_CHARS)
    environment: Name = "alpine-fast"
    language: Language | None = Field(default=None, description="of the code; the environment's, when not given")
    timeout: float = Field(default=30, gt=0, le=30 * 86400, description="wall time, seconds")
    resources: Resources | None = None
    network: Network = "none"
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    interpreter: Interpreter | None = None
    request_id: RequestId | None = None


class OneShotBatch(RequestModel):
    """Body of POST /executions/batch."""

    requests: list[OneShotCreate] = Field(min_length=1, max_length=MAX_BRANCHES)


class RunInput(RequestModel):
    """Body of POST /executions/{id}/run: a command, not code."""

    command: list[Annotated[str, StringConstraints(max_length=128 << 10, pattern=r"^[^\x00]*$")]] = Field(
        min_length=1, max_length=4096
    )
    stdin: str | None = Field(default=None, max_length=16 << 20)
    env_vars: EnvVars = Field(default_factory=dict)
    cwd: str | None = Field(default=None, max_length=4096)
    timeout: float = Field(default=30, gt=0, le=30 * 86400, description="wall time, seconds")
    request_id: RequestId | None = None


class RewindInput(RequestModel):
    """Body of POST /executions/{id}/rewind."""

    request_id: str = Field(max_length=128, description="of the request after which the session was as wanted")
    timeout: float = Field(default=60, gt=0, le=3600, description="wait for running code at most this long, seconds")


class CodeError(ResponseModel):
    """Why a request did not succeed. `code` is the cause; the rest is as in a Jupyter `error` message."""

    code: str = Field(description="exception, exit_code, timeout, cancelled, oom, died, disk_full, ...")
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = Field(default_factory=list)
    hint: str = Field(default="", description="what to do about it")


class ExecutionResult(ResponseModel):
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


class ResourceUsage(ResponseModel):
    """What an execution uses now."""

    cpu_time_s: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0
    requests: int = 0


class ForkReceipt(ResponseModel):
    """What a fork re-made or lost: of its source for a snapshot, of itself for a branch."""

    stopped_s: float | None = Field(default=None, description="how long the source stood still, seconds")
    reseeded: list[str] = Field(default_factory=list)
    closed_connections: list[str] = Field(default_factory=list)
    lost_threads: list[str] = Field(default_factory=list)
    lost_processes: list[str] = Field(default_factory=list)
    reopened_files: list[str] = Field(default_factory=list)
    copied_files: list[str] = Field(default_factory=list, description="open files without a name")
    remapped: list[str] = Field(default_factory=list, description="shared memory, of which each branch has a copy")
    lost: list[Loss] = Field(default_factory=list[Loss])
    paused_runtimes: list[str] = Field(default_factory=list, description="OpenMP runtimes whose threads were ended")
    isolation: str = Field(default="", description="what parts it from its relatives")
    notes: list[str] = Field(default_factory=list)


class ExecutionInfo(ResponseModel):
    """One sandbox's life, from creation to termination."""

    id: str
    name: str | None = None
    status: ExecutionStatus
    environment: str
    environment_version: str = ""
    base_image: str = ""
    language: str = "python"
    snapshot_id: str | None = Field(default=None, description="what it was restored from")
    branch_index: int | None = Field(default=None, description="its number among the branches made together")
    restored_from: SnapshotForm | None = None
    receipt: ForkReceipt | None = Field(default=None, description="what the fork re-made or lost")
    network: Network = "none"
    checkpoints: list[str] = Field(default_factory=list, description="ids of requests that it can be rewound to")
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


class ExecutionPage(ResponseModel):
    items: list[ExecutionInfo]
    next_cursor: str | None = None


class BatchOutcome(ResponseModel):
    """What became of one request of a batch: a result, or the reason why there is none."""

    index: int
    result: ExecutionResult | None = None
    problem: Problem | None = None


class BatchPage(ResponseModel):
    """Answer to POST /executions/batch, in the order of the requests."""

    items: list[BatchOutcome]


class OutputEvent(ResponseModel):
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
