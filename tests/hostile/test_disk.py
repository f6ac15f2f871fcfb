"""Cells that fill the disk, and files that are made to be hard to count or to remove."""

from __future__ import annotations

import pytest
from faas import errors
from rings import Ring, Victim

pytestmark = pytest.mark.usefixtures("unharmed")

DISK_MB = 16
ONE_FILE = "f = open('x', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))"
PAUSING = """
import time
for n in range(200):
    with open(f"x{n}", "wb") as f:
        f.write(bytes(1 << 20))
    time.sleep(0.02)
"""
WIDE = """
import os, time
for n in range(1100):  # more folders than a counter could hold open
    os.mkdir(f"d{n}")
for n in range(1100):
    with open(f"d{n}/x", "wb") as f:
        f.write(bytes(1 << 20))
    time.sleep(0.01)
"""
DEEP = """
import os, time
for n in range(1500):  # deeper than a path can be long
    os.mkdir("deeper")
    os.chdir("deeper")
    if n % 10 == 0:
        with open("x", "wb") as f:
            f.write(bytes(1 << 20))
        time.sleep(0.02)
"""
MOVING = """
import os, time
os.makedirs("a/b/c/d")
for n in range(400):
    os.rename("a", "e")
    os.rename("e/b", "b")
    os.rename("b", "e/b")
    os.rename("e", "a")
    with open(f"a/b/c/d/x{n}", "wb") as f:
        f.write(bytes(1 << 20))
    time.sleep(0.01)
"""
CLOSED = """
import os, time
os.makedirs("closed/closed/closed")
for n in range(200):
    with open(f"closed/closed/closed/x{n}", "wb") as f:
        f.write(bytes(1 << 20))
    for folder in ("closed/closed/closed", "closed/closed", "closed"):
        os.chmod(folder, 0)
    time.sleep(0.02)
    for folder in ("closed", "closed/closed", "closed/closed/closed"):
        os.chmod(folder, 0o700)
"""


def assert_full(victim: Victim, code: str, timeout: float = 30) -> None:
    result = victim.cell(code, timeout=timeout)
    assert result.error is not None, (result.status, result.stdout)
    assert result.error.code == "disk_full", result.error
    assert result.error.hint


@pytest.mark.parametrize("code", [ONE_FILE, PAUSING, WIDE, DEEP, MOVING, CLOSED])
def test_a_full_disk_is_a_typed_error(ring: Ring, code: str) -> None:
    with ring.victim(disk_mb=DISK_MB, open_files=64) as victim:
        assert_full(victim, code)
        if victim.end_code() is not None:
            assert victim.end_code() == "disk_full"


def test_after_deleting_files_the_session_can_write_again(ring: Ring) -> None:
    with ring.victim(disk_mb=DISK_MB) as victim:
        assert_full(victim, PAUSING)
        code = """
import glob, os, time
for name in glob.glob("x*"): os.remove(name)
for _ in range(50):
    try:
        with open("small", "w") as f: f.write("room")
        print("written")
        break
    except OSError: time.sleep(0.1)
"""
        assert victim.value(code) == "written"


def test_a_writer_that_never_stops_ends_its_session(ring: Ring) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2) if 0 else None
n = 0
while True:
    try:
        with open(f"x{n}", "wb") as f: f.write(bytes(1 << 20))
    except OSError:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    n += 1
"""
    with ring.victim(disk_mb=DISK_MB) as victim:
        assert_full(victim, code)
        assert victim.end_code() == "disk_full"
        with pytest.raises(errors.ExecutionEndedError, match="far over its disk limit"):
            victim.cell("1")


def test_a_background_writer_is_stopped_while_no_request_runs(ring: Ring) -> None:
    code = "i=0; while :; do head -c 1048576 /dev/zero >x$i || sleep 0.05; i=$((i+1)); done"
    with ring.victim(disk_mb=DISK_MB) as victim:
        victim.cell(f"import subprocess; subprocess.Popen(['sh', '-c', {code!r}], stderr=subprocess.DEVNULL)")
        victim.execution.run(["sleep", "1"])
        usage = victim.execution.refresh()
        assert usage.end_code in (None, "disk_full")
        assert usage.usage.disk_bytes < 128 << 20


def test_very_many_files_end_the_session(ring: Ring) -> None:
    code = "import os\nos.mkdir('d')\nn = 0\nwhile True: open(f'd/{n}', 'w').close(); n += 1"
    with ring.victim(disk_mb=1) as victim:
        assert_full(victim, code, timeout=60)
        assert victim.end_code() == "disk_full"


def test_many_files_in_memory_are_refused(ring: Ring) -> None:
    code = "n = 0\nwhile True: open(f'/dev/shm/{n}', 'w').close(); n += 1"
    with ring.victim(disk_mb=1) as victim:
        assert_full(victim, code, timeout=60)


def test_a_sparse_file_cannot_be_larger_than_the_disk(ring: Ring) -> None:
    with ring.victim(disk_mb=DISK_MB) as victim:
        assert_full(victim, "with open('x', 'wb') as f: f.truncate(1 << 40)")
        assert_full(victim, "import os\nf = os.open('y', os.O_CREAT | os.O_WRONLY)\nos.posix_fallocate(f, 0, 1 << 30)")


def test_a_shell_with_a_full_disk_says_so(ring: Ring) -> None:
    with ring.victim("alpine-fast", disk_mb=DISK_MB) as victim:
        code = "i=0; while head -c 1048576 /dev/zero >x$i; do i=$((i+1)); sleep 0.02; done; exit 1"
        result = victim.cell(code)
        assert result.error is not None
        assert result.error.code == "disk_full"


HARD_TO_REMOVE = {
    "folders closed to their owner": "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'w').close()\n"
    "for p in ('a/b/c/f', 'a/b/c', 'a/b', 'a'): os.chmod(p, 0)",
    "deeper than a path": "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')",
    "many files": "import os\nos.mkdir('d')\nfor n in range(3000): open(f'd/{n}', 'w').close()",
    "links, pipes and sockets": "import os, socket\nos.symlink('/', 'root'); os.symlink('x' * 4000, 'long'); os.mkfifo('p')\n"
    "s = socket.socket(socket.AF_UNIX); s.bind('s'); os.link('p', 'q')",
    "names that are no text": "import os\nfor n in range(1, 256):\n  if n not in b'./': open(bytes([n]), 'w').close()",
    "a removed folder that is still open": "import os\nos.makedirs('a/b'); os.chdir('a/b'); os.removedirs('/workspace/a/b')",
}


@pytest.mark.parametrize("code", HARD_TO_REMOVE.values(), ids=HARD_TO_REMOVE)
def test_whatever_lies_there_is_removed(ring: Ring, code: str) -> None:
    with ring.victim() as victim:  # leaving it asserts that
        assert victim.value(code + "\nprint('made')") == "made"
        assert victim.execution.refresh().usage.disk_bytes < 1 << 30


def test_files_of_a_killed_session_are_removed(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.cell(HARD_TO_REMOVE["folders closed to their owner"])
        victim.cell("import os; os.kill(os.getpid(), 9)")
        victim.assert_gone()
