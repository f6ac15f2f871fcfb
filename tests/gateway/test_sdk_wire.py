"""Both clients against a server that speaks the wire: what they send, what they make of the answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sdk_wire_server
from faas import FaaSClient, SyncFaaSClient, errors
from faas.types import Progress
from sdk_wire_server import PROBLEM_STATUS, Served, WireServer

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
    return [(method, path) for method, path, _ in server.calls]


def test_result_has_the_output(client: SyncFaaSClient):
    with client.executions.create() as execution:
        result = execution.execute("print 2")
    assert (result.status, result.stdout) == ("success", "line 0\nline 1\n")


async def test_async_client_does_the_same(served: Served):
    async with FaaSClient(endpoint=served.endpoint) as client, await client.executions.create() as execution:
        result = await execution.execute("print 2")
        stream = execution.stream("print 3")
        texts = [event.text async for event in stream]
    assert (result.status, result.stdout) == ("success", "line 0\nline 1\n")
    assert texts == ["line 0\n", "line 1\n", "line 2\n"]
    assert stream.result.status == "success"


def test_async_client_works_in_one_event_loop_after_another(served: Served):
    client = FaaSClient(endpoint=served.endpoint)

    async def use() -> str:
        return (await client.health()).version

    with warnings.catch_warnings():  # connections of a loop that has ended can only be closed by the collector
        warnings.simplefilter("ignore", ResourceWarning)
        assert [asyncio.run(use()), asyncio.run(use())] == ["9.9.9", "9.9.9"]
        gc.collect()


async def test_sync_client_works_inside_a_running_loop(client: SyncFaaSClient):
    assert asyncio.get_running_loop().is_running()
    execution = client.executions.create()
    assert execution.execute("print 1").stdout == "line 0\n"
    assert [event.text for event in execution.stream("print 1")] == ["line 0\n"]


def test_stream_has_no_result_before_its_end(client: SyncFaaSClient):
    stream = client.executions.create().stream("print 1")
    next(stream)
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = stream.result
    assert list(stream) == []
    assert stream.result.request_id == stream.request_id
    assert list(stream) == []


def test_one_connection_serves_one_request_after_another(client: SyncFaaSClient, server: WireServer):
    execution = client.executions.create()
    pool = client._transport._pool._current._transport._pool  # pyright: ignore
    for _ in range(5):
        execution.execute("print 1")
        list(execution.stream("print 1"))
    assert len(pool.connections) == 1


@pytest.mark.parametrize("code", PROBLEM_STATUS)
def test_every_problem_is_its_own_exception(client: SyncFaaSClient, code: str):
    execution = client.executions.create()
    expected = errors.ERROR_BY_CODE[code]
    for act in (
        lambda: execution.execute(f"problem {code}"),
        lambda: list(execution.stream(f"problem {code}")),
        lambda: list(execution.stream(f"print 1; problem {code}")),
        lambda: client.executions.create(code),
        lambda: client.execute(f"problem {code}"),
    ):
        with pytest.raises(expected) as caught:
            act()
        assert type(caught.value) is expected
        assert str(caught.value) == f"detail of {code}. Try: hint of {code}."
        assert caught.value.status == PROBLEM_STATUS[code]


def test_problem_knows_the_id_of_its_answer(client: SyncFaaSClient):
    with pytest.raises(errors.NotFoundError) as caught:
        client.environments.list()
    assert caught.value.request_id == "http-1"


def test_create_reports_progress(client: SyncFaaSClient):
    seen: list[Progress] = []
    client.executions.create(on_progress=seen.append)
    assert [(progress.stage, progress.fraction) for progress in seen] == [("start", 0.5)]


def test_list_follows_the_pages_and_stops_at_the_limit(client: SyncFaaSClient, server: WireServer):
    assert [info.id for info in client.executions.list(label="a:b")] == ["x0", "x1", "x2", "x3", "x4"]
    assert server.queries == [
        "label=a%3Ab&limit=100",
        "label=a%3Ab&limit=100&cursor=2",
        "label=a%3Ab&limit=100&cursor=4",
    ]
    assert [info.id for info in client.executions.list(limit=3)] == ["x0", "x1", "x2"]
    assert client.executions.list(limit=0) == []


def test_one_shot_command_has_an_execution_that_is_closed(client: SyncFaaSClient, server: WireServer):
    assert client.executions.run(["print 2"]).stdout == "line 0\nline 1\n"
    assert requests_of(server)[-1] == ("DELETE", "/api/v1/executions/x1")
    stream = client.executions.stream(["print 2"])
    assert [event.text for event in stream] == ["line 0\n", "line 1\n"]
    assert stream.result.status == "success"
    assert requests_of(server)[-1] == ("DELETE", "/api/v1/executions/x1")


def test_one_shot_command_that_cannot_run_closes_its_execution_too(client: SyncFaaSClient, server: WireServer):
    with pytest.raises(errors.FileError):
        client.executions.run(["problem file_error"])
    assert requests_of(server)[-1][0] == "DELETE"
    with pytest.raises(errors.FileError):
        list(client.executions.stream(["problem file_error"]))
    assert requests_of(server)[-1][0] == "DELETE"


def test_one_shot_code_streams(client: SyncFaaSClient):
    with client.executions.stream("print 2") as stream:
        assert [event.text for event in stream] == ["line 0\n", "line 1\n"]


def test_file_is_run_in_the_environment_of_its_suffix(client: SyncFaaSClient, server: WireServer, tmp_path: Path):
    for name in ("a.py", "b.SH"):
        (tmp_path / name).write_text("print 1")
        assert client.execute_file(tmp_path / name, timeout=5).stdout == "line 0\n"
    assert [body["environment"] for body in server.bodies] == ["python", "alpine-fast"]
    (tmp_path / "c.rs").write_text("print 1")
    with pytest.raises(errors.InvalidRequestError, match=r"'c\.rs' does not say .* environment="):
        client.execute_file(tmp_path / "c.rs")
    assert client.execute_file(tmp_path / "c.rs", environment="python").stdout == "line 0\n"
    (tmp_path / "d.py").write_bytes(b"\xff")
    with pytest.raises(errors.InvalidRequestError, match="not text"):
        client.execute_file(tmp_path / "d.py")
    with pytest.raises(FileNotFoundError):
        client.execute_file(tmp_path / "missing.py")


def test_notebook_environment_gets_this_interpreter(client: SyncFaaSClient, server: WireServer):
    client.executions.create("notebook")
    client.executions.create("python")
    client.execute("print 1", environment="notebook")
    interpreters = [body.get("interpreter") for body in server.bodies]
    assert [bool(interpreter) for interpreter in interpreters] == [True, False, True]
    assert interpreters[0]["prefix"] == sys.prefix


def test_files_go_there_and_back(client: SyncFaaSClient, server: WireServer, tmp_path: Path):
    files = client.executions.create().files
    files.write("a b/ä.txt", "text ä")
    assert files.read("a b/ä.txt") == "text ä".encode()
    assert files.read_text("a b/ä.txt") == "text ä"
    files.write("/abs/%41", b"\0\1")
    assert server.files["/abs/%41"] == ("application/octet-stream", b"\0\1")
    with pytest.raises(errors.UnknownFileError):
        files.read("missing")
    big = os.urandom(5 << 20)
    (tmp_path / "big").write_bytes(big)
    files.upload(tmp_path / "big")
    assert server.files["big"] == ("application/octet-stream", big)
    assert files.download("big", tmp_path / "copy") == tmp_path / "copy"
    assert (tmp_path / "copy").read_bytes() == big
    (tmp_path / "into").mkdir()
    assert files.download("/abs/%41", tmp_path / "into") == tmp_path / "into" / "%41"
    with pytest.raises(FileNotFoundError):
        files.upload(tmp_path / "missing", "x")


async def test_folders_go_there_and_back(served: Served, tmp_path: Path):
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "f").write_bytes(os.urandom(3 << 20))
    async with FaaSClient(endpoint=served.endpoint) as client:
        files = (await client.executions.create()).files
        await files.upload(tmp_path / "src", "there")
        assert served.app.files["there"][0] == "application/x-tar"
        await files.download("there", tmp_path / "copy")
        with pytest.raises(errors.FileError, match=r"there is a folder\. Try: download"):
            await files.read("there")
        with pytest.raises(errors.UnsafeArchiveError, match="larger than the limit"):
            await files.download("there", tmp_path / "small", max_bytes=1000)
    assert (tmp_path / "copy" / "sub" / "f").read_bytes() == (tmp_path / "src" / "sub" / "f").read_bytes()


def test_variables_travel_in_their_own_encoding(client: SyncFaaSClient, server: WireServer):
    variables = client.executions.create().variables
    variables.push("x", {"a": [1, 2.5, None, "ä"]})
    variables.push(y=b"bytes", z=(1, 2))
    assert server.variables["x"][0] == "application/vnd.faas.value"
    assert variables.pull("x") == {"a": [1, 2.5, None, "ä"]}
    assert variables.pull("y") == b"bytes"
    assert variables.pull("z") == (1, 2)
    with pytest.raises(errors.UnknownVariableError):
        variables.pull("missing")
    with pytest.raises(errors.NotTransferableError, match="'f' cannot be sent"):
        variables.push(f=object())
    assert "f" not in server.variables
    server.variables["junk"] = ("application/vnd.faas.value", b"junk")
    with pytest.raises(errors.NotTransferableError, match="'junk' cannot be read"):
        variables.pull("junk")


def test_debug_log_has_ids_paths_and_times_but_no_code_or_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FAAS_LOG", "debug")
    logger = logging.getLogger("faas")
    try:
        with SyncFaaSClient(api_key="hush-key", endpoint=served.endpoint) as client:
            execution = client.executions.create(env_vars={"SECRET": "hush-value"})
            execution.execute("print 1; hush-code")
            with pytest.raises(errors.NameTakenError):
                execution.execute("problem name_taken")
    finally:
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
    lines = [line.partition(" faas DEBUG ")[2] for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 3
    assert lines[1].startswith("http-1 POST /api/v1/executions/x1/execute 200 ")
    assert lines[2].startswith("http-1 POST /api/v1/executions/x1/execute 409 ")
    assert lines[1].endswith(" ms")
    assert "hush" not in "".join(lines)


def test_log_level_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAAS_LOG", "loud")
    with pytest.raises(errors.ConfigurationError, match="FAAS_LOG is 'loud'"):
        SyncFaaSClient(endpoint="unix:///nowhere")


def test_key_goes_into_the_header_only(served: Served):
    with SyncFaaSClient(api_key="hush", endpoint=served.endpoint) as client:
        client.health()
        assert "hush" not in repr(client)
    assert served.app.calls[0][2]["authorization"] == "Bearer hush"
    assert "hush" not in served.app.calls[0][1]


def test_closed_client_says_so(client: SyncFaaSClient):
    client.close()
    client.close()
    with pytest.raises(errors.ConfigurationError, match="The client is closed"):
        client.health()


def test_closing_an_execution_twice_asks_once(client: SyncFaaSClient, server: WireServer):
    execution = client.executions.create()
    execution.close()
    execution.close()
    assert [method for method, _ in requests_of(server)].count("DELETE") == 1
    assert execution.status == "terminated"


def test_nothing_at_the_endpoint_is_a_connect_error(tmp_path: Path):
    with (
        SyncFaaSClient(endpoint=f"unix://{tmp_path}/none") as client,
        pytest.raises(errors.ConnectError, match=r"No gateway answers at unix://.*Try: check FAAS_ENDPOINT"),
    ):
        client.health()


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[Path]:
    """The folder of a server in a process of its own, as the embedded gateway is."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    ready, ready_for_server = os.pipe()
    command = [sys.executable, Path(sdk_wire_server.__file__), folder / "gateway.sock", str(ready_for_server)]
    with subprocess.Popen(command, pass_fds=(ready_for_server,)) as process:
        os.close(ready_for_server)
        try:
            assert os.read(ready, 10) == b"ready\n"
            yield folder
        finally:
            os.close(ready)
            process.kill()


