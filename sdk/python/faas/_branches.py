"""What branches are to have, and snapshots as a tree. No I/O but a look at a path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from faas._plain import split_variables
from faas.errors import invalid
from faas.types import BranchRequest, Snapshot

__all__ = ["SnapshotNode", "branch_fields", "build_tree", "export_path"]

_Snapshot = TypeVar("_Snapshot", bound=Snapshot)
EXPORT_SUFFIX = ".faas-snapshot"


def branch_fields(
    branches: int | Sequence[BranchRequest | Mapping[str, Any]] | None,
    variables: Sequence[Mapping[str, object]] | None = None,
    names: Sequence[str] | None = None,
    labels: Sequence[Mapping[str, str]] | None = None,
    env_vars: Sequence[Mapping[str, str]] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, object]]]:
    """What to send for each branch, and the variables that are to be pushed to each afterwards.

    Raises:
        InvalidRequestError: lists of different lengths, or nothing that says how many branches there are to be.
    """
    lists = {"variables": variables, "name": names, "labels": labels, "env_vars": env_vars}
    given: dict[str, Sequence[Any]] = {key: value for key, value in lists.items() if value is not None}
    fields: list[dict[str, Any]]
    if branches is None or isinstance(branches, int):
        lengths = {len(value) for value in given.values()} | ({branches} if branches is not None else set[int]())
        if not lengths:
            raise invalid("It is not said how many branches there are to be", hint="give variables=[{...}, ...]")
        if len(lengths) > 1:
            raise invalid(f"The lists for the branches have different lengths: {sorted(lengths)}")
        fields = [{key: value[index] for key, value in given.items()} for index in range(max(lengths.pop(), 0))]
    elif given:
        raise invalid(f"branches is a list already; {', '.join(given)} belong into it")
    else:
        fields = [_as_dict(branch) for branch in branches]
    if not fields:
        raise invalid("branches: there has to be one at least")
    split = split_variables([item.get("variables") or {} for item in fields])
    sent = [{**item, "variables": plain} for item, (plain, _) in zip(fields, split, strict=True)]
    return sent, [others for _, others in split]


def _as_dict(branch: BranchRequest | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(branch, BranchRequest):
        # Not model_dump, which would copy the values that are meant for the branch, or fail on them.
        return {name: getattr(branch, name) for name in branch.model_fields_set}
    return dict(branch)


@dataclass
class SnapshotNode(Generic[_Snapshot]):
    """A snapshot and those that were taken in executions which came from it."""

    snapshot: _Snapshot
    children: list[SnapshotNode[_Snapshot]] = field(default_factory=list["SnapshotNode[_Snapshot]"])


def build_tree(snapshots: Sequence[_Snapshot]) -> list[SnapshotNode[_Snapshot]]:
    """The roots, oldest first. A snapshot whose parent is not among them is a root."""
    ordered = sorted(snapshots, key=lambda snapshot: (snapshot.created_at, snapshot.id))
    nodes = {snapshot.id: SnapshotNode(snapshot) for snapshot in ordered}
    roots: list[SnapshotNode[_Snapshot]] = []
    for node in nodes.values():
        parent = nodes.get(node.snapshot.parent_id or "")
        (roots if parent is None else parent.children).append(node)
    return roots


def export_path(path: str | os.PathLike[str], name: str) -> Path:
    """The file to write: a folder gets one named after the snapshot."""
    target = Path(path)
    return target / f"{name}{EXPORT_SUFFIX}" if target.is_dir() else target
