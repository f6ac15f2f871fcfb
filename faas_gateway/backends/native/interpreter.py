"""The Python that sandboxes run on: this machine's own, and where it lies."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ENV_PREFIX = "/opt/env"
GUEST_PREFIX = "/opt/faas"


@dataclass(frozen=True)
class HostPython:
    """A base interpreter (not a virtual environment): executable and prefix with links resolved."""

    executable: str
    prefix: str
    version: tuple[int, int]

    @property
    def site_packages(self) -> str:
        return f"lib/python{self.version[0]}.{self.version[1]}/site-packages"


@functools.cache
def host_python() -> HostPython:
    """The interpreter below the one that runs the gateway."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return HostPython(os.path.realpath(base), os.path.realpath(sys.base_prefix), sys.version_info[:2])


def outside_usr(*paths: str) -> list[str]:
    """Those folders that the sandbox's /usr does not hold, nested ones dropped, parents first."""
    kept: list[str] = []
    for path in sorted({os.path.abspath(p) for p in paths}):
        if _inside(path, "/usr") or any(_inside(path, k) for k in kept):
            continue
        kept.append(path)
    return kept


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def too_wide(path: str) -> bool:
    """True for folders that hold more than an interpreter's packages: the root, a home, or what homes lie in."""
    homes = {str(Path.home()), os.path.realpath(Path.home()), "/root", "/home"}
    return (
        path == "/"
        or any(_inside(home, path) for home in homes)
        or path in ("/etc", "/proc", "/sys", "/dev", "/run", "/tmp", "/var")
    )
