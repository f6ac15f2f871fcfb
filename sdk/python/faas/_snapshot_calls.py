"""The requests about snapshots, as data. No I/O."""

from __future__ import annotations

from typing import Any, Literal

from faas._calls import (
    API,
    BYTES,
    EVENTS,
    JSON,
    SILENCE_TIMEOUT_S,
    SNAPSHOT_MARGIN_S,
    Body,
    Call,
    check,
    json_body,
    url_of,
)
from faas.errors import invalid
from faas.types import (
    BranchInput,
    CheckInput,
    RestoreInput,
    ScriptSnapshotCreate,
    SnapshotCreate,
    SnapshotUpdate,
)

PortableWhen = Literal["later", "now", "never"]

#: Writing or reading the portable form of a session of many GB, while nothing is sent.
PORTABLE_TIMEOUT_S = 1800.0
#: A restore of one branch; live ones take milliseconds, portable ones read the variables back.
RESTORE_TIMEOUT_S = 120.0
RESTORE_TIMEOUT_PER_BRANCH_S = 5.0
#: The gateway waits for a running cell before it looks into a session.
LOOK_TIMEOUT_S = 300.0

_JSON_BOTH_WAYS = {"Content-Type": JSON, "Accept": JSON}


def create_snapshot(**fields: Any) -> Call:
    timeout = check(SnapshotCreate, fields).timeout
    margin = PORTABLE_TIMEOUT_S if fields.get("portable") == "now" else SNAPSHOT_MARGIN_S
    return Call("POST", url_of(API, "snapshots"), json_body(SnapshotCreate, fields), _JSON_BOTH_WAYS, timeout + margin)


def create_from_script(**fields: Any) -> Call:
    """As events: their pings prove that the gateway lives while the script runs for minutes."""
    body = json_body(ScriptSnapshotCreate, fields)
    headers = {"Content-Type": JSON, "Accept": EVENTS}
    return Call("POST", url_of(API, "snapshots"), body, headers, SILENCE_TIMEOUT_S)


def check_execution(execution: str) -> Call:
    body = json_body(CheckInput, {"execution_id": execution})
    return Call("POST", url_of(API, "snapshots", "check"), body, _JSON_BOTH_WAYS, LOOK_TIMEOUT_S)


def list_snapshots(checkpoints: bool, limit: int, cursor: str | None) -> Call:
    shown = "true" if checkpoints else None
    url = url_of(API, "snapshots", checkpoints=shown, limit=str(limit), cursor=cursor)
    return Call("GET", url, headers={"Accept": JSON})


def get_snapshot(snapshot: str) -> Call:
    return Call("GET", _snapshot(snapshot), headers={"Accept": JSON})


def update_snapshot(snapshot: str, **fields: Any) -> Call:
    return Call("PATCH", _snapshot(snapshot), json_body(SnapshotUpdate, fields), _JSON_BOTH_WAYS)


def delete_snapshot(snapshot: str) -> Call:
    return Call("DELETE", _snapshot(snapshot), headers={"Accept": JSON}, read_timeout_s=SNAPSHOT_MARGIN_S)


def diff_snapshots(before: str, after: str) -> Call:
    if not after:
        raise invalid("The id or name of the second snapshot is empty")
    return Call("GET", _snapshot(before, "diff", after), headers={"Accept": JSON}, read_timeout_s=LOOK_TIMEOUT_S)


def restore_snapshot(snapshot: str, **fields: Any) -> Call:
    count = check(RestoreInput, fields).branch_count
    return _branching(_snapshot(snapshot, "restore"), json_body(RestoreInput, fields), count)


def branch_snapshot(snapshot: str, **fields: Any) -> Call:
    checked = check(BranchInput, fields)
    body = checked.model_dump_json(exclude_none=True).encode()
    return _branching(_snapshot(snapshot, "branch"), body, len(checked.branches))


def export_snapshot(snapshot: str) -> Call:
    return Call("GET", _snapshot(snapshot, "export"), headers={"Accept": "*/*"}, read_timeout_s=PORTABLE_TIMEOUT_S)


def import_snapshot(name: str | None, body: Body) -> Call:
    if name is not None:
        check(SnapshotUpdate, {"name": name})
    url = url_of(API, "snapshots", "import", name=name)
    return Call("POST", url, body, {"Content-Type": BYTES, "Accept": JSON}, PORTABLE_TIMEOUT_S)


def _branching(url: str, body: bytes, count: int) -> Call:
    wait_s = RESTORE_TIMEOUT_S + count * RESTORE_TIMEOUT_PER_BRANCH_S
    return Call("POST", url, body, _JSON_BOTH_WAYS, wait_s)


def _snapshot(id_or_name: str, *segments: str) -> str:
    if not id_or_name:
        raise invalid("The id or name of a snapshot is empty")
    return url_of(API, "snapshots", id_or_name, *segments)
