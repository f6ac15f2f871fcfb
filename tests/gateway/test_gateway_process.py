"""The embedded gateway as a process: start, races, idle stop, signals, and what is left after kill -9."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_gateway import Process, short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def open_execution(client: httpx.Client, **body: object) -> str:
    response = client.post("/executions", json=body)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def test_it_says_ready_when_it_answers_on_a_private_socket(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        status = os.stat(gateway.socket_path)
        assert status.st_mode & 0o777 == 0o600
        assert os.stat(gateway.socket_path).st_uid == os.geteuid()
        with gateway.client() as client:
            assert client.get("/environments").status_code == 200
        assert [f.name for f in gateway.state_dir.iterdir() if f.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs_and_then_the_gateway(folder: Path, signum: int) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        answers: list[httpx.Response] = []
        with gateway.client() as client:
            execution = open_execution(client)

            def run() -> None:
                with gateway.client() as other:
                    answers.append(other.post(f"/executions/{execution}/execute", json={"code": "stubborn 60"}))

            thread = threading.Thread(target=run)
            thread.start()
            while client.get(f"/executions/{execution}").json()["status"] != "busy":
                time.sleep(0.01)
            started = time.monotonic()
            assert gateway.terminate(signum) == 0
            assert time.monotonic() - started < 10
            thread.join(10)
        assert answers[0].json()["status"] == "cancelled"
        assert "gateway was stopped" in answers[0].json()["error"]["evalue"]
        assert not os.path.exists(gateway.socket_path)
        connection = sqlite3.connect(gateway.state_dir / "gateway.db")
        rows = connection.execute("select status, end_code, end_reason from executions").fetchall()
        connection.close()
        assert rows == [("terminated", "closed", "the gateway was stopped")]


def test_an_execution_that_was_open_at_kill_9_is_lost_after_the_restart(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            lost = open_execution(client, name="mine")
            ended = open_execution(client)
            client.delete(f"/executions/{ended}")
            with client.stream("POST", f"/executions/{lost}/execute?stream=true", json={"code": "sleep 60"}):
                gateway.kill()
    assert os.path.exists(gateway.socket_path)  # stale
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            info = client.get(f"/executions/{lost}").json()
            assert (info["status"], info["end_code"]) == ("lost", "lost")
            assert "the gateway stopped" in info["end_reason"]
            assert client.get(f"/executions/{ended}").json()["status"] == "terminated"
            response = client.post("/executions/mine/execute", json={"code": "pass"})
            assert (response.status_code, response.json()["code"]) == (410, "execution_ended")
            assert "the gateway stopped" in response.json()["detail"]
            assert response.json()["hint"]
            assert {i["id"] for i in client.get("/executions?status=lost").json()["items"]} == {lost}
            open_execution(client, name="mine")


def test_it_ends_when_idle_and_leaves_no_socket(folder: Path) -> None:
    with Process(folder, idle_timeout=0.5) as gateway:
        assert gateway.ready_line() == "ready"
        assert gateway.process.wait(15) == 0
        assert not os.path.exists(gateway.socket_path)


def test_an_open_execution_keeps_it(folder: Path) -> None:
    with Process(folder, idle_timeout=0.4) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            execution = open_execution(client)
            time.sleep(1.2)
            assert gateway.process.poll() is None
            client.delete(f"/executions/{execution}")
        assert gateway.process.wait(15) == 0


def test_requests_keep_it_and_a_silent_connection_does_not(folder: Path) -> None:
    with Process(folder, idle_timeout=0.6) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            for _ in range(8):
                assert client.get("/environments/python").status_code == 200
                time.sleep(0.2)
            assert gateway.process.wait(15) == 0


def test_of_many_that_race_for_a_socket_one_serves_and_all_say_ready(folder: Path) -> None:
    gateways = [Process(folder) for _ in range(4)]
    try:
        assert [gateway.ready_line(40) for gateway in gateways] == ["ready"] * 4
        with gateways[0].client() as client:
            serving = client.get("http://gateway/healthz").json()["pid"]
        for gateway in gateways:
            if gateway.process.pid != serving:
                assert gateway.process.wait(10) == 0
        assert [g.process.poll() for g in gateways].count(None) == 1
    finally:
        for gateway in gateways:
            gateway.__exit__()


def test_a_start_waits_for_the_gateway_that_is_just_ending(folder: Path) -> None:
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    descriptor = os.open(runtime / "gateway.pid-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with Process(folder) as gateway:
            time.sleep(1)
            assert gateway.process.poll() is None
            os.close(descriptor)
            descriptor = -1
            assert gateway.ready_line() == "ready"
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def test_a_state_that_another_gateway_uses_is_a_clear_error(folder: Path) -> None:
    state = folder / "state"
    state.mkdir(mode=0o700)
    descriptor = os.open(state / "gateway.pid-lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"pid 1, socket /somewhere/gateway.sock")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with Process(folder) as gateway:
            line = gateway.ready_line(40)
        assert line.startswith("error ")
        assert "/somewhere/gateway.sock" in line
        assert "FAAS_STATE_DIR" in line
    finally:
        os.close(descriptor)


def test_a_file_in_the_sockets_place_is_a_clear_error_and_is_not_touched(folder: Path) -> None:
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "gateway.sock").write_text("precious")
    with Process(folder) as gateway:
        assert "is not a socket" in gateway.ready_line()
        assert gateway.process.wait(10) == 1
    assert (runtime / "gateway.sock").read_text() == "precious"


def test_a_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run").chmod(0o755)
    with Process(folder) as gateway:
        assert gateway.ready_line().startswith("error ")


def test_a_database_of_a_newer_version_is_a_clear_error(folder: Path) -> None:
    (folder / "state").mkdir(mode=0o700)
    with sqlite3.connect(folder / "state" / "gateway.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with Process(folder) as gateway:
        assert "version 99" in gateway.ready_line()
        assert gateway.process.wait(10) == 1
        assert not os.path.exists(gateway.socket_path)


def receive_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def test_headers_without_end_are_refused(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        for head in (
            b"GET /healthz HTTP/1.1\r\nhost: x\r\na: " + b"x" * 300_000,
            b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 40_000,
            b"GET /" + b"x" * 200_000,
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(gateway.socket_path)
                try:
                    client.sendall(head)
                    answer = receive_all(client)
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it was closed before we had sent all
                assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer[:100]
                assert b"application/problem+json" in answer
        with gateway.client() as client:
            assert client.get("/environments").status_code == 200


def test_what_is_not_http_is_refused(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(gateway.socket_path)
            client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            assert receive_all(client).startswith(b"HTTP/1.1 400")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_served_even_where_the_modes_let_him_in(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        for path, mode in ((folder, 0o755), (folder / "run", 0o755), (Path(gateway.socket_path), 0o777)):
            path.chmod(mode)
        code = (
            "import os, socket; os.setgid(54321); os.setuid(54321); s = socket.socket(socket.AF_UNIX)\n"
            f"s.connect({gateway.socket_path!r})\n"
            "try:\n"
            "    s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); print(len(s.recv(100)))\n"
            "except OSError: print(0)\n"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        assert output.stdout.strip() == "0"
        with gateway.client() as client:
            assert client.get("/environments").status_code == 200


def test_the_log_has_request_ids_and_neither_code_nor_values(folder: Path) -> None:
    with Process(folder) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            execution = open_execution(client, env_vars={"KEY": "topsecret1"})
            headers = {"X-Request-Id": "find-me"}
            client.post(f"/executions/{execution}/execute", json={"code": "print topsecret2"}, headers=headers)
            client.put(f"/executions/{execution}/variables/x", json="topsecret3")
            client.post(f"/executions/{execution}/execute", json={"code": "bug topsecret4"})
            client.post("/executions", json={"env_vars": {"A": ["topsecret5"]}})
        gateway.terminate()
        log = gateway.log_path.read_text()
    assert "[find-me] POST" in log
    assert "RuntimeError at" in log
    assert "topsecret" not in log
    assert all(line[:4].isdigit() for line in log.splitlines())


def test_the_module_explains_itself_and_refuses_what_it_does_not_know() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "faas_gateway", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "--idle-timeout" in run("--help").stdout
    assert "--embedded" in run().stderr
    assert "above 0" in run("--embedded", "--idle-timeout", "-1").stderr
    assert run("--embedded", "--serve").returncode == 2
