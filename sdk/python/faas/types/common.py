"""What several models of the wire share: names, limits, problems, progress."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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


class RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ResponseModel(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Resources(RequestModel):
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


class Loss(ResponseModel):
    """Something of a session that a snapshot does not simply carry along."""

    kind: str = Field(description="variable, thread, process, connection, file, mapping, library, memory, limit")
    name: str
    reason: str
    effect: str = Field(default="lost", description="lost, remade, or portable_only: stands in the way of a live fork")


class Progress(ResponseModel):
    """One step on the way to something that takes longer than a moment."""

    stage: str
    message: str = ""
    fraction: float | None = Field(default=None, ge=0, le=1)
    elapsed_s: float = 0.0


class Problem(ResponseModel):
    """An error as application/problem+json (RFC 9457): a stable code, what went wrong, what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    code: str
    hint: str = ""
    errors: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class Health(ResponseModel):
    status: Literal["ok"] = "ok"
    version: str = ""
    pid: int = 0
    backend: str = ""
