"""A live embedded gateway in folders of its own, and a census of what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
from faas import SyncFaaSClient

ROOT = Path(__file__).resolve().parents[1]


def wait_until(condition: Callable[[], object], seconds: float = 10.0, what: str = "the condition") -> None:
    """Poll until the condition holds; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {seconds:.0f} s")
        time.sleep(0.02)


class LiveGateway:
    """Folders for one gateway; it starts by itself when a client first needs it.

    root: holds `run` (socket, log) and `state` (database, layers, sandboxes).
    """

    def __init__(self, root: Path) -> None:
        self.runtime, self.state = root / "run", root / "state"
        for folder in (self.runtime, self.state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.env = {
            "FAAS_RUNTIME_DIR": str(self.runtime),
            "FAAS_STATE_DIR": str(self.state),
            "FAAS_API_KEY": "",
            "FAAS_ENDPOINT": "",
        }

    @property
    def socket(self) -> Path:
        return self.runtime / "gateway.sock"

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """Lead clients of this process to this gateway."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    @contextlib.contextmanager
    def client(self) -> Generator[SyncFaaSClient]:
        with self.environment(), SyncFaaSClient() as client:
            yield client

    def log(self) -> str:
        path = self.runtime / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """The gateway and its launcher: those whose environment or open files name our folders."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            with contextlib.suppress(psutil.Error):
                line = process.info["cmdline"] or []
                if "faas_gateway" in line and process.environ().get("FAAS_RUNTIME_DIR") == str(self.runtime):
                    found.append(process)
        return found

    def gateway(self) -> psutil.Process:
        (process,) = self.processes()
        return process

    def launchers(self) -> list[psutil.Process]:
        return [p for g in self.processes() for p in g.children() if p.name() == "faas-launcher"]

    def stop(self) -> None:
        """End the gateway in good order and wait for it; nothing if none runs."""
        for process in self.processes():
            family = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(family, timeout=20)
            if alive:
                raise AssertionError(f"still there after SIGTERM: {alive}")

    def left_over(self) -> dict[str, list[str]]:
        """Runs, cgroups and mounts that are still there; all empty when everything was given back."""
        runs = self.state / "native" / "runs"
        names = [e.name for e in runs.iterdir()] if runs.is_dir() else []
        groups = [str(p) for name in names for p in Path("/sys/fs/cgroup").glob(f"**/faas-{name}*")]
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.state) in line]
        found = {"runs": names, "cgroups": groups, "mounts": mounts, "sockets": [str(self.socket)]}
        if not self.socket.exists():
            found["sockets"] = []
        return {kind: things for kind, things in found.items() if things}

    def boxes(self) -> list[str]:
        """The folders of sandboxes in use; neither warm processes nor those made ahead."""
        found = self.state.glob("native/runs/*/boxes/*")
        return sorted(p.name for p in found if not p.name.startswith(("t-", "s-")))


def run_python(code: str, env: dict[str, str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, as a user's program would."""
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout
    )


def as_json(text: str) -> object:
    return json.loads(text.strip().splitlines()[-1])
