"""How the embedded gateway is started: with a process in its place that speaks the wire and fails on demand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faas import FaaSClient, SyncFaaSClient, _embedded, _paths, errors
from faas.types import Health

pytestmark = pytest.mark.anyio

MAIN = """
import os, sys, time
sys.path.insert(0, {here!r})
from faas import _paths

arguments = sys.argv[1:]
assert arguments[:2] == ["--embedded", "--ready-fd"], arguments
assert os.getcwd() == "/" and os.getsid(0) == os.getpid() and os.read(0, 1) == b""
ready = int(arguments[2])
with open(_paths.runtime_dir() / "starts", "a") as starts:
    print(os.getpid(), file=starts)
mode = os.environ["STAND_IN"]
if mode == "error":
    os.write(ready, b"error the disk is full\\n")
elif mode == "crash":
    raise SystemExit("Traceback: it went wrong")
elif mode == "silent":
    print("thinking", flush=True)
    time.sleep(60)
else:
    import sdk_wire_server
    sdk_wire_server.main(str(_paths.socket_path()), ready)
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A runtime folder of its own; what was started in it is ended afterwards."""
    package = tmp_path / "faas_gateway"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(MAIN.format(here=str(Path(__file__).parent)))
    for name in ("FAAS_ENDPOINT", "FAAS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN", "serve")
    with tempfile.TemporaryDirectory(prefix="faas-sdk-") as folder:
        monkeypatch.setenv("FAAS_RUNTIME_DIR", folder)
        yield Path(folder)
        for pid in starts(Path(folder)):
            kill(pid)


def starts(runtime: Path) -> list[int]:
    try:
        return [int(line) for line in (runtime / "starts").read_text().split()]
    except FileNotFoundError:
        return []


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it stays as a zombie"
        time.sleep(0.01)


def test_first_call_starts_it_and_the_next_client_finds_it(runtime: Path):
    with SyncFaaSClient() as client:
        first = client.health()
    with SyncFaaSClient() as client:
        second = client.health()
    assert first == second == Health(version="9.9.9", pid=starts(runtime)[0], backend="wire")
    assert len(starts(runtime)) == 1
    assert (runtime / "gateway.log").stat().st_mode & 0o777 == 0o600
    assert (runtime / "gateway.lock").stat().st_mode & 0o777 == 0o600


async def test_async_client_starts_it_too(runtime: Path):
    async with FaaSClient() as client:
        assert (await client.health()).pid == starts(runtime)[0]


def test_making_a_client_starts_nothing(runtime: Path):
    SyncFaaSClient().close()
    assert list(runtime.iterdir()) == []


def test_ten_processes_at_once_get_one_gateway(runtime: Path):
    code = "from faas import SyncFaaSClient; print(SyncFaaSClient().health().pid)"
    clients = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(10)]
    pids = {client.communicate(timeout=60)[0].strip() for client in clients}
    assert pids == {str(pid) for pid in starts(runtime)}
    assert len(pids) == 1


def test_ten_threads_at_once_get_one_gateway(runtime: Path):
    with SyncFaaSClient() as client:
        pids: list[int] = []
        threads = [threading.Thread(target=lambda: pids.append(client.health().pid)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert pids == starts(runtime) * 10


def test_gateway_that_stopped_is_started_again_within_the_call(runtime: Path):
    with SyncFaaSClient() as client:
        first = client.health().pid
        kill(first)
        second = client.health().pid
    assert starts(runtime) == [first, second]


async def test_async_client_starts_a_stopped_one_again(runtime: Path):
    async with FaaSClient() as client:
        kill((await client.health()).pid)
        execution = await client.executions.create()
        assert (await execution.execute("print 1")).stdout == "line 0\n"
    assert len(starts(runtime)) == 2


@pytest.mark.parametrize("method", ["execute", "run", "stream"])
def test_gateway_killed_while_code_runs_is_a_clear_error(runtime: Path, method: str):
    with SyncFaaSClient() as client:
        execution = client.executions.create()
        started = time.monotonic()
        act: dict[str, Callable[[], object]] = {
            "execute": lambda: execution.execute("print 1; sleep 0.2; end"),
            "run": lambda: execution.run(["print 1", "end"]),
            "stream": lambda: list(execution.stream("print 1; sleep 0.2; end")),
        }
        with pytest.raises(errors.ConnectionLostError) as caught:
            act[method]()
        assert time.monotonic() - started < 5
        assert "The gateway has gone while request " in str(caught.value)
        assert "the session with it" in str(caught.value)
        assert "Try: open a new session" in str(caught.value)
        execution.close()
        assert len(starts(runtime)) == 1, "a lost session does not start a gateway"
        assert client.executions.create().execute("print 1").status == "success"


async def test_gateway_killed_while_an_async_cell_runs_is_the_same_error(runtime: Path):
    async with FaaSClient() as client:
        execution = await client.executions.create()
        with pytest.raises(errors.ConnectionLostError, match="the session with it"):
            async for _ in execution.stream("print 1; end"):
                pass
        with pytest.raises(errors.ConnectionLostError, match=r"the sandbox has ended .* Try: run it again"):
            await client.execute("end")


def test_error_that_the_gateway_reports_is_quoted(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_IN", "error")
    with SyncFaaSClient() as client, pytest.raises(errors.GatewayStartError) as caught:
        client.health()
    assert "could not start: the disk is full. Try: see " in str(caught.value)


def test_gateway_that_ends_without_a_word_quotes_its_log(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_IN", "crash")
    with SyncFaaSClient() as client, pytest.raises(errors.GatewayStartError, match="Traceback: it went wrong"):
        client.health()


def test_gateway_that_is_never_ready_is_ended_at_the_deadline(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_IN", "silent")
    with pytest.raises(errors.GatewayStartError, match=r"not ready in time[^$]*thinking"):
        _embedded.ensure_gateway(timeout_s=2)
    (pid,) = starts(runtime)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runtime_folder_of_others_is_refused_before_anything_is_sent(runtime: Path):
    runtime.chmod(0o777)
    try:
        with SyncFaaSClient() as client, pytest.raises(errors.ConfigurationError, match="open to other users"):
            client.health()
    finally:
        runtime.chmod(0o700)
    assert starts(runtime) == []


def test_large_log_is_set_aside(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_embedded, "_LOG_ROTATE_BYTES", 10)
    _paths.log_path().write_text("x" * 100)
    with SyncFaaSClient() as client:
        client.health()
    assert (runtime / "gateway.log.1").read_text() == "x" * 100


def test_interrupting_a_start_leaves_the_lock_free(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STAND_IN", "silent")
    code = "from faas import SyncFaaSClient; SyncFaaSClient().health()"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not starts(runtime):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
    monkeypatch.setenv("STAND_IN", "serve")
    with SyncFaaSClient() as client:
        assert client.health().pid == starts(runtime)[1]
