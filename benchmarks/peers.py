"""Packages to compare with, installed once into a folder of their own beside the gateway's state."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

INSTALL_S = 300.0


def installed(state: Path, package: str) -> Path | str:
    """The folder that has a package, or why there is none, in words."""
    folder = state / "peers" / package
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(part)]
    try:
        done = subprocess.run([*command, package], capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{package} was not installed within {INSTALL_S:g} s"
    if done.returncode != 0:
        return f"{package} cannot be installed here"
    part.rename(folder)
    return folder
