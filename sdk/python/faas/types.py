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
    "BatchOutcome",
    "BatchPage",
    "BranchInput",
    "BranchOutcome",
    "BranchPage",
    "BranchRequest",
    "CellOrigin",
    "CheckInput",
    "CodeError",
    "Diff",
    "DiffEntry",
    "Environment",
    "EnvironmentPage",
    "ExecuteInput",
    "ExecutionCreate",
    "ExecutionInfo",
    "ExecutionPage",
    "ExecutionResult",
    "FileInfo",
    "FileList",
    "ForkReceipt",
    "Health",
    "Interpreter",
    "Language",
    "Loss",
    "Network",
    "OneShotBatch",
    "OneShotCreate",
    "OutputEvent",
    "Problem",
    "Progress",
    "ResourceUsage",
    "Resources",
    "RestoreInput",
    "RewindInput",
    "RunInput",
    "ScriptSnapshotCreate",
    "Snapshot",
    "SnapshotCheck",
    "SnapshotCreate",
    "SnapshotPage",
    "SnapshotUpdate",
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
Network = Literal["none", "full"]
"""full: outbound only, without the host's own, private, link-local and metadata addresses."""
Language = Literal["python", "shell"]
SnapshotForm = Literal["live", "portable"]
MAX_BRANCHES = 1000
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
    language: Language | None = Field(default=None, description="of the code; the environment's, when not given")
    timeout: float = Field(default=30, gt=0, le=30 * 86400, description="wall time, seconds")
    resources: Resources | None = None
    network: Network = "none"
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


class OneShotBatch(_Request):
    """Body of POST /executions/batch."""

    requests: list[OneShotCreate] = Field(min_length=1, max_length=MAX_BRANCHES)


class SnapshotCreate(_Request):
    """Body of POST /snapshots and, without execution_id, of POST /executions/{id}/snapshot."""

    execution_id: str | None = Field(default=None, max_length=128, description="id or name of a session")
    name: Name | None = None
    portable: Literal["later", "now", "never"] = Field(
        default="later", description="when the form that survives the gateway is written; now: before the answer"
    )
    timeout: float = Field(default=60, gt=0, le=3600, description="wait for running code at most this long, seconds")
    labels: Labels = Field(default_factory=dict)


class ScriptSnapshotCreate(_Request):
    """Body of POST /snapshots with a script: open an execution, run it, snapshot it, end it."""

    script: str = Field(max_length=MAX_CODE_CHARS)
    environment: Name = "python"
    language: Language = Field(default="shell", description="of the script, and of what the branches then run")
    name: Name | None = None
    timeout: float = Field(default=600, gt=0, le=30 * 86400, description="wall time of the script, seconds")
    resources: Resources | None = None
    network: Network = "full"
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    portable: Literal["later", "now", "never"] = "later"


class CheckInput(_Request):
    """Body of POST /snapshots/check."""

    execution_id: str = Field(max_length=128, description="id or name of a session")


class SnapshotUpdate(_Request):
    """Body of PATCH /snapshots/{id}: what is given is changed."""

    name: Name | None = None
    keep: bool | None = Field(default=None, description="neither expires nor makes room for others")


class RestoreInput(_Request):
    """Body of POST /snapshots/{id}/restore."""

    branch_count: int = Field(default=1, ge=1, le=MAX_BRANCHES)
    form: SnapshotForm | None = Field(default=None, description="the best there is, when not given")
    reseed: bool = Field(default=False, description="give numpy's and random's generators states of their own")
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    ttl_s: float | None = Field(default=None, gt=0)
    idle_timeout_s: float | None = Field(default=None, gt=0)


class BranchRequest(_Request):
    """One branch of `BranchInput`."""

    name: Name | None = None
    variables: dict[str, Any] = Field(default_factory=dict, max_length=256, description="plain JSON values")
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)


