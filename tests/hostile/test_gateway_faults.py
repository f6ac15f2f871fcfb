"""The gateway, its launcher or a warm process is killed: clients learn it, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ordinary
import psutil
import pytest
from faas import SyncFaaSClient, errors
from faas.types import ExecutionResult
from live import LiveGateway, wait_until
from rings import OrdinaryGateway, is_alive

IDENTITIES = ["root", "user"] if os.geteuid() == 0 else ["user"]
PYTHON = "notebook"  # shows the packages that are here, so that nothing is built
FOREVER = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(1)"


@pytest.fixture(params=IDENTITIES)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveGateway]:
    """A gateway of one identity for one test, running. Nothing of it may be left at the end."""
    with contextlib.ExitStack() as stack:
        if request.param == "user" and os.geteuid() == 0:
            ordinary.as_noone()
            home = Path(tempfile.mkdtemp(prefix="faas-test-"))
            stack.callback(shutil.rmtree, home)
            live: LiveGateway = OrdinaryGateway(home)
        else:
            live = LiveGateway(tmp_path / "gateway")
        _start(live)
        yield live
        live.stop()
        wait_until(lambda: not live.left_over(), 15, f"nothing left behind ({live.left_over()})")


def _start(live: LiveGateway) -> None:
    if isinstance(live, OrdinaryGateway):
        live.start()
    else:
        with live.client() as client:
            client.environments.list()


@contextlib.contextmanager
def connected(live: LiveGateway) -> Iterator[SyncFaaSClient]:
    """A client that starts no gateway by itself when it runs as another user than the gateway's."""
    if isinstance(live, OrdinaryGateway) and os.geteuid() == 0:
        with SyncFaaSClient(endpoint=f"unix://{live.socket}") as client:
            yield client
    else:
        with live.client() as client:
            yield client


def family(live: LiveGateway) -> list[psutil.Process]:
    gateway = live.gateway()
    return [gateway, *gateway.children(recursive=True)]


class Running:
    """A cell that runs in a thread of its own, until it ends by whatever happens."""

    def __init__(self, call: Callable[[], ExecutionResult]) -> None:
        self.result: ExecutionResult | None = None
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except errors.FaaSError as error:
            self.error = error

    def ended(self, seconds: float = 20) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the client still waits"


def gone(processes: list[psutil.Process], seconds: float = 15) -> None:
    alive = lambda: [p for p in processes if is_alive(p)]  # noqa: E731
    wait_until(lambda: not alive(), seconds, f"the end of {processes}")


def test_a_killed_gateway_takes_everything_with_it_and_the_next_call_starts_another(own: LiveGateway) -> None:
    with connected(own) as client:
        execution = client.executions.create(PYTHON, name="kept")
        shell = client.executions.create("alpine-fast")
        shell.execute("sleep 1000 & echo x >file; chmod 0 file")
        running = Running(lambda: execution.execute(FOREVER))
        time.sleep(0.5)
        processes = family(own)
        assert len(processes) > 5
        os.kill(own.gateway().pid, signal.SIGKILL)
        running.ended()
        assert isinstance(running.error, errors.ConnectionLostError), running.error
        assert "gone" in str(running.error) or "open a new session" in str(running.error)
        gone(processes)
        wait_until(lambda: not {k for k in own.left_over() if k != "sockets"}, 15, f"nothing left ({own.left_over()})")

        _start(own)
        assert client.executions.get(execution.id).status == "lost"
        assert client.executions.get("kept").info.end_code == "lost"
        with pytest.raises(errors.ExecutionEndedError, match="lost") as caught:
            execution.execute("1")
        assert "again" in caught.value.hint
        with client.executions.create(PYTHON, name="kept") as another:
            assert another.execute("print(1)", timeout=30).stdout == "1\n"


def test_a_stream_of_a_killed_gateway_ends_with_a_clear_error(own: LiveGateway) -> None:
    with connected(own) as client:
        stream = client.executions.create(PYTHON).stream(FOREVER)
        assert next(stream).text.startswith("begun")
        os.kill(own.gateway().pid, signal.SIGKILL)
        with pytest.raises(errors.TransportError, match=stream.request_id):
            for _ in stream:
                pass
        _start(own)


