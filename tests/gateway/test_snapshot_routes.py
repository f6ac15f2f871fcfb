"""Every route about snapshots, live on a Unix socket, over a backend whose sandboxes are dicts that can be copied."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from faas.types import BatchPage, BranchPage, Diff, ExecutionInfo, Problem, Snapshot, SnapshotCheck
from live_gateway import API, Live, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with running(portable_delay_s=0.05) as gateway:
        yield gateway
        backend = gateway.backend
    assert not backend.frozen, "dormant processes were left"


async def post(live: Live, path: str, status: int = 201, **body: Any) -> dict[str, Any]:
    response = await live.http.post(f"{API}{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def problem(response: httpx.Response, status: int, code: str) -> Problem:
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return Problem.model_validate(response.json())


async def snapshot(live: Live, execution: str, **body: Any) -> Snapshot:
    return Snapshot.model_validate(await post(live, f"/executions/{execution}/snapshot", **body))


async def test_a_session_is_snapshotted_and_branched(live: Live) -> None:
    execution = await live.open(name="source")
    await live.execute(execution, "set x 1")
    found = await snapshot(live, "source", name="one", portable="never")
    assert (found.execution_id, found.forms) == (execution, ["live"])
    page = BranchPage.model_validate(await post(live, "/snapshots/one/restore", branch_count=2))
    branches = [item.execution for item in page.items]
    for index, branch in enumerate(branches):
        assert branch is not None
        assert branch.branch_index == index
        assert (await live.execute(branch.id, "show x"))["stdout"] == "1\n"
        info = ExecutionInfo.model_validate(await live.get(f"/executions/{branch.id}"))
        assert (info.snapshot_id, info.restored_from) == (found.id, "live")
    more = await post(
        live, f"/snapshots/{found.id}/branch", branches=[{"name": "b0", "variables": {"y": [1, None]}}, {}], reseed=True
    )
    assert [item["problem"] for item in more["items"]] == [None, None]
    assert (await live.execute("b0", "show y"))["stdout"] == "[1, None]\n"
    assert (await live.get("/snapshots/one"))["branches"] == 4


async def test_snapshots_are_listed_renamed_kept_and_deleted(live: Live) -> None:
    execution = await live.open()
    ids = [(await snapshot(live, execution, portable="never")).id for _ in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await live.get("/snapshots", limit=2, **cursor)
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == ids[::-1]
    problem(await live.http.get(f"{API}/snapshots?cursor=ZTE"), 422, "invalid_request")
    renamed = await live.http.patch(f"{API}/snapshots/{ids[0]}", json={"name": "kept", "keep": True})
    assert renamed.status_code == 200
    assert (renamed.json()["name"], renamed.json()["keep"], renamed.json()["expires_at"]) == ("kept", True, None)
    taken = await live.http.patch(f"{API}/snapshots/{ids[1]}", json={"name": "kept"})
    problem(taken, 409, "name_taken")
    assert (await live.http.delete(f"{API}/snapshots/kept")).status_code == 204
    for key in ("kept", ids[0]):
        problem(await live.http.delete(f"{API}/snapshots/{key}"), 404, "unknown_snapshot")
        problem(await live.http.get(f"{API}/snapshots/{key}"), 404, "unknown_snapshot")
        problem(await live.http.post(f"{API}/snapshots/{key}/restore", json={}), 404, "unknown_snapshot")


async def test_a_misspelt_name_is_guessed(live: Live) -> None:
    execution = await live.open()
    await snapshot(live, execution, name="baseline", portable="never")
    found = problem(await live.http.get(f"{API}/snapshots/basline"), 404, "unknown_snapshot")
    assert "'baseline'" in found.hint


@pytest.mark.parametrize("count", [0, -1, 1001, 10**30, "x"])
async def test_a_branch_count_that_makes_no_sense_is_refused(live: Live, count: Any) -> None:
    execution = await live.open()
    found = await snapshot(live, execution, portable="never")
    response = await live.http.post(f"{API}/snapshots/{found.id}/restore", json={"branch_count": count})
    assert "branch_count" in problem(response, 422, "invalid_request").detail


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/snapshots", {"execution_id": "x", "nme": "a"}, "nme: unknown field"),
        ("/snapshots", {"execution_id": "x", "name": "no spaces"}, "name: "),
        ("/snapshots", {"script": "x", "nme": "a"}, "nme: unknown field"),
        ("/snapshots", {"script": "x", "language": "perl"}, "language: "),
        ("/snapshots", {}, "execution_id: it is required"),
        ("/snapshots", [], "body: "),
        ("/snapshots/any/branch", {"branches": []}, "branches: "),
        ("/executions/any/snapshot", {"execution_id": "other"}, "given by the path"),
        ("/executions/batch", {"requests": []}, "requests: "),
    ],
)
async def test_a_body_that_is_wrong_is_explained(live: Live, path: str, body: Any, said: str) -> None:
    found = problem(await live.http.post(f"{API}{path}", json=body), 422, "invalid_request")
    assert said in found.detail
    if "nme" in said:
        assert "'name'" in found.hint


async def test_taking_one_reports_progress_and_ends_with_the_snapshot(live: Live) -> None:
    execution = await live.open()
    live.backend.faults.freeze_s = 0.2
    accept = {"Accept": "text/event-stream"}
    events = await live.all_events("POST", "/snapshots", accept, execution_id=execution, name="n", portable="never")
    assert [event.name for event in events][-1] == "snapshot"
    assert {event.name for event in events[:-1]} == {"progress"}
    assert Snapshot.model_validate(events[-1].data).name == "n"
    events = await live.all_events("POST", "/snapshots", accept, execution_id=execution, name="n", portable="never")
    assert (events[-1].name, events[-1].data["code"]) == ("problem", "name_taken")


async def test_a_script_makes_a_snapshot(live: Live) -> None:
    made = Snapshot.model_validate(await post(live, "/snapshots", script="write a.txt made", name="base"))
    assert (made.language, made.network, made.portable_status) == ("shell", "full", "pending")
    response = await live.http.post(f"{API}/snapshots", json={"script": "print why\nexit 2"})
    assert "why" in problem(response, 422, "script_failed").detail
    accept = {"Accept": "text/event-stream"}
    events = await live.all_events("POST", "/snapshots", accept, script="stubborn 0.2\nexit 3")
    assert {"script"} <= {event.data.get("stage") for event in events}
    assert (events[-1].name, events[-1].data["code"]) == ("problem", "script_failed")
    await live.until_closed()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_it_is_taken_leaves_nothing(live: Live, stream: bool) -> None:
    execution = await live.open()
    live.backend.faults.freeze_s = 0.3
    headers = {"Accept": "text/event-stream"} if stream else {}
    with anyio.move_on_after(0.1) as scope:
        await live.http.post(f"{API}/snapshots", json={"execution_id": execution, "name": "n"}, headers=headers)
    assert scope.cancelled_caught
    live.backend.faults.freeze_s = 0
    with anyio.fail_after(5):
        while (await live.http.get(f"{API}/snapshots/n")).status_code != 404 or live.backend.frozen:
            await anyio.sleep(0.02)
    assert (await live.execute(execution, "print on"))["stdout"] == "on\n"


async def test_a_running_cell_is_waited_for_and_then_named(live: Live) -> None:
    execution = await live.open()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: live.execute(execution, "sleep 10", request_id="long-one"))
        await anyio.sleep(0.1)
        started = time.monotonic()
        response = await live.http.post(f"{API}/executions/{execution}/snapshot", json={"timeout": 0.2})
        assert "long-one" in problem(response, 504, "timeout").detail
        assert time.monotonic() - started < 2
        check = await live.http.delete(f"{API}/executions/{execution}/requests/long-one")
        assert check.status_code == 202


async def test_what_would_not_survive_is_named_beforehand(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "unforkable a thread runs")
    check = SnapshotCheck.model_validate(await post(live, "/snapshots/check", 200, execution_id=execution))
    assert (check.live, check.losses[0].reason) == (False, "a thread runs")
    refused = await live.http.post(f"{API}/executions/{execution}/snapshot", json={"portable": "never"})
    assert problem(refused, 422, "cannot_fork").errors[0]["message"] == "a thread runs"
    found = await snapshot(live, execution)
    assert found.forms == ["portable"]


async def test_a_session_is_rewound(live: Live) -> None:
    execution = await live.open(checkpoint="every-request")
    for number in (1, 2):
        await live.execute(execution, f"set x {number}", request_id=f"request-{number}")
    response = await live.http.post(f"{API}/executions/{execution}/rewind", json={"request_id": "request-1"})
    info = ExecutionInfo.model_validate(response.json())
    assert (info.id, info.status, info.checkpoints) == (execution, "idle", ["start", "request-1", "request-2"])
    assert (await live.execute(execution, "show x"))["stdout"] == "1\n"
    listed = await live.get("/snapshots")
    assert listed["items"] == []
    listed = await live.get("/snapshots", checkpoints="true")
    assert all(item["checkpoint"] for item in listed["items"])
    gone = await live.http.post(f"{API}/executions/{execution}/rewind", json={"request_id": "request-9"})
    assert "request-1" in problem(gone, 404, "unknown_request").hint
    without = await live.open()
    gone = await live.http.post(f"{API}/executions/{without}/rewind", json={"request_id": "request-1"})
    problem(gone, 409, "no_checkpoint")


async def test_two_snapshots_are_compared(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "set x 1")
    await snapshot(live, execution, name="a", portable="never")
    await live.execute(execution, "set x 2\nwrite f.txt text")
    await snapshot(live, execution, name="b", portable="never")
    found = Diff.model_validate(await live.get("/snapshots/a/diff/b"))
    assert [(e.name, e.change, e.before, e.after) for e in found.variables] == [("x", "changed", "int: 1", "int: 2")]
    assert [(e.name, e.change) for e in found.files] == [("/workspace/f.txt", "added")]
    problem(await live.http.get(f"{API}/snapshots/a/diff/c"), 404, "unknown_snapshot")


async def test_one_is_exported_and_imported(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "set x 1\nwrite f.txt text")
    await snapshot(live, execution, name="mine", portable="never")
    response = await live.http.get(f"{API}/snapshots/mine/export")
    assert response.headers["content-type"] == "application/x-tar"
    headers = {"Content-Type": "application/octet-stream"}
    imported = await live.http.post(f"{API}/snapshots/import?name=copy", content=response.content, headers=headers)
    assert imported.status_code == 201, imported.text
    assert imported.json()["forms"] == ["portable"]
    page = await post(live, "/snapshots/copy/restore")
    branch = page["items"][0]["execution"]["id"]
    assert (await live.execute(branch, "show x\ncat f.txt"))["stdout"] == "1\ntext\n"
    again = await live.http.post(f"{API}/snapshots/import?name=copy", content=response.content, headers=headers)
    problem(again, 409, "name_taken")
    bad = await live.http.post(f"{API}/snapshots/import", content=response.content[:1500], headers=headers)
    problem(bad, 422, "invalid_request")
    named = await live.http.post(f"{API}/snapshots/import?name=no%20spaces", content=b"", headers=headers)
    problem(named, 422, "invalid_request")


async def test_a_snapshot_whose_only_form_died_is_gone_and_says_why(live: Live) -> None:
    execution = await live.open()
    found = await snapshot(live, execution, portable="never")
    live.backend.frozen[found.id].die("pkill")
    gone = await live.http.post(f"{API}/snapshots/{found.id}/restore", json={})
    assert "pkill" in problem(gone, 410, "snapshot_gone").detail
    page = await live.get("/snapshots")
    assert page["items"] == []


async def test_a_batch_keeps_the_order_and_one_that_fails_does_not_fail_the_others(live: Live) -> None:
    requests = [{"code": f"stubborn {0.2 if n == 0 else 0}\nprint {n}", "environment": "python"} for n in range(6)]
    requests[2]["environment"] = "nowhere"
    requests[3]["code"] = "raise ValueError no"
    response = await live.http.post(f"{API}/executions/batch", json={"requests": requests})
    assert response.status_code == 200, response.text
    page = BatchPage.model_validate_json(response.content)
    assert [item.index for item in page.items] == list(range(6))
    for item in page.items:
        match item.index:
            case 2:
                assert item.problem is not None
                assert item.problem.code == "unknown_environment"
            case 3:
                assert item.result is not None
                assert item.result.status == "error"
            case n:
                assert item.result is not None
                assert item.result.stdout == f"{n}\n"
    await live.until_closed()


async def test_a_batch_runs_in_parallel_but_not_all_at_once() -> None:
    async with running(batch_at_once=3) as live:
        most = 0
        done = anyio.Event()

        async def run() -> None:
            await post(live, "/executions/batch", 200, requests=[{"code": "stubborn 0.1"}] * 9)
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            while not done.is_set():
                running_now = [s for s in live.backend.open.values() if s.state.count]
                most = max(most, len(running_now))
                await anyio.sleep(0.01)
        assert 2 <= most <= 6  # three run, while those before them are being closed
        await live.until_closed()


async def test_a_batch_ends_with_its_client(live: Live) -> None:
    with anyio.move_on_after(0.2) as scope:
        await live.http.post(f"{API}/executions/batch", json={"requests": [{"code": "sleep 60"}] * 3})
    assert scope.cancelled_caught
    await live.until_closed()
