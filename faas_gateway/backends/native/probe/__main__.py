"""`python -m faas_gateway.backends.native.probe [--json] [--state-dir FOLDER]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from faas._paths import state_dir
from faas.errors import ConfigurationError

from faas_gateway.backends.native.probe import run_checks, unavailable


def main() -> int:
    """Print the checks; 0 when sandboxes can be made, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="probe", description="What this machine can do for sandboxes: each thing is tried for real."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--state-dir", type=Path, help="the gateway's folder (default: the one it would use)")
    options = parser.parse_args()
    try:
        folder: Path = options.state_dir or state_dir()
    except ConfigurationError as error:
        parser.error(str(error))
    checks = run_checks(folder.absolute())
    if options.json:
        print(json.dumps({"state_dir": str(folder), "checks": [check.as_dict() for check in checks]}))
    else:
        for check in checks:
            print(f"{check.name}: {check.state}: {check.detail}")
            if check.remedy:
                print(f"    {check.remedy}")
    return 1 if unavailable(checks) else 0


if __name__ == "__main__":
    sys.exit(main())
