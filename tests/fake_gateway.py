"""The embedded gateway over the fake backend, as a process: `python tests/fake_gateway.py [--ready-fd N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fakes import FakeBackend

from faas_gateway.server import serve_embedded

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--idle-timeout", type=float, default=60.0)
    options = parser.parse_args()
    sys.exit(serve_embedded(FakeBackend, ready_fd=options.ready_fd, idle_timeout_s=options.idle_timeout))
