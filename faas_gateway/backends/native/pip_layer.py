"""A layer of packages installed by pip, in the layout of the virtual environment at /opt/env.

Wheels only: no code of a package runs on the host. pip's own configuration (index, proxy, certificates) is respected.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import anyio
from anyio.streams.text import TextReceiveStream

from faas_gateway.backends.base import BuildFailed, PipLayer, ProgressReport, Report
from faas_gateway.backends.native.interpreter import ENV_PREFIX, HostPython
from faas_gateway.backends.native.layers import digest, rebased_scripts
from faas_gateway.backends.native.runtime_layer import write_venv

BUILD_S = 1500.0
_KEPT_LINES = 40
_LINE = re.compile(
    r"^(Collecting|Downloading|Using cached|Installing collected packages|Successfully installed)\b:?\s*(\S+)?"
)


def pip_digest(layer: PipLayer, python: HostPython) -> str:
    return digest("pip", 3, python.executable, python.version, sorted(layer.packages))


async def install(layer: PipLayer, python: HostPython, folder: Path, report: Report) -> None:
    """Install the packages into folder, a layer root. Raises BuildFailed with the end of pip's output."""
    env = folder / ENV_PREFIX[1:]
    scratch = folder / ".venv"
    write_venv(scratch, python)
    step = f"pip install {' '.join(layer.packages)}"
    command = [sys.executable, "-m", "pip", "--python", str(scratch / "bin" / "python"), "install"]
    command += [
        "--prefix",
        str(env),
        "--only-binary=:all:",
        "--no-warn-script-location",
        "--progress-bar=off",
    ]
    command += ["--disable-pip-version-check", "--no-input", *layer.packages]
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    with rebased_scripts(env, str(scratch / "bin" / "python"), f"{ENV_PREFIX}/bin/python"):
        try:
            with anyio.fail_after(BUILD_S):
                code = await _run(command, tail, report)
        except TimeoutError:
            raise BuildFailed(step, f"not done after {BUILD_S:.0f} s\n" + "\n".join(tail)) from None
        if code != 0:
            raise BuildFailed(step, "\n".join(tail))
    shutil.rmtree(scratch)


async def _run(command: list[str], tail: deque[str], report: Report) -> int:
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    seen = 0
    process = await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )
    async with process:
        assert process.stdout is not None
        rest = ""
        try:
            async for text in TextReceiveStream(process.stdout, errors="replace"):
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    tail.append(line.rstrip())
                    match = _LINE.match(line.strip())
                    if match:
                        seen += match[1] == "Collecting"
                        report(ProgressReport("install packages", _said(match, seen)))
        except BaseException:
            process.kill()
            raise
        return await process.wait()


def _said(match: re.Match[str], seen: int) -> str:
    verb, what = match[1], match[2] or ""
    name = re.split(r"[<>=!~;\[-]", os.path.basename(what))[0]
    if verb == "Installing collected packages":
        return "unpacking"
    if verb == "Successfully installed":
        return "installed"
    return f"{verb.lower()} {name} ({seen})"
