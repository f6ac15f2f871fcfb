"""`%load_ext faas_magics` is quick, because what is heavy is imported by the first cell."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
import ipykernel.ipkernel, ipykernel.zmqshell, ipykernel.kernelapp
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell(config=config)
before = set(sys.modules)
started = time.process_time()
shell.run_line_magic("load_ext", "faas_magics")
took = time.process_time() - started
completed = shell.complete("", "%%faas --env python-", 20)[1]
print(json.dumps({"took": took, "new": sorted(set(sys.modules) - before), "completed": completed}))
"""


def load() -> dict[str, object]:
    env = {"PATH": "/usr/bin:/bin", "FAAS_ENDPOINT": "unix:///nonexistent/gateway.sock"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, env=env
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_loading_and_completing_import_nothing_heavy():
    loaded = load()
    assert loaded["completed"] == ["python-ai"]
    heavy = {"httpx", "pydantic", "ipywidgets", "anyio", "asyncio.subprocess", "faas.types", "faas._sync"}
    assert heavy.isdisjoint(loaded["new"])  # type: ignore[arg-type]


def test_loading_takes_at_most_150_ms():
    assert min(float(load()["took"]) for _ in range(3)) < 0.15  # type: ignore[arg-type]
