"""Two interpreters for the tests of portable variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHILD = Path(__file__).parent / "portable_child.py"


class Pair:
    """Captures in one interpreter, restores in another."""

    def __init__(self, guest: Path, folder: Path) -> None:
        self.guest, self.folder = guest, folder
        self.file = folder / "variables"

    def run(self, do: str, **job: Any) -> dict[str, Any]:
        job = {"do": do, "file": str(self.file), "seconds": 20.0, **job}
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "SECRET": "from the start"}
        made = subprocess.run(
            [sys.executable, str(CHILD), str(self.guest), json.dumps(job)],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout.splitlines()[-1])

    def there(self, before: str, after: str) -> Any:
        """What `after` finds in another interpreter after `before` ran in the first: all of it must have travelled."""
        captured = self.run("capture", before=before)
        assert captured["excluded"] == []
        restored = self.run("restore", after=after)
        assert restored["excluded"] == []
        assert restored["variables"] == captured["variables"]
        assert restored["size_bytes"] == captured["size_bytes"] == self.file.stat().st_size
        return restored["value"]
