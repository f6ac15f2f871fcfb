"""Every route of the embedded gateway, live on a Unix socket, over a backend whose guest is scripted."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from faas import values
from faas.types import Environment, ExecutionInfo, ExecutionResult, Health
from live_gateway import API, Live, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with running() as gateway:
        yield gateway


async def test_health_says_who_answers(live: Live) -> None:
    response = await live.http.get("/healthz")
    health = Health.model_validate(response.json())
    assert health.backend == "fake"
    assert health.version
    assert response.headers["x-request-id"]


async def test_a_request_id_of_the_client_comes_back(live: Live) -> None:
    response = await live.http.get("/healthz", headers={"X-Request-Id": "my-id-1"})
    assert response.headers["x-request-id"] == "my-id-1"
    response = await live.http.get("/healthz", headers={"X-Request-Id": "not an id"})
    assert response.headers["x-request-id"] != "not an id"


async def test_openapi_describes_every_route_with_its_problems(live: Live) -> None:
    document = (await live.http.get("/openapi.json")).json()
    operations = [op for path in document["paths"].values() for op in path.values()]
    ids = [op["operationId"] for op in operations]
    assert len(ids) == len(set(ids)) == 33
    assert all(op["tags"] and op["description"] for op in operations)
    assert all("application/problem+json" in op["responses"]["500"]["content"] for op in operations)
    schemas = document["components"]["schemas"]
    assert {"ExecutionCreate", "ExecutionResult", "Problem", "ExecutionInfo"} <= set(schemas)
    assert not [name for name in schemas if "HTTPValidation" in name or name.endswith(("-Input", "-Output"))]
    assert (await live.http.get("/docs")).status_code == 200


async def test_environments_are_listed_and_say_what_they_stand_on(live: Live) -> None:
    page = await live.get("/environments")
    found = {item["name"]: Environment.model_validate(item) for item in page["items"]}
    assert sorted(found) == ["alpine-fast", "notebook", "python", "python-ai"]
    assert found["alpine-fast"].language == "shell"
    assert found["python-ai"].layers[0]["pip"][0].startswith("matplotlib")
    for environment in found.values():
        assert environment.base_image == "host"
        assert "host" in " ".join(environment.notes)
        assert environment.resources.memory_mb
    assert (await live.get("/environments/python"))["version"] == found["python"].version


async def test_an_environment_shows_how_far_its_build_is(live: Live) -> None:
    assert (await live.get("/environments/python"))["status"] == "not_built"
    live.backend.faults.build_s = 0.3
    async with anyio.create_task_group() as group:
        group.start_soon(live.open)
        await anyio.sleep(0.1)
        assert (await live.get("/environments/python"))["status"] == "building"
    built = await live.get("/environments/python")
    assert (built["status"], built["warm"]) == ("ready", True)


async def test_an_execution_is_opened_used_seen_and_ended(live: Live) -> None:
    execution = await live.open(name="mine", labels={"team": "red"}, resources={"memory_mb": 100})
    result = ExecutionResult.model_validate(await live.execute("mine", "print hello\neprint oh"))
    assert (result.status, result.stdout, result.stderr) == ("success", "hello\n", "oh\n")
    assert result.execution_id == execution
    assert result.execution_count == 1
    info = ExecutionInfo.model_validate(await live.get("/executions/mine"))
    assert (info.id, info.status, info.environment) == (execution, "idle", "python")
    assert info.resources.memory_mb == 100
    assert info.resources.pids == 256
    assert info.resources.output_mb == 64
    assert info.usage.processes == 2
    assert info.usage.requests == 1
    assert live.backend.open[execution].spec.limits.memory_bytes == 100 << 20
    ended = await live.http.delete(f"{API}/executions/mine")
    assert ended.status_code == 200
    assert (ended.json()["status"], ended.json()["end_code"]) == ("terminated", "closed")
    assert not live.backend.open
    again = await live.http.delete(f"{API}/executions/{execution}")
    assert again.json()["ended_at"] == ended.json()["ended_at"]


async def test_a_name_is_free_again_after_the_end(live: Live) -> None:
    first = await live.open(name="n")
    await live.http.delete(f"{API}/executions/n")
    second = await live.open(name="n")
    assert first != second
    assert (await live.get("/executions/n"))["id"] == second
    assert (await live.get(f"/executions/{first}"))["status"] == "terminated"


async def test_env_vars_and_the_interpreter_reach_the_backend(live: Live) -> None:
    interpreter = {"executable": "/x/python", "prefix": "/x", "base_prefix": "/y", "path": ["/x/lib"]}
    execution = await live.open(environment="notebook", env_vars={"A": "1"}, interpreter=interpreter)
    spec = live.backend.open[execution].spec
    assert dict(spec.env_vars) == {"A": "1"}
    host = spec.image.recipe.interpreter
    assert host is not None
    assert (host.executable, host.path) == ("/x/python", ("/x/lib",))


async def test_lists_filter_and_page(live: Live) -> None:
    ids = [await live.open(labels={"n": str(n % 2)}, environment=["python", "notebook"][n % 2]) for n in range(5)]
    await live.http.delete(f"{API}/executions/{ids[0]}")

    async def listed(**params: Any) -> list[str]:
        return [item["id"] for item in (await live.get("/executions", **params))["items"]]

    assert await listed() == ids[::-1]
    assert await listed(status="terminated") == [ids[0]]
    assert await listed(status="idle") == ids[:0:-1]
    assert await listed(label="n:1") == [ids[3], ids[1]]
    assert await listed(environment="notebook", label="n:0") == []
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await live.get("/executions", limit=2, **cursor)
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == ids[::-1]
    page = await live.get("/executions", limit=2, status="idle")
    assert [i["id"] for i in page["items"]] == [ids[4], ids[3]]
    page = await live.get("/executions", limit=2, status="idle", cursor=page["next_cursor"])
    assert [i["id"] for i in page["items"]] == [ids[2], ids[1]]
    assert page["next_cursor"] is None


async def test_a_busy_execution_is_listed_as_busy(live: Live) -> None:
    execution = await live.open()
    async with live.events("POST", f"/executions/{execution}/execute?stream=true", code="sleep 5") as events:
        accepted = await anext(events)
        assert [i["id"] for i in (await live.get("/executions", status="busy"))["items"]] == [execution]
        await live.http.delete(f"{API}/executions/{execution}/requests/{accepted.data['request_id']}")


async def test_one_shot_code_leaves_nothing(live: Live) -> None:
    response = await live.http.post(f"{API}/execute", json={"code": "print once", "labels": {"a": "b"}})
    result = ExecutionResult.model_validate(response.json())
    assert (result.status, result.stdout) == ("success", "once\n")
    await live.until_closed()
    info = await live.get(f"/executions/{result.execution_id}")
    assert (info["status"], info["environment"], info["labels"]) == ("terminated", "alpine-fast", {"a": "b"})


async def test_one_shot_events_end_with_the_result(live: Live) -> None:
    events = await live.all_events("POST", "/execute?stream=true", code="print a\nexit 3")
    assert [e.name for e in events] == ["accepted", "stream", "result"]
    assert events[-1].data["exit_code"] == 3
    assert events[-1].data["error"]["code"] == "exit_code"
    await live.until_closed()


async def test_progress_comes_while_a_build_takes_long(live: Live) -> None:
    live.backend.faults.build_s = 0.7
    events = await live.all_events(
        "POST", "/executions", {"Accept": "text/event-stream"}, environment="python-ai", name="slow"
    )
    assert {e.name for e in events[:-1]} == {"progress"}
    assert len(events) >= 4
    assert events[0].data["message"] == "installing packages"
    assert events[0].data["fraction"] == 0.5
    assert events[-2].data["elapsed_s"] > 0.4
    assert events[-1].name == "execution"
    assert ExecutionInfo.model_validate(events[-1].data).name == "slow"


async def test_a_fast_start_needs_no_progress(live: Live) -> None:
    events = await live.all_events("POST", "/executions", {"Accept": "text/event-stream"}, environment="python")
    assert [e.name for e in events] == ["execution"]


async def test_a_failure_in_a_stream_is_a_problem_event(live: Live) -> None:
    live.backend.faults.build_fails = True
    for path in ("/executions", "/execute?stream=true"):
        body = {"environment": "python"} | ({"code": "pass"} if "execute" in path else {})
        events = await live.all_events("POST", path, {"Accept": "text/event-stream"}, **body)
        assert events[-1].name == "problem"
        assert events[-1].data["code"] == "build_failed"
        assert "no matching distribution" in events[-1].data["detail"]


async def test_events_carry_the_output_and_the_result_does_not_repeat_it(live: Live) -> None:
    execution = await live.open()
    message = {
        "msg_type": "display_data",
        "content": {"data": {"text/html": "<b>x</b>"}, "metadata": {}},
        "metadata": {"m": 1},
        "buffers": ["00ff"],
    }
    code = f"print a\nmessage {json.dumps(message)}\nprint b"
    events = await live.all_events("POST", f"/executions/{execution}/execute?stream=true", code=code)
    assert [e.name for e in events] == ["accepted", "stream", "display_data", "stream", "result"]
    assert events[0].data["execution_id"] == execution
    assert events[2].data == {
        "msg_type": "display_data",
        "content": {"data": {"text/html": "<b>x</b>"}, "metadata": {}},
        "metadata": {"m": 1},
        "buffers": ["AP8="],
    }
    last = events[-1].data
    assert (last["status"], last["stdout"], last["outputs"]) == ("success", "", [])
    result = await live.get(f"/executions/{execution}/requests/{last['request_id']}")
    assert result["stdout"] == "a\nb\n"
    assert result["outputs"][0]["data"] == {"text/html": "<b>x</b>"}


async def test_events_can_be_read_again_and_resumed_after_any_of_them(live: Live) -> None:
    execution = await live.open()
    code = "\n".join(f"print {n}\neprint {n}" for n in range(20))
    events = await live.all_events("POST", f"/executions/{execution}/execute?stream=true", code=code)
    path = f"/executions/{execution}/requests/{events[0].data['request_id']}/events"
    assert await live.all_events("GET", path) == events
    for at in (0, 1, 17, len(events) - 1):
        rest = await live.all_events("GET", path, {"Last-Event-ID": str(events[at].id)})
        assert rest == events[at + 1 :]


async def test_code_goes_on_when_the_client_of_a_stream_leaves(live: Live) -> None:
    execution = await live.open()
    path = f"/executions/{execution}/execute?stream=true"
    async with live.events("POST", path, code="print a\nsleep 0.3\nprint b", request_id="request-1") as events:
        first = [await anext(events), await anext(events)]
    assert first[1].data["content"]["text"] == "a\n"
    rest = await live.all_events(
        "GET", f"/executions/{execution}/requests/request-1/events", {"Last-Event-ID": str(first[1].id)}
    )
    assert [e.name for e in rest] == ["stream", "result"]
    assert rest[0].data["content"]["text"] == "b\n"
    assert rest[1].data["status"] == "success"


async def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    async with running(ping_s=0.05) as live:
        execution = await live.open()
        body = {"code": "sleep 0.4"}
        async with live.http.stream("POST", f"{API}/executions/{execution}/execute?stream=true", json=body) as r:
            text = b"".join([chunk async for chunk in r.aiter_bytes()])
        assert text.count(b": ping\n\n") >= 3


async def test_requests_of_one_execution_run_in_order_one_at_a_time(live: Live) -> None:
    execution = await live.open()
    results: list[dict[str, Any]] = []

    async def run(n: int) -> None:
        results.append(await live.execute(execution, f"sleep 0.02\nprint {n}", request_id=f"request-{n}"))

    async with anyio.create_task_group() as group:
        for n in range(5):
            group.start_soon(run, n)
            await anyio.sleep(0.01)
    assert [r["stdout"] for r in results] == [f"{n}\n" for n in range(5)]
    assert [r["execution_count"] for r in results] == [1, 2, 3, 4, 5]


async def test_commands_run_beside_code(live: Live) -> None:
    execution = await live.open()
    async with live.events("POST", f"/executions/{execution}/execute?stream=true", code="sleep 10") as events:
        accepted = await anext(events)
        response = await live.http.post(
            f"{API}/executions/{execution}/run",
            json={"command": ["print", "hi"], "stdin": "text", "env_vars": {"K": "v"}},
        )
        assert response.json()["stdout"] == "hi\ntext\nK=v\n"
        await live.http.delete(f"{API}/executions/{execution}/requests/{accepted.data['request_id']}")
    streamed = await live.all_events("POST", f"/executions/{execution}/run?stream=true", command=["exit", "4"])
    assert streamed[-1].data["exit_code"] == 4


async def test_a_result_is_waited_for_as_long_as_asked(live: Live) -> None:
    execution = await live.open()
    path = f"{API}/executions/{execution}/requests/request-1"
    async with live.events(
        "POST", f"/executions/{execution}/execute?stream=true", code="sleep 0.3", request_id="request-1"
    ) as events:
        await anext(events)
    response = await live.http.get(path)
    assert (response.status_code, response.json()["code"]) == (409, "request_running")
    response = await live.http.get(path, params={"wait": 5})
    assert response.json()["status"] == "success"


async def test_variables_are_listed_pulled_and_pushed(live: Live) -> None:
    execution = await live.open()
    await live.execute(execution, 'set x {"a": [1, 2.5, null]}\nset y "text"')
    path = f"{API}/executions/{execution}/variables"
    listed = (await live.http.get(path)).json()["items"]
    assert [(v["name"], v["type"]) for v in listed] == [("x", "dict"), ("y", "str")]
    response = await live.http.get(f"{path}/x")
    assert response.headers["content-type"] == "application/vnd.faas.value"
    assert values.decode(response.content) == {"a": [1, 2.5, None]}
    response = await live.http.get(f"{path}/x", headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"a": [1, 2.5, None]}
    encoded = b"".join(values.encode((1, {2})))
    headers = {"Content-Type": "application/vnd.faas.value"}
    assert (await live.http.put(f"{path}/z", content=encoded, headers=headers)).status_code == 204
    assert values.decode((await live.http.get(f"{path}/z")).content) == (1, {2})
    response = await live.http.get(f"{path}/z", headers={"Accept": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "not_transferable")
    assert (await live.http.put(f"{path}/j", json=[1, "a"])).status_code == 204
    assert (await live.http.get(f"{path}/j", headers={"Accept": "application/json"})).json() == [1, "a"]


async def test_a_large_value_comes_through_whole(live: Live) -> None:
    execution = await live.open()
    path = f"{API}/executions/{execution}/variables/big"
    data = b"".join(values.encode(b"x" * (20 << 20)))
    headers = {"Content-Type": "application/vnd.faas.value"}
    assert (await live.http.put(path, content=data, headers=headers)).status_code == 204
    assert (await live.http.get(path)).content == data


async def test_files_are_written_listed_read_and_deleted(live: Live) -> None:
    execution = await live.open()
    base = f"{API}/executions/{execution}/files"
    assert (await live.http.put(f"{base}/a/b c.txt", content=b"hello")).status_code == 204
    assert (await live.http.put(f"{base}//tmp/abs.bin", content=b"\x00" * (3 << 20))).status_code == 204
    response = await live.http.get(f"{base}/a/b c.txt")
    assert (response.content, response.headers["content-type"]) == (b"hello", "application/octet-stream")
    assert (await live.http.get(f"{base}//tmp/abs.bin")).content == b"\x00" * (3 << 20)
    listed = (await live.http.get(f"{base}/a", params={"list": "true"})).json()["items"]
    assert [(f["path"], f["size"], f["type"]) for f in listed] == [("/workspace/a/b c.txt", 5, "file")]
    one = (await live.http.get(f"{base}/a/b c.txt", params={"list": "true"})).json()["items"]
    assert one == listed
    root = (await live.http.get(f"{base}/", params={"list": "true"})).json()["items"]
    assert [f["name"] for f in root] == ["a"]
    assert (await live.http.delete(f"{base}/a")).status_code == 204
    assert (await live.http.get(f"{base}/a/b c.txt")).json()["code"] == "unknown_file"


async def test_folders_travel_as_tar(live: Live) -> None:
    execution = await live.open()
    base = f"{API}/executions/{execution}/files"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("sub/x.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    headers = {"Content-Type": "application/x-tar"}
    response = await live.http.put(f"{base}/folder", content=packed.getvalue(), headers=headers)
    assert response.status_code == 204
    assert (await live.http.get(f"{base}/folder/sub/x.txt")).content == b"abc"
    response = await live.http.get(f"{base}/folder")
    assert response.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getnames() == ["sub/x.txt"]
