"""One live gateway per identity (root's and an ordinary user's) for the hostile ring, and a census of one sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ordinary
import psutil
from faas import SyncExecution, SyncFaaSClient
from faas.types import ExecutionResult
from live import LiveGateway, wait_until

#: A cell that does not end of itself is ended after this long, seconds.
CELL_S = 60.0
GONE_S = 15.0


class OrdinaryGateway(LiveGateway):
    """A gateway that an ordinary user runs, whoever runs the tests. It does not start by itself: `start` it."""

    def __init__(self, root: Path) -> None:
        self.home = root
        super().__init__(root)
        if os.geteuid() == 0:
            for folder in (root, self.runtime, self.state):
                os.chown(folder, ordinary.NOONE, ordinary.NOONE)

    def start(self) -> None:
        code = "from faas._embedded import ensure_gateway; ensure_gateway()"
        done = self.python(code)
        assert done.returncode == 0, done.stderr

    def python(self, code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run Python code as that user, with this gateway as its own."""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd="/",
            env=ordinary.environment({"HOME": str(self.home), **self.env}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **ordinary.as_noone(),
        )


@contextlib.contextmanager
def shared_ordinary_gateway(base: Path) -> Iterator[OrdinaryGateway]:
    """The run's one; pytest's parallel workers share it. Who leaves last stops it and counts what it left behind."""
    ordinary.as_noone()  # skips where it is of no use
    base.mkdir(exist_ok=True)
    place, users = base / "place", base / "users"
    users.mkdir(exist_ok=True)
    me = users / str(os.getpid())
    with _locked(base / "lock"):
        if not place.exists():
            # pytest's own folders are closed to other users
            place.write_text(tempfile.mkdtemp(prefix="faas-test-"))
        live = OrdinaryGateway(Path(place.read_text()))
        live.start()
        me.touch()
    yield live
    with _locked(base / "lock"):
        me.unlink()
        if not list(users.iterdir()):
            live.stop()
            left = live.left_over()
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not live.left_over(), 10)
                left = {}
            shutil.rmtree(live.home)
            place.unlink()
            assert not left, f"left behind: {left}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass
class Victim:
    """A session that is about to be treated badly."""

    ring: Ring
    execution: SyncExecution
    seen: set[psutil.Process] = field(default_factory=set[psutil.Process])
    groups: set[Path] = field(default_factory=set[Path])

    def cell(self, code: str, timeout: float = CELL_S) -> ExecutionResult:
        return self.execution.execute(code, timeout=timeout)

    def value(self, code: str) -> str:
        """What a cell prints that has to succeed."""
        result = self.cell(code)
        assert result.status == "success", (result.error, result.stderr)
        return result.stdout.strip()

    def end_code(self) -> str | None:
        """How the execution ended; None while it is open."""
        return self.execution.refresh().end_code

    def look(self) -> set[psutil.Process]:
        """The processes in the sandbox now, as far as we may see them from outside."""
        link = "import os; print(os.readlink('/proc/self/ns/pid'))"
        shell = self.execution.info.language == "shell"
        namespace = self.value("readlink /proc/self/ns/pid" if shell else link)
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == namespace:
                    found.add(process)
                    for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines():
                        self._note_group(*line.split(":", 2)[1:])
        self.seen |= found
        return found

    def _note_group(self, controllers: str, path: str) -> None:
        if re.search(r"/faas-\d+-[0-9a-f]+/", path):
            self.groups |= {
                Path(f"/sys/fs/cgroup/{c}{path}") for c in (controllers.split(",") if controllers else [""])
            }

    def assert_gone(self) -> None:
        """Nothing of it is left: no process, no folder, no control group."""
        wait_until(lambda: not self.left(), GONE_S, f"nothing of {self.execution.id} left")

    def left(self) -> list[object]:
        alive: list[object] = [p for p in self.seen if is_alive(p)]
        boxes: list[object] = [b for b in self.ring.live.boxes() if b == self.execution.id]
        return alive + boxes + [g for g in self.groups if g.exists()]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two
        return False


@dataclass(frozen=True)
class Ring:
    """A gateway of one identity and a client for it."""

    identity: str
    live: LiveGateway
    client: SyncFaaSClient

    @contextlib.contextmanager
    def victim(self, environment: str = "python", **resources: float) -> Generator[Victim]:
        """A session with these limits; afterwards it is closed, and nothing of it may be left."""
        victim = Victim(self, self.client.executions.create(environment, resources=resources))
        try:
            victim.look()
            yield victim
        finally:
            victim.execution.close()
        victim.assert_gone()
