"""`python -m faas_gateway --embedded`: how clients start the gateway of their user."""

from __future__ import annotations

import argparse
import sys

from faas_gateway import backends
from faas_gateway.server import serve_embedded


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faas_gateway", description=__doc__, allow_abbrev=False)
    parser.add_argument("--embedded", action="store_true", required=True, help="serve this user on a Unix socket")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write `ready` or `error REASON` to this descriptor")
    parser.add_argument(
        "--idle-timeout",
        type=_seconds,
        default=900.0,
        metavar="S",
        help="end after so many seconds without an execution or a request (default: %(default)g)",
    )
    options = parser.parse_args(argv)
    return serve_embedded(backends.load("native"), ready_fd=options.ready_fd, idle_timeout_s=options.idle_timeout)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
