"""The union of frozen layers, top first, as overlayfs would show it; they lie above an image that is not looked at."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from faas_gateway.backends.native.kept import folders
from faas_gateway.backends.native.kept.folders import Parts, Tree
from faas_gateway.backends.native.kept.terms import DEPTH_LIMIT, Skipped

Kind = Literal["file", "directory", "symlink", "deleted", "other"]

_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


@dataclass(frozen=True)
class Merged:
    """One entry of the union."""

    parts: Parts
    layer: int
    """Index of the layer that it is from; of a folder, the topmost that has it."""
    st: os.stat_result
    kind: Kind
    """deleted: whatever an image has at this place is hidden."""
    opaque: bool = False
    """Of a folder: what an image has in it is hidden."""

    @property
    def path(self) -> str:
        return "/" + "/".join(self.parts)


@dataclass
class _Seen:
    layer: int
    st: os.stat_result
    whiteout: bool


def merged(roots: Sequence[Tree], skipped: list[Skipped] | None = None) -> Iterator[Merged]:
    """All entries below the roots, top first: a folder before what is in it, each folder's by name."""
    waiting: list[tuple[Parts, list[int]]] = [((), list(range(len(roots))))]
    while waiting:
        parts, layers = waiting.pop()
        below: list[tuple[Parts, list[int]]] = []
        for name, stack in sorted(_table(roots, parts, layers).items()):
            top = stack[0]
            place = (*parts, name)
            if top.whiteout:
                yield Merged(place, top.layer, top.st, "deleted")
            elif not stat.S_ISDIR(top.st.st_mode):
                yield Merged(place, top.layer, top.st, _KINDS.get(stat.S_IFMT(top.st.st_mode), "other"))
            else:
                shown, opaque = _folder(roots, place, stack)
                yield Merged(place, top.layer, top.st, "directory", opaque)
                if len(place) < DEPTH_LIMIT:
                    below.append((place, shown))
                elif skipped is not None:
                    skipped.append(Skipped("/" + "/".join(place), f"deeper than {DEPTH_LIMIT} folders"))
        waiting.extend(reversed(below))


def _table(roots: Sequence[Tree], parts: Parts, layers: list[int]) -> dict[str, list[_Seen]]:
    """By name, what each of the layers has in a folder that they share, top first."""
    table: dict[str, list[_Seen]] = {}
    for layer in layers:
        with roots[layer].at(parts) as fd:
            for name, st in folders.entries(fd):
                table.setdefault(name, []).append(_Seen(layer, st, folders.is_whiteout(name, st, fd)))
    return table


def _folder(roots: Sequence[Tree], place: Parts, stack: list[_Seen]) -> tuple[list[int], bool]:
    """The layers whose folder shows through at a place, and whether an image's would not."""
    shown: list[int] = []
    for seen in stack:
        if seen.whiteout or not stat.S_ISDIR(seen.st.st_mode):
            return shown, True
        shown.append(seen.layer)
        with roots[seen.layer].at(place) as fd:
            if folders.is_opaque(fd):
                return shown, True
    return shown, False
