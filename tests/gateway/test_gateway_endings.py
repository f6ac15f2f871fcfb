"""How requests and executions end: timeout, interrupt, output without end, death, expiry, a client that leaves."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from live_gateway import API, Live, running

from faas_gateway.backends.base import Ended

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with running(grace_s=0.3) as gateway:
        yield gateway


async def start(live: Live, execution: str, code: str, request_id: str = "request-1") -> None:
    """Start code and leave it running."""
    path = f"/executions/{execution}/execute?stream=true"
    async with live.events("POST", path, code=code, request_id=request_id) as events:
        await anext(events)


async def result(live: Live, execution: str, request_id: str = "request-1") -> dict[str, Any]:
    return await live.get(f"/executions/{execution}/requests/{request_id}", wait=10)


async def interrupt(live: Live, execution: str, request_id: str = "request-1") -> None:
    response = await live.http.delete(f"{API}/executions/{execution}/requests/{request_id}")
    assert response.status_code == 202


async def test_code_past_its_timeout_is_stopped_and_the_session_stays(live: Live) -> None:
    execution = await live.open()
    found = await live.execute(execution, "print before\nsleep 20", timeout=0.1)
    assert (found["status"], found["error"]["code"], found["stdout"]) == ("timeout", "timeout", "before\n")
    assert "0.1 s" in found["error"]["evalue"]
    assert "kept" in found["error"]["hint"]
    assert (await live.execute(execution, "print on"))["stdout"] == "on\n"


async def test_code_that_takes_no_notice_of_its_timeout_costs_the_session(live: Live) -> None:
    execution = await live.open()
    other = await live.open()
    found = await live.execute(execution, "stubborn 20", timeout=0.1)
    assert (found["status"], found["error"]["code"]) == ("timeout", "timeout")
    assert "new execution" in found["error"]["hint"]
    assert found["duration"] < 5
    response = await live.http.post(f"{API}/executions/{execution}/execute", json={"code": "pass"})
    assert (response.status_code, response.json()["code"]) == (410, "execution_ended")
    assert "0.1 s" in response.json()["detail"]
    assert (await live.get(f"/executions/{execution}"))["status"] == "failed"
    assert (await live.execute(other, "pass"))["status"] == "success"


async def test_the_executions_own_timeout_holds_unless_the_request_has_one(live: Live) -> None:
    execution = await live.open(resources={"timeout_s": 0.2})
    assert (await live.execute(execution, "sleep 20"))["status"] == "timeout"
    assert (await live.execute(execution, "sleep 0.4", timeout=5))["status"] == "success"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"timeout": 0.1}, "timeout"),
        ({"resources": {"timeout_s": 0.1}}, "timeout"),
        ({"timeout": 5, "resources": {"timeout_s": 0.1}}, "success"),
    ],
)
async def test_one_shot_code_has_the_explicit_timeout(live: Live, body: dict[str, Any], status: str) -> None:
    response = await live.http.post(f"{API}/execute", json={"code": "sleep 0.4", **body})
    assert response.json()["status"] == status
    await live.until_closed()


async def test_a_command_past_its_timeout_ends_alone(live: Live) -> None:
    execution = await live.open()
    body = {"command": ["stubborn", "20"], "timeout": 0.1}
    found = (await live.http.post(f"{API}/executions/{execution}/run", json=body)).json()
    assert (found["status"], found["exit_code"]) == ("timeout", 124)
    assert (await live.execute(execution, "pass"))["status"] == "success"


async def test_an_interrupt_cancels_with_the_traceback_and_keeps_the_session(live: Live) -> None:
    execution = await live.open()
    await start(live, execution, "print a\nsleep 20")
    await interrupt(live, execution)
    found = await result(live, execution)
    assert (found["status"], found["error"]["code"], found["stdout"]) == ("cancelled", "cancelled", "a\n")
    assert found["error"]["ename"] == "KeyboardInterrupt"
    assert found["error"]["traceback"]
    await interrupt(live, execution)
    assert (await live.execute(execution, "pass"))["status"] == "success"


async def test_code_that_takes_no_notice_of_an_interrupt_goes_on(live: Live) -> None:
    execution = await live.open()
    await start(live, execution, "stubborn 0.8\nprint done")
    await interrupt(live, execution)
    await interrupt(live, execution)
    found = await result(live, execution)
    assert (found["status"], found["stdout"]) == ("success", "done\n")


async def test_a_waiting_request_that_is_interrupted_never_runs(live: Live) -> None:
    execution = await live.open()
    await start(live, execution, "sleep 20")
    await start(live, execution, "print never", "request-2")
    await start(live, execution, "print third", "request-3")
    await interrupt(live, execution, "request-2")
    found = await result(live, execution, "request-2")
    assert (found["status"], found["stdout"], found["duration"]) == ("cancelled", "", 0)
    await interrupt(live, execution)
    assert (await result(live, execution, "request-3"))["stdout"] == "third\n"


async def test_a_command_that_is_interrupted_ends(live: Live) -> None:
    execution = await live.open()
    path = f"/executions/{execution}/run?stream=true"
    async with live.events("POST", path, command=["stubborn", "20"], request_id="request-1") as events:
        await anext(events)
        await interrupt(live, execution)
        last = [event async for event in events][-1]
    assert last.data["status"] == "cancelled"


async def test_output_without_end_is_cut_said_and_stopped(live: Live) -> None:
    execution = await live.open(resources={"output_mb": 1})
    found = await live.execute(execution, "flood 5\nsleep 20", request_id="request-1")
    assert (found["status"], found["error"]["code"]) == ("error", "output_truncated")
    assert found["truncated"]
    assert len(found["stdout"]) == 1 << 20
    assert "output_mb" in found["stderr"]
    assert "kept" in found["error"]["hint"]
    assert (await live.execute(execution, "print on"))["stdout"] == "on\n"


async def test_output_over_the_limit_by_code_that_takes_no_notice_costs_the_session(live: Live) -> None:
    execution = await live.open(resources={"output_mb": 1})
    found = await live.execute(execution, "flood 2\nstubborn 20")
    assert found["error"]["code"] == "output_truncated"
    assert (await live.get(f"/executions/{execution}"))["status"] == "failed"


async def test_a_result_keeps_16_mib_of_text_and_the_events_have_all() -> None:
    async with running(result_text_bytes=1 << 20) as live:
        execution = await live.open()
        found = await live.execute(execution, "flood 3", request_id="request-1")
        assert (found["status"], found["truncated"]) == ("success", True)
        assert len(found["stdout"]) == 1 << 20
        size = 0
        async with live.events("GET", f"/executions/{execution}/requests/request-1/events") as events:
            async for event in events:
                if event.name == "stream":
                    size += len(event.data["content"]["text"])
        assert size > 2.9 * (1 << 20)
        assert (await result(live, execution))["stdout"] == found["stdout"]
        assert not list((live.gateway.settings.spool_dir).iterdir())


@pytest.mark.parametrize("code", ["oom", "died", "disk_full", "cpu_time", "killed", "lost"])
async def test_a_sandbox_that_ends_is_an_error_of_its_request_and_of_all_later_ones(live: Live, code: str) -> None:
    execution, other = await live.open(name="mine"), await live.open()
    await start(live, execution, "sleep 0.2", "request-0")
    await start(live, execution, f"print last words\nend {code} because of that")
    await start(live, execution, "print never", "request-2")
    found = await result(live, execution)
    assert (found["status"], found["stdout"]) == ("error", "last words\n")
    assert (found["error"]["code"], found["error"]["evalue"]) == (code, "because of that")
    assert found["error"]["hint"]
    queued = await result(live, execution, "request-2")
    assert (queued["status"], queued["error"]["code"], queued["stdout"]) == ("error", code, "")
    for method, path, body in [
        ("POST", "execute", {"code": "pass"}),
        ("POST", "run", {"command": ["pass"]}),
        ("GET", "variables", None),
        ("GET", "files/x", None),
        ("PUT", "files/x", None),
    ]:
        response = await live.http.request(method, f"{API}/executions/mine/{path}", json=body)
        assert (response.status_code, response.json()["code"]) == (410, "execution_ended"), path
        assert "because of that" in response.json()["detail"]
        assert response.json()["hint"]
    info = await live.get("/executions/mine")
    assert info["status"] == ("lost" if code == "lost" else "failed")
    assert (info["end_code"], info["end_reason"]) == (code, "because of that")
    assert (await live.execute(other, "pass"))["status"] == "success"
    await live.open(name="mine")


async def test_a_sandbox_that_ends_between_requests_is_noticed(live: Live) -> None:
    execution = await live.open()
    await live.backend.open[execution].kill(Ended("oom", "the cgroup was out of memory"))
    with anyio.fail_after(5):
        while (await live.get(f"/executions/{execution}"))["status"] == "idle":
            await anyio.sleep(0.01)
    response = await live.http.post(f"{API}/executions/{execution}/execute", json={"code": "pass"})
    assert "out of memory" in response.json()["detail"]


async def test_a_fault_of_the_backend_is_one_requests_and_not_the_gateways(live: Live) -> None:
    execution = await live.open()
    found = await live.execute(execution, "bug")
    assert (found["status"], found["error"]["code"]) == ("error", "lost")
    assert (await live.execute(execution, "pass"))["status"] == "success"


async def test_ending_an_execution_ends_what_runs_in_it(live: Live) -> None:
    execution = await live.open()
    path = f"/executions/{execution}/execute?stream=true"
    async with live.events("POST", path, code="sleep 20", request_id="request-1") as events:
        await anext(events)
        await live.http.delete(f"{API}/executions/{execution}")
        last = [event async for event in events][-1]
    assert (last.name, last.data["status"], last.data["error"]["code"]) == ("result", "cancelled", "cancelled")
    assert (await result(live, execution))["status"] == "cancelled"


async def test_hostile_messages_are_dropped_and_noted(live: Live) -> None:
    execution = await live.open()
    hostile = [{"msg_type": "kernel_info"}, {"msg_type": "display_data", "content": "x"}, {"no": "type"}]
    code = "\n".join(f"message {json.dumps(m)}" for m in hostile) + "\nsurrogate\nprint fine"
    events = await live.all_events("POST", f"/executions/{execution}/execute?stream=true", code=code)
    assert [e.name for e in events] == ["accepted", "stream", "result"]
    assert events[1].data["content"]["text"].endswith("fine\n")
    assert any(note.startswith("3 malformed") for note in events[-1].data["notes"])
    assert (await live.get(f"/executions/{execution}/requests/{events[0].data['request_id']}"))["stdout"]


async def test_an_execution_ends_at_its_ttl_even_while_code_runs(live: Live) -> None:
    execution = await live.open(ttl_s=0.4)
    started = time.monotonic()
    found = await live.execute(execution, "stubborn 20")
    assert time.monotonic() - started < 5
    assert (found["status"], found["error"]["code"]) == ("error", "killed")
    info = await live.get(f"/executions/{execution}")
    assert (info["status"], info["end_code"]) == ("terminated", "expired")


async def test_an_idle_execution_ends_and_a_busy_one_does_not(live: Live) -> None:
    execution = await live.open(idle_timeout_s=0.3)
    assert (await live.execute(execution, "sleep 0.6\nprint on"))["stdout"] == "on\n"
    assert (await live.get(f"/executions/{execution}"))["status"] == "idle"
    with anyio.fail_after(5):
        while (await live.get(f"/executions/{execution}"))["status"] == "idle":
            await anyio.sleep(0.02)
    info = await live.get(f"/executions/{execution}")
    assert (info["status"], info["end_code"]) == ("terminated", "idle")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_one_shot_client_that_leaves_ends_the_sandbox_at_once(live: Live, stream: bool) -> None:
    body = {"code": "print a\nstubborn 30", "timeout": 60}
    with anyio.move_on_after(0.3):
        async with live.http.stream("POST", f"{API}/execute", params={"stream": stream}, json=body) as response:
            await response.aread()
    assert live.backend.made == 1
    await live.until_closed(2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_execution_starts_leaves_nothing(live: Live, stream: bool) -> None:
    live.backend.faults.start_s = 0.4
    headers = {"Accept": "text/event-stream"} if stream else {}
    with anyio.move_on_after(0.15):
        async with live.http.stream("POST", f"{API}/executions", json={"name": "n"}, headers=headers) as response:
            await response.aread()
    await anyio.sleep(0.6)
    assert not live.backend.open
    assert live.gateway.executions.is_idle
    live.backend.faults.start_s = 0
    await live.open(name="n")


async def test_an_execution_can_be_ended_while_it_starts(live: Live) -> None:
    async def create() -> None:
        response = await live.http.post(f"{API}/executions", json={"name": "slow"})
        assert (response.status_code, response.json()["code"]) == (410, "execution_ended")

    live.backend.faults.start_s = 20
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(create)
            while not (await live.get("/executions"))["items"]:
                await anyio.sleep(0.01)
            assert (await live.get("/executions/slow"))["status"] == "starting"
            await live.http.delete(f"{API}/executions/slow")


async def test_old_outputs_are_dropped_and_the_newest_are_kept() -> None:
    async with running(logs_kept=3) as live:
        execution = await live.open()
        for n in range(5):
            await live.execute(execution, f"print {n}", request_id=f"request-{n}")
        for n in (2, 3, 4):
            assert (await result(live, execution, f"request-{n}"))["stdout"] == f"{n}\n"
        response = await live.http.get(f"{API}/executions/{execution}/requests/request-1")
        assert (response.status_code, response.json()["code"]) == (404, "unknown_request")


async def test_outputs_are_dropped_by_size_but_never_the_newest() -> None:
    async with running(logs_kept_bytes=1 << 20) as live:
        execution = await live.open()
        await live.execute(execution, "flood 0.5", request_id="request-1")
        await live.execute(execution, "flood 3", request_id="request-2")
        assert (await result(live, execution, "request-2"))["status"] == "success"
        response = await live.http.get(f"{API}/executions/{execution}/requests/request-1")
        assert response.status_code == 404


async def test_many_one_shots_at_once_all_come_back(live: Live) -> None:
    outputs: set[str] = set()

    async def once(n: int) -> None:
        response = await live.http.post(f"{API}/execute", json={"code": f"print {n}"})
        outputs.add(response.json()["stdout"])

    async with anyio.create_task_group() as group:
        for n in range(60):
            group.start_soon(once, n)
    assert outputs == {f"{n}\n" for n in range(60)}
    await live.until_closed()


async def test_finished_requests_are_in_the_database(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "pass", request_id="request-1")
    await live.execute(execution, "raise ValueError x", request_id="request-2")
    connection = sqlite3.connect(live.gateway.settings.database)
    rows: list[Any] = []
    with anyio.fail_after(5):
        while len(rows) < 2:
            await anyio.sleep(0.02)
            rows = connection.execute("select id, status, exit_code, error_code from requests order by seq").fetchall()
    connection.close()
    assert rows == [("request-1", "success", 0, None), ("request-2", "error", 1, "exception")]


async def test_a_locked_database_refuses_new_executions_and_leaves_open_ones_alone() -> None:
    async with running(storage_deadline_s=0.5) as live:
        execution = await live.open()
        connection = sqlite3.connect(live.gateway.settings.database, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        response = await live.http.post(f"{API}/executions", json={})
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        response = await live.http.post(f"{API}/execute", json={"code": "pass"})
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert list(live.backend.open) == [execution]
        assert (await live.execute(execution, "print on"))["stdout"] == "on\n"
        connection.execute("ROLLBACK")
        connection.close()
        with anyio.fail_after(15):
            while (await live.http.post(f"{API}/executions", json={})).status_code != 201:
                await anyio.sleep(0.1)
