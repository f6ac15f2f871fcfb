"""Endpoints, folders, the interpreter of the notebook, logs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from faas import _paths
from faas._config import resolve
from faas._interpreter import current_interpreter
from faas.errors import ConfigurationError

VARIABLES = ("FAAS_API_KEY", "FAAS_ENDPOINT", "FAAS_RUNTIME_DIR", "FAAS_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_anything_it_is_the_embedded_gateway():
    config = resolve()
    assert config.kind == "embedded"
    assert config.socket == str(_paths.socket_path())


def test_a_key_alone_means_the_gateway_on_localhost(monkeypatch: pytest.MonkeyPatch):
    assert resolve("k").base_url == "http://localhost:8080"
    monkeypatch.setenv("FAAS_API_KEY", "from-environment")
    config = resolve()
    assert (config.base_url, config.api_key) == ("http://localhost:8080", "from-environment")
    assert resolve("explicit").api_key == "explicit"


def test_explicit_endpoint_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAAS_ENDPOINT", "https://team.example/base/")
    assert resolve().base_url == "https://team.example/base"
    assert resolve(endpoint="unix:///tmp/a.sock").socket == "/tmp/a.sock"


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "unix://relative.sock",
        "unix:",
        "http://host:port",
        "http://h/?q=1",
        "http://u:p@h",
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(endpoint: str):
    with pytest.raises(ConfigurationError, match="endpoint is '"):
        resolve(endpoint=endpoint)


def test_key_is_not_shown_and_not_checked_into_headers_blindly():
    assert "hush" not in repr(resolve("hush", "http://h"))
    with pytest.raises(ConfigurationError) as caught:
        resolve("hush\r\nX-Evil: 1")
    assert "hush" not in str(caught.value)


def test_runtime_dir_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert _paths.runtime_dir() == Path(f"/tmp/faas-{os.geteuid()}")
    private = tmp_path / "xdg"
    private.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private))
    assert _paths.runtime_dir() == private / "faas"
    private.chmod(0o755)
    assert _paths.runtime_dir() == Path(f"/tmp/faas-{os.geteuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert _paths.runtime_dir() == Path(f"/tmp/faas-{os.geteuid()}")
    monkeypatch.setenv("FAAS_RUNTIME_DIR", "/somewhere")
    assert _paths.runtime_dir() == Path("/somewhere")
    monkeypatch.setenv("FAAS_RUNTIME_DIR", "somewhere")
    with pytest.raises(ConfigurationError, match="not an absolute path"):
        _paths.runtime_dir()


def test_state_dir_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert _paths.state_dir() == Path("/home/u/.local/state/faas")
    monkeypatch.setenv("XDG_STATE_HOME", "relative-is-ignored")
    assert _paths.state_dir() == Path("/home/u/.local/state/faas")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert _paths.state_dir() == Path("/state/faas")
    monkeypatch.setenv("FAAS_STATE_DIR", "/mine")
    assert _paths.state_dir() == Path("/mine")


def test_private_dir_is_made_private_and_taken_again(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    assert _paths.ensure_private_dir(folder) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert _paths.ensure_private_dir(folder) == folder


def test_private_dir_open_to_others_is_refused(tmp_path: Path):
    tmp_path.chmod(0o750)
    with pytest.raises(ConfigurationError, match=r"open to other users \(mode 0750\)"):
        _paths.ensure_private_dir(tmp_path)


def test_private_dir_that_is_a_link_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="not a real folder"):
        _paths.ensure_private_dir(tmp_path / "link")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_private_dir_of_another_user_is_refused(tmp_path: Path):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigurationError, match=r"belongs to another user \(uid 12345\)"):
        _paths.ensure_private_dir(folder)


def test_path_too_long_for_a_socket_says_what_to_set():
    with pytest.raises(ConfigurationError, match="FAAS_RUNTIME_DIR"):
        _paths.socket_path(Path("/tmp/" + "x" * 120))


def test_interpreter_is_this_one_without_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "lib").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", ["", ".", str(tmp_path), str(tmp_path / "lib"), str(tmp_path / "lib"), str(tmp_path / "gone.zip")]
    )
    interpreter = current_interpreter()
    assert interpreter.path == [str(tmp_path / "lib")]
    assert (interpreter.executable, interpreter.prefix, interpreter.base_prefix) == (
        sys.executable,
        sys.prefix,
        sys.base_prefix,
    )
