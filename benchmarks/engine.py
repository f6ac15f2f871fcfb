"""A container engine to compare with, if one runs here and has a small image. Nothing is pulled."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

NONE = "no engine here"
_IMAGES = ("alpine", "busybox", "debian", "ubuntu", "python")


def image() -> str | None:
    """An image that the engine has; None where no engine answers or it has none of the common small ones."""
    try:
        listed = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", deadline_s=10)
    except (OSError, subprocess.SubprocessError):
        return None
    names = listed.split()
    return next((name for wanted in _IMAGES for name in names if name.split(":")[0] == wanted), None)


def run_seconds(name: str) -> float:
    """One container's whole life, `docker run --rm`."""
    started = time.perf_counter()
    printed = _docker("run", "--rm", "--network", "none", name, "echo", "hi")
    took = time.perf_counter() - started
    if printed != "hi\n":
        raise ValueError(f"docker run printed {printed!r}")
    return took


@contextmanager
def container(name: str) -> Generator[str]:
    """A container that waits, for `exec_seconds`; removed at the end."""
    started = _docker("run", "--detach", "--rm", "--network", "none", name, "sleep", "3600").strip()
    try:
        yield started
    finally:
        _docker("rm", "--force", started)


def exec_seconds(name: str) -> float:
    """One `docker exec` of a command that does nothing."""
    started = time.perf_counter()
    _docker("exec", name, "true")
    return time.perf_counter() - started


def commit_seconds(name: str) -> float:
    """One `docker commit` of a container; the image is removed again."""
    started = time.perf_counter()
    made = _docker("commit", name).strip()
    took = time.perf_counter() - started
    _docker("image", "rm", made)
    return took


def commit_and_run_seconds(name: str, count: int) -> float:
    """`docker commit` of a container, then so many `docker run`s of that at once, each with an answer."""
    started = time.perf_counter()
    made = _docker("commit", name).strip()
    try:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(run_seconds, [made] * count))
        return time.perf_counter() - started
    finally:
        _docker("image", "rm", "--force", made)


def _docker(*arguments: str, deadline_s: float = 60) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=deadline_s)
    return done.stdout
