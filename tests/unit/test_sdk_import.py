"""`import faas` is cheap, and its surface is what `__all__` says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import faas
import faas.errors
import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("httpx", "httpcore", "pydantic", "anyio", "orjson", "logging", "asyncio", "numpy", "faas_gateway", "IPython")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_import_brings_in_nothing_heavy():
    code = f"import sys, faas, faas.errors; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_import_takes_less_than_20_ms():
    code = "import time; t = time.process_time(); import faas; print((time.process_time() - t) * 1000)"
    assert min(float(run_python(code)) for _ in range(5)) < 20


def test_the_client_comes_without_the_gateway_and_ipython():
    code = (
        "from faas import FaaSClient, SyncFaaSClient; import sys; print({'faas_gateway', 'IPython'} & {*sys.modules})"
    )
    assert run_python(code).strip() == "set()"


def test_every_name_in_all_exists():
    assert sorted(faas.__all__) == sorted(set(faas.__all__))
    for name in faas.__all__:
        assert getattr(faas, name) is not None
        assert name in dir(faas)


def test_every_error_class_is_exported():
    classes = {
        name for name, value in vars(faas.errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert classes == {name for name in faas.__all__ if name.endswith("Error")}


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'faas' has no attribute 'Snapshot'"):
        _ = faas.Snapshot  # pyright: ignore[reportAttributeAccessIssue]


def test_version_is_the_distributions():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert faas.__version__ == declared[1]
