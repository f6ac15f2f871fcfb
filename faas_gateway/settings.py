"""What can be set about a gateway, in one place, with the reason for each default."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


def _starts_at_once() -> int:
    return 2 * (os.cpu_count() or 1)


def _batch_at_once() -> int:
    return 4 * (os.cpu_count() or 1)


def _snapshots_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    state_dir: Path
    """Database, spooled output, and what the backend keeps."""

    idle_template_s: float = 600.0
    """A warm process that nobody used for this long is ended, seconds."""

    grace_s: float = 2.0
    """Between the interrupt of a request that went over a limit and the kill of its sandbox, seconds."""

    start_deadline_s: float = 60.0
    """For making one sandbox, without the build of its environment, seconds."""

    call_deadline_s: float = 30.0
    """For one small call into a sandbox (stat, list, delete), and for a client that takes no more data, seconds."""

    variables_wait_s: float = 10.0
    """How long a variables call waits for the code before it, and then for the guest, seconds."""

    stop_deadline_s: float = 10.0
    """From SIGTERM to the end of the process, seconds."""

    storage_deadline_s: float = 5.0
    """For one answer of the database, seconds."""

    ping_s: float = 10.0
    """Longest silence of an event stream, seconds."""

    starts_at_once: int = field(default_factory=_starts_at_once)
    """Sandboxes being made at the same time: more only makes each slower."""

    starts_waiting: int = 256
    """Callers that may wait for their sandbox to be made; one more is told `capacity`."""

    max_live: int = 1024
    """Executions that are not yet ended, at one time."""

    queue_limit: int = 64
    """Requests that may wait in one execution; one more is told `capacity`."""

    commands_at_once: int = 64
    """Commands that may run at one time in one execution."""

    output_mb: int = 64
    """Output of one request where neither the request nor the environment says, MiB."""

    result_text_bytes: int = 16 * MIB
    """stdout, and stderr, kept in an ExecutionResult; the event log has all of it."""

    result_outputs_bytes: int = 64 * MIB
    """`outputs` kept in an ExecutionResult."""

    message_bytes: int = 64 * MIB
    """Largest Jupyter message that is taken from a guest."""

    log_memory_bytes: int = 256 << 10
    """Of one event log, before it goes to a file."""

    logs_kept: int = 100
    """Finished requests per execution whose output is kept."""

    logs_kept_bytes: int = 128 * MIB
    """Bytes of those; the newest is kept in any case."""

    ended_kept: int = 16
    """Ended executions whose last results are still there to read."""

    ended_logs_bytes: int = 16 * MIB
    """Bytes of those, for each; the newest is kept in any case."""

    rows_kept: int = 10_000
    """Ended executions in the database."""

    json_body_bytes: int = 32 * MIB
    value_body_bytes: int = 2 << 30
    """Body of PUT variables."""

    body_stall_s: float = 60.0
    """Longest pause in a JSON body, seconds."""

    header_bytes: int = 64 << 10
    """Request line and headers of one HTTP request."""

    header_deadline_s: float = 30.0
    """From the first byte of a request to the end of its headers, seconds."""

    batch_at_once: int = field(default_factory=_batch_at_once)
    """One-shot requests of one batch that run at the same time; the others wait."""

    freeze_deadline_s: float = 60.0
    """For one snapshot of a session at rest, or one set of branches, seconds: long past what either takes."""

    capture_deadline_s: float = 900.0
    """For writing or reading a snapshot's variables, files or export as a whole, seconds."""

    portable_delay_s: float = 3.0
    """From a live snapshot to the writing of its portable form, seconds: its first branches come before that."""

    snapshots_memory_bytes: int = field(default_factory=_snapshots_memory_bytes)
    """What live snapshots may take together: a quarter of the machine's memory leaves room for what branches write."""

    live_expiry_s: float = 24 * 3600.0
    """A live form is let go so long after it was made, unless it is kept, seconds."""

    snapshots_look_s: float = 5.0
    """Between two looks at what live snapshots take, seconds."""

    import_bytes: int = 64 << 30
    """Largest file that POST /snapshots/import takes; the disk is usually smaller."""

    @property
    def snapshots_dir(self) -> Path:
        """A folder for each snapshot with a portable form, for its variables."""
        return self.state_dir / "snapshots"

    @property
    def database(self) -> Path:
        return self.state_dir / "gateway.db"

    @property
    def spool_dir(self) -> Path:
        """Where event logs go that are too large for memory: real disk, which /tmp often is not."""
        return self.state_dir / "spool"
