"""The contract between the managers and whatever makes sandboxes.

A backend is loaded by name (see `faas_gateway.backends.load`), builds environments and creates sandboxes. A sandbox
is Popen-shaped: it executes, is interrupted, ends, is waited for and closed. Nothing here knows HTTP; nothing in a
backend decides policy (which limits, how long, how much output): the managers do.

Deadlines: a backend never waits for a sandbox without one. Cancellation: every coroutine here may be cancelled at
any await; a cancelled `execute` leaves the request running, so callers interrupt first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from faas_gateway.backends.terms import (
    BackendUnavailable,
    BranchSpec,
    BuildFailed,
    CannotFork,
    Capabilities,
    CaptureReport,
    CodeRequest,
    CommandRequest,
    Ended,
    FileEntry,
    FileProblem,
    FrozenUsage,
    HostInterpreter,
    Image,
    Language,
    LayerRefused,
    Layers,
    Limits,
    Loss,
    NotTransferable,
    PipLayer,
    ProgressReport,
    Receipt,
    Recipe,
    Reply,
    Report,
    SandboxEnded,
    SandboxSpec,
    Sink,
    StartFailed,
    UnknownVariable,
    Usage,
)

__all__ = [
    "BackendUnavailable",
    "BranchSpec",
    "BuildFailed",
    "CannotFork",
    "Capabilities",
    "CaptureReport",
    "CodeRequest",
    "CommandRequest",
    "Ended",
    "FileEntry",
    "FileProblem",
    "FrozenSandbox",
    "FrozenUsage",
    "HostInterpreter",
    "Image",
    "Language",
    "LayerRefused",
    "Layers",
    "Limits",
    "Loss",
    "NotTransferable",
    "PipLayer",
    "ProgressReport",
    "Receipt",
    "Recipe",
    "Reply",
    "Report",
    "Sandbox",
    "SandboxBackend",
    "SandboxEnded",
    "SandboxSpec",
    "Sink",
    "StartFailed",
    "UnknownVariable",
    "Usage",
]


class Sandbox(ABC):
    """One running sandbox. All methods but `interrupt`, `kill` and `aclose` raise SandboxEnded once it is gone."""

    id: str
    enforcement: Mapping[str, str]
    degraded: Sequence[str]

    @abstractmethod
    async def execute(self, request: CodeRequest, sink: Sink) -> Reply:
        """Run code in the guest and return when it is done. One at a time: the caller queues."""

    @abstractmethod
    async def run(self, request: CommandRequest, sink: Sink) -> Reply:
        """Run a command beside the guest; several may run at once. Cancelling kills the command."""

    @abstractmethod
    async def interrupt(self) -> None:
        """Send SIGINT to the running request's process group; nothing happens when none runs."""

    @abstractmethod
    async def usage(self) -> Usage: ...

    @abstractmethod
    async def list_variables(self) -> list[dict[str, Any]]:
        """name, type, module, shape, dtype, size_bytes, preview. Waits for the guest to be idle: the caller queues."""

    @abstractmethod
    def pull_variable(self, name: str) -> AsyncIterator[bytes]:
        """The encoded value in chunks (see faas.values). Raises UnknownVariable or NotTransferable at the first one."""

    @abstractmethod
    async def push_variable(self, name: str, chunks: AsyncIterator[bytes]) -> None: ...

    @abstractmethod
    async def list_files(self, path: str) -> list[FileEntry]: ...

    @abstractmethod
    async def stat_file(self, path: str) -> FileEntry: ...

    @abstractmethod
    def read_file(self, path: str) -> AsyncIterator[bytes]:
        """The bytes of a regular file, or a folder as a tar stream. Raises FileProblem."""

    @abstractmethod
    async def write_file(self, path: str, chunks: AsyncIterator[bytes], *, untar: bool = False) -> None:
        """Write a file (its folders are made), or with untar unpack a tar stream into the folder at path."""

    @abstractmethod
    async def delete_file(self, path: str) -> None:
        """Delete a file, or a folder and all that is in it."""

    # ---- snapshots: the caller makes sure that no request runs, and that no other comes meanwhile

    @abstractmethod
    async def check_fork(self) -> list[Loss]:
        """What would not survive a snapshot as it is."""

    @abstractmethod
    async def freeze(self, frozen_id: str) -> tuple[FrozenSandbox, Sandbox]:
        """Turn this sandbox into a dormant one, and go on in a new one.

        Returns the frozen one, named frozen_id, and the sandbox in which the session goes on, with our id and limits.
        This handle is of no more use then; it need not be closed. Raises CannotFork and StartFailed: then nothing has
        changed, and this sandbox goes on.
        """

    @abstractmethod
    async def copy_files(self, frozen_id: str) -> Layers:
        """Freeze the files alone, by copying what was written; the sandbox goes on. Raises StartFailed."""

    @abstractmethod
    async def capture_variables(self, fd: int) -> CaptureReport:
        """Write the variables to a file, in their portable form. The descriptor stays the caller's."""

    @abstractmethod
    async def restore_variables(self, fd: int) -> CaptureReport:
        """Read what `capture_variables` wrote into the session; `excluded` names what could not be read."""

    @abstractmethod
    async def fingerprints(self) -> list[dict[str, Any]]:
        """As `list_variables`, each with `digest`: a hash of its value, or empty where it has none."""

    @abstractmethod
    async def reseed(self) -> None:
        """Give every random generator of the session a state of its own."""

    @abstractmethod
    async def wait(self) -> Ended:
        """Return when the sandbox is gone, however that came about."""

    @abstractmethod
    async def kill(self, ended: Ended) -> None:
        """End every process in it at once; `ended` is what `wait` and pending calls then report."""

    @abstractmethod
    async def aclose(self) -> None:
        """Kill what runs and give back all that it held. Idempotent."""


