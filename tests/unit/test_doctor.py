"""`faas doctor` as people and programs see it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import ordinary
import pytest
from faas.cli.doctor import verdict

from faas_gateway.backends.native.probe import run_checks, unavailable

FAAS = [sys.executable, "-m", "faas.cli"]
ESCAPE = "\x1b"


@pytest.fixture
def home() -> Generator[Path]:
    with ordinary.home() as folder:
        yield folder


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FAAS, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def switched_off(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The doctor on a machine without user namespaces."""
    shell = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", shell, "sh", *FAAS, *arguments]
    done = ordinary.run(argv, home, **environment)
    if done.returncode and done.stderr.startswith("unshare:"):
        pytest.skip(f"the machine to be restricted has no user namespaces: {done.stderr.strip()}")
    return done


def test_the_exit_code_and_the_verdict_say_whether_sandboxes_work(tmp_path: Path) -> None:
    done = run("doctor", FAAS_STATE_DIR=str(tmp_path))
    works = unavailable(run_checks(tmp_path)) is None
    last = done.stdout.splitlines()[-1]
    assert done.returncode == (0 if works else 1), done.stderr
    assert last.startswith("Sandboxes work" if works else "Sandboxes cannot be made")


def test_an_ordinary_user_is_told_which_limits_are_enforced_less_firmly(home: Path) -> None:
    done = ordinary.run([*FAAS, "doctor"], home)
    report = json.loads(ordinary.run([*FAAS, "doctor", "--json"], home).stdout)
    weak = [c["name"] for c in report["checks"] if c["state"] == "degraded" and c["name"].endswith("limit")]
    assert done.stdout.splitlines()[-1] == report["verdict"]
    assert ", ".join(weak) in report["verdict"]
    assert all(c["remedy"] in done.stdout for c in report["checks"])
    assert list(home.iterdir()) == []


def test_json_holds_the_checks_and_the_verdict(tmp_path: Path) -> None:
    done = run("doctor", "--json", FAAS_STATE_DIR=str(tmp_path))
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    assert report["state_dir"] == str(tmp_path)
    assert report["verdict"] == verdict(report["checks"])
    assert {"name", "ok", "state", "detail", "remedy"} == set(report["checks"][0])


def test_a_machine_without_user_namespaces_is_told_the_command_that_mends_it(home: Path) -> None:
    done = switched_off(home, "doctor", COLUMNS="60")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[-1].startswith("Sandboxes cannot be made on this machine: user namespaces: ")
    at = lines.index("To mend user namespaces, mounts:")
    assert lines[at + 1] == "    sudo sysctl -w user.max_user_namespaces=28633"


def test_sixty_columns_are_enough(home: Path) -> None:
    """Commands are not broken, whatever the width: they are there to be copied."""
    done = switched_off(home, "doctor", COLUMNS="60")
    table = done.stdout.split("\n\n")[0].splitlines()
    assert table[0].split() == ["check", "state", "what", "it", "means"]
    assert max(len(line) for line in table) <= 60
    assert "…" not in done.stdout


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["pipe", "no color", "dumb"])
def test_output_without_a_terminal_is_plain(environment: dict[str, str]) -> None:
    assert ESCAPE not in run("doctor", **environment).stdout


@pytest.mark.parametrize(("no_color", "styled"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(no_color: str, styled: bool) -> None:
    import pty

    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color}
    terminal, other = pty.openpty()
    with subprocess.Popen([*FAAS, "doctor"], stdin=other, stdout=other, stderr=other, env=environment) as process:
        os.close(other)
        shown = b""
        while True:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
            shown += chunk
        os.close(terminal)
        process.wait(timeout=60)
    assert b"Sandboxes" in shown
    assert (ESCAPE.encode() in shown) == styled


def test_a_client_without_the_gateway_is_told_so(tmp_path: Path) -> None:
    """A machine that has only the SDK."""
    sdk = Path(sys.modules["faas"].__file__ or "").parent
    (tmp_path / "faas").symlink_to(sdk)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p.startswith(sys.base_prefix)];"
        f"sys.path[:0] = [{str(tmp_path)!r}]; sys.path.append({site!r});"
        "from faas.cli import main; main(['doctor'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "The gateway (faas_gateway) is not installed" in done.stderr
    assert "-m pip install faas-notebooks" in done.stderr


def test_a_setting_that_the_gateway_refuses_is_passed_on() -> None:
    done = run("doctor", FAAS_STATE_DIR="relative")
    assert done.returncode == 1
    assert "FAAS_STATE_DIR is 'relative', which is not an absolute path" in done.stderr


def test_an_unknown_option_is_an_error_of_use() -> None:
    done = run("doctor", "--fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such option" in done.stderr


def test_help_and_version_answer_at_once() -> None:
    """By the processor time they take: the machine may be busy with other tests."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "doctor" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2
    assert run("--version").stdout.startswith("faas, version ")


def test_help_imports_neither_the_gateway_nor_rich_nor_a_client() -> None:
    heavy = ["faas_gateway", "rich", "httpx", "pydantic"]
    code = f"import sys, faas.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr


def check(name: str, state: str) -> dict[str, object]:
    return {"name": name, "state": state, "ok": state != "missing", "detail": f"{name} is so", "remedy": ""}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"kernel": "ok"}, "Sandboxes work on this machine."),
        (
            {"kernel": "ok", "CPU limit": "degraded"},
            "Sandboxes work on this machine, with 1 limit enforced less firmly: CPU limit.",
        ),
        (
            {"memory limit": "degraded", "CPU limit": "degraded", "overlay": "degraded"},
            "Sandboxes work on this machine, with 2 limits enforced less firmly: memory limit, CPU limit;"
            " degraded: overlay.",
        ),
        ({"overlay": "degraded"}, "Sandboxes work on this machine, degraded: overlay."),
        (
            {"CPU limit": "degraded", "mounts": "missing", "overlay": "missing"},
            "Sandboxes cannot be made on this machine: mounts: mounts is so",
        ),
    ],
)
def test_the_verdict_is_one_sentence(states: dict[str, str], expected: str) -> None:
    assert verdict([check(name, state) for name, state in states.items()]) == expected
