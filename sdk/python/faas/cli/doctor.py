"""`faas doctor`: what this machine can do for sandboxes, and the commands that mend the rest."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PROBE = "faas_gateway.backends.native.probe"
PROBE_DEADLINE_S = 30.0
STYLES = {"ok": "green", "degraded": "yellow", "missing": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and how to get what is missing.

    Each thing is tried for real. The exit code is 0 when sandboxes work, and 1 when they cannot be made.
    """
    report = _probe()
    checks: list[dict[str, Any]] = report["checks"]
    works = all(check["ok"] for check in checks)
    if as_json:
        click.echo(json.dumps({**report, "ok": works, "verdict": verdict(checks)}, indent=2))
    else:
        _show(checks)
    sys.exit(0 if works else 1)


def verdict(checks: list[dict[str, Any]]) -> str:
    """The findings in one sentence."""
    broken = next((check for check in checks if not check["ok"]), None)
    if broken is not None:
        return f"Sandboxes cannot be made on this machine: {broken['name']}: {broken['detail']}"
    degraded = [check["name"] for check in checks if check["state"] == "degraded"]
    weak = [name for name in degraded if name.endswith(" limit")]
    other = [name for name in degraded if name not in weak]
    said = "Sandboxes work on this machine"
    if weak:
        number = "1 limit" if len(weak) == 1 else f"{len(weak)} limits"
        said += f", with {number} enforced less firmly: {', '.join(weak)}"
    if other:
        said += f"{';' if weak else ','} degraded: {', '.join(other)}"
    return said + "."


def _probe() -> dict[str, Any]:
    """The probe's report. It is a process of this interpreter: a client imports nothing of the gateway."""
    import importlib.util
    import subprocess

    if importlib.util.find_spec("faas_gateway") is None:
        raise click.ClickException(
            f"The gateway (faas_gateway) is not installed for {sys.executable}: no sandboxes here.\n"
            f"Install it: {sys.executable} -m pip install faas-notebooks"
        )
    try:
        # -P: a folder of that name where the user happens to be is not the gateway
        done = subprocess.run(
            [sys.executable, "-P", "-m", PROBE, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"The probe gave no answer within {PROBE_DEADLINE_S:g} seconds.") from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.decode(errors="replace").strip() or f"it ended with {done.returncode}"
        raise click.ClickException(f"The probe failed: {said}") from error


def _show(checks: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what it means", overflow="fold", ratio=1)
    for check in checks:
        state = Text(check["state"], style=STYLES[check["state"]])
        table.add_row(check["name"], state, Text(check["detail"]))
    console.print(table)
    _show_remedies(console, checks)
    console.print()
    console.print(verdict(checks), style="bold", markup=False, soft_wrap=True)


def _show_remedies(console: Console, checks: list[dict[str, Any]]) -> None:
    """Each remedy once, on a line that is never wrapped: a command is there to be copied."""
    cures: dict[str, list[str]] = {}
    for check in checks:
        if check["remedy"]:
            cures.setdefault(check["remedy"], []).append(check["name"])
    for remedy, names in cures.items():
        console.print()
        console.print(f"To mend {', '.join(names)}:", markup=False)
        console.print(f"    {remedy}", soft_wrap=True, markup=False, style="cyan")


def _console() -> Console:
    import os

    from rich.console import Console

    # NO_COLOR asks rich to drop colours only; plain means no bold and no links either (no-color.org)
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(highlight=False, force_terminal=False if plain else None)
