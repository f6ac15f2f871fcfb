"""Cells that never return, print without end, or take no notice of an interrupt."""

from __future__ import annotations

import threading
import time

import pytest
from faas import SyncExecution
from faas.types import ExecutionResult
from rings import Ring

pytestmark = pytest.mark.usefixtures("unharmed")

REACTS = {
    "a loop": "while True: pass",
    "sleep": "import time; time.sleep(1000)",
    "a C call": "import ctypes; ctypes.CDLL(None).pause()",
    "a read": "import os; r, w = os.pipe(); os.read(r, 1)",
    "a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a child": "import subprocess; subprocess.run(['sleep', '1000'])",
    "a wait in top-level await": "import asyncio; await asyncio.sleep(1000)",
    "a loop in top-level await": "import asyncio; await asyncio.sleep(0)\nwhile True: pass",
    "an async loop": "import asyncio\nwhile True: await asyncio.sleep(0.001)",
    "an awaited child": "import asyncio; await (await asyncio.create_subprocess_exec('sleep', '1000')).wait()",
    "displays": "while True: display({'text/plain': 'x' * 100_000}, raw=True, transient={}); ",
}
IGNORES = {
    "ignores the signal": "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass",
    "ignores all signals": "import signal\nfor n in signal.valid_signals():\n"
    "  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nwhile True: pass",
    "blocks the signal": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
    "catches it for ever": "def f():\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass\n"
    "while True:\n  try: f()\n  except BaseException: pass",
    "a C call that goes on": "import ctypes\nlibc = ctypes.PyDLL(None)\nlibc.sleep(1000); libc.sleep(1000); libc.sleep(1000)",
    "is stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "its children ignore it too": "import subprocess, signal\nsignal.signal(2, signal.SIG_IGN)\n"
    "subprocess.run(['sh', '-c', 'trap \"\" INT TERM; while :; do sleep 1000; done'])",
}
# a handler that returns ends nothing, and one that raises is an answer
CATCHES = {"catches it for ever", "a C call that goes on"}


def assert_timed_out(result: ExecutionResult, *, kept: bool) -> None:
    assert (result.status, result.exit_code) == ("timeout", 124)
    assert result.error is not None
    assert result.error.code == "timeout"
    assert "longer than its timeout of 0.5 s" in result.error.evalue
    assert ("state are kept" in result.error.hint) is kept
    assert "--timeout" in result.error.hint


@pytest.mark.parametrize("code", REACTS.values(), ids=REACTS)
def test_a_timeout_interrupts_and_keeps_the_session(ring: Ring, code: str) -> None:
    with ring.victim(output_mb=1024) as victim:
        victim.cell("x = 1")
        assert_timed_out(victim.cell("print('begun')\n" + code, timeout=0.5), kept=True)
        assert victim.value("print(x)") == "1"


@pytest.mark.parametrize("name", IGNORES)
def test_what_does_not_react_to_the_interrupt_ends_with_its_session(ring: Ring, name: str) -> None:
    with ring.victim() as victim:
        result = victim.cell(IGNORES[name], timeout=0.5)
        assert_timed_out(result, kept=name in CATCHES and victim.end_code() is None)
        if name not in CATCHES:
            assert victim.end_code() == "killed"
            victim.assert_gone()


def interrupted(execution: SyncExecution, code: str) -> ExecutionResult:
    """Run code and interrupt it as soon as it has printed something."""
    stream = execution.stream(code)
    next(stream)
    stream.interrupt()
    for _ in stream:
        pass
    return stream.result


@pytest.mark.parametrize("code", REACTS.values(), ids=REACTS)
def test_an_interrupt_stops_the_cell_and_keeps_the_session(ring: Ring, code: str) -> None:
    with ring.victim(output_mb=1024) as victim:
        victim.cell("x = 1")
        result = interrupted(victim.execution, "print('begun', flush=True)\n" + code)
        assert result.status == "cancelled"
        assert result.error is not None
        assert result.error.code == "cancelled"
        assert victim.value("print(x)") == "1"