@pytest.mark.parametrize("kind", ["embedded", "unix"])
async def test_more_requests_at_once_than_open_files_fail_as_transport_errors(
    other_process: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setenv("FAAS_RUNTIME_DIR", str(other_process))
    monkeypatch.delenv("FAAS_API_KEY", raising=False)
    monkeypatch.delenv("FAAS_ENDPOINT", raising=False)
    async with FaaSClient(endpoint=None if kind == "embedded" else f"unix://{other_process}/gateway.sock") as client:
        execution = await client.executions.create()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        try:
            done = await asyncio.gather(*(execution.execute("sleep 1") for _ in range(40)), return_exceptions=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        failed = [error for error in done if isinstance(error, BaseException)]
        assert 0 < len(failed) < 40
        assert all(isinstance(error, errors.TransportError) for error in failed), failed
        assert all("open files" in str(error) for error in failed), failed
        assert (await execution.execute("print 1")).stdout == "line 0\n"


def test_50_mb_of_output_streams_fast_and_in_bounded_memory(client: SyncFaaSClient):
    execution = client.executions.create()
    tracemalloc.start()
    try:
        sizes = [len(event.text) for event in execution.stream("; ".join(["big 65536"] * 20))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(sizes) == 20
    assert peak < 16 << 20  # the server's own list of events is in this process too
    started = time.monotonic()
    total = sum(len(event.text) for event in execution.stream("; ".join(["big 65536"] * 800)))
    assert total > 50_000_000
    assert time.monotonic() - started < 5
