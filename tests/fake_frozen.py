"""Live snapshots and frozen files of the fake backend: copies of a state, and what a state's files add to layers below."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
from fake_files import Node
from fake_sandbox import FakeSandbox, Faults, State

from faas_gateway.backends.base import (
    BranchSpec,
    Ended,
    FrozenSandbox,
    FrozenUsage,
    LayerRefused,
    Layers,
    Loss,
    Receipt,
    Sandbox,
    SandboxEnded,
    SandboxSpec,
    StartFailed,
)

WHITEOUT = ".wh."


@dataclass
class Layer:
    """Path to what a layer has there; None for what it hides."""

    nodes: dict[str, Node | None]
    kept: bool = False


@dataclass
class Home:
    """What sandboxes, frozen ones and layers of one fake backend share."""

    folder: Path
    faults: Faults
    open: dict[str, FakeSandbox] = field(default_factory=dict)
    frozen: dict[str, FakeFrozen] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)

    def freeze(self, frozen_id: str, spec: SandboxSpec, state: State) -> FakeFrozen:
        layers = self._add_layer(frozen_id, state, kept=False)
        frozen = FakeFrozen(frozen_id, spec, self, replace(state.copy(), layers=layers))
        assert frozen_id not in self.frozen
        self.frozen[frozen_id] = frozen
        return frozen

    def copy_files(self, frozen_id: str, state: State) -> Layers:
        if self.faults.disk_full:
            raise StartFailed("the files could not be copied: No space left on device")
        return self._add_layer(frozen_id, state, kept=True)

    def files_of(self, layers: Layers) -> dict[str, Node]:
        """What a sandbox with these layers sees."""
        seen: dict[str, Node] = {"/workspace": Node()}
        for name in reversed(layers):
            for path, node in self._load(name).nodes.items():
                if node is None:
                    seen.pop(path, None)
                else:
                    seen[path] = Node(node.data, node.mtime)
        return seen

    def changes(self, layers: Layers) -> dict[str, Node | None]:
        """All of them in one, with what is hidden."""
        merged: dict[str, Node | None] = {}
        for name in reversed(layers):
            merged.update(self._load(name).nodes)
        return merged

    def keep(self, layers: Layers) -> None:
        if self.faults.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name in layers:
            layer = self.layers[name]
            layer.kept = True
            nodes = {path: None if node is None else _encode(node) for path, node in layer.nodes.items()}
            self._path(name).parent.mkdir(parents=True, exist_ok=True)
            self._path(name).write_text(json.dumps(nodes))

    def has(self, name: str) -> bool:
        return (name in self.layers and self.layers[name].kept) or self._path(name).exists()

    def drop(self, name: str) -> None:
        if name in self.layers:
            self.layers[name].kept = False
            self.forget_unkept(name)
        self._path(name).unlink(missing_ok=True)

    def kept_names(self) -> list[str]:
        return [path.stem for path in self.folder.glob("*.json")]

    def add(self, name: str, nodes: dict[str, Node | None]) -> None:
        self.layers[name] = Layer(nodes)
        self.keep((name,))

    def forget_unkept(self, name: str) -> None:
        """Files that were not kept go with the last that needs them."""
        users = [f.layers for f in self.frozen.values()] + [s.state.layers for s in self.open.values()]
        if name in self.layers and not self.layers[name].kept and not any(name in layers for layers in users):
            del self.layers[name]

    def _add_layer(self, name: str, state: State, *, kept: bool) -> Layers:
        below = self.files_of(state.layers)
        nodes: dict[str, Node | None] = {path: None for path in below if path not in state.files}
        for path, node in state.files.items():
            old = below.get(path)
            if old is None or (old.data, old.mtime) != (node.data, node.mtime):
                nodes[path] = Node(node.data, node.mtime)
        self.layers[name] = Layer(nodes)
        layers = (name, *state.layers)
        if kept:
            self.keep(layers)
        return layers

    def _load(self, name: str) -> Layer:
        if name not in self.layers:
            nodes = json.loads(self._path(name).read_text())
            decoded = {path: None if node is None else _decode(node) for path, node in nodes.items()}
            self.layers[name] = Layer(decoded, kept=True)
        return self.layers[name]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class FakeFrozen(FrozenSandbox):
    def __init__(self, frozen_id: str, spec: SandboxSpec, home: Home, state: State) -> None:
        self.id = frozen_id
        self.spec = spec
        self.state = state
        self.layers = state.layers
        self.receipt = Receipt(
            stopped_s=0.001,
            reseeded=("ssl",),
            lost=(Loss("thread", "helper", "threads do not come along"),),
            isolation="copies of a dict",
        )
        self._home = home
        self._ended: Ended | None = None
        self._end_event = anyio.Event()

    async def branch(self, specs: Sequence[BranchSpec]) -> list[tuple[Sandbox, Receipt] | Exception]:
        faults = self._home.faults
        if faults.branch_s:
            await anyio.sleep(faults.branch_s)
        if self._ended is not None:
            raise SandboxEnded(self._ended)
        made: list[tuple[Sandbox, Receipt] | Exception] = []
        for index, spec in enumerate(specs):
            if faults.branches_fit is not None and index >= faults.branches_fit:
                made.append(StartFailed("there is no memory for another branch"))
                continue
            assert spec.id not in self._home.open, "the id of a sandbox is taken"
            state = self.state.copy()
            state.env.update(spec.env_vars)
            sandbox = FakeSandbox(
                replace(self.spec, id=spec.id, limits=spec.limits, env_vars=spec.env_vars, network=spec.network),
                self._home,
                state,
            )
            sandbox.reseeded = spec.reseed
            self._home.open[spec.id] = sandbox
            made.append((sandbox, Receipt(reseeded=("ssl",), notes=("copied",))))
        return made

    async def usage(self) -> FrozenUsage:
        return FrozenUsage(self._home.faults.frozen_memory, 4096)

    async def keep(self) -> None:
        self._home.keep(self.layers)

    async def wait(self) -> Ended:
        await self._end_event.wait()
        assert self._ended is not None
        return self._ended

    def die(self, reason: str) -> None:
        """As when something kills the dormant process."""
        self._end(Ended("died", reason))

    async def aclose(self) -> None:
        self._end(Ended("closed", "closed"))
        if self._home.frozen.pop(self.id, None) is not None:
            for name in self.layers:
                self._home.forget_unkept(name)

    def _end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
            self._end_event.set()


def to_tar(nodes: Mapping[str, Node | None]) -> bytes:
    """A layer as a tar stream, with whiteouts as in OCI image layers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, node in sorted(nodes.items()):
            folder, _, name = path.strip("/").rpartition("/")
            member = tarfile.TarInfo(f"{folder}/{WHITEOUT}{name}" if node is None else path.strip("/"))
            data = node.data if node is not None else b""
            if data is None:
                member.type = tarfile.DIRTYPE
            member.size, member.mtime = len(data or b""), 0 if node is None else node.mtime
            archive.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


def from_tar(data: bytes) -> dict[str, Node | None]:
    nodes: dict[str, Node | None] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if name.startswith(WHITEOUT):
                    nodes[f"/{folder}/{name.removeprefix(WHITEOUT)}"] = None
                    continue
                source = archive.extractfile(member)
                content = None if source is None else source.read()
                nodes["/" + member.name] = Node(content, float(member.mtime))
    except tarfile.TarError as exc:
        raise LayerRefused(f"the layer cannot be read: {exc}") from exc
    return nodes


def _encode(node: Node) -> list[object]:
    return [None if node.data is None else base64.b64encode(node.data).decode(), node.mtime]


def _decode(node: list[object]) -> Node:
    data, mtime = node
    assert isinstance(mtime, float)
    return Node(None if data is None else base64.b64decode(str(data)), mtime)
