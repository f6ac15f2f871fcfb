"""Snapshots, branches and batches: both clients against a server that speaks the wire."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faas
import pytest
from faas import FaaSClient, SyncFaaSClient, errors, types
from faas.types import BranchRequest, OneShotCreate, Progress
from sdk_wire_server import Served, WireServer

np = pytest.importorskip("numpy")

pytestmark = pytest.mark.anyio


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "s") as served:
        yield served


@pytest.fixture
def server(served: Served) -> WireServer:
    return served.app


@pytest.fixture
def client(served: Served) -> Iterator[SyncFaaSClient]:
    with SyncFaaSClient(endpoint=served.endpoint) as client:
        yield client


def requests_of(server: WireServer) -> list[tuple[str, str]]:
    return [(method, path.removeprefix("/api/v1/")) for method, path, _ in server.calls]


def test_snapshot_is_a_model_with_methods(client: SyncFaaSClient, server: WireServer):
    execution = client.executions.create()
    for taken in (
        execution.snapshot("n1"),
        client.snapshots.create(execution, "n1"),
        client.snapshots.create("x1", "n1"),
    ):
        assert isinstance(taken, types.Snapshot)
        assert isinstance(taken, faas.SyncSnapshotHandle)
        assert (taken.id, taken.name, taken.forms) == ("s1", "n1", ["live", "portable"])
        assert taken.receipt.lost[0].name == "worker"
    assert (
        server.bodies[1:]
        == [{"execution_id": "x1", "name": "n1", "portable": "later", "timeout": 60.0, "labels": {}}] * 3
    )
    assert repr(taken) == "<SyncSnapshotHandle s1 'n1' python live+portable>"
    assert taken.refresh() is taken
    assert (taken.name, taken.portable_status) == ("s1", "ready")
    assert taken.rename("other") is taken
    assert taken.name == "other"
    taken.delete()
    assert requests_of(server)[-3:] == [("GET", "snapshots/s1"), ("PATCH", "snapshots/s1"), ("DELETE", "snapshots/s1")]


def test_handle_does_what_the_manager_does(client: SyncFaaSClient, server: WireServer, tmp_path: Path):
    base = client.snapshots.get("base")
    assert base.restore(labels={"k": "v"}).info.labels == {"k": "v"}
    assert [branch.branch_index for branch in base.branch(variables=[{"a": 1}, {"a": 2}])] == [0, 1]
    assert base.diff("s2").variables[0].name == "s2"
    assert base.diff(base).variables[0].name == "s1"
    assert base.export(tmp_path) == tmp_path / "base.faas-snapshot"


async def test_documented_program_with_ten_branches_works(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        base = await client.snapshots.create_from_script("""
            pip install pytest
        """, name="test-base")  # fmt: skip
        branches = await client.snapshots.restore(base.id, branch_count=10)
        results = await asyncio.gather(*[branch.execute(f"print {i}") for i, branch in enumerate(branches)])
    assert isinstance(base, faas.SnapshotHandle)
    assert [len(result.stdout.splitlines()) for result in results] == list(range(10))
    assert served.app.bodies[0]["language"] == "shell"
    assert served.app.bodies[0]["network"] == "full"
    assert (branches[3].branch_index, branches[3].snapshot_id, branches[3].restored_from) == (3, "s1", "live")
    receipt = branches[3].receipt
    assert receipt is not None
    assert receipt.reseeded == ["random"]


def test_script_tells_its_progress_and_its_failure(client: SyncFaaSClient):
    seen: list[Progress] = []
    assert client.snapshots.create_from_script("true", "n", on_progress=seen.append).name == "n"
    assert [progress.message for progress in seen] == ["Collecting pytest"]
    with pytest.raises(errors.ScriptFailedError, match="exit code 1: no such file"):
        client.snapshots.create_from_script("problem script_failed")


def test_check_names_what_would_not_survive(client: SyncFaaSClient, server: WireServer):
    found = client.snapshots.check(client.executions.create())
    assert not found.live
    assert [(loss.name, loss.effect) for loss in found.losses] == [("polars", "portable_only")]
    assert server.bodies[-1] == {"execution_id": "x1"}


def test_one_branch_is_an_execution_and_several_are_a_list(client: SyncFaaSClient, server: WireServer):
    assert client.snapshots.restore("base").id == "b0"
    assert client.snapshots.restore("base", 1).id == "b0"
    assert [branch.id for branch in client.snapshots.restore("base", 3, reseed=True, form="live", ttl_s=5)] == [
        "b0",
        "b1",
        "b2",
    ]
    assert server.bodies[-1] == {
        "branch_count": 3, "form": "live", "reseed": True, "env_vars": {}, "labels": {}, "ttl_s": 5.0
    }  # fmt: skip
    assert [branch.id for branch in client.snapshots.branch("base", 1)] == ["b0"]


def test_branches_that_cannot_be_made_do_not_take_the_others_along(client: SyncFaaSClient, server: WireServer):
    with pytest.raises(
        errors.BranchError, match="3 of 5 branches could not be made; the 2 that could be stay open"
    ) as caught:
        client.snapshots.restore("full", branch_count=5)
    assert [branch.branch_index for branch in caught.value.branches] == [0, 1]
    assert caught.value.branches[1].execute("print 1").stdout == "line 0\n"
    assert set(caught.value.errors) == {2, 3, 4}
    assert all(isinstance(error, errors.CapacityError) for error in caught.value.errors.values())
    assert not [path for method, path in requests_of(server) if method == "DELETE"]
    made = client.snapshots.restore("full", branch_count=3, return_exceptions=True)
    assert [type(item).__name__ for item in made] == ["SyncExecution", "SyncExecution", "CapacityError"]
    with pytest.raises(errors.BranchError, match="The branch could not be made: detail of start_failed"):
        client.snapshots.restore("base", labels={"fail": "start_failed"})


def test_an_answer_that_forgets_branches_is_said_to(client: SyncFaaSClient):
    with pytest.raises(errors.BranchError, match="says nothing of branch 0") as caught:
        client.snapshots.restore("missing", 2)
    assert isinstance(caught.value.errors[1], errors.ProtocolError)


@pytest.mark.parametrize("code", ["unknown_snapshot", "snapshot_gone", "not_portable", "capacity"])
def test_what_is_wrong_with_the_snapshot_is_said_of_all_at_once(client: SyncFaaSClient, code: str):
    for act in (
        lambda: client.snapshots.restore(f"problem {code}", 3),
        lambda: client.snapshots.branch(f"problem {code}", 3),
        lambda: client.snapshots.get(f"problem {code}"),
        lambda: client.snapshots.delete(f"problem {code}"),
        lambda: client.snapshots.diff(f"problem {code}", "s2"),
        lambda: client.snapshots.export(f"problem {code}", "/nowhere/x"),
    ):
        with pytest.raises(errors.ERROR_BY_CODE[code], match=f"detail of {code}"):
            act()


def test_each_branch_has_its_own_variables_names_and_labels(client: SyncFaaSClient, server: WireServer):
    grid = np.arange(6.0)
    branches = client.snapshots.branch(
        "base",
        variables=[{"lr": 0.1, "grid": grid}, {"lr": 0.2, "grid": grid + 1}],
        names=["slow", "fast"],
        labels=[{"k": "1"}, {"k": "2"}],
    )
    assert [branch.name for branch in branches] == ["slow", "fast"]
    assert server.bodies[-1]["branches"] == [
        {"name": "slow", "variables": {"lr": 0.1}, "env_vars": {}, "labels": {"k": "1"}},
        {"name": "fast", "variables": {"lr": 0.2}, "env_vars": {}, "labels": {"k": "2"}},
    ]
    pushed = [path for method, path in requests_of(server) if method == "PUT"]
    assert sorted(pushed) == ["executions/b0/variables/grid", "executions/b1/variables/grid"]
    client.snapshots.branch("base", [BranchRequest(name="a", variables={"x": None}), {"variables": {"x": (1,)}}])
    assert [branch["variables"] for branch in server.bodies[-1]["branches"]] == [{"x": None}, {}]


async def test_variables_go_to_many_branches_at_once(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        branches = await client.snapshots.branch("base", variables=[{"a": np.zeros(9)} for _ in range(60)])
        assert len(branches) == 60
        assert sum(method == "PUT" for method, _ in requests_of(served.app)) == 60


async def test_branch_that_cannot_take_its_variables_is_ended_and_the_others_stay(served: Served):
    variables: list[dict[str, Any]] = [{"x": np.ones(2)}, {"x": object()}, {"x": 1}]
    async with FaaSClient(endpoint=served.endpoint) as client:
        with pytest.raises(errors.BranchError) as caught:
            await client.snapshots.branch("base", variables=variables)
        assert [branch.id for branch in caught.value.branches] == ["b0", "b2"]
        assert isinstance(caught.value.errors[1], errors.NotTransferableError)
        assert [path for method, path in requests_of(served.app) if method == "DELETE"] == ["executions/b1"]


async def test_cancelling_while_variables_go_out_ends_all_branches(served: Served):
    served.app.put_delay_s = 5.0
    async with FaaSClient(endpoint=served.endpoint) as client:
        task = asyncio.create_task(client.snapshots.branch("base", variables=[{"x": np.ones(2)}] * 3))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not any(method == "PUT" for method, _ in requests_of(served.app)):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ended = sorted(path for method, path in requests_of(served.app) if method == "DELETE")
    assert ended == ["executions/b0", "executions/b1", "executions/b2"]


async def test_cancelling_a_restore_drops_its_connection_so_that_the_gateway_ends_it(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.snapshots.restore("hang", 100), 0.3)
        assert time.monotonic() - started < 3
        while not served.app.disconnected and time.monotonic() - started < 5:
            await asyncio.sleep(0.01)
    assert served.app.disconnected == ["hang"]


def test_list_follows_the_pages_and_the_tree_is_made_of_it(client: SyncFaaSClient, server: WireServer):
    assert [snapshot.id for snapshot in client.snapshots.list()] == ["s5", "s4", "s3", "s2", "s1"]
    assert [snapshot.id for snapshot in client.snapshots.list(checkpoints=True, limit=3)] == ["s5", "s4", "s3"]
    assert server.queries == [
        "limit=100", "limit=100&cursor=2", "limit=100&cursor=4", "checkpoints=true&limit=3", "checkpoints=true&limit=1&cursor=2"
    ]  # fmt: skip
    roots = client.snapshots.tree()
    assert [root.snapshot.id for root in roots] == ["s1", "s5"]
    assert [child.snapshot.id for child in roots[0].children] == ["s2", "s3"]
    assert isinstance(roots[0].children[0].snapshot, faas.SyncSnapshotHandle)


def test_update_changes_what_is_given(client: SyncFaaSClient, server: WireServer):
    assert client.snapshots.update("s1", keep=True).keep
    assert client.snapshots.rename(client.snapshots.get("s1"), "n2").name == "n2"


def test_export_is_whole_or_not_there(client: SyncFaaSClient, server: WireServer, tmp_path: Path):
    path = client.snapshots.export("base", tmp_path / "file")
    assert path.stat().st_size == 3_000_000
    with pytest.raises(errors.ConnectionLostError):
        client.snapshots.export("broken", path)
    assert path.stat().st_size == 3_000_000
    assert sorted(os.listdir(tmp_path)) == ["file", "s"]  # s is the server's socket


def test_import_sends_the_file(client: SyncFaaSClient, server: WireServer, tmp_path: Path):
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert client.snapshots.import_(tmp_path / "file", "n3").name == "n3"
    assert server.files["import"] == ("application/octet-stream", content)
    with pytest.raises(FileNotFoundError):
        client.snapshots.import_(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        client.snapshots.import_(tmp_path)


def test_rewind_goes_back_to_a_request(client: SyncFaaSClient, server: WireServer):
    execution = client.executions.create("python", checkpoint="every-request", checkpoints_kept=7, network="full")
    assert {"checkpoint": "every-request", "checkpoints_kept": 7, "network": "full"}.items() <= server.bodies[
        -1
    ].items()
    result = execution.execute("print 1")
    assert execution.rewind(result, timeout=9).checkpoints == [result.request_id]
    assert server.bodies[-1] == {"request_id": result.request_id, "timeout": 9.0}
    assert execution.info.checkpoints == [result.request_id]
    with pytest.raises(errors.NoCheckpointError):
        execution.rewind("no_checkpoint")


def test_language_and_network_of_one_shots_are_sent(client: SyncFaaSClient, server: WireServer):
    client.execute("print 1", "python", language="shell", network="full")
    list(client.executions.stream("print 1", "python", language="shell", network="full"))
    client.executions.run(["print 1"], "python", language="shell", network="full")
    sent = [body for body in server.bodies if "environment" in body]
    assert [(body["language"], body["network"]) for body in sent] == [("shell", "full")] * 3


async def test_batch_keeps_the_order(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client:
        results = await client.executions.run_batch(
            ["print 1", {"code": "print 2", "environment": "python"}, OneShotCreate(code="print 3", timeout=5)],
            labels={"a": "b"},
            timeout=7,
        )
        assert await client.executions.run_batch([]) == []
    assert [len(result.stdout.splitlines()) for result in results] == [1, 2, 3]
    sent = served.app.bodies[0]["requests"]
    assert [(r["environment"], r["timeout"]) for r in sent] == [
        ("alpine-fast", 7.0),
        ("python", 7.0),
        ("alpine-fast", 5.0),
    ]
    assert [result.request_id for result in results] == [request["request_id"] for request in sent]
    assert all(request["labels"] == {"a": "b"} for request in sent)


def test_batch_with_refused_requests(client: SyncFaaSClient):
    codes: list[str | dict[str, object]] = ["print 1", {"code": "problem capacity"}, "problem start_failed"]
    with pytest.raises(errors.CapacityError, match="detail of capacity"):
        client.executions.run_batch(codes)
    mixed = client.executions.run_batch(codes, return_exceptions=True)
    assert [type(item).__name__ for item in mixed] == ["ExecutionResult", "CapacityError", "StartError"]
    with pytest.raises(errors.ProtocolError, match="1 of the 2 requests"):
        client.executions.run_batch(["print 1", "missing"])
    with pytest.raises(errors.InvalidRequestError, match=r"requests\.0\.environmnt"):
        client.executions.run_batch([{"code": "1", "environmnt": "python"}])
