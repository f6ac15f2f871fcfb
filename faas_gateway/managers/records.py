"""Executions as clients see them and as the database keeps them."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Mapping
from typing import Any

from faas.types import ExecutionInfo, ExecutionStatus, Resources, ResourceUsage

from faas_gateway.errors import InvalidRequestError
from faas_gateway.managers.execution import LiveExecution
from faas_gateway.managers.terms import Terms
from faas_gateway.store import ExecutionRecord


def info_from_live(execution: LiveExecution, *, backend: str, isolation: str) -> ExecutionInfo:
    """An execution that this gateway holds, or held a moment ago."""
    terms, ended, sandbox = execution.terms, execution.ended, execution.sandbox
    usage = execution.usage.model_copy(update={"requests": execution.served})
    return ExecutionInfo(
        id=terms.id,
        name=terms.name,
        status=execution.status,
        environment=terms.image.recipe.name,
        environment_version=terms.image.version,
        base_image=terms.image.recipe.base_image,
        language=terms.language,
        snapshot_id=terms.snapshot_id,
        branch_index=terms.branch_index,
        restored_from=terms.restored_from,
        receipt=terms.receipt,
        network=terms.network,
        checkpoints=execution.checkpoints,
        backend=backend,
        isolation=isolation,
        resources=terms.resources,
        enforcement=dict(sandbox.enforcement),
        degraded=list(sandbox.degraded),
        notes=[*terms.notes, *execution.checkpoint_notes],
        labels=terms.labels,
        usage=usage,
        created_at=_time(terms.created_at),
        last_active_at=_time(execution.last_active_at),
        ended_at=None if execution.ended_at is None else _time(execution.ended_at),
        end_code=ended.code if ended else None,
        end_reason=ended.reason if ended else None,
    )


def info_from_record(record: ExecutionRecord, status: ExecutionStatus) -> ExecutionInfo:
    """An execution that only the database knows."""
    detail = record.detail
    return ExecutionInfo(
        id=record.id,
        name=record.name,
        status=status,
        environment=record.environment,
        environment_version=record.version,
        base_image=detail.get("base_image", ""),
        language=detail.get("language", ""),
        snapshot_id=detail.get("snapshot_id"),
        branch_index=detail.get("branch_index"),
        restored_from=detail.get("restored_from"),
        network=detail.get("network", "none"),
        backend=detail.get("backend", ""),
        isolation=detail.get("isolation", ""),
        resources=Resources.model_validate(record.resources),
        enforcement=detail.get("enforcement", {}),
        degraded=detail.get("degraded", []),
        notes=detail.get("notes", []),
        labels=dict(record.labels),
        usage=ResourceUsage.model_validate(detail.get("usage", {})),
        created_at=_time(record.created_at),
        last_active_at=None if record.last_active_at is None else _time(record.last_active_at),
        ended_at=None if record.ended_at is None else _time(record.ended_at),
        end_code=record.end_code,
        end_reason=record.end_reason,
    )


def new_record(terms: Terms, *, backend: str, isolation: str) -> ExecutionRecord:
    """The row of an execution that is about to start."""
    recipe = terms.image.recipe
    detail: dict[str, Any] = {
        "base_image": recipe.base_image,
        "language": terms.language,
        "network": terms.network,
        "backend": backend,
        "isolation": isolation,
        "notes": list(terms.notes),
    }
    if terms.snapshot_id is not None:
        detail |= {
            "snapshot_id": terms.snapshot_id,
            "branch_index": terms.branch_index,
            "restored_from": terms.restored_from,
        }
    return ExecutionRecord(
        id=terms.id,
        name=terms.name,
        environment=recipe.name,
        version=terms.image.version,
        created_at=terms.created_at,
        resources=terms.resources.model_dump(exclude_none=True),
        labels=terms.labels,
        detail=detail,
    )


def ended_detail(execution: LiveExecution, started: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an execution at its end, beside the columns of its row."""
    usage = execution.usage.model_copy(update={"requests": execution.served})
    return {
        **started,
        "enforcement": dict(execution.sandbox.enforcement),
        "degraded": list(execution.sandbox.degraded),
        "usage": usage.model_dump(),
    }


def encode_cursor(seq: int) -> str:
    return base64.urlsafe_b64encode(f"e{seq}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The row's number. Raises InvalidRequestError for what is not a cursor of ours."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if not text.startswith("e"):
            raise ValueError(text)
        return int(text[1:])
    except (ValueError, binascii.Error) as exc:
        raise InvalidRequestError(
            "cursor: it is not one that this gateway gave",
            hint="Pass next_cursor of the page before as it is.",
        ) from exc


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