class FrozenSandbox(ABC):
    """A live snapshot: a dormant process with its memory and files, from which branches are forked at any time."""

    id: str
    receipt: Receipt
    layers: Layers
    """Its files, its own layer first. In the store until `SandboxBackend.drop_layers`, once `keep` was called."""

    @abstractmethod
    async def branch(self, specs: Sequence[BranchSpec]) -> list[tuple[Sandbox, Receipt] | Exception]:
        """Fork branches, in parallel. One result for each, in order: as many as can be made are made."""

    @abstractmethod
    async def usage(self) -> FrozenUsage: ...

    @abstractmethod
    async def keep(self) -> None:
        """Make the files outlast this process and the gateway. Idempotent."""

    @abstractmethod
    async def wait(self) -> Ended:
        """Return when the dormant process is gone."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the dormant process; branches go on. Files that were not kept go with the last that needs them."""


class SandboxBackend(ABC):
    """Makes sandboxes. Async context manager: leaving it ends every sandbox it made."""

    name: str

    @abstractmethod
    async def __aenter__(self) -> SandboxBackend: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None: ...

    @abstractmethod
    async def probe(self) -> Capabilities: ...

    @abstractmethod
    def version_of(self, recipe: Recipe) -> str:
        """The digest that `build` would give, without building."""

    @abstractmethod
    def is_built(self, recipe: Recipe) -> bool: ...

    @abstractmethod
    async def build(self, recipe: Recipe, report: Report) -> Image:
        """Make what is missing of an environment. The same recipe is never built twice, also by two at once."""

    @abstractmethod
    async def warm(self, image: Image, report: Report) -> None:
        """Start the preloaded process of a version, if it is not there. Raises BackendUnavailable, StartFailed."""

    @abstractmethod
    def is_warm(self, image: Image) -> bool: ...

    @abstractmethod
    async def cool(self, image: Image) -> None:
        """End the preloaded process of a version; its sessions go on. Idempotent."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A new sandbox, forked from the warm process (which is started if it is not there)."""

    # ---- snapshots --------------------------------------------------------------------------------------
    @abstractmethod
    async def restore(self, spec: SandboxSpec, layers: Layers) -> Sandbox:
        """A new sandbox with files on top of its image's; variables are the caller's to restore."""

    @abstractmethod
    def has_layers(self, layers: Layers) -> bool:
        """Whether all of these kept layers are there."""

    @abstractmethod
    def layer_bytes(self, layer: str) -> int:
        """What a kept layer takes on disk."""

    @abstractmethod
    async def drop_layers(self, layers: Sequence[str]) -> None:
        """Remove kept layers that no snapshot needs any more; those that a sandbox still uses go with it."""

    @abstractmethod
    async def sweep_layers(self, needed: Sequence[str]) -> None:
        """At the start: remove every kept layer that is not needed."""

    @abstractmethod
    async def export_layers(self, layers: Layers, fd: int) -> None:
        """Write layers as one tar stream, merged, with whiteouts as in OCI image layers."""

    @abstractmethod
    async def import_layer(self, layer: str, fd: int) -> Layers:
        """Make a kept layer of such a stream. The stream is hostile: raises LayerRefused, and OSError."""

    @abstractmethod
    async def list_layer_files(self, layers: Layers) -> dict[str, tuple[str, int, float]]:
        """Path to (type, size, mtime) of all that the layers change; type `deleted` for what they hide."""
