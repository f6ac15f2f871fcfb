"""Starts forked.py: code in a source, then in children that were forked from it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faas_gateway.backends.native.runtime_layer import write_guest

DEADLINE_S = 100.0


class ForkingProcess:
    """The guest's modules in a folder, and processes that use them."""

    def __init__(self, folder: Path) -> None:
        write_guest(folder)
        self._folder = folder / "opt/faas"

    def run(
        self,
        setup: str,
        branches: Sequence[str] = (),
        *,
        source: str = "",
        continuing: bool = False,
        reseed: bool = False,
        overlay: Path | None = None,
        path: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Everything that forked.py says. `check`, `losses`, `branches` with `result` and `receipt` each, `source`."""
        spec = {
            "setup": textwrap.dedent(setup),
            "branches": [textwrap.dedent(code) for code in branches],
            "source": textwrap.dedent(source),
            "continuing": continuing,
            "reseed": reseed,
            "overlay": str(overlay) if overlay else "",
            "path": list(path),
        }
        script = Path(__file__).parent / "forked.py"
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            # files, and not pipes: what is left alive in the end would hold a pipe open
            process = subprocess.Popen(
                [sys.executable, str(script), str(self._folder), json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=os.environ | {"JOBLIB_TEMP_FOLDER": str(self._folder)},
            )
            try:
                process.wait(DEADLINE_S)
            finally:
                with contextlib.suppress(ProcessLookupError):  # nobody was left
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            texts = [os.pread(f.fileno(), 1 << 24, 0).decode(errors="replace") for f in (out, err)]
        assert texts[0].strip(), texts[1]
        return json.loads(texts[0].splitlines()[-1])

    def results(self, setup: str, branches: Sequence[str], **more: Any) -> list[Any]:
        """What the children assigned to `result`; that each of them came to its end is asserted."""
        about = self.run(setup, branches, **more)
        assert about["branches"], about
        for branch in about["branches"]:
            assert "error" not in branch, branch["error"]
        return [branch["result"] for branch in about["branches"]]


def blocking(losses: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What stands in the way of a fork: kind and name."""
    return [(loss["kind"], loss["name"]) for loss in losses if loss["effect"] == "portable_only"]
