"""Run a command as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

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


def run(argv: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with a clean environment, by root with another user id; skip where that one cannot reach us."""
    as_whom = {"user": NOONE, "group": NOONE, "extra_groups": []} if os.geteuid() == 0 else {}
    clean = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environment}
    if as_whom:
        reach = subprocess.run(
            [sys.executable, "-c", "import faas_gateway, faas, click"],
            cwd=home, env=clean, capture_output=True, timeout=60, check=False, **as_whom,
        )  # fmt: skip
        if reach.returncode:
            pytest.skip("an ordinary user cannot read this checkout or its Python")
    return subprocess.run(
        argv, cwd=home, env=clean, capture_output=True, text=True, timeout=60, check=False, **as_whom
    )
