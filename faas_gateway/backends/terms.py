"""The words of the contract in base.py: what is asked of a backend, what it answers, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
