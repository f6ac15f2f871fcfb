"""Cells that use up memory, processes, processor time and open files."""

from __future__ import annotations

import pytest
from faas import errors
from live import wait_until
from rings import Ring, Victim

pytestmark = pytest.mark.usefixtures("unharmed")

MEMORY_MB = 96

HOARDERS = {
    "many small pieces": "a = []\nwhile True: a.append(bytearray(10**6))",
    "one large piece": "a = bytearray(10**9)\nfor i in range(0, len(a), 4096): a[i] = 1",
    "a string": "a = 'x' * 10**9",
    "anonymous mappings": "import mmap\na = []\nwhile True: a.append(mmap.mmap(-1, 1 << 20, flags=2)); a[-1].write(bytes(1 << 20))",
    "a deep list": "a = []\nwhile True: a = [a, a]",
}
CHILDREN = """
import subprocess, sys, time
code = "x = bytearray(40 << 20)\\nfor i in range(0, len(x), 4096): x[i] = 1\\nimport time; time.sleep(100)"
children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
time.sleep(15)
"""
IN_KERNEL = {
    "memfd": "import os\nf = os.memfd_create('x')\nfor _ in range(400): os.write(f, bytes(1 << 20))",
    "pipes": """
import os, fcntl
held = []
for _ in range(400):
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, 1 << 20)
    held += [read, write]
    os.set_blocking(write, False)
    os.write(write, bytes(1 << 20))
""",
}
SCRATCH = "f = open('/dev/shm/x', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20)); f.flush()"


def assert_limited(victim: Victim, code: str, cause: str, hint: str, timeout: float = 20) -> None:
    result = victim.cell(code, timeout=timeout)
    assert result.status == "error", (result.status, result.error)
    assert result.error is not None
    assert result.error.code == cause, result.error
    assert hint in f"{result.error.evalue} {result.error.hint}"
    assert result.error.hint


@pytest.mark.parametrize("code", HOARDERS.values(), ids=HOARDERS)
def test_a_cell_without_memory_has_a_typed_end(ring: Ring, code: str) -> None:
    with ring.victim(memory_mb=MEMORY_MB) as victim:
        assert_limited(victim, code, "oom", f"{MEMORY_MB} MB")
        try:  # an ordinary MemoryError, where rlimits hold the limit
            result = victim.cell("a = None\nprint(1)")
            assert result.stdout == "1\n" or (result.error and result.error.code == "oom")
        except errors.ExecutionEndedError:
            assert victim.end_code() == "oom"


def test_numpy_without_memory_has_a_typed_end(ring: Ring) -> None:
    with ring.victim("notebook", memory_mb=256) as victim:
        assert_limited(victim, "import numpy\na = [numpy.ones(10**7) for _ in range(100)]", "oom", "256 MB")


def test_the_limit_counts_all_processes_together(ring: Ring) -> None:
    with ring.victim(memory_mb=128) as victim:
        assert_limited(victim, CHILDREN, "oom", "128 MB")
        assert victim.end_code() == "oom"
        victim.assert_gone()


@pytest.mark.parametrize("code", IN_KERNEL.values(), ids=IN_KERNEL)
def test_memory_that_the_kernel_holds_counts_too(ring: Ring, grouped: bool, code: str) -> None:
    if not grouped:
        with ring.victim() as victim:
            assert any("memory" in text for text in victim.execution.info.degraded)
        pytest.skip("no control group here: the execution says in `degraded` that memory is held less firmly")
    with ring.victim(memory_mb=MEMORY_MB) as victim:
        result = victim.cell(code)
        assert result.error is not None
        # the pipes of one user are bounded too (pipe(7)), and that may come first
        assert result.error.code == "oom" or result.error.ename in ("PermissionError", "OSError", "BlockingIOError")


def test_scratch_space_in_memory_is_bounded(ring: Ring) -> None:
    with ring.victim(memory_mb=MEMORY_MB) as victim:
        result = victim.cell(SCRATCH)
        assert result.error is not None
        assert result.error.code in ("disk_full", "oom")
        assert result.error.hint


FORK_BOMB = "import os\nwhile True: os.fork()"
SLEEPERS = "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(1000)"
THREADS = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
CHILD_PROGRAMS = "import subprocess\nheld = []\nwhile True: held.append(subprocess.Popen(['sleep', '1000']))"
ZOMBIES = "import os\nwhile True:\n  if os.fork() == 0: os._exit(0)"


@pytest.mark.parametrize("code", [FORK_BOMB, SLEEPERS, THREADS, CHILD_PROGRAMS, ZOMBIES])
def test_processes_and_threads_without_end_are_refused(ring: Ring, code: str) -> None:
    with ring.victim(pids=24) as victim:
        assert_limited(victim, code, "pids", "24 processes and threads")
        assert victim.value("print(1)") == "1"
        # room is kept for what the gateway itself does in a sandbox whose processes are used up
        assert victim.execution.files.list(".") == []
        victim.execution.files.write("x", "y")
        assert victim.execution.files.read("x") == b"y"
        assert victim.execution.refresh().usage.processes >= 1
        victim.look()


def test_a_shell_fork_bomb_ends_with_its_request(ring: Ring) -> None:
    with ring.victim("alpine-fast", pids=24) as victim:
        result = victim.cell("bomb() { bomb | bomb & }; bomb; sleep 2; echo over", timeout=8)
        assert "fork" in result.stderr.lower() or result.status == "timeout", result
        assert victim.execution.refresh().status in ("idle", "busy")


def test_processor_time_ends_the_session(ring: Ring) -> None:
    with ring.victim(cpu_time_s=1) as victim:
        assert_limited(victim, "while True: pass", "cpu_time", "1 s of CPU time")
        assert victim.end_code() == "cpu_time"


def test_processor_time_of_children_counts(ring: Ring) -> None:
    with ring.victim(cpu_time_s=2) as victim:
        code = "import subprocess\nwhile True: subprocess.run(['sh', '-c', 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'])"
        assert_limited(victim, code, "cpu_time", "2 s of CPU time")


def test_processor_time_counts_while_no_request_runs(ring: Ring) -> None:
    with ring.victim(cpu_time_s=1) as victim:
        victim.cell("import subprocess; subprocess.Popen(['sh', '-c', 'while :; do :; done'])")
        wait_until(lambda: victim.end_code() == "cpu_time", 20, "the end of a session that computes in the background")
        with pytest.raises(errors.ExecutionEndedError, match="cpu_time"):
            victim.cell("1")


def test_open_files_are_refused_and_the_session_goes_on(ring: Ring) -> None:
    with ring.victim(open_files=64) as victim:
        assert_limited(victim, "held = [open('/dev/null') for _ in range(100)]", "open_files", "64 open files")
        assert victim.value("print(1)") == "1"


@pytest.mark.parametrize("limit", ["RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CPU", "RLIMIT_CORE"])
def test_no_limit_can_be_raised(ring: Ring, limit: str) -> None:
    with ring.victim(cpu_time_s=100) as victim:
        code = f"""
import resource
soft, hard = resource.getrlimit(resource.{limit})
assert hard >= 0, "no limit"
try:
    resource.setrlimit(resource.{limit}, (hard + 1, hard + 1))
except (ValueError, PermissionError) as e:
    print("refused")
"""
        assert victim.value(code) == "refused"


def test_priority_cannot_be_raised(ring: Ring) -> None:
    with ring.victim() as victim:
        assert victim.cell("import os; os.nice(-5)").error.ename == "PermissionError"  # type: ignore[union-attr]
        code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))"
        assert victim.cell(code).error.ename == "PermissionError"  # type: ignore[union-attr]
