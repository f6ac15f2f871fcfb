"""Cells that end their own interpreter, or try to end what watches it."""

from __future__ import annotations

import pytest
from faas import errors
from rings import Ring

pytestmark = pytest.mark.usefixtures("unharmed")

SEGFAULT = "import ctypes; ctypes.string_at(0)"
OVERFLOW = """
import ctypes
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def deeper(n):
    return deeper(n + 1)
import sys; sys.setrecursionlimit(10**9)
deeper(0)
"""
CHANNEL = """
import os
for number in os.listdir("/proc/self/fd"):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
            os.close(int(number))
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os; os.kill(os.getpid(), 9)", "was killed"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.kill(os.getpid(), 31)", "SIGSYS"),
        (SEGFAULT, "SIGSEGV"),
        (OVERFLOW, "SIGSEGV"),
        ("import os; os.execv('/bin/true', ['true'])", "exit status 0"),
        ("import os; os.execv('/bin/sleep', ['sleep', '1000'])", "put another program in its place"),
        (CHANNEL, "closed something"),
        ("import os; os.closerange(0, 300)", "closed something"),
        ("import os; os.closerange(3, 300)", "closed something"),
    ],
)
def test_a_cell_that_ends_its_interpreter_has_died_and_says_how(ring: Ring, code: str, reason: str) -> None:
    with ring.victim() as victim:
        result = victim.cell("print('before')\n" + code)
        assert (result.status, result.exit_code) == ("error", 137)
        assert result.error is not None
        assert result.error.code == "died"
        assert reason in result.error.evalue
        assert "Start a new session" in result.error.hint
        assert result.stdout == "before\n"
        assert victim.end_code() == "died"
        with pytest.raises(errors.ExecutionEndedError, match="died") as ended:
            victim.cell("1")
        assert ended.value.hint
        victim.assert_gone()  # without being closed


def test_a_shell_that_kills_itself_ends_its_request_only(ring: Ring) -> None:
    with ring.victim("alpine-fast") as victim:
        victim.cell("x=1")
        result = victim.cell("kill -9 $$")
        assert (result.status, result.exit_code) == ("error", 137)
        assert result.error is not None
        assert (result.error.code, result.error.ename) == ("exit_code", "SIGKILL")
        assert victim.value("echo $x") == "1"


@pytest.mark.parametrize(
    "code",
    [
        "import os\ntry: os.kill(-1, 9)\nexcept (ProcessLookupError, PermissionError): pass",
        "import os\nfor number in range(1, 65):\n  try: os.kill(1, number)\n  except OSError: pass",
        "import subprocess; subprocess.run(['sh', '-c', 'kill -9 1; kill -STOP 1; kill -TERM 1'])",
        "import os, signal; fd = os.pidfd_open(1); signal.pidfd_send_signal(fd, 9)",
    ],
)
def test_a_cell_cannot_end_its_init(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        assert victim.value(code + "\nprint('alive')") == "alive"
        assert victim.execution.run(["echo", "commands too"]).stdout == "commands too\n"


def test_killing_everything_from_a_command_ends_the_session_with_a_cause(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.execution.run(["sh", "-c", "kill -9 -1"])
        with pytest.raises(errors.ExecutionEndedError, match=r"died.*killed"):
            victim.cell("1")


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise SystemExit(3)", "exit(3)"])
def test_exit_ends_the_cell_and_keeps_the_session(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        victim.cell("x = 1")
        result = victim.cell(code)
        if not code.startswith("exit"):  # IPython's own `exit` only asks for the session's end
            assert (result.status, result.exit_code) == ("error", 3)
            assert result.error is not None
            assert result.error.code == "exit_code"
        assert victim.value("print(x)") == "1"


def test_deep_recursion_is_an_ordinary_exception(ring: Ring) -> None:
    with ring.victim() as victim:
        result = victim.cell("import sys; sys.setrecursionlimit(200)\ndef f(): f()\nf()")
        assert result.error is not None
        assert (result.error.code, result.error.ename) == ("exception", "RecursionError")
        assert victim.value("print(1)") == "1"


def test_unbounded_recursion_runs_into_a_limit(ring: Ring) -> None:
    with ring.victim(memory_mb=128) as victim:
        result = victim.cell("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", timeout=4)
        assert result.error is not None
        assert result.error.code in ("oom", "timeout", "died")
