"""The programs that the API promises, run as they stand: text and all, with what they install and clone served here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live import LiveGateway
from local_servers import serve, write_index, write_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODULES = 10

HELLO = """
client = FaaSClient()
result = await client.execute("print('Hello World')", environment="python-ai")
print(result.stdout)
"""

# Where the ellipsis stands a user writes the steps of their own; the tests have to come from somewhere.
BRANCHES = '''
base = await client.snapshots.create_from_script("""
    pip install pytest
    ...
""", name="test-base")
branches = await client.snapshots.restore(base.id, branch_count=10)
results = await asyncio.gather(*[
    branch.execute(f"pytest tests/test_module_{i}.py") for i, branch in enumerate(branches)])
'''

# What a notebook cell is run by: top-level await.
RUNNER = """
import ast, asyncio, json, sys
code = compile(sys.stdin.read(), "program", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
asyncio.run(eval(code))
"""

REPORT = """
print(json.dumps([base.model_dump(mode="json"), [branch.info.model_dump(mode="json") for branch in branches],
                  [result.model_dump(mode="json") for result in results]]))
"""

MODULE = """
from pathlib import Path

import pytest

def test_number():
    assert {number} ** 2 == {square}

@pytest.mark.parametrize("other", range(10))
def test_alone(other):
    if other == {number}:
        Path(f"made-by-{{other}}").touch()
    assert Path(f"made-by-{{other}}").exists() == (other == {number})
"""


def run(program: str, environment: Mapping[str, str]) -> str:
    """Run it as a process of its own, with warnings as errors; returns what it prints."""
    source = f"import asyncio, json\nfrom faas import FaaSClient\n{program}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@dataclass
class Place:
    gateway: LiveGateway
    repository: str


@pytest.fixture
def place(own_gateway: LiveGateway, tmp_path: Path) -> Iterator[Place]:
    """A gateway whose machine has a package index of its own, and a git server beside it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: sudo apt-get install git")
    root = tmp_path / "www"
    write_index(root / "simple", "pytest")
    files = {f"tests/test_module_{i}.py": MODULE.format(number=i, square=i * i) for i in range(MODULES)}
    write_repository(root, "project.git", files)
    with serve(root) as port:
        own_gateway.env |= {
            "FAAS_NETWORK_ALLOW": f"127.0.0.1:{port}",
            "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
            # whatever else is configured for pip on this machine
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": os.devnull,
        }
        yield Place(own_gateway, f"http://host.faas.internal:{port}/project.git")


def test_hello_world(gateway_env: Mapping[str, str]):
    assert run(HELLO, gateway_env) == "Hello World\n\n"


def test_ten_branches_of_a_script_run_their_tests(place: Place):
    program = BRANCHES.replace("...", f"git clone {place.repository} .")
    first, *_ = HELLO.strip().splitlines()
    shown = run(f"{first}\n{program}{REPORT}", place.gateway.env)
    base, branches, results = json.loads(shown)
    assert base["name"] == "test-base"
    assert base["language"] == "shell"
    assert base["excluded"] == []
    assert [branch["branch_index"] for branch in branches] == list(range(MODULES))
    for result in results:
        assert result["status"] == "success", result
        assert re.search(r"= 11 passed in \d", result["stdout"]), result
        assert not result["stderr"], result
    kept: Any
    with place.gateway.client() as client:
        kept = client.snapshots.get("test-base")
        assert kept.branches == MODULES
        source = client.executions.get(kept.execution_id)
        assert source.status == "terminated"
        kept.delete()
        for branch in branches:
            client.executions.cancel(branch["id"])


def test_script_that_cannot_install_says_why(place: Place):
    from faas.errors import ScriptFailedError

    place.gateway.env["FAAS_NETWORK_ALLOW"] = ""
    script = "pip install --retries 0 pytest"
    with place.gateway.client() as client, pytest.raises(ScriptFailedError) as failure:
        client.snapshots.create_from_script(script)
    assert "No matching distribution found for pytest" in str(failure.value)


def test_script_prints_nothing_that_needs_no_attention(place: Place):
    """No warnings of pip's or git's: about a root user, a cache, a newer version, a PATH, an owner."""
    script = f"pip install pytest; git clone {place.repository} .; git -C . status; pytest --version"
    with (
        place.gateway.client() as client,
        client.executions.create("python", language="shell", network="full") as session,
    ):
        result = session.execute(script, timeout=120)
    assert result.status == "success", result
    assert result.stderr.splitlines() == ["Cloning into '.'..."]
    assert not re.search("warning|notice", result.stdout, re.IGNORECASE), result.stdout
    assert re.search(r"^pytest \d", result.stdout, re.MULTILINE)
