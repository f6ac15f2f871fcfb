"""The SDK against the real gateway: what a user does with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import faas
import pytest
from faas import Execution, FaaSClient, SyncExecution, SyncFaaSClient, errors
from faas.types import SHIPPED_ENVIRONMENTS, CellOrigin, Progress
from live import LiveGateway

pytestmark = pytest.mark.anyio


@pytest.fixture
def session(client: SyncFaaSClient) -> Iterator[SyncExecution]:
    with client.executions.create("python", labels={"test": "sdk"}) as session:
        yield session


@pytest.fixture
async def asession(aclient: FaaSClient) -> AsyncIterator[Execution]:
    async with await aclient.executions.create("python") as session:
        yield session


def test_the_program_in_the_documentation_works_as_it_stands(client: SyncFaaSClient):
    result = client.execute("print('Hello World')", environment="python")
    assert (result.status, result.stdout, result.exit_code) == ("success", "Hello World\n", 0)


async def test_so_does_its_async_form(aclient: FaaSClient):
    results = await asyncio.gather(*(aclient.execute(f"echo {n}") for n in range(4)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(4)]


def test_health_names_version_and_process(client: SyncFaaSClient):
    health = client.health()
    assert health.version == faas.__version__
    assert Path(f"/proc/{health.pid}/cmdline").read_bytes().count(b"faas_gateway") == 1


def test_environments_are_listed_and_found(client: SyncFaaSClient):
    assert {environment.name for environment in client.environments.list()} >= set(SHIPPED_ENVIRONMENTS)
    assert client.environments.get("python").language == "python"
    assert client.environments.get("alpine-fast").language == "shell"
    with pytest.raises(errors.UnknownEnvironmentError, match="pyhton"):
        client.environments.get("pyhton")
    with pytest.raises(errors.UnknownEnvironmentError):
        client.executions.create("pyhton")


def test_state_persists_between_requests(session: SyncExecution):
    session.execute("x = 20")
    result = session.execute("x + 1")
    assert result.outputs[0]["data"]["text/plain"] == "21"
    assert result.execution_count == 2


def test_code_that_fails_is_a_result(session: SyncExecution):
    result = session.execute("print('before')\n1 / 0")
    assert (result.status, result.stdout) == ("error", "before\n")
    assert result.error is not None
    assert (result.error.code, result.error.ename) == ("exception", "ZeroDivisionError")


def test_traceback_points_at_the_cell_it_is_told(session: SyncExecution):
    result = session.execute("1 / 0", cell=CellOrigin(execution_count=17))
    assert result.error is not None
    assert "In[17]" in "".join(result.error.traceback)


def test_exit_code_of_shell_code(client: SyncFaaSClient):
    result = client.execute("echo out; echo err >&2; exit 3", environment="alpine-fast")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == ("error", "out\n", "err\n", 3)


def test_output_streams_while_code_runs(session: SyncExecution):
    stream = session.stream("import time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(0.3)\n'end'")
    arrivals: list[float] = []
    text = ""
    types: list[str] = []
    for event in stream:
        types.append(event.msg_type)
        text += event.text
        if event.text.strip():
            arrivals.append(time.monotonic())
    assert text == "0\n1\n2\n"
    assert types[-1] == "execute_result"
    assert arrivals[-1] - arrivals[0] > 0.4
    assert stream.result.status == "success"
    assert stream.result.stdout == ""


async def test_async_stream(asession: Execution):
    stream = asession.stream("print('a')\nprint('b')")
    assert "".join([event.text async for event in stream]) == "a\nb\n"
    assert stream.result.status == "success"


def test_fifty_megabytes_of_lines_arrive_whole(client: SyncFaaSClient):
    with client.executions.create("python", resources={"output_mb": 64}) as session:
        lines = sum(
            event.text.count("\n") for event in session.stream("line = 'x' * 99\nfor _ in range(500_000): print(line)")
        )
    assert lines == 500_000


def test_timeout_is_a_result(session: SyncExecution):
    started = time.monotonic()
    result = session.execute("while True: pass", timeout=1)
    assert result.status == "timeout"
    assert time.monotonic() - started < 15


async def test_cancelling_the_task_interrupts_the_code_and_keeps_the_session(asession: Execution):
    await asession.execute("x = 1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asession.execute("import time\nx = 2\ntime.sleep(60)\nx = 3"), 1)
    result = await asession.execute("print(x)", timeout=10)
    assert result.stdout == "2\n"


def test_interrupt_ends_a_stream_with_the_interrupts_traceback(session: SyncExecution):
    stream = session.stream("import time\nprint('started', flush=True)\ntime.sleep(60)")
    for event in stream:
        if "started" in event.text:
            stream.interrupt()
    assert stream.result.status == "cancelled"
    assert session.execute("1").status == "success"


def test_commands_run_beside_the_session(session: SyncExecution):
    result = session.run(
        ["sh", "-c", "cat; echo $GREETING; pwd"], stdin="in\n", env_vars={"GREETING": "hi"}, cwd="/tmp"
    )
    assert (result.status, result.stdout) == ("success", "in\nhi\n/tmp\n")
    assert session.run(["sh", "-c", "exit 5"]).exit_code == 5


def test_one_shot_commands_and_streams(client: SyncFaaSClient):
    assert client.executions.run(["echo", "a  b"]).stdout == "a  b\n"
    stream = client.executions.stream("echo streamed")
    assert "".join(event.text for event in stream) == "streamed\n"
    assert stream.result.exit_code == 0
    listed = client.executions.stream(["echo", "listed"])
    assert "".join(event.text for event in listed) == "listed\n"


def test_files_of_a_language_run_by_suffix(client: SyncFaaSClient, tmp_path: Path):
    (tmp_path / "a.py").write_text("import sys; print(sys.version_info[0])")
    (tmp_path / "b.sh").write_text("echo $((1 + 2))")
    assert client.execute_file(tmp_path / "a.py").stdout == "3\n"
    assert client.execute_file(tmp_path / "b.sh").stdout == "3\n"


def test_executions_are_found_by_id_name_and_label(client: SyncFaaSClient):
    name = f"sdk-{time.monotonic_ns()}"
    with client.executions.create("python", name=name, labels={"sdk": name}) as session:
        assert client.executions.get(name).id == session.id
        assert client.executions.get(session.id).name == name
        assert [info.id for info in client.executions.list(label=f"sdk:{name}")] == [session.id]
        assert session.id in {info.id for info in client.executions.list(status="idle", environment="python")}
        with pytest.raises(errors.NameTakenError):
            client.executions.create("python", name=name)
        assert session.refresh().status == "idle"
    assert session.status == "terminated"
    assert client.executions.cancel(session.id).status == "terminated"
    with pytest.raises(errors.ExecutionEndedError):
        session.execute("1")
    with pytest.raises(errors.UnknownExecutionError):
        client.executions.get("no-such-execution")


def test_progress_is_reported_and_is_in_order(client: SyncFaaSClient):
    seen: list[Progress] = []
    with client.executions.create("python", on_progress=seen.append) as session:
        assert session.status in ("idle", "starting")
    assert [progress.elapsed_s for progress in seen] == sorted(progress.elapsed_s for progress in seen)


def test_env_vars_and_resources_hold(client: SyncFaaSClient):
    with client.executions.create("python", env_vars={"A": "b"}, resources={"memory_mb": 512}) as session:
        assert session.execute("import os; print(os.environ['A'])").stdout == "b\n"
        assert session.info.resources.memory_mb == 512
    with pytest.raises(errors.InvalidRequestError, match="memory_mb"):
        client.executions.create("python", resources={"memory_mb": 1})


def test_files_there_and_back(session: SyncExecution, tmp_path: Path):
    session.files.write("data/ä b.txt", "text")
    assert session.execute("print(open('data/ä b.txt').read())").stdout == "text\n"
    session.execute("open('made.bin', 'wb').write(bytes(range(256)))")
    assert session.files.read("made.bin") == bytes(range(256))
    assert {(info.name, info.type) for info in session.files.list()} >= {("data", "directory"), ("made.bin", "file")}
    session.files.delete("made.bin")
    with pytest.raises(errors.UnknownFileError):
        session.files.read("made.bin")
    with pytest.raises(errors.FileError):
        session.files.read("data")
    assert session.files.download("data/ä b.txt", tmp_path).read_text() == "text"


def test_folders_there_and_back(session: SyncExecution, tmp_path: Path):
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "sub" / "f").write_bytes(b"x" * 3_000_000)
    (tmp_path / "up" / "link").symlink_to("sub/f")
    session.files.upload(tmp_path / "up", "there")
    assert session.execute("import os; print(os.path.getsize('there/link'))").stdout == "3000000\n"
    session.files.download("there", tmp_path / "down")
    assert (tmp_path / "down" / "sub" / "f").stat().st_size == 3_000_000
    assert (tmp_path / "down" / "link").is_symlink()


def test_hostile_folder_does_not_leave_its_place(session: SyncExecution, tmp_path: Path):
    session.execute("import os; os.mkdir('d'); os.symlink('/etc/passwd', 'd/l'); open('d/f', 'w').write('x')")
    with pytest.raises(errors.UnsafeArchiveError, match=r"'\./l' to '/etc/passwd' leaves it"):
        session.files.download("d", tmp_path / "d")
    assert not (tmp_path / "d" / "l").is_symlink()


def test_gateway_killed_while_a_cell_runs_says_what_is_lost_and_the_next_session_works(own_gateway: LiveGateway):
    with own_gateway.client() as client:
        session = client.executions.create("python")
        stream = session.stream("import time\nprint('started', flush=True)\ntime.sleep(60)")
        while "started" not in next(stream).text:
            pass
        os.kill(client.health().pid, signal.SIGKILL)
        with pytest.raises(errors.ConnectionLostError) as caught:
            list(stream)
        assert "the session with it" in str(caught.value)
        assert "Try: open a new session" in str(caught.value)
        session.close()
        with client.executions.create("python") as fresh:
            assert fresh.execute("1").status == "success"
        with pytest.raises(errors.ExecutionEndedError, match=r"lost|gateway"):
            session.execute("1")


def test_variables_there_and_back(session: SyncExecution):
    session.variables.push("x", [1, {"a": 2.5}])
    session.variables.push(y="text", z=b"bytes")
    session.execute("w = (x, y, z)")
    assert session.variables.pull("w") == ([1, {"a": 2.5}], "text", b"bytes")
    assert {variable.name for variable in session.variables.list()} >= {"w", "x", "y", "z"}
    with pytest.raises(errors.UnknownVariableError):
        session.variables.pull("missing")
    session.execute("f = open('/dev/null')")
    with pytest.raises(errors.NotTransferableError):
        session.variables.pull("f")


def test_arrays_and_frames_lose_nothing(client: SyncFaaSClient):
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2026-01-01", None])})
    array = np.arange(1_000_000, dtype="float32").reshape(1000, 1000)
    with client.executions.create("notebook") as session:
        session.variables.push(frame=frame, array=array)
        session.execute("array2, frame2 = array * 2, frame")
        assert np.array_equal(session.variables.pull("array2"), array * 2)
        pd.testing.assert_frame_equal(session.variables.pull("frame2"), frame)


def test_the_notebook_environment_is_this_python(client: SyncFaaSClient):
    with client.executions.create("notebook") as session:
        assert session.execute("import sys; print(sys.prefix)").stdout.strip() == sys.prefix
        assert session.execute("import faas, httpx").status == "success"


def test_a_session_outlives_its_client(client: SyncFaaSClient, session: SyncExecution):
    session.execute("x = 5")
    with SyncFaaSClient() as other:
        assert other.executions.get(session.id).execute("print(x)").stdout == "5\n"
