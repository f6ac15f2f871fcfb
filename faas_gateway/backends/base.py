"""The contract between the managers and whatever makes sandboxes.

A backend is loaded by name (see `faas_gateway.backends.load`), builds environments and creates sandboxes. A sandbox
is Popen-shaped: it executes, is interrupted, ends, is waited for and closed. Nothing here knows HTTP; nothing in a
backend decides policy (which limits, how long, how much output): the managers do.

Deadlines: a backend never waits for a sandbox without one. Cancellation: every coroutine here may be cancelled at
any await; a cancelled `execute` leaves the request running, so callers interrupt first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Language = Literal["python", "shell"]


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use. None means no limit of that kind is asked for."""

    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    disk_inodes: int | None = None
    pids: int | None = None
    open_files: int | None = None
    cpu_time_s: float | None = None


@dataclass(frozen=True)
class PipLayer:
    """Packages installed by pip, wheels only, in a layer of their own."""

    packages: tuple[str, ...]


@dataclass(frozen=True)
class HostInterpreter:
    """A Python on this machine whose own packages an environment shows, read-only (environment `notebook`)."""

    executable: str
    prefix: str
    base_prefix: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """An environment as asked for: what `build` turns into an `Image`."""

    name: str
    language: Language
    base_image: str = "host"
    layers: tuple[PipLayer, ...] = ()
    preload: tuple[str, ...] = ()
    """Modules that the warm process has imported before any session is forked from it."""
    interpreter: HostInterpreter | None = None


@dataclass(frozen=True)
class Image:
    """A built environment: immutable, named by the digest of all that went into it."""

    recipe: Recipe
    version: str
    detail: Any = None
    """The backend's own: paths of layers, an image id, ..."""


@dataclass(frozen=True)
class ProgressReport:
    stage: str
    message: str = ""
    fraction: float | None = None


Report = Callable[[ProgressReport], None]


@dataclass(frozen=True)
class SandboxSpec:
    id: str
    image: Image
    limits: Limits
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    network: str = "none"
    """none, or full: outbound only, without the host's own and private addresses."""
    language: Language | None = None
    """Of the session; None for the image's. A Python image can hold a shell session, not the other way round."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do on this machine, said honestly."""

    name: str
    isolation: str
    available: bool
    problem: str = ""
    """Why not, when it is not available."""
    remedy: str = ""
    """The command or setting that mends it."""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loss:
    """Something of a session that a snapshot does not simply carry along."""

    kind: Literal["variable", "thread", "process", "connection", "file", "mapping", "library", "memory", "limit"]
    name: str
    reason: str
    effect: Literal["lost", "remade", "portable_only"] = "lost"
    """portable_only: while it is there, the session is not forked alive: it takes the portable way."""


@dataclass(frozen=True)
class Receipt:
    """What a fork re-made or lost: for a snapshot of its source, for a branch of the branch."""

    stopped_s: float | None = None
    """How long the source stood still, seconds; None for a branch."""
    reseeded: tuple[str, ...] = ()
    closed_connections: tuple[str, ...] = ()
    lost_threads: tuple[str, ...] = ()
    lost_processes: tuple[str, ...] = ()
    reopened_files: tuple[str, ...] = ()
    copied_files: tuple[str, ...] = ()
    """Open files without a name (deleted, or never named): each branch has a copy."""
    remapped: tuple[str, ...] = ()
    """Shared memory mappings: each branch has its own copy."""
    lost: tuple[Loss, ...] = ()
    paused_runtimes: tuple[str, ...] = ()
    isolation: str = ""
    """What parts the process from its relatives, in words."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchSpec:
    """One branch as asked for. Its id is the sandbox's."""

    id: str
    limits: Limits
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    """Set after the fork: not in any snapshot that the branch came from."""
    reseed: bool = False
    network: str = "none"
    """As in `SandboxSpec`."""


@dataclass(frozen=True)
class FrozenUsage:
    """What a live snapshot costs now."""

    memory_bytes: int = 0
    """Proportional set size: pages shared with branches are counted in parts."""
    disk_bytes: int = 0
    """Files of its own layer."""


@dataclass(frozen=True)
class CaptureReport:
    """What came of writing or reading variables in their portable form."""

    variables: tuple[str, ...] = ()
    excluded: tuple[Loss, ...] = ()
    size_bytes: int = 0


class CannotFork(Exception):
    """The session has something that cannot be forked safely; it goes on untouched. `losses` names it."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__("; ".join(f"{loss.name}: {loss.reason}" for loss in losses))
        self.losses = tuple(losses)


Layers = tuple[str, ...]
"""Names of frozen file layers in the backend's store, top first: the files of a snapshot above its image's."""


class Sink(Protocol):
    """Takes a request's output, in order. Calls return at once: the sink buffers or drops, it never blocks."""

    def stream(self, name: Literal["stdout", "stderr"], text: str) -> None: ...

    def message(self, msg: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        """A Jupyter message from the guest: msg_type, content, metadata. The guest is hostile: check before use."""
        ...


@dataclass(frozen=True)
class Reply:
    """The end of a request as the sandbox reports it."""

    status: Literal["ok", "error"]
    exit_code: int = 0
    execution_count: int | None = None
    ename: str = ""
    evalue: str = ""
    traceback: tuple[str, ...] = ()
    code: str = ""
    """Set when the cause is known below: exit_code, exception, pids, disk_full, ..."""
    hint: str = ""


@dataclass(frozen=True)
class Ended:
    """Why a sandbox is no more."""

    code: str
    """closed, oom, died, disk_full, cpu_time, killed, lost"""
    reason: str
    hint: str = ""


class SandboxEnded(Exception):
    """Raised by every method of a sandbox that ends, or has ended, underneath the call."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended


class BackendUnavailable(Exception):
    """This machine cannot make sandboxes of this kind. `remedy` says what lifts the restriction."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class BuildFailed(Exception):
    """A build step failed; `output` is the end of what it printed."""

    def __init__(self, step: str, output: str) -> None:
        super().__init__(f"build step failed: {step}")
        self.step = step
        self.output = output


class StartFailed(Exception):
    """A sandbox could not be made; the message names the call that failed."""


class NotTransferable(Exception):
    """A variable's value has no safe form to travel in, or the guest refused it."""


class UnknownVariable(Exception):
    """No variable of that name in the session."""


class LayerRefused(Exception):
    """A stream is not one of frozen files, would reach out of its folder, or is too large."""


class FileProblem(Exception):
    """A file operation inside a sandbox failed: `errno` and the path as the caller gave it."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True)
class CodeRequest:
    id: str
    code: str
    execution_count: int | None = None
    magic_line: str | None = None


@dataclass(frozen=True)
class CommandRequest:
    id: str
    argv: tuple[str, ...]
    stdin: bytes | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None


@dataclass(frozen=True)
class Usage:
    cpu_time_s: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True)
class FileEntry:
    path: str
    name: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    mtime: float


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
