"""Network `full` from inside a real sandbox: what is open is reached through the proxy, and nothing is reached beside it."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faas import SyncExecution
from live import LiveGateway

from faas_gateway.backends.native.network import HOST_NAME, HTTP_PORT, SOCKS_PORT

FETCH = """
import errno, socket, urllib.error, urllib.request
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode().strip()
    except urllib.error.HTTPError as e:
        return e.code
def direct(address):
    try:
        socket.create_connection(address, timeout=5).close()
        return "connected"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A web server on the host's loopback."""
    root = tmp_path / "www"
    root.mkdir()
    (root / "hello.txt").write_text("hello\n")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served.server_port
    served.shutdown()
    thread.join()
    served.server_close()


def value(execution: SyncExecution, expression: str) -> str:
    result = execution.execute(f"{FETCH}\nprint({expression})", timeout=60)
    assert result.status == "success", (result.error, result.stderr)
    return result.stdout.strip()


def test_what_the_operator_has_opened_is_reached_and_nothing_else(own_gateway: LiveGateway, port: int) -> None:
    own_gateway.env["FAAS_NETWORK_ALLOW"] = f"127.0.0.1:{port}"
    with own_gateway.client() as client:
        with client.executions.create("python", network="full") as execution:
            assert value(execution, f"fetch('http://{HOST_NAME}:{port}/hello.txt')") == "hello"
            for host in (f"{HOST_NAME}:1", "169.254.169.254", "10.0.0.1", "metadata.google.internal"):
                assert value(execution, f"fetch('http://{host}/')") == "403", host
            for address in (("127.0.0.1", port), ("1.1.1.1", 80), ("169.254.169.254", 80)):
                assert value(execution, f"direct({address!r})") in ("ECONNREFUSED", "ENETUNREACH")
            for taken in (HTTP_PORT, SOCKS_PORT):
                bind = f"socket.socket().bind(('127.0.0.1', {taken}))"
                result = execution.execute(f"import socket\n{bind}", timeout=60)
                assert result.error is not None
                assert "in use" in result.error.evalue
        with client.executions.create("python") as execution:
            for taken in (HTTP_PORT, SOCKS_PORT):
                assert value(execution, f"direct(('127.0.0.1', {taken}))") == "ECONNREFUSED"
            assert value(execution, "__import__('os').environ.get('http_proxy')") == "None"


def test_commands_go_by_the_proxy_too(own_gateway: LiveGateway, port: int) -> None:
    own_gateway.env["FAAS_NETWORK_ALLOW"] = f"127.0.0.1:{port}"
    with own_gateway.client() as client, client.executions.create("alpine-fast", network="full") as execution:
        result = execution.execute(f"curl -sSf http://{HOST_NAME}:{port}/hello.txt", timeout=60)
        assert result.stdout == "hello\n", result.stderr
