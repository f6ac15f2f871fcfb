"""A gateway of a benchmark's own: its folders, its processes, what they use, and its end."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from faas import SyncFaaSClient

STOP_S = 20.0


class LeftBehind(Exception):
    """The gateway ended, and something of it is still there."""


class Gateway:
    """A running gateway.

    Attributes:
        process: the gateway's own.
        env: variables that lead clients, kernels included, to it.
        folder: a folder for the benchmark's own files, gone at the end.
    """

    def __init__(self, process: psutil.Process, folder: Path, state: Path, env: dict[str, str]) -> None:
        self.process = process
        self.folder = folder
        self.env = env
        self._state = state

    def family(self) -> list[psutil.Process]:
        """The gateway and all below it: launcher, warm processes, sandboxes."""
        return [self.process, *self.process.children(recursive=True)]

    def stop(self) -> None:
        """End it in good order.

        Raises:
            LeftBehind: a process, a mount or a sandbox's folder has outlived it.
        """
        family = self.family()
        self.process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_S)
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self._state) in line]
        runs = list(self._state.glob("native/runs/*"))
        if alive or mounts or runs:
            raise LeftBehind(f"processes {alive}, mounts {mounts}, runs {runs}")


@contextmanager
def gateway(state: Path) -> Generator[Gateway]:
    """Start a gateway whose layers are kept in this folder, lead this process to it, and end it."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="faas-bench-") as name:
        folder = Path(name)
        env = {
            "FAAS_RUNTIME_DIR": str(folder / "run"),
            "FAAS_STATE_DIR": str(state),
            "FAAS_API_KEY": "",
            "FAAS_ENDPOINT": "",
        }
        with _environment(env):
            with SyncFaaSClient() as client:
                running = Gateway(psutil.Process(client.health().pid), folder, state, env)
            try:
                yield running
            finally:
                running.stop()


@contextmanager
def _environment(env: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Their memory, pages that several share split between them (PSS of smaps_rollup, proc_pid_smaps(5)).

    Raises:
        PermissionError: one of them does not let this user look.
    """
    total = 0
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total


class PeakMemory:
    """How far the resident memory of a process rises above what it is now."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # VmHWM starts anew (proc_pid_clear_refs(5))
        self._before = self._field("VmRSS")

    def growth_bytes(self) -> int:
        return max(0, self._field("VmHWM") - self._before)

    def _field(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
        raise ProcessLookupError(f"{self._folder} has no {name}")


def settle(seconds: float) -> None:
    """Let what goes on in the background come to its end."""
    time.sleep(seconds)
