"""The filter in force: what the kernel answers under it, and that what people run still runs."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faas_gateway.backends.native.seccomp import filter as seccomp_filter
from faas_gateway.backends.native.seccomp import generate, policy

pytestmark = pytest.mark.skipif(
    platform.machine() not in generate.ARCHITECTURES, reason="there is no filter for this machine"
)

FILTER = [sys.executable, "-I", "-S", str(seccomp_filter.__file__)]
BARE = [sys.executable, "-I", "-S", "-c"]

#: Reads [[name, number, argument, ...], ...] and prints {name: errno}, 0 for success.
CALLS = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = {}
for name, number, *arguments in json.load(sys.stdin):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a & (2**64 - 1)) for a in arguments])
    answers[name] = ctypes.get_errno() if result < 0 else 0
print(json.dumps(answers))
"""


def run(argv: list[str], *, filtered: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FILTER, *argv] if filtered else argv,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


def number_of(name: str) -> int | None:
    try:
        return generate.syscall_number(name, platform.machine())
    except generate.LibraryMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def answers(calls: list[list[Any]], *, filtered: bool) -> dict[str, int]:
    done = run([*BARE, CALLS], filtered=filtered, input=json.dumps(calls))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_refused_calls_get_eperm_from_the_kernel() -> None:
    names = [name for group in policy.REFUSED for name in group.syscalls if name != "vhangup"]
    numbered = [(name, number_of(name)) for name in names]
    # -1 is no pointer, no descriptor and no flags: a call that gets through does nothing
    calls = [[name, number, *[-1] * 6] for name, number in numbered if number is not None]
    assert len(calls) > 45
    assert set(answers(calls, filtered=True).values()) == {errno.EPERM}
    # and it is the filter that says so: most of them fail otherwise without it
    free = answers(calls, filtered=False)
    assert sum(number != errno.EPERM for number in free.values()) > len(free) / 3


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone3", (0, 0), errno.ENOSYS),
        ("clone", (0x10000000 | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM),
        ("clone", (0x20000000 | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM),
        ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
        ("socket", (16, 3, 15), errno.EAFNOSUPPORT),
        ("socket", (16, 3, 0), 0),
        ("socket", (2, 1, 0), 0),
        ("socket", (1, 1, 0), 0),
        ("personality", (8,), errno.EPERM),
        ("personality", (0xFFFFFFFF,), 0),
        ("prctl", (35, 1, 0, 0, 0), errno.EPERM),
        ("prctl", (4, 1, 0, 0, 0), 0),
        ("ioctl", (0, 0x5412, 0), errno.EPERM),
        ("ioctl", (0, 0x5412 | 1 << 32, 0), errno.EPERM),
        ("ioctl", (0, 0x541C, 0), errno.EPERM),
        ("ioctl", (0, 0x5401, 0), errno.ENOTTY),
        ("futex_waitv", (0, 0, 0xFF, 0, 0), errno.EINVAL),
        ("getpid", (), 0),
    ],
)
def test_the_kernel_answers_as_the_policy_says(call: str, arguments: tuple[int, ...], expected: int) -> None:
    found = answers([[call, number_of(call), *arguments]], filtered=True)
    assert found == {call: expected}


def test_threads_that_were_there_before_are_filtered_too() -> None:
    script = f"""
import importlib.util, os, threading
spec = importlib.util.spec_from_file_location("filter", {seccomp_filter.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
go, said = threading.Event(), []
def work():
    go.wait(20)
    try:
        os.chroot("/nowhere")
    except OSError as error:
        said.append(error.errno)
thread = threading.Thread(target=work)
thread.start()
module.install(module.program())
go.set()
thread.join(20)
print(said)
"""
    done = run([*BARE, script], filtered=False)
    assert done.stdout == f"[{errno.EPERM}]\n", done.stderr


def test_what_is_executed_under_the_filter_cannot_leave_it() -> None:
    status = Path("/proc/self/status").read_text()
    before = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Seccomp_filters"))
    done = run(["sh", "-c", "exec cat /proc/self/status"])
    found = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert (found["NoNewPrivs"], found["Seccomp"], int(found["Seccomp_filters"])) == ("1", "2", before + 1)


def test_a_command_that_is_not_there_is_named() -> None:
    done = run(["no-such-command"], env={"PATH": "/usr/bin"})
    assert (done.returncode, done.stderr) == (1, "no-such-command: No such file or directory\n")


