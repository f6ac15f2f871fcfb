"""What a session is, in plain Python: variables, files, open files, a directory. A copy of it is `copy.deepcopy`.

It knows nothing of processes, layers or forms, but for what docs/fork.md names as weaker than in a single session.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trees_look import ROOTS, digest, variables


class Inapplicable(Exception):
    """The operation makes no sense in this state: another one is drawn."""


def need(condition: object) -> None:
    if not condition:
        raise Inapplicable


@dataclass(eq=False)
class File:
    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    mtime: int | None = None
    """None until it is seen: then it stays so until the next change."""
    fresh: bool = True
    """Written or changed since the last snapshot of its session, or made since then."""


@dataclass(eq=False)
class Folder:
    mode: int = 0o755


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Handle:
    """An open file. Mode r, w and a are text with a buffer; rb+ has none."""

    file: File
    mode: str
    position: int = 0
    buffer: str = ""
    """r: read ahead and not yet taken; w, a: written and not yet flushed."""
    closed: bool = False
    adrift: bool = False
    """Open for reading only when its file was first changed after a snapshot: it does not see the change."""


class Box:
    """As the class that the sessions have."""


@dataclass(eq=False)
class Running:
    """A generator that goes over a list and adds up: its source, where it is, and the sum."""

    source: list[Any]
    at: int = 0
    total: int = 0
    ended: bool = False


@dataclass(eq=False)
class Counter:
    """A closure over a number."""

    number: int


class Score:
    """A function of the session's that reads a global."""


