"""Each way in which a request can be wrong, or a sandbox can end, gives one clear answer; the others carry on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from faas import values
from live_gateway import API, Live, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with running(grace_s=0.3, variables_wait_s=0.3) as gateway:
        yield gateway


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is that problem, well-formed, and return it."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


# What a client sends


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"resources": {"memory_mb": 1}}, "resources.memory_mb", "greater than or equal to 32, given 1"),
        ({"resources": {"cpus": "many"}}, "resources.cpus", "given 'many'"),
        ({"resources": {"memroy_mb": 64}}, "resources.memroy_mb", "unknown field"),
        ({"enviroment": "python"}, "enviroment", "unknown field"),
        ({"name": "no spaces"}, "name", "given 'no spaces'"),
        ({"network": "all"}, "network", "'none'"),
        ({"env_vars": {"A": 3}}, "env_vars.A", "string"),
    ],
)
async def test_an_invalid_field_is_named_with_what_was_given(
    live: Live, body: dict[str, Any], field: str, said: str
) -> None:
    found = problem(await live.http.post(f"{API}/executions", json=body), 422, "invalid_request")
    assert found["errors"][0]["field"] == field
    assert field in found["detail"]
    assert said in found["detail"]


@pytest.mark.parametrize(
    ("body", "near"), [({"resources": {"memroy_mb": 64}}, "memory_mb"), ({"enviroment": "x"}, "environment")]
)
async def test_the_nearest_field_is_suggested(live: Live, body: dict[str, Any], near: str) -> None:
    found = problem(await live.http.post(f"{API}/executions", json=body), 422, "invalid_request")
    assert f"Did you mean {near!r}?" in found["hint"]


async def test_secrets_are_not_repeated_in_a_problem(live: Live) -> None:
    body = {"env_vars": {"KEY": "hunter2\x00"}}
    found = problem(await live.http.post(f"{API}/executions", json=body), 422, "invalid_request")
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize("content", [b"{", b'{"code": "\xff"}', b"", b"[]", b"null"])
async def test_a_body_that_is_no_object_is_refused(live: Live, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem(await live.http.post(f"{API}/execute", content=content, headers=headers), 422, "invalid_request")


async def test_a_body_of_another_type_is_refused_with_the_right_one(live: Live) -> None:
    headers = {"Content-Type": "text/plain"}
    response = await live.http.post(f"{API}/execute", content=b'{"code": "pass"}', headers=headers)
    assert "application/json" in problem(response, 422, "invalid_request")["hint"]


async def test_an_unknown_option_suggests_the_nearest(live: Live) -> None:
    response = await live.http.get(f"{API}/executions", params={"statsu": "idle"})
    found = problem(response, 422, "invalid_request")
    assert "statsu" in found["detail"]
    assert "'status'" in found["hint"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "status=odd", "label=nocolon", "cursor=bad"])
async def test_an_invalid_option_is_named(live: Live, query: str) -> None:
    found = problem(await live.http.get(f"{API}/executions?{query}"), 422, "invalid_request")
    assert query.partition("=")[0] in found["detail"]


async def test_unknown_routes_and_methods_are_problems(live: Live) -> None:
    problem(await live.http.get(f"{API}/nothing"), 404, "not_found")
    found = problem(await live.http.patch(f"{API}/executions"), 405, "method_not_allowed")
    assert "PATCH" in found["detail"]


async def test_an_unknown_environment_suggests_the_nearest(live: Live) -> None:
    for response in (
        await live.http.post(f"{API}/executions", json={"environment": "python_ai"}),
        await live.http.post(f"{API}/execute", json={"environment": "python_ai", "code": "pass"}),
        await live.http.get(f"{API}/environments/python_ai"),
    ):
        assert "'python-ai'" in problem(response, 404, "unknown_environment")["hint"]


async def test_an_interpreter_is_for_the_notebook_environment_only(live: Live) -> None:
    interpreter = {"executable": "/x", "prefix": "/x", "base_prefix": "/x"}
    response = await live.http.post(f"{API}/executions", json={"interpreter": interpreter})
    assert "interpreter" in problem(response, 422, "invalid_request")["detail"]


async def test_a_name_that_looks_like_an_id_is_refused(live: Live) -> None:
    response = await live.http.post(f"{API}/executions", json={"name": "exec_" + "a" * 20})
    assert "name" in problem(response, 422, "invalid_request")["detail"]


async def test_a_taken_name_is_a_conflict(live: Live) -> None:
    await live.open(name="n")
    found = problem(await live.http.post(f"{API}/executions", json={"name": "n"}), 409, "name_taken")
    assert "'n'" in found["detail"]
    assert len(live.backend.open) == 1


async def test_of_many_who_want_a_name_one_gets_it(live: Live) -> None:
    live.backend.faults.start_s = 0.1
    statuses: list[int] = []

    async def create() -> None:
        statuses.append((await live.http.post(f"{API}/executions", json={"name": "n"})).status_code)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(create)
    assert sorted(statuses) == [201, 409, 409, 409, 409]


async def test_what_is_not_there_is_said_by_kind(live: Live) -> None:
    execution = await live.open(name="there")
    base = f"{API}/executions"
    for method, path, code in [
        ("GET", "/none", "unknown_execution"),
        ("DELETE", "/none", "unknown_execution"),
        ("GET", "/none/variables", "unknown_execution"),
        ("GET", "/none/requests/r1234567", "unknown_execution"),
        ("GET", f"/{execution}/requests/r1234567", "unknown_request"),
        ("DELETE", f"/{execution}/requests/r1234567", "unknown_request"),
        ("GET", f"/{execution}/requests/r1234567/events", "unknown_request"),
        ("GET", f"/{execution}/variables/nothing", "unknown_variable"),
        ("GET", f"/{execution}/files/nothing", "unknown_file"),
        ("GET", f"/{execution}/files/nothing?list=true", "unknown_file"),
        ("DELETE", f"/{execution}/files/nothing", "unknown_file"),
    ]:
        problem(await live.http.request(method, base + path), 404, code)
    assert "'there'" in problem(await live.http.get(f"{base}/ther"), 404, "unknown_execution")["hint"]


async def test_other_file_problems_are_file_errors(live: Live) -> None:
    execution = await live.open()
    base = f"{API}/executions/{execution}/files"
    assert problem(await live.http.put(f"{base}//proc/x", content=b"x"), 422, "file_error")["hint"]
    problem(await live.http.put(f"{base}//workspace", content=b"x"), 422, "file_error")
    problem(await live.http.get(f"{base}/a%00b"), 422, "invalid_request")
    problem(await live.http.get(f"{base}/" + "a" * 5000), 422, "invalid_request")


async def test_values_that_cannot_travel_are_said(live: Live) -> None:
    execution = await live.open()
    base = f"{API}/executions/{execution}/variables"
    problem(await live.http.get(f"{base}/a_lock"), 422, "not_transferable")
    problem(await live.http.get(f"{base}/not-a-name"), 422, "invalid_request")
    problem(
        await live.http.put(f"{base}/x", content=b"x", headers={"Content-Type": "text/csv"}), 422, "invalid_request"
    )
    headers = {"Content-Type": "application/json"}
    problem(await live.http.put(f"{base}/x", content=b"{", headers=headers), 422, "invalid_request")
    encoded = b"".join(values.encode({1, 2}))
    await live.http.put(f"{base}/s", content=encoded, headers={"Content-Type": values.MEDIA_TYPE})
    response = await live.http.get(f"{base}/s", headers={"Accept": "application/json"})
    assert "application/vnd.faas.value" in problem(response, 422, "not_transferable")["hint"]


async def test_a_shell_session_has_no_variables(live: Live) -> None:
    execution = await live.open(environment="alpine-fast")
    response = await live.http.get(f"{API}/executions/{execution}/variables")
    problem(response, 422, "not_transferable")


async def test_a_request_id_is_used_once(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "pass", request_id="request-1")
    for path, body in (("execute", {"code": "pass"}), ("run", {"command": ["pass"]})):
        response = await live.http.post(
            f"{API}/executions/{execution}/{path}", json={**body, "request_id": "request-1"}
        )
        problem(response, 409, "request_exists")


async def test_an_event_that_is_not_one_cannot_be_resumed_after(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, "print x", request_id="request-1")
    path = f"{API}/executions/{execution}/requests/request-1/events"
    for last in ("3", "x", "-1", "999999999"):
        problem(await live.http.get(path, headers={"Last-Event-ID": last}), 422, "invalid_request")


async def test_a_body_over_the_limit_is_too_large_and_nothing_runs() -> None:
    async with running(json_body_bytes=2000, value_body_bytes=5000) as live:
        execution = await live.open()
        body = json.dumps({"code": "#" * 3000}).encode()
        headers = {"Content-Type": "application/json"}

        async def chunks(data: bytes) -> AsyncIterator[bytes]:
            for start in range(0, len(data), 500):
                yield data[start : start + 500]

        path = f"{API}/executions/{execution}/execute"
        problem(await live.http.post(path, content=body, headers=headers), 413, "too_large")
        problem(await live.http.post(path, content=chunks(body), headers=headers), 413, "too_large")
        path = f"{API}/executions/{execution}/variables/x"
        headers = {"Content-Type": values.MEDIA_TYPE}
        problem(await live.http.put(path, content=b"x" * 6000, headers=headers), 413, "too_large")
        problem(await live.http.put(path, content=chunks(b"x" * 6000), headers=headers), 413, "too_large")
        path = f"{API}/executions/{execution}/files/x"
        assert (await live.http.put(path, content=b"x" * 60_000)).status_code == 204


async def test_a_body_that_stops_coming_is_refused() -> None:
    async with running(body_stall_s=0.2) as live:

        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"code":'
            await anyio.sleep(1.5)
            yield b'"pass"}'

        headers = {"Content-Type": "application/json"}
        response = await live.http.post(f"{API}/execute", content=chunks(), headers=headers)
        assert "0.2 s" in problem(response, 422, "invalid_request")["detail"]
        assert live.backend.made == 0


async def test_an_unforeseen_failure_is_internal_and_gives_nothing_away(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    live.backend.version_of = None  # type: ignore[assignment,method-assign]
    response = await live.http.get(f"{API}/environments")
    found = problem(response, 500, "internal")
    assert "NoneType" not in json.dumps(found)
    assert any(record.exc_info for record in caplog.records)


# What a machine cannot do


async def test_a_machine_without_sandboxes_says_what_mends_it_and_is_asked_again(live: Live) -> None:
    live.backend.faults.unavailable = True
    for path, body in (("/executions", {}), ("/execute", {"code": "pass"})):
        found = problem(await live.http.post(API + path, json=body), 503, "sandbox_unavailable")
        assert found["hint"] == "sysctl -w user.max_user_namespaces=10000"
    live.backend.faults.unavailable = False
    await live.open()


async def test_a_failed_build_shows_the_end_of_its_output_and_is_tried_again(live: Live) -> None:
    live.backend.faults.build_fails = True
    response = await live.http.post(f"{API}/executions", json={"environment": "python-ai", "name": "n"})
    found = problem(response, 502, "build_failed")
    assert "no matching distribution" in found["detail"]
    assert (await live.get("/environments/python-ai"))["status"] == "failed"
    live.backend.faults.build_fails = False
    await live.open(environment="python-ai", name="n")


async def test_a_sandbox_that_does_not_start_is_said_and_remembered_as_failed(live: Live) -> None:
    live.backend.faults.start_fails = True
    response = await live.http.post(f"{API}/executions", json={"name": "n"})
    assert "clone" in problem(response, 503, "start_failed")["detail"]
    info = await live.get("/executions/n")
    assert (info["status"], info["end_code"]) == ("failed", "start_failed")
    live.backend.faults.start_fails = False
    await live.open(name="n")


async def test_a_start_past_its_deadline_fails() -> None:
    async with running(start_deadline_s=0.1) as live:
        live.backend.faults.start_s = 30
        problem(await live.http.post(f"{API}/executions", json={}), 503, "start_failed")


async def test_too_many_executions_are_a_capacity_problem() -> None:
    async with running(max_live=2) as live:
        first = await live.open()
        await live.open()
        response = await live.http.post(f"{API}/executions", json={})
        problem(response, 503, "capacity")
        assert response.headers["retry-after"]
        await live.http.delete(f"{API}/executions/{first}")
        await live.open()


async def test_too_many_waiting_starts_are_a_capacity_problem() -> None:
    async with running(starts_at_once=1, starts_waiting=2) as live:
        live.backend.faults.start_s = 0.2
        statuses: list[int] = []

        async def create() -> None:
            statuses.append((await live.http.post(f"{API}/executions", json={})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(create)
        assert sorted(statuses) == [201, 201, 503, 503]


async def test_too_many_queued_requests_are_a_capacity_problem() -> None:
    async with running(queue_limit=1, commands_at_once=1) as live:
        execution = await live.open()
        path = f"{API}/executions/{execution}"

        async def command() -> None:
            await live.http.post(f"{path}/run", json={"command": ["stubborn", "0.5"]})

        async with anyio.create_task_group() as group:
            for n in range(2):
                group.start_soon(live.execute, execution, f"sleep 0.5\nprint {n}")
            group.start_soon(command)
            await anyio.sleep(0.2)
            problem(await live.http.post(f"{path}/execute", json={"code": "pass"}), 503, "capacity")
            problem(await live.http.post(f"{path}/run", json={"command": ["pass"]}), 503, "capacity")


async def test_variables_are_not_waited_for_without_end_while_code_runs(live: Live) -> None:
    execution = await live.open()
    async with anyio.create_task_group() as group:
        group.start_soon(live.execute, execution, "sleep 1")
        await anyio.sleep(0.1)
        found = problem(await live.http.get(f"{API}/executions/{execution}/variables"), 504, "timeout")
        assert "busy" in found["detail"]
    await live.execute(execution, "set x 1")
    assert len((await live.get(f"/executions/{execution}/variables"))["items"]) == 1
