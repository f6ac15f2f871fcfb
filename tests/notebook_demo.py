"""A notebook as `scripts/demo.py` executes it, and what came of its cells."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notebook_kernel import ROOT


def demo(folder: Path, env: Mapping[str, str], *notebook: Path) -> subprocess.CompletedProcess[str]:
    """Run the demo with a home of its own in folder; what it executed goes to folder/demo."""
    own = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "SECRET_TOKEN": "of the notebook",
    }
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", *notebook, "--output", folder / "demo"],
        env={**own, **env},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )


def text(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def value(cell: Any) -> Any:
    """The mime bundle of a cell's value."""
    (data,) = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return data


def figure(cell: Any) -> bytes:
    """The PNG that a cell shows."""
    (image,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(image)