def test_what_does_not_react_can_still_be_closed(ring: Ring) -> None:
    with ring.victim() as victim:
        results: list[ExecutionResult] = []
        code = "import signal; signal.signal(2, signal.SIG_IGN)\nprint('begun', flush=True)\nwhile True: pass"
        thread = threading.Thread(target=lambda: results.append(victim.execution.execute(code)))
        thread.start()
        time.sleep(0.5)
        victim.execution.interrupt()
        victim.execution.close()
        thread.join(10)
        assert [r.status for r in results] == ["cancelled"]
        victim.assert_gone()


def test_an_interrupt_never_cuts_a_message_in_two(ring: Ring) -> None:
    """Messages larger than a socket's buffer, in a process with other threads that could take the signal."""
    with ring.victim(output_mb=1024) as victim:
        victim.cell("import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
        for _ in range(6):
            code = "print('begun', flush=True)\nwhile True: display({'text/plain': 'x' * 400_000}, raw=True)"
            assert interrupted(victim.execution, code).status == "cancelled"
        assert victim.value("print(1)") == "1"


def test_messages_of_threads_do_not_mix(ring: Ring) -> None:
    code = """
import threading
def show(n):
    for _ in range(20): display({"text/plain": str(n) * 300_000}, raw=True)
threads = [threading.Thread(target=show, args=(n,)) for n in range(4)]
for t in threads: t.start()
for t in threads: t.join()
"""
    with ring.victim() as victim:
        result = victim.cell(code)
        assert result.status == "success", result.error
        shown = [o["data"]["text/plain"] for o in result.outputs]
        assert sorted(set(shown)) == [str(n) * 300_000 for n in range(4)]
        assert len(shown) == 80


PRINTERS = {
    "print": "while True: print('x' * 1000)",
    "stderr": "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
    "the descriptor": "import os\nwhile True: os.write(1, b'x' * 100_000)",
    "a child": "import subprocess; subprocess.run(['yes'])",
    "displays": "from IPython.display import HTML\nwhile True: display(HTML('x' * 10_000))",
    "one line without end": "import sys\nwhile True: sys.stdout.write('x' * 10_000)",
    "clear_output": "from IPython.display import clear_output\nwhile True: clear_output()",
    "tiny writes": "import os\nwhile True: os.write(1, b'x')",
}


@pytest.mark.parametrize("code", PRINTERS.values(), ids=PRINTERS)
def test_output_without_end_is_cut_and_the_session_kept(ring: Ring, code: str) -> None:
    with ring.victim(output_mb=1) as victim:
        victim.cell("x = 1")
        result = victim.cell(code, timeout=30)
        assert result.error is not None
        assert result.error.code == "output_truncated"
        assert result.truncated
        assert "1 MiB (output_mb)" in result.error.evalue
        assert "output_mb" in result.error.hint
        assert len(result.stdout) <= 1 << 20
        assert result.stderr.endswith("(output_mb)]\n")
        assert victim.value("print(x)") == "1"


def test_a_printer_that_takes_no_notice_ends_with_its_session(ring: Ring) -> None:
    with ring.victim(output_mb=1) as victim:
        result = victim.cell("import signal; signal.signal(2, signal.SIG_IGN)\n" + PRINTERS["print"])
        assert result.error is not None
        assert result.error.code == "output_truncated"
        assert victim.end_code() == "killed"


@pytest.mark.parametrize(
    "command",
    [["yes"], ["sh", "-c", "yes & sleep 0.2"], ["sh", "-c", "setsid yes & exit 3"]],
    ids=["in front", "behind a shell", "after its shell"],
)
def test_a_command_that_prints_without_end_stops_nobody(ring: Ring, command: list[str]) -> None:
    """What a command leaves behind may still hold its pipe, and write faster than anyone reads."""
    with ring.victim("alpine-fast", output_mb=1) as victim:
        begun = time.monotonic()
        result = victim.execution.run(command, timeout=10)
        assert time.monotonic() - begun < 8
        assert result.status in ("error", "success")
        assert victim.value("echo 1") == "1"


def test_a_background_printer_does_not_stop_the_session(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.cell("import subprocess; subprocess.Popen(['yes'])")
        for n in range(3):
            result = victim.cell(f"display({n})\nprint('here')")
            assert result.status in ("success", "error")
        assert victim.execution.refresh().status == "idle"
