"""A whole session saved to a file and loaded again with dill, in Pythons of their own.

As a program, `python -m benchmarks.save_and_load PEERS ACTION FILE`, it is one of those Pythons; the code that makes
the data comes on its standard input.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import ANSWER, ASK, WrongAnswer
from benchmarks.notebook import ROOT

DEADLINE_S = 600.0


@dataclass(frozen=True)
class SavedAndLoaded:
    save_s: float
    """File on the disk included."""
    load_s: float
    """Up to the first answer, the start of the Python included."""
    extra_bytes: int
    """How far saving raised the memory of the session."""


def dill_session(peers: Path, code: str, file: Path) -> SavedAndLoaded:
    """Save a session that has run this code, and load it in a new one. The file is removed."""
    try:
        saved = _python(peers, "save", file, code)
        started = time.perf_counter()
        loaded = _python(peers, "load", file, "")
        took = time.perf_counter() - started
    finally:
        file.unlink(missing_ok=True)
    if loaded["printed"] != ANSWER:
        raise WrongAnswer(f"dill's session printed {loaded['printed']!r}")
    return SavedAndLoaded(saved["save_s"], took, saved["extra_bytes"])


def _python(peers: Path, action: str, file: Path, code: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.save_and_load", str(peers), action, str(file)]
    done = subprocess.run(
        command, cwd=ROOT, input=code, stdout=subprocess.PIPE, text=True, check=True, timeout=DEADLINE_S
    )
    return json.loads(done.stdout)


def _save(dill: Any, file: str, code: str) -> dict[str, object]:
    session = _session()
    exec(code, vars(session))
    before = _peak_bytes()
    started = time.perf_counter()
    dill.dump_module(file, session)
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return {"save_s": time.perf_counter() - started, "extra_bytes": _peak_bytes() - before}


def _load(dill: Any, file: str) -> dict[str, object]:
    session = _session()
    dill.load_module(file, session)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(ASK, vars(session))
    return {"printed": printed.getvalue()}


def _session() -> types.ModuleType:
    """An empty one, apart from what this program holds."""
    session = types.ModuleType("session")
    sys.modules[session.__name__] = session
    return session


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    peers, action, file = sys.argv[1:]
    sys.path.append(peers)
    dill = importlib.import_module("dill")
    print(json.dumps(_save(dill, file, sys.stdin.read()) if action == "save" else _load(dill, file)))
