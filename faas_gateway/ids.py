"""Ids of executions, requests and snapshots: random, and told apart from names by their beginning."""

from __future__ import annotations

import base64
import re
import secrets

EXECUTION_ID = re.compile(r"^exec_[a-z2-7]{20}$")
SNAPSHOT_ID = re.compile(r"^snap_[a-z2-7]{20}$")


def _random() -> str:
    # 100 bits: never guessed, never twice
    return base64.b32encode(secrets.token_bytes(13)).decode("ascii").lower()[:20]


def new_execution_id() -> str:
    return f"exec_{_random()}"


def new_request_id() -> str:
    return f"req_{_random()}"


def new_snapshot_id() -> str:
    return f"snap_{_random()}"


def new_sandbox_id() -> str:
    """For a sandbox that is not named by its execution: it takes the place of another, or belongs to none."""
    return f"box_{_random()}"
