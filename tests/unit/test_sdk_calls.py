"""Requests as data."""

from __future__ import annotations

import json
from typing import Any

import faas._calls as calls
import httpx
import pytest
from faas._config import Config
from faas._http import may_retry
from faas.errors import InvalidRequestError, ProtocolError
from faas.types import CellOrigin, ExecutionInfo, Resources

UNIX = Config("embedded", "http://localhost", socket="/run/x.sock")
TCP = Config("http", "http://host:1")


def path_at_the_server(url: str) -> str:
    """The path that comes in there, sent the way the client sends it."""
    raw = httpx.Client(base_url="http://h").build_request("GET", url).url.raw_path
    return raw.decode().partition("?")[0]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("data.csv", "data.csv"),
        ("a/b c.txt", "a/b%20c.txt"),
        ("/etc/passwd", "/etc/passwd"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a/../../b", "a/%2E%2E/%2E%2E/b"),
        ("100%", "100%25"),
        ("a?b#c", "a%3Fb%23c"),
        ("ä", "%C3%A4"),
    ],
)
def test_file_paths_arrive_as_they_were_meant(path: str, sent: str):
    assert path_at_the_server(calls.read_file("x", path).url) == f"/api/v1/executions/x/files/{sent}"


def test_names_cannot_leave_their_place_in_the_url():
    assert path_at_the_server(calls.get_execution("../environments").url) == "/api/v1/executions/..%2Fenvironments"
    assert path_at_the_server(calls.get_environment("..").url) == "/api/v1/environments/%2E%2E"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: calls.create_execution(environment="no/such"), "environment"),
        (lambda: calls.create_execution(environment="python", resources={"memory_mb": 1}), "resources.memory_mb"),
        (lambda: calls.create_execution(environment="python", resources={"memory": 1}), "resources.memory"),
        (lambda: calls.create_execution(environment="python", env_vars={"A=B": "c"}), "env_vars.A=B"),
        (lambda: calls.one_shot(code="1", timeout=0, stream=False), "timeout"),
        (lambda: calls.run("x", stream=False, command=[], timeout=1), "command"),
        (lambda: calls.run("x", stream=False, command=["a\0b"], timeout=1), "command.0"),
        (lambda: calls.read_file("x", ""), "path"),
        (lambda: calls.pull_variable("x", "a b"), "'a b'"),
        (lambda: calls.get_execution(""), "empty"),
    ],
)
def test_impossible_values_are_refused_by_name_before_anything_is_sent(make: Any, named: str):
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert named in str(caught.value)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 422)


def test_refusals_do_not_quote_the_code():
    with pytest.raises(InvalidRequestError) as caught:
        calls.one_shot(code="secret\udc00", timeout=1, stream=False)
    assert "secret" not in f"{caught.value} {caught.value.errors}"


def test_body_has_what_was_given_and_nothing_else():
    call = calls.execute("x", "1+1", timeout=None, request_id="r" * 8, cell=CellOrigin(execution_count=3), stream=True)
    assert call.url == "/api/v1/executions/x/execute?stream=true"
    assert isinstance(call.body, bytes)
    assert json.loads(call.body) == {"code": "1+1", "request_id": "r" * 8, "cell": {"execution_count": 3}}


def test_resources_may_be_a_model_or_a_mapping():
    as_model = calls.create_execution(environment="python", resources=Resources(cpus=2))
    as_mapping = calls.create_execution(environment="python", resources={"cpus": 2})
    assert as_model.body == as_mapping.body


def test_waits_are_bounded_by_the_codes_own_time():
    def wait(timeout: float | None, limit_s: float | None = None) -> float:
        call = calls.execute("x", "", timeout=timeout, request_id="r" * 8, cell=None, stream=False, limit_s=limit_s)
        return call.read_timeout_s

    assert wait(100) == 130
    assert wait(None, 50) == 80
    assert wait(None) == calls.UNLIMITED_WAIT_S
    streaming = calls.execute("x", "", timeout=9999, request_id="r" * 8, cell=None, stream=True)
    assert streaming.read_timeout_s == calls.SILENCE_TIMEOUT_S


def test_answer_of_another_kind_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="no ExecutionInfo: id: field required"):
        calls.parse(ExecutionInfo, b"{}")


GET = calls.health()
POST = calls.one_shot(code="", timeout=1, stream=False)


def read_error(cause: OSError | None) -> httpx.ReadError:
    error = httpx.ReadError("")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "call", "config", "expected"),
    [
        (httpx.ConnectError(""), POST, UNIX, True),  # it was never sent, and the gateway can be started
        (httpx.ConnectError(""), GET, TCP, False),
        (read_error(ConnectionResetError(104, "reset")), POST, UNIX, True),  # it was sent, and not read
        (read_error(ConnectionResetError(104, "reset")), POST, TCP, False),  # who knows
        (read_error(None), POST, UNIX, False),
        (read_error(None), GET, UNIX, True),
        (httpx.RemoteProtocolError("end"), POST, UNIX, False),  # it was read: the code may have run
        (httpx.RemoteProtocolError("end"), GET, TCP, True),
        (httpx.ReadTimeout(""), GET, UNIX, False),
    ],
)
def test_only_what_surely_did_nothing_or_may_be_done_twice_is_sent_again(
    error: Exception, call: calls.Call, config: Config, expected: bool
):
    assert may_retry(error, call, config) is expected
