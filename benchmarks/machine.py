"""The facts of this machine that numbers depend on; nothing that names it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil

#: Runnable processes per CPU above which other work disturbs the numbers.
BUSY_LOAD = 0.5


def facts() -> dict[str, str]:
    """CPU, memory, kernel, Python, user."""
    return {
        "CPUs": f"{os.cpu_count()} × {_cpu_model()}",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "User": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def load() -> float:
    """Runnable processes per CPU, over the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return f"{platform.machine()}, {sys.platform}"
