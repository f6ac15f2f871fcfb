"""Backends by name. One is imported only when it is used: Docker is not loaded where nobody asks for it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from faas_gateway.backends.base import SandboxBackend

_BACKENDS = {"native": ("faas_gateway.backends.native", "NativeBackend")}


class BackendFactory(Protocol):
    """How every backend is made."""

    def __call__(self, state_dir: Path, *, idle_template_s: float) -> SandboxBackend: ...


def names() -> list[str]:
    return sorted(_BACKENDS)


def load(name: str) -> BackendFactory:
    """Import a backend and return what makes it.

    Args:
        name: as in `names()`.

    Raises:
        LookupError: there is no backend of that name.
    """
    if name not in _BACKENDS:
        raise LookupError(f"no backend {name!r}; there are: {', '.join(names())}")
    module, attribute = _BACKENDS[name]
    return cast(BackendFactory, getattr(importlib.import_module(module), attribute))