@dataclass(eq=False)
class State:
    variables: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=lambda: {root: Folder() for root in ROOTS})
    directory: str = "/workspace"
    environ: dict[str, str] = field(default_factory=dict)
    random: random.Random = field(default_factory=random.Random)

    # Copies

    def copy(self) -> State:
        return copy.deepcopy(self)

    def frozen(self) -> None:
        """A snapshot was taken of it, or it came out of one."""
        for node in [*self.files.values(), *(handle.file for handle in self.handles())]:
            if isinstance(node, File):
                node.fresh = False
        for handle in self.handles():
            if self.is_linked(handle.file):
                handle.adrift = False
        for handle in self.handles():
            if handle.mode != "r" and self.is_linked(handle.file):
                handle.file.fresh = True

    def lost_in_portable(self) -> set[str]:
        """The variables that have no portable form."""
        return {name for name, value in self.variables.items() if self._cannot_travel(value)}

    def portable(self) -> State:
        """As it comes back out of its portable form."""
        state = self.copy()
        for name in self.lost_in_portable():
            del state.variables[name]
        for handle in state.handles():
            state.flush(handle)
            if handle.mode == "r":
                handle.position, handle.buffer = handle.position - len(handle.buffer), ""
        return state

    def _cannot_travel(self, value: Any, above: tuple[int, ...] = ()) -> bool:
        if isinstance(value, Handle):
            return not value.closed and not self.is_linked(value.file)
        if isinstance(value, Running) or id(value) in above:
            return isinstance(value, Running)
        return any(self._cannot_travel(child, (*above, id(value))) for child in children(value))

    # Files

    def handles(self) -> list[Handle]:
        return [v for v in self.variables.values() if isinstance(v, Handle) and not v.closed]

    def is_linked(self, file: File) -> bool:
        return any(node is file for node in self.files.values())

    def below(self, path: str) -> list[str]:
        return [other for other in self.files if other.startswith(f"{path}/")]

    def need_parent(self, path: str) -> None:
        need(isinstance(self.files.get(path.rpartition("/")[0]), Folder))

    def changed(self, file: File) -> None:
        """Its content, name or attributes change, or it is opened for writing."""
        if not file.fresh:
            for handle in self.handles():
                handle.adrift |= handle.file is file and handle.mode == "r"
        file.fresh = True

    def store(self, file: File, data: bytes, at: int) -> None:
        self.changed(file)
        file.data.extend(bytes(max(0, at - len(file.data))))
        file.data[at : at + len(data)] = data
        file.mtime = None

    def write(self, path: str, data: bytes, *, append: bool = False) -> None:
        """Into the file that is there, or a new one."""
        self.need_parent(path)
        file = self.files.setdefault(path, File())
        need(isinstance(file, File))
        if not append:
            self.truncate(file, 0)
        self.store(file, data, len(file.data))

    def truncate(self, file: File, size: int) -> None:
        self.changed(file)
        file.mtime = None
        del file.data[size:]

    def remove_tree(self, path: str) -> None:
        """A file, a link, or a folder with all that is in it; not where the session stands."""
        need(path in self.files and path not in ROOTS)
        need(not f"{self.directory}/".startswith(f"{path}/"))
        for other in [path, *self.below(path)]:
            del self.files[other]

    def move(self, path: str, to: str) -> None:
        """As rename(2) does within one file system."""
        node, there = self.files.get(path), self.files.get(to)
        need(node is not None and path not in ROOTS and to not in ROOTS and path != to)
        need(path.split("/")[1] == to.split("/")[1] and not to.startswith(f"{path}/"))
        self.need_parent(to)
        if isinstance(node, Folder):
            need(there is None or (isinstance(there, Folder) and not self.below(to)))
            inside = [path, *self.below(path)]
            need(not any(f"{self.directory}/".startswith(f"{p}/") for p in (path, to)))
            need(not any(handle.file is self.files[p] for handle in self.handles() for p in inside))
            self.files[to] = self.files.pop(path)
            for other in inside[1:]:
                self.files[to + other.removeprefix(path)] = self.files.pop(other)
            return
        need(not isinstance(there, Folder))
        if isinstance(node, File):
            self.changed(node)
        self.files[to] = self.files.pop(path)

    # Open files

    def flush(self, handle: Handle) -> None:
        if handle.mode in ("w", "a") and handle.buffer:
            self.store(handle.file, handle.buffer.encode(), self._end(handle))
            handle.position = self._end(handle) if handle.mode == "a" else handle.position + len(handle.buffer)
            handle.buffer = ""

    @staticmethod
    def _end(handle: Handle) -> int:
        return len(handle.file.data) if handle.mode == "a" else handle.position

    @staticmethod
    def read(handle: Handle, size: int) -> str:
        """As a TextIOWrapper or a FileIO of a small file does."""
        if handle.mode == "rb+":
            found = handle.file.data[handle.position : handle.position + size].decode()
            handle.position += len(found)
            return found
        while len(handle.buffer) < size:
            more = handle.file.data[handle.position :].decode()
            if not more:
                break
            handle.buffer += more
            handle.position += len(more)
        found, handle.buffer = handle.buffer[:size], handle.buffer[size:]
        return found

    # What it looks like

    def look(self) -> dict[str, Any]:
        """As `trees_look.session` says it of the session."""
        return {
            "variables": variables(self.variables, _special),
            "files": {p: _node(n) for p, n in self.files.items() if p not in ROOTS},
            "cwd": self.directory,
            "environ": self.environ,
            "random": digest(self.random),
        }

    def mutables_without_name(self) -> bool:
        """Whether variables share an object that has no name itself: a portable form gives each its own."""
        named = {id(value) for value in self.variables.values()}
        holders: dict[int, set[int]] = {}

        def walk(value: Any, top: int) -> None:
            if id(value) != top:
                if id(value) in named or top in holders.get(id(value), ()):
                    return
                if isinstance(value, (list, dict, Box)):
                    holders.setdefault(id(value), set()).add(top)
            for child in children(value):
                if id(child) != top:
                    walk(child, top)

        for value in {id(v): v for v in self.variables.values()}.values():
            walk(value, id(value))
        return any(len(tops) > 1 for tops in holders.values())


def children(value: Any) -> list[Any]:
    """What a variable's value holds."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, Box):
        return list(vars(value).values())
    if type(value) is type(iter([])):
        return list(value.__reduce__()[1])
    return []


def _node(node: Any) -> list[Any]:
    if isinstance(node, Link):
        return ["link", node.target]
    if isinstance(node, Folder):
        return ["folder", node.mode]
    return ["file", node.mode, node.data.decode("latin-1"), node.mtime]


def _special(value: Any, walk: Callable[[Any], Any]) -> list[Any]:
    if isinstance(value, Running):
        return ["generator", "ended"] if value.ended else ["generator", walk(value.source), value.at, value.total]
    if isinstance(value, Counter):
        return ["function", "bump", [value.number]]
    if isinstance(value, Score):
        return ["function", "score", []]
    assert isinstance(value, Handle)
    if value.closed:
        return ["file", value.mode, "closed"]
    position = value.position - (len(value.buffer) if value.mode == "r" else 0)
    return ["file", value.mode, position, None if value.adrift else value.file.data.decode("latin-1")]
