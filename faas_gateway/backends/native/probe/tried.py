"""Run the trial and read what it says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from faas_gateway.backends.native.probe.check import Check
from faas_gateway.backends.native.probe.restrictions import explain

TRIAL = Path(__file__).with_name("trial.py")
TRIAL_S = 5.0


@dataclass(frozen=True)
class Step:
    errno: int
    call: str
    note: str


@dataclass
class Trial:
    """The steps that were tried, by name."""

    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    problem: str = ""
    """What went wrong with the trial as a whole."""

    def failed(self, name: str) -> bool:
        return name in self.steps and self.steps[name].errno != 0

    def note(self, name: str) -> str:
        return self.steps[name].note if name in self.steps else ""

    def check(self, name: str, detail: str, *steps: str) -> Check:
        """A check that is ok with this detail when all of the steps succeeded, and missing otherwise."""
        for step in steps:
            found = self.steps.get(step)
            if found is None:
                return Check(name, "missing", f"not tried: {self.problem or 'it needs what is missing above'}")
            if found.errno:
                return Check(name, "missing", *explain(found.errno, found.call))
        return Check(name, "ok", detail)


def try_sandbox(parent: Path | None) -> Trial:
    """Make a sandbox's namespaces and mounts once; takes TRIAL_S seconds at most, and leaves nothing behind.

    Args:
        parent: a writable folder on the disk where sandboxes keep their files, None for the temporary files.
    """
    try:
        with _folder(parent) as folder:
            return _run(folder)
    except OSError as error:
        return Trial(problem=f"the trial could not start: {error}")


@contextlib.contextmanager
def _folder(parent: Path | None) -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".faas-probe-", dir=parent))
    try:
        yield folder
    finally:
        # an overlay leaves a folder of mode 0 in its work directory
        for root, folders, _files in os.walk(folder):
            for name in folders:
                with contextlib.suppress(OSError):
                    Path(root, name).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path) -> Trial:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(TRIAL), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        start_new_session=True,
    )
    trial = Trial()
    try:
        output, errors = process.communicate(timeout=TRIAL_S)
    except subprocess.TimeoutExpired:
        trial.problem = f"no answer within {TRIAL_S:g} seconds"
        os.killpg(process.pid, signal.SIGKILL)
        try:
            output, errors = process.communicate(timeout=1)
        except subprocess.TimeoutExpired as error:  # it hangs in the kernel: leave it to its death
            output, errors = error.stdout or b"", error.stderr or b""
    if process.returncode and not trial.problem:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        trial.problem = last[0] if last else f"the trial ended with {process.returncode}"
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            trial.steps[found["step"]] = Step(found["errno"], found["call"], found["note"])
    return trial