class BranchInput(_Request):
    """Body of POST /snapshots/{id}/branch."""

    branches: list[BranchRequest] = Field(min_length=1, max_length=MAX_BRANCHES)
    form: SnapshotForm | None = None
    reseed: bool = False
    ttl_s: float | None = Field(default=None, gt=0)
    idle_timeout_s: float | None = Field(default=None, gt=0)


class RewindInput(_Request):
    """Body of POST /executions/{id}/rewind."""

    request_id: str = Field(max_length=128, description="of the request after which the session was as wanted")
    timeout: float = Field(default=60, gt=0, le=3600, description="wait for running code at most this long, seconds")


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


class Loss(_Response):
    """Something of a session that a snapshot does not simply carry along."""

    kind: str = Field(description="variable, thread, process, connection, file, mapping, library, memory, limit")
    name: str
    reason: str
    effect: str = Field(default="lost", description="lost, remade, or portable_only: stands in the way of a live fork")


class ForkReceipt(_Response):
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


class ExecutionInfo(_Response):
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


class ExecutionPage(_Response):
    items: list[ExecutionInfo]
    next_cursor: str | None = None


class Snapshot(_Response):
    """An execution's state at a moment. The parents form the branch tree."""

    id: str
    name: str | None = None
    execution_id: str = Field(default="", description="of what it is a snapshot")
    parent_id: str | None = Field(default=None, description="the snapshot that its execution came from, or took last")
    request_id: str | None = Field(default=None, description="the request after which it was taken")
    environment: str
    environment_version: str = ""
    language: str = "python"
    forms: list[SnapshotForm] = Field(default_factory=list[SnapshotForm])
    portable_status: Literal["none", "pending", "ready", "failed"] = "none"
    portable_error: str | None = None
    memory_bytes: int = Field(default=0, description="of the live form, shared pages counted in parts (PSS)")
    disk_bytes: int = Field(default=0, description="files")
    portable_bytes: int = Field(default=0, description="variables in their portable form")
    excluded: list[Loss] = Field(default_factory=list[Loss], description="what the portable form could not include")
    receipt: ForkReceipt = Field(default_factory=ForkReceipt)
    resources: Resources = Field(default_factory=Resources)
    network: Network = "none"
    depth: int = Field(default=0, description="live generations above it")
    branches: int = Field(default=0, description="open executions that were restored from it")
    checkpoint: bool = Field(default=False, description="one of the ring that `checkpoint` keeps")
    keep: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    notes: list[str] = Field(default_factory=list)


class SnapshotPage(_Response):
    items: list[Snapshot]
    next_cursor: str | None = None


class SnapshotCheck(_Response):
    """What of an execution would not survive a snapshot taken now."""

    execution_id: str
    live: bool = Field(description="whether it can be forked alive as it is")
    losses: list[Loss] = Field(default_factory=list[Loss])


class BranchOutcome(_Response):
    """What became of one branch: an execution, or the reason why there is none."""

    index: int
    execution: ExecutionInfo | None = None
    problem: Problem | None = None


class BranchPage(_Response):
    """Answer to restore and branch."""

    snapshot_id: str
    form: SnapshotForm
    items: list[BranchOutcome]
    notes: list[str] = Field(default_factory=list)


class BatchOutcome(_Response):
    """What became of one request of a batch: a result, or the reason why there is none."""

    index: int
    result: ExecutionResult | None = None
    problem: Problem | None = None


class BatchPage(_Response):
    """Answer to POST /executions/batch, in the order of the requests."""

    items: list[BatchOutcome]


class DiffEntry(_Response):
    """One variable or file that differs."""

    name: str
    change: Literal["added", "removed", "changed"]
    before: str = Field(default="", description="type, shape and preview, or type and size")
    after: str = ""


class Diff(_Response):
    """What differs between two snapshots, as a way from the first to the second."""

    variables: list[DiffEntry] = Field(default_factory=list[DiffEntry])
    files: list[DiffEntry] = Field(default_factory=list[DiffEntry])
    notes: list[str] = Field(default_factory=list)


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


BatchOutcome.model_rebuild()
BatchPage.model_rebuild()
BranchOutcome.model_rebuild()
BranchPage.model_rebuild()
