"""Snapshots: what is asked of them, what they are, and the branches made of them."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from faas.types.common import (
    MAX_BRANCHES,
    MAX_CODE_CHARS,
    EnvVars,
    Labels,
    Language,
    Loss,
    Name,
    Network,
    Problem,
    RequestModel,
    Resources,
    ResponseModel,
    SnapshotForm,
)
from faas.types.executions import ExecutionInfo, ForkReceipt


class SnapshotCreate(RequestModel):
    """Body of POST /snapshots and, without execution_id, of POST /executions/{id}/snapshot."""

    execution_id: str | None = Field(default=None, max_length=128, description="id or name of a session")
    name: Name | None = None
    portable: Literal["later", "now", "never"] = Field(
        default="later", description="when the form that survives the gateway is written; now: before the answer"
    )
    timeout: float = Field(default=60, gt=0, le=3600, description="wait for running code at most this long, seconds")
    labels: Labels = Field(default_factory=dict)


class ScriptSnapshotCreate(RequestModel):
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


class CheckInput(RequestModel):
    """Body of POST /snapshots/check."""

    execution_id: str = Field(max_length=128, description="id or name of a session")


class SnapshotUpdate(RequestModel):
    """Body of PATCH /snapshots/{id}: what is given is changed."""

    name: Name | None = None
    keep: bool | None = Field(default=None, description="neither expires nor makes room for others")


class RestoreInput(RequestModel):
    """Body of POST /snapshots/{id}/restore."""

    branch_count: int = Field(default=1, ge=1, le=MAX_BRANCHES)
    form: SnapshotForm | None = Field(default=None, description="the best there is, when not given")
    reseed: bool = Field(default=False, description="give numpy's and random's generators states of their own")
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    ttl_s: float | None = Field(default=None, gt=0)
    idle_timeout_s: float | None = Field(default=None, gt=0)


class BranchRequest(RequestModel):
    """One branch of `BranchInput`."""

    name: Name | None = None
    variables: dict[str, Any] = Field(default_factory=dict, max_length=256, description="plain JSON values")
    env_vars: EnvVars = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)


class BranchInput(RequestModel):
    """Body of POST /snapshots/{id}/branch."""

    branches: list[BranchRequest] = Field(min_length=1, max_length=MAX_BRANCHES)
    form: SnapshotForm | None = None
    reseed: bool = False
    ttl_s: float | None = Field(default=None, gt=0)
    idle_timeout_s: float | None = Field(default=None, gt=0)


class Snapshot(ResponseModel):
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


class SnapshotPage(ResponseModel):
    items: list[Snapshot]
    next_cursor: str | None = None


class SnapshotCheck(ResponseModel):
    """What of an execution would not survive a snapshot taken now."""

    execution_id: str
    live: bool = Field(description="whether it can be forked alive as it is")
    losses: list[Loss] = Field(default_factory=list[Loss])


class BranchOutcome(ResponseModel):
    """What became of one branch: an execution, or the reason why there is none."""

    index: int
    execution: ExecutionInfo | None = None
    problem: Problem | None = None


class BranchPage(ResponseModel):
    """Answer to restore and branch."""

    snapshot_id: str
    form: SnapshotForm
    items: list[BranchOutcome]
    notes: list[str] = Field(default_factory=list)


class DiffEntry(ResponseModel):
    """One variable or file that differs."""

    name: str
    change: Literal["added", "removed", "changed"]
    before: str = Field(default="", description="type, shape and preview, or type and size")
    after: str = ""


class Diff(ResponseModel):
    """What differs between two snapshots, as a way from the first to the second."""

    variables: list[DiffEntry] = Field(default_factory=list[DiffEntry])
    files: list[DiffEntry] = Field(default_factory=list[DiffEntry])
    notes: list[str] = Field(default_factory=list)
