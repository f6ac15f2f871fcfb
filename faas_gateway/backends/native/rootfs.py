"""Which trees of the host an environment shows, and what its warm process is started with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from faas_gateway.backends.base import HostInterpreter, Recipe, StartFailed
from faas_gateway.backends.native.interpreter import (
    ENV_PREFIX,
    GUEST_PREFIX,
    HostPython,
    outside_usr,
    too_wide,
)

HOME = "/home/user"
SYSFS = ("/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage")
_USERLAND = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MAIN = f"{GUEST_PREFIX}/faas_guest/main.py"


@dataclass(frozen=True)
class NativeImage:
    """What `Image.detail` holds: layer names, top first, and the template's spec for the launcher."""

    layers: tuple[str, ...]
    readonly: tuple[tuple[str, str], ...]
    executable: str | None
    preload: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    def spec(self) -> dict[str, Any]:
        symlinks = {n: os.readlink(f"/{n}") for n in _USERLAND if os.path.islink(f"/{n}")}
        spec: dict[str, Any] = {
            # whether it is a folder is found out here: a root gateway's sandboxes could not look below a 0700 home
            "readonly": [[source, target, os.path.isdir(source)] for source, target in self.readonly],
            "symlinks": symlinks,
            "layers": [f"layers/{name}" for name in self.layers],
        }
        if self.executable is not None:
            options = json.dumps({"preload": self.preload, "path": self.path})
            spec["argv"] = [self.executable, "-I", _MAIN, options]
            spec["env"] = guest_environment(os.path.dirname(self.executable))
        return spec


def guest_environment(bin_folder: str) -> dict[str, str]:
    """The whole environment of a guest: nothing of the host's is in it."""
    return {
        "PATH": f"{bin_folder}:{HOME}/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": HOME,
        "USER": "user",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "xterm-color",
        "CLICOLOR": "1",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def userland() -> list[tuple[str, str]]:
    """/usr, and what of /bin, /lib, ... is a folder of its own on this machine."""
    trees = [("/usr", "/usr")]
    trees += [(f"/{n}", f"/{n}") for n in _USERLAND if os.path.isdir(f"/{n}") and not os.path.islink(f"/{n}")]
    return trees + [(path, path) for path in SYSFS if os.path.isdir(path)]


def our_python(recipe: Recipe, python: HostPython, layers: tuple[str, ...]) -> NativeImage:
    """An environment on our own runtime layer: the host's interpreter, and packages at /opt/env."""
    outside = outside_usr(python.prefix)
    _refuse_wide(outside)
    trees = userland() + [(path, path) for path in outside]
    return NativeImage(layers, tuple(trees), f"{ENV_PREFIX}/bin/python", recipe.preload)


def callers_python(recipe: Recipe, interpreter: HostInterpreter, guest_layer: str) -> NativeImage:
    """Environment `notebook`: the caller's interpreter and packages at the very paths they have on the host."""
    if not os.access(interpreter.executable, os.X_OK):
        raise StartFailed(f"the notebook's interpreter {interpreter.executable} cannot be executed from here")
    real = os.path.realpath(interpreter.executable)
    prefixes = [interpreter.prefix, interpreter.base_prefix, os.path.dirname(os.path.dirname(real))]
    folders = [p for p in (*prefixes, *interpreter.path) if os.path.isdir(p)]
    wide = [p for p in interpreter.path if too_wide(os.path.abspath(p))]
    outside = [p for p in outside_usr(*folders) if p not in wide]
    _refuse_wide([p for p in outside if p in prefixes])
    path = tuple(p for p in interpreter.path if p not in wide and os.path.isdir(p))
    trees = userland() + [(p, p) for p in outside if not too_wide(p)]
    return NativeImage((guest_layer,), tuple(trees), interpreter.executable, recipe.preload, path)


def shell_image() -> NativeImage:
    return NativeImage((), tuple(userland()), None)


def _refuse_wide(folders: list[str]) -> None:
    for folder in folders:
        if too_wide(folder):
            raise StartFailed(
                f"the Python interpreter lies directly in {folder}: mounting that would show more than an interpreter. "
                "Use one in a folder of its own (a virtual environment, pyenv, conda, /usr)"
            )
