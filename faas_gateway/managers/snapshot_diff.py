"""What differs between two snapshots: variables by their digests, files by type, size and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from faas.types import Diff, DiffEntry, VariableInfo
from pydantic import ValidationError

from faas_gateway.backends.base import SandboxBackend
from faas_gateway.errors import DeadlineError, StorageUnavailableError
from faas_gateway.managers.access import MAX_VARIABLES
from faas_gateway.managers.messages import MalformedError, clean, clean_text
from faas_gateway.managers.snapshot_portable import failure_reason
from faas_gateway.managers.snapshot_sandboxes import SnapshotSandboxes
from faas_gateway.managers.snapshot_state import HeldSnapshot
from faas_gateway.settings import Settings

MAX_ENTRIES = 10_000
MAX_TOLD = 10
PREVIEW_CHARS = 200

Files = Mapping[str, tuple[str, int, float]]


@dataclass(frozen=True)
class _Variable:
    digest: str
    text: str


async def diff(
    sandboxes: SnapshotSandboxes,
    backend: SandboxBackend,
    settings: Settings,
    before: HeldSnapshot,
    after: HeldSnapshot,
) -> Diff:
    """The way from one snapshot to another.

    Raises:
        SnapshotGoneError, StartFailed: a hidden sandbox to look into one could not be made.
        DeadlineError
    """
    variables: dict[str, dict[str, _Variable]] = {}
    files: dict[str, Files] = {}
    notes: list[str] = []

    async def look(held: HeldSnapshot) -> None:
        if held.frozen is not None:
            await held.frozen.keep()  # they can be looked at only where they outlast their sandbox
        files[held.id] = await backend.list_layer_files(held.layers)
        if held.language != "shell":
            async with sandboxes.hidden(held) as sandbox:
                variables[held.id] = _variables(await sandbox.fingerprints())

    try:
        with anyio.move_on_after(settings.capture_deadline_s) as scope:
            for held in (before,) if before is after else (before, after):
                await look(held)  # one after the other: each may take as much memory as its session
    except OSError as exc:
        raise StorageUnavailableError(f"The snapshots cannot be read: {failure_reason(exc)}.") from exc
    if scope.cancelled_caught:
        raise DeadlineError(f"Looking into the snapshots took longer than {settings.capture_deadline_s:g} s.")
    changed = compare_variables(variables.get(before.id, {}), variables.get(after.id, {}), notes)
    moved = compare_files(files[before.id], files[after.id])
    for what, entries in (("variables", changed), ("files", moved)):
        if len(entries) > MAX_ENTRIES:
            notes.append(f"{len(entries)} {what} differ; the first {MAX_ENTRIES} are listed")
    return Diff(variables=changed[:MAX_ENTRIES], files=moved[:MAX_ENTRIES], notes=notes)


def compare_variables(
    before: Mapping[str, _Variable], after: Mapping[str, _Variable], notes: list[str]
) -> list[DiffEntry]:
    """By digest; by what a variable inspector shows, where one has none, which a note then says."""
    entries: list[DiffEntry] = []
    unsure: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            entries.append(_entry(name, None if old is None else old.text, None if new is None else new.text))
            continue
        if old.digest and new.digest:
            same = old.digest == new.digest
        else:
            same = old.text == new.text
            if same:
                unsure.append(name)
        if not same:
            entries.append(_entry(name, old.text, new.text))
    if unsure:
        told = ", ".join(unsure[:MAX_TOLD]) + (f" and {len(unsure) - MAX_TOLD} more" if len(unsure) > MAX_TOLD else "")
        notes.append(f"compared by type and preview only, since their values cannot be read whole: {told}")
    return entries


def compare_files(before: Files, after: Files) -> list[DiffEntry]:
    """Folders count as changed only when they come or go: their times change with what is in them."""
    entries: list[DiffEntry] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new or (old is not None and new is not None and old[0] == new[0] == "directory"):
            continue
        entries.append(_entry(clean_text(path), _file_text(old), _file_text(new)))
    return [e for e in entries if e.before or e.after]


def _entry(name: str, before: str | None, after: str | None) -> DiffEntry:
    if before is None:
        return DiffEntry(name=name, change="added", after=after or "")
    if after is None:
        return DiffEntry(name=name, change="removed", before=before)
    return DiffEntry(name=name, change="changed", before=before, after=after)


def _file_text(file: tuple[str, int, float] | None) -> str | None:
    if file is None or file[0] == "deleted":
        return None
    return f"{file[0]}, {file[1]} bytes" if file[0] == "file" else file[0]


def _variables(items: list[dict[str, Any]]) -> dict[str, _Variable]:
    found: dict[str, _Variable] = {}
    for item in items[:MAX_VARIABLES]:
        try:
            info = VariableInfo.model_validate(clean(item))
        except (MalformedError, ValidationError):
            continue  # the guest is hostile: what is not a variable is not compared
        shape = "" if info.shape is None else f" {tuple(info.shape)}"
        text = f"{info.type}{shape}: {info.preview[:PREVIEW_CHARS]}"
        digest = item.get("digest")
        found[info.name] = _Variable(digest if isinstance(digest, str) else "", text)
    return found
