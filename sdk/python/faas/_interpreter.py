"""This process's Python, for the environment `notebook`: what imports here imports there."""

from __future__ import annotations

import sys
from pathlib import Path

from faas.types import Interpreter

__all__ = ["current_interpreter"]

_MAX_DIRECTORIES = 256


def current_interpreter() -> Interpreter:
    """The interpreter and the existing folders of its import path, without the working directory.

    The working directory is left out because the sandbox must not see the user's files unasked.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted under this process
        here = None
    directories: dict[str, None] = {}
    for entry in sys.path:
        path = Path(entry)
        if entry and path.is_absolute() and path.is_dir() and path.resolve() != here:
            directories[entry] = None
    return Interpreter(
        executable=sys.executable,
        prefix=sys.prefix,
        base_prefix=sys.base_prefix,
        path=list(directories)[:_MAX_DIRECTORIES],
    )
