"""`%faas`: what the sessions of this notebook are, may use and do use, as text and as a table."""

from __future__ import annotations

import datetime as dt
import html
from typing import TYPE_CHECKING, Any

from faas_magics.interrupts import Interrupts

if TYPE_CHECKING:
    from faas.types import ExecutionInfo

    from faas_magics.sessions import Session, Sessions

__all__ = ["show_sessions"]

_WARN = "⚠ "
_GONE = "its variables and files are gone"
#: Field of Resources, name, unit; the order of the table.
_LIMITS = (
    ("memory_mb", "memory", " MB"),
    ("cpus", "CPU cores", ""),
    ("disk_mb", "disk", " MB"),
    ("pids", "processes", ""),
    ("open_files", "open files", ""),
    ("cpu_time_s", "CPU time", " s"),
    ("timeout_s", "time per cell", " s"),
    ("output_mb", "output per cell", " MB"),
)
_NO_SESSION = """No session in this notebook yet. Start one with a cell whose first line is

    %%faas --env python-ai

Its other lines then run in a sandbox. `%%faas?` lists the options."""

Row = tuple[str, list[str]]


def show_sessions(shell: Any, sessions: Sessions, interrupts: Interrupts) -> None:
    """Ask how the sessions are, and display them. Nothing is started when there is none."""
    known = sessions.known()
    if not known:
        print(_NO_SESSION)
        return
    tables = [(_title(session), _rows(session, interrupts)) for session in known]
    shell.display_pub.publish(
        {
            "text/plain": "\n\n".join(_text(title, rows) for title, rows in tables),
            "text/html": "".join(_html(title, rows) for title, rows in tables),
        },
        {},
    )


def _title(session: Session) -> str:
    whose = "private to this notebook" if session.private else "shared by name"
    return f"session '{session.name}' ({whose})"


def _rows(session: Session, interrupts: Interrupts) -> list[Row]:
    from faas.errors import FaaSError

    problem = ""
    if not session.ended:
        try:
            interrupts.wait(session.examine)
        except FaaSError as exc:
            session.doubtful = True
            problem = str(exc)
    info = session.execution.info
    base = f"on {info.base_image}" if info.base_image else ""
    if problem:
        status = [f"{_WARN}not known: {problem}"]
    elif session.ended:
        status = [f"{_WARN}ended: it {session.ended}", f"{_GONE}; the next cell starts a new one"]
    else:
        status = [f"{info.status}, open for {_age(info.created_at)}, {_count(info.usage.requests, 'cell')} run"]
    rows: list[Row] = [
        ("environment", [" ".join(x for x in (info.environment, base) if x), *info.notes]),
        ("status", status),
    ]
    if not session.ended and not problem:
        rows.append(("in use", [_usage(info)]))
    rows.append(("limits", _limits(info)))
    if info.isolation:
        rows.append(("isolation", [info.isolation]))
    if info.degraded:
        rows.append(("degraded", [_WARN + line for line in info.degraded]))
    rows.append(("id", [info.id]))
    return rows


def _usage(info: ExecutionInfo) -> str:
    usage = info.usage
    return (
        f"memory {_megabytes(usage.memory_bytes)}, CPU {usage.cpu_time_s:.1f} s, "
        f"disk {_megabytes(usage.disk_bytes)}, {_count(usage.processes, 'process', 'processes')}"
    )


def _limits(info: ExecutionInfo) -> list[str]:
    lines: list[str] = []
    for field, name, unit in _LIMITS:
        value = getattr(info.resources, field)
        if value is None:
            continue
        how = info.enforcement.get(field) or info.enforcement.get(field.rpartition("_")[0], "")
        warn = _WARN if how == "none" else ""
        how = {"": "", "none": " (not enforced here)"}.get(how, f" ({how})")
        lines.append(f"{warn}{name} {value:g}{unit}{how}")
    return lines or ["none"]


def _age(since: dt.datetime) -> str:
    if since.tzinfo is None:
        since = since.replace(tzinfo=dt.UTC)
    seconds = max(0, int((dt.datetime.now(dt.UTC) - since).total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _text(title: str, rows: list[Row]) -> str:
    lines = [title]
    for name, values in rows:
        for index, value in enumerate(values):
            lines.append(f"  {name if index == 0 else '':<12} {value}")
    return "\n".join(lines)


def _html(title: str, rows: list[Row]) -> str:
    # Colours are inherited and the lines are translucent grey, so it reads in light and dark themes.
    cell = "text-align: left; vertical-align: top; padding: 3px 12px 3px 0; background: none"
    line = "border-top: 1px solid rgba(128, 128, 128, 0.3); background: none"
    caption = "text-align: left; caption-side: top; padding: 0 0 4px 0; font-weight: 600; color: inherit"
    body = "".join(
        f'<tr style="{line}"><th style="{cell}; font-weight: 600; opacity: 0.75">{html.escape(name)}</th>'
        f'<td style="{cell}">{"<br>".join(html.escape(value) for value in values)}</td></tr>'
        for name, values in rows
    )
    return (
        '<table style="border-collapse: collapse; margin: 4px 0 12px 0; color: inherit">'
        f'<caption style="{caption}">{html.escape(title)}</caption><tbody>{body}</tbody></table>'
    )
