"""Run a command as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: A user id that owns nothing and has no entry in /etc/passwd.
NOONE = 54321


@contextmanager
def home() -> Generator[Path]:
    """A folder that the ordinary user owns and can reach: pytest's own are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="faas-test-home-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOONE, NOONE)
        yield folder
    finally:
        shutil.rmtree(folder)


def as_noone() -> dict[str, Any]:
    """Arguments of subprocess that make the child an ordinary user; skips the test where that one cannot reach us."""
    if os.geteuid() != 0:
        return {}
    if not _can_reach():
        reason = "an ordinary user cannot read this checkout or its Python"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return {"user": NOONE, "group": NOONE, "extra_groups": []}


@functools.cache
def _can_reach() -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import faas_gateway, faas, click"],
            cwd="/",
            env=environment({}),
            capture_output=True,
            timeout=60,
            check=False,
            user=NOONE,
            group=NOONE,
            extra_groups=[],
        )
    except PermissionError:  # it may not even execute this Python
        return False
    return done.returncode == 0


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """A clean environment; HOME is in `more`."""
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(argv: list[str], home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it with a clean environment, by root with another user id; skip where that one cannot reach us."""
    return subprocess.run(
        argv,
        cwd=home,
        env=environment({"HOME": str(home), **more}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **as_noone(),
    )
