"""Requests that make no sense are refused with the reason and the way out, and nothing is made for them."""

from __future__ import annotations

from typing import Any

import pytest
from faas import errors
from rings import Ring

pytestmark = pytest.mark.usefixtures("unharmed")


def test_an_unknown_environment_is_named_with_the_nearest_known_one(ring: Ring) -> None:
    before = len(ring.client.executions.list())
    for call in (ring.client.executions.create, lambda name: ring.client.execute("1", environment=name)):
        with pytest.raises(errors.UnknownEnvironmentError, match="pyton-ai") as caught:
            call("pyton-ai")
        assert "python-ai" in caught.value.hint
    assert len(ring.client.executions.list()) == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 100, "a b", "\0", "ü"])
def test_a_name_that_is_none_is_refused(ring: Ring, name: str) -> None:
    with pytest.raises((errors.InvalidRequestError, errors.UnknownEnvironmentError)):
        ring.client.executions.create(name)
    if name:
        with pytest.raises(errors.InvalidRequestError, match="name"):
            ring.client.executions.create("alpine-fast", name=name)


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"memory_mb": 0}, "memory_mb"),
    ({"memory_mb": -1}, "memory_mb"),
    ({"memory_mb": 10**12}, "memory_mb"),
    ({"memory_mb": "much"}, "memory_mb"),
    ({"memory_mb": 1.5}, "memory_mb"),
    ({"cpus": 0}, "cpus"),
    ({"cpus": float("inf")}, "cpus"),
    ({"pids": 1}, "pids"),
    ({"timeout_s": 0}, "timeout_s"),
    ({"disk_mb": -5}, "disk_mb"),
    ({"open_files": 3}, "open_files"),
    ({"output_mb": 0}, "output_mb"),
    ({"gpus": 1}, "gpus"),
    ({"memory": 100}, "memory"),
]


@pytest.mark.parametrize(("limits", "field"), LIMITS)
def test_a_limit_that_makes_no_sense_is_named(ring: Ring, limits: dict[str, Any], field: str) -> None:
    with pytest.raises((errors.InvalidRequestError, errors.ConfigurationError), match=field):
        ring.client.executions.create("alpine-fast", resources=limits)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_makes_no_sense_is_named(ring: Ring, timeout: float) -> None:
    with pytest.raises((errors.InvalidRequestError, errors.ConfigurationError), match="timeout"):
        ring.client.execute("true", timeout=timeout)


def test_an_interpreter_that_is_none_is_refused(ring: Ring) -> None:
    for executable, prefix in (("/no/such/python", "/no/such"), ("/etc/passwd", "/etc"), ("/usr/bin/python3", "/")):
        interpreter = {"executable": executable, "prefix": prefix, "base_prefix": prefix}
        with pytest.raises((errors.StartError, errors.InvalidRequestError)) as caught:
            ring.client.executions.create("notebook", interpreter=interpreter)  # type: ignore[arg-type]
        assert str(caught.value)


def test_the_smallest_limits_make_a_session_that_works(ring: Ring) -> None:
    smallest = {
        "memory_mb": 32,
        "disk_mb": 1,
        "pids": 4,
        "open_files": 16,
        "output_mb": 1,
        "cpus": 0.05,
        "cpu_time_s": 5,
    }
    with ring.client.executions.create("alpine-fast", resources=smallest) as execution:
        result = execution.execute("echo works", timeout=30)
        assert (result.status, result.stdout) == ("success", "works\n"), result


def test_environment_variables_that_are_none_are_refused(ring: Ring) -> None:
    for name, value in (("A=B", "x"), ("", "x"), ("A", "x\0y"), ("1A", "x"), ("A", "x" * 100_000)):
        with pytest.raises((errors.InvalidRequestError, errors.ConfigurationError)):
            ring.client.executions.create("alpine-fast", env_vars={name: value})


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "HOME", "IFS", "ENV"]
)
def test_environment_variables_that_programs_obey_reach_the_sandbox_only(ring: Ring, name: str) -> None:
    with ring.client.executions.create("python", env_vars={name: "/workspace/mine"}) as execution:
        assert execution.execute("print(1)", timeout=20).stdout == "1\n"
        assert execution.refresh().status == "idle"
