"""Requests about snapshots as data, and what is made of lists of them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import faas
import faas._calls as calls
import faas._snapshot_calls as snapshot_calls
import pytest
from faas import _branches, errors
from faas.types import Snapshot


def body_of(call: calls.Call) -> Any:
    assert isinstance(call.body, bytes)
    return json.loads(call.body)


def test_creating_waits_for_running_code_and_for_what_is_written():
    call = snapshot_calls.create_snapshot(execution_id="x", name="n", portable="later", timeout=900, labels=None)
    assert (call.method, call.url) == ("POST", "/api/v1/snapshots")
    assert body_of(call)["timeout"] == 900
    assert call.read_timeout_s == 900 + calls.SNAPSHOT_MARGIN_S
    written = snapshot_calls.create_snapshot(execution_id="x", portable="now", timeout=900)
    assert written.read_timeout_s == 900 + snapshot_calls.PORTABLE_TIMEOUT_S


def test_script_comes_as_events_so_that_it_may_take_long():
    call = snapshot_calls.create_from_script(script="pip install pytest", timeout=86400)
    assert call.headers["Accept"] == "text/event-stream"
    assert call.read_timeout_s == calls.SILENCE_TIMEOUT_S
    assert body_of(call)["network"] == "full"
    assert body_of(call)["language"] == "shell"


def test_more_branches_are_waited_for_longer():
    one = snapshot_calls.restore_snapshot("s", branch_count=1)
    many = snapshot_calls.restore_snapshot("s", branch_count=500)
    assert one.read_timeout_s >= 60
    assert many.read_timeout_s > one.read_timeout_s
    assert snapshot_calls.branch_snapshot("s", branches=[{}] * 500).read_timeout_s == many.read_timeout_s


def test_batch_is_waited_for_as_long_as_it_takes_one_after_another():
    call = calls.batch([{"code": "1", "timeout": 100}, {"code": "2"}])
    assert call.read_timeout_s == 130 + calls.BUILD_MARGIN_S
    assert [request["code"] for request in body_of(call)["requests"]] == ["1", "2"]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: snapshot_calls.restore_snapshot("s", branch_count=0), "branch_count"),
        (lambda: snapshot_calls.restore_snapshot("s", branch_count=-1), "branch_count"),
        (lambda: snapshot_calls.restore_snapshot("s", branch_count=10**9), "branch_count"),
        (lambda: snapshot_calls.restore_snapshot("s", branch_count=1, form="frozen"), "form"),
        (lambda: snapshot_calls.restore_snapshot("", branch_count=1), "empty"),
        (lambda: snapshot_calls.branch_snapshot("s", branches=[{"label": {}}]), "branches.0.label"),
        (lambda: snapshot_calls.create_snapshot(execution_id="x", name="a b"), "name"),
        (lambda: snapshot_calls.create_snapshot(execution_id="x", timeout=0), "timeout"),
        (lambda: snapshot_calls.create_from_script(script="x", language="perl"), "language"),
        (lambda: snapshot_calls.update_snapshot("s", name="a/b"), "name"),
        (lambda: snapshot_calls.import_snapshot("a/b", b""), "name"),
        (lambda: snapshot_calls.diff_snapshots("s", ""), "empty"),
        (lambda: calls.rewind("x", "r", 0), "timeout"),
        (lambda: calls.batch([{"code": "1", "timeout": -1}]), "requests.0.timeout"),
        (lambda: calls.create_execution(checkpoint="sometimes"), "checkpoint"),
        (lambda: calls.create_execution(checkpoints_kept=0), "checkpoints_kept"),
        (lambda: calls.create_execution(network="half"), "network"),
    ],
)
def test_impossible_values_are_refused_by_name_before_anything_is_sent(make: Any, named: str):
    with pytest.raises(errors.InvalidRequestError, match=named):
        make()


def test_names_cannot_leave_their_place_in_the_url():
    assert snapshot_calls.get_snapshot("../executions").url == "/api/v1/snapshots/..%2Fexecutions"
    assert snapshot_calls.diff_snapshots("a?b", "..").url == "/api/v1/snapshots/a%3Fb/diff/%2E%2E"


def snapshot(id_: str, parent: str | None, second: int) -> Snapshot:
    at = dt.datetime(2026, 1, 1, 0, 0, second, tzinfo=dt.UTC)
    return Snapshot(id=id_, parent_id=parent, environment="python", created_at=at)


def test_tree_has_every_snapshot_once_oldest_first():
    listed = [snapshot("e", "gone", 5), snapshot("d", "b", 4), snapshot("c", "a", 3), snapshot("b", "a", 2)]
    roots = _branches.build_tree([*listed, snapshot("a", None, 1)])

    def drawn(nodes: Any) -> Any:
        return {node.snapshot.id: drawn(node.children) for node in nodes}

    assert drawn(roots) == {"a": {"b": {"d": {}}, "c": {}}, "e": {}}
    assert list(drawn(roots)["a"]) == ["b", "c"]


def test_export_into_a_folder_is_named_after_the_snapshot(tmp_path: Path):
    assert _branches.export_path(tmp_path, "base") == tmp_path / "base.faas-snapshot"
    assert _branches.export_path(str(tmp_path / "file"), "base") == tmp_path / "file"


def test_handle_without_a_client_says_how_to_get_one():
    handle = faas.SyncSnapshotHandle(id="s1", environment="python", created_at=dt.datetime.now(dt.UTC))
    with pytest.raises(errors.ConfigurationError, match=r"client\.snapshots\.get"):
        handle.delete()
