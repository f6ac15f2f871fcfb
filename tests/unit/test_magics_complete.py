"""Completion on the magic's line, through IPython's own completer as a notebook calls it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from magics_fake import Shell

from faas_magics import probe


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shell]:
    monkeypatch.setenv("FAAS_ENDPOINT", f"unix://{tmp_path}/gateway.sock")
    monkeypatch.setattr(probe, "_answers", {})
    with Shell() as shell:
        yield shell


def complete(shell: Shell, cell: str) -> list[str]:
    """Return the first line as it would read with each candidate, the cursor being at the first `|`."""
    position = cell.index("|")
    text = cell.replace("|", "")
    with provisionalcompleter():
        found = list(shell.ip.Completer.completions(text, position))
    return [text[: one.start] + one.text for one in found]


def test_options_complete_after_the_magic(shell: Shell):
    found = complete(shell, "%%faas |\nx = 1")
    assert found == [f"%%faas --{name}" for name in ["env", "name", "timeout", "memory", "cpus", "in", "out", "fresh"]]
    assert complete(shell, "%faas --m|") == ["%faas --memory"]


def test_an_option_that_is_given_is_not_offered_again(shell: Shell):
    assert "%%faas --env python --env" not in complete(shell, "%%faas --env python --|")
    assert complete(shell, "%%faas --env python --n|") == ["%%faas --env python --name"]


@pytest.mark.parametrize("form", ["--env ", "--env="])
def test_environment_names_complete_with_their_hyphens(shell: Shell, form: str):
    assert complete(shell, f"%%faas {form}py|") == [f"%%faas {form}python", f"%%faas {form}python-ai"]
    assert complete(shell, f"%%faas {form}python-|") == [f"%%faas {form}python-ai"]
    assert complete(shell, f"%%faas {form}python-a|\nx") == [f"%%faas {form}python-ai"]


def test_the_older_completion_call_gives_the_same(shell: Shell):
    with pytest.warns(PendingDeprecationWarning):
        found = shell.ip.complete("", "%%faas --env python-", 20)
    assert found == ("python-", ["python-ai"])


def test_local_variables_complete_after_in(shell: Shell):
    shell.run("alpha, beta, _private = 1, 2, 3\nimport os\ndef function(): pass")
    found = complete(shell, "%%faas --in |")
    assert found[:2] == ["%%faas --in alpha", "%%faas --in beta"]
    assert not any(name in line for line in found for name in ("_private", "os", "function", "get_ipython"))
    assert complete(shell, "%%faas --in alpha,b|") == ["%%faas --in alpha,beta"]
    assert complete(shell, "%%faas --in alpha, b|") == ["%%faas --in alpha, beta"]
    assert "%%faas --in=alpha,alpha" not in complete(shell, "%%faas --in=alpha,|")


def test_names_that_the_cell_assigns_complete_after_out(shell: Shell):
    assert complete(shell, "%%faas --out mo|\nmodel = fit(x)\nmore: int = 3\nmoot == 1\n") == [
        "%%faas --out model",
        "%%faas --out more",
    ]


def test_session_names_complete_after_name(shell: Shell):
    shell.run("%%faas --name my-training\n1")
    assert complete(shell, "%%faas --name my-|") == ["%%faas --name my-training"]


def test_other_lines_are_left_to_ipython(shell: Shell):
    shell.run("number = 1")
    assert "number" in complete(shell, "num|")
    assert complete(shell, "%%faas --env python\nnum|")[0].endswith("number")


class Gateway:
    """Answers every request on a Unix socket with one page of items, or never."""

    def __init__(self, path: Path, names: list[str] | None) -> None:
        self.asked: list[str] = []
        self._names = names
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection:
                request = connection.recv(4096)
                if not request:
                    return
                self.asked.append(request.decode().split(" ")[1])
                if self._names is None:
                    self._end.wait(5)
                    continue
                body = json.dumps({"items": [{"name": name, "labels": {}} for name in self._names]}).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def close(self) -> None:
        self._end.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._server.getsockname())
        self._thread.join(5)
        self._server.close()


def test_a_running_gateway_is_asked_for_its_environments_and_sessions(shell: Shell, tmp_path: Path):
    gateway = Gateway(tmp_path / "gateway.sock", ["py-own"])
    try:
        assert complete(shell, "%%faas --env py-|") == ["%%faas --env py-own"]
        assert complete(shell, "%%faas --env py-|") == ["%%faas --env py-own"]
        assert complete(shell, "%%faas --name p|") == ["%%faas --name py-own"]
        assert gateway.asked == ["/api/v1/environments", "/api/v1/executions?limit=200"]
    finally:
        gateway.close()


def test_a_gateway_that_does_not_answer_delays_completion_by_150_ms_at_most(shell: Shell, tmp_path: Path):
    gateway = Gateway(tmp_path / "gateway.sock", None)
    try:
        took: list[float] = []
        for _ in range(3):
            probe._answers.clear()
            started = time.monotonic()
            assert probe.ask("/api/v1/environments") == []
            took.append(time.monotonic() - started)
        assert min(took) < 0.5
        assert complete(shell, "%%faas --env python-|") == ["%%faas --env python-ai"]
    finally:
        gateway.close()
