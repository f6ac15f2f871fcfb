"""What a session has beside its variables: directory, search path, environment, global generators, cell number.

Of environment and search path only what code of the session has changed is kept: the variables that a sandbox is
started with may be secret, and are never in a snapshot.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sys
import types
from collections.abc import Iterable
from typing import Any, TypedDict

SUBMODULES_LIMIT = 3000


class Baseline(TypedDict):
    environ: dict[str, str]
    path: list[str]


def baseline() -> Baseline:
    """How things are before code of the session runs, its own environment variables set: to be taken once."""
    return {"environ": dict(os.environ), "path": list(sys.path)}


def session_state(before: Baseline, execution_count: int | None = None) -> dict[str, Any]:
    """What `capture` takes as `session`."""
    environ = {k: v for k, v in os.environ.items() if before["environ"].get(k) != v}
    state: dict[str, Any] = {
        "environ": environ,
        "unset": [name for name in before["environ"] if name not in os.environ],
        "path": [(i, p) for i, p in enumerate(sys.path) if isinstance(p, str) and p not in before["path"]],  # pyright: ignore[reportUnnecessaryIsInstance] - code may put anything there
        "execution_count": execution_count,
        "random": random.getstate(),
    }
    with contextlib.suppress(OSError):  # its folder was removed
        state["cwd"] = os.getcwd()
    if "numpy.random" in sys.modules:
        state["numpy"] = sys.modules["numpy.random"].get_state(legacy=False)
    return state


def submodules(modules: Iterable[types.ModuleType]) -> list[str]:
    """Modules that were imported below those that are bound to a name: `import scipy.stats` binds scipy only."""
    roots = {m.__name__ for m in modules if hasattr(m, "__path__")}
    found = [name for name in list(sys.modules) if any(name.startswith(f"{root}.") for root in roots)]
    return sorted(found)[:SUBMODULES_LIMIT]


def apply_before(state: dict[str, Any]) -> list[tuple[str, str]]:
    """Set what reading variables may depend on. Returns what could not be set, and why."""
    problems: list[tuple[str, str]] = []
    os.environ.update(state.get("environ", {}))
    for name in state.get("unset", []):
        os.environ.pop(name, None)
    for index, folder in state.get("path", []):
        if folder not in sys.path:
            sys.path.insert(index, folder)
    if "cwd" in state:
        try:
            os.chdir(state["cwd"])
        except OSError as e:
            problems.append((state["cwd"], f"the working directory could not be entered: {e.strerror}"))
    return problems


def apply_after(state: dict[str, Any]) -> None:
    """Set what reading variables may change."""
    if "random" in state:
        random.setstate(state["random"])
    if "numpy" in state:
        importlib.import_module("numpy.random").set_state(state["numpy"])


def import_missing(names: Iterable[str]) -> None:
    """Import submodules again; one that fails is noticed where it is used, as a failing import always is."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