def test_a_killed_launcher_loses_its_sandboxes_and_the_next_one_is_made(own: LiveGateway) -> None:
    with connected(own) as client:
        execution = client.executions.create(PYTHON)
        running = Running(lambda: execution.execute(FOREVER))
        time.sleep(0.5)
        gateway = own.gateway()
        processes = family(own)[1:]
        (launcher,) = own.launchers()
        launcher.kill()
        running.ended()
        assert running.result is not None, running.error
        assert running.result.error is not None
        assert running.result.error.code == "lost"
        assert running.result.error.hint
        gone(processes)
        assert execution.refresh().status == "lost"
        with client.executions.create(PYTHON) as another, client.executions.create("alpine-fast") as shell:
            assert another.execute("print(1)", timeout=30).stdout == "1\n"
            assert shell.execute("echo 1").stdout == "1\n"
        assert own.gateway() == gateway
        execution.close()
        wait_until(lambda: len(list((own.state / "native" / "runs").iterdir())) == 1, 15, "the old run to be gone")


def test_a_killed_warm_process_is_replaced_and_its_sessions_go_on(own: LiveGateway) -> None:
    with connected(own) as client, client.executions.create(PYTHON) as execution:
        execution.execute("x = 1")
        inits = [p for p in family(own) if p.name() == "faas-template"]
        warm = [p for init in inits for p in init.children() if p.name().startswith("python")]
        assert warm
        for process in warm:
            process.kill()
        gone(warm)
        assert execution.execute("print(x)", timeout=20).stdout == "1\n"
        for _ in range(2):
            with client.executions.create(PYTHON) as another:
                assert another.execute("print(2)", timeout=30).stdout == "2\n"


def test_the_init_of_a_warm_process_is_replaced_and_its_sessions_have_a_cause(own: LiveGateway) -> None:
    with connected(own) as client:
        execution = client.executions.create(PYTHON)
        running = Running(lambda: execution.execute(FOREVER))
        time.sleep(0.5)
        inits = [p for p in family(own) if p.name() == "faas-template"]
        for process in inits:
            process.kill()
        running.ended()
        assert running.result is not None, running.error
        assert running.result.error is not None
        assert running.result.error.code in ("died", "lost", "killed")
        with client.executions.create(PYTHON) as another:
            assert another.execute("print(2)", timeout=30).stdout == "2\n"


def test_sigterm_ends_everything_in_good_order_while_a_cell_runs(own: LiveGateway) -> None:
    with connected(own) as client:
        execution = client.executions.create(PYTHON)
        running = Running(lambda: execution.execute(FOREVER))
        time.sleep(0.5)
        processes = family(own)
        begun = time.monotonic()
        own.gateway().terminate()
        running.ended()
        if running.result is not None:
            assert running.result.status == "cancelled"
        else:
            assert isinstance(running.error, errors.TransportError)
        gone(processes)
        assert time.monotonic() - begun < 12
        wait_until(lambda: not own.left_over(), 5, f"nothing left behind ({own.left_over()})")
        _start(own)
        assert client.executions.get(execution.id).status == "terminated"


def test_a_gateway_killed_at_any_moment_leaves_nothing_after_the_next_start(own: LiveGateway) -> None:
    for n in range(4):
        _start(own)
        with connected(own) as client:
            running = [Running(lambda: client.execute("sleep 5", timeout=10)) for _ in range(3)]
            time.sleep(0.05 + n * 0.15)
            processes = family(own)
            os.kill(own.gateway().pid, signal.SIGKILL)
            gone(processes)
            for one in running:
                one.ended()
    _start(own)
    with connected(own) as client:
        assert client.execute("echo works").stdout == "works\n"
        assert {info.status for info in client.executions.list()} <= {"lost", "terminated", "failed", "idle"}
    runs = own.state / "native" / "runs"
    wait_until(lambda: len(list(runs.iterdir())) == 1, 15, "the runs of those before to be gone")