def test_a_program_that_the_kernel_refuses_is_an_error() -> None:
    script = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("filter", {seccomp_filter.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.install(b"\\xff" * 16)
except OSError as error:
    print(error.errno)
"""
    assert run([*BARE, script], filtered=False).stdout == f"{errno.EINVAL}\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 has these tables of system calls")
@pytest.mark.parametrize("table", ["i386", "x32"])
def test_another_table_of_system_calls_kills(table: str) -> None:
    script = {
        "i386": """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0, flush=True)
""",
        "x32": "import ctypes; print(ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39)), flush=True)",
    }[table]
    free, filtered = run([*BARE, script], filtered=False), run([*BARE, script])
    if table == "i386" and free.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel has no 32-bit system calls")
    assert free.returncode == 0, free.stderr
    assert (filtered.returncode, filtered.stdout) == (-signal.SIGSYS, "")


# ---- what people run ----

PYTHON = {
    "threads": """
from concurrent.futures import ThreadPoolExecutor
print(sum(ThreadPoolExecutor(8).map(lambda n: n * n, range(100))) == 328350)
""",
    "multiprocessing": """
import multiprocessing as mp
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        queue, lock, shared = context.Queue(), context.Lock(), context.Value("i", 7)
        queue.put((1, 2))
        assert queue.get(timeout=20) == (1, 2)
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=4096)
    memory.close()
    memory.unlink()
    print(True)
""",
    "asyncio": """
import asyncio, sys
async def main():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1)
    out, _ = await child.communicate()
    async def handle(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"echo\\n")
        line = await asyncio.wait_for(reader.readline(), 20)
        writer.close()
    print(out.strip() == b"42" and line == b"echo\\n")
asyncio.run(main())
""",
    "the system": """
import ctypes, fcntl, getpass, mmap, os, pty, resource, select, signal, socket, sqlite3, tempfile, time
os.sched_setaffinity(0, os.sched_getaffinity(0))
socket.getaddrinfo("localhost", 80)
socket.if_nameindex()
folder = tempfile.mkdtemp()
os.mkfifo(folder + "/fifo")
os.symlink("x", folder + "/link")
with sqlite3.connect(folder + "/db") as db:
    db.execute("create table t (x)")
db.close()
with open(folder + "/file", "w+b") as file:
    file.truncate(1 << 16)
    os.posix_fallocate(file.fileno(), 0, 1 << 16)
    fcntl.lockf(file, fcntl.LOCK_EX)
    with mmap.mmap(file.fileno(), 0) as view:
        view.madvise(mmap.MADV_DONTNEED)
    os.copy_file_range(file.fileno(), file.fileno(), 10, 0, 100)
pid, terminal = pty.fork()
if pid == 0:
    os.execlp("sh", "sh", "-c", "tty; exit 3")
os.read(terminal, 100)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
os.memfd_create("m")
os.pidfd_open(os.getpid())
os.getrandom(8)
signal.setitimer(signal.ITIMER_REAL, 30)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
select.epoll().poll(0.001)
import shutil
shutil.rmtree(folder)
print(True)
""",
    "numpy and scikit-learn": """
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
X, y = load_iris(return_X_y=True)
np.linalg.svd(np.random.default_rng(0).random((300, 300)))
parallel = cross_val_score(RandomForestClassifier(20), X, y, n_jobs=2)
print(parallel.mean() > 0.9 and HistGradientBoostingClassifier(max_iter=5).fit(X, y).score(X, y) > 0.9)
""",
    "pandas and matplotlib": """
import matplotlib
matplotlib.use("Agg")
import io
import pandas as pd
frame = pd.DataFrame({"x": range(100), "k": list("ab") * 50})
out = io.BytesIO()
frame.groupby("k").x.mean().plot().figure.savefig(out)
print(len(out.getvalue()) > 1000)
""",
}


@pytest.mark.parametrize("what", list(PYTHON))
def test_python_works_under_the_filter(what: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PYTHON[what])
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = run([sys.executable, str(script)], cwd=tmp_path, env=environment)
    assert done.stdout == "True\n", done.stderr


TOOLS = {
    "bash": ("bash", "seq 1000 | sort -rn | sed -n 1p | grep -x 1000 && (sleep 0.01 & wait)"),
    "gcc": ("gcc", "echo 'int main(void) { return 0; }' > a.c && gcc -O2 a.c -o a && ./a"),
    "node": (
        "node",
        'node -e \'require("fs").promises.readFile("/dev/null").then(() => setTimeout(() => {}, 5))\'',
    ),
    "git": (
        "git",
        "git init -q . && echo x > f && git add f && git -c user.name=n -c user.email=e commit -qm m && git fsck",
    ),
    "tar": (
        "tar",
        "mkdir d && echo x > d/f && ln d/f d/g && mkfifo d/p && tar czf d.tgz d && rm -r d && tar xzf d.tgz"
        " && test -p d/p && cp -a d e",
    ),
    "apt": ("apt-get", "apt-get --version && dpkg --version && apt-cache policy"),
    "pip": (
        "bash",
        f"{sys.executable} -m pip --version && {sys.executable} -m venv --without-pip v && v/bin/python -c ''",
    ),
    "rustc": (
        "rustc",
        "echo 'fn main() { std::thread::spawn(|| ()).join().unwrap() }' > a.rs && rustc a.rs && ./a",
    ),
    "perl": ("perl", "perl -e 'exit 0'"),
    "find": ("find", "find / -maxdepth 1 > /dev/null && awk 'BEGIN { exit 0 }'"),
}


@pytest.mark.parametrize("what", list(TOOLS))
def test_tools_work_under_the_filter(what: str, tmp_path: Path) -> None:
    tool, script = TOOLS[what]
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not on this machine")
    done = run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
