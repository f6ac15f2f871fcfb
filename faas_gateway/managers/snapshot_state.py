"""One snapshot as the gateway holds it, and how it is written to the database and described to clients."""

from __future__ import annotations

import datetime as dt
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from faas.types import ForkReceipt, Interpreter, Network, Resources, Snapshot, SnapshotForm
from faas.types import Loss as LossInfo

from faas_gateway.backends.base import FrozenSandbox, HostInterpreter, Image, Language, Layers, Loss, Receipt
from faas_gateway.managers.messages import clean_text
from faas_gateway.store import SnapshotRecord

PortableStatus = Literal["none", "pending", "ready", "failed"]
MAX_LOSSES = 1000
MAX_TEXT_CHARS = 1000


@dataclass(eq=False, kw_only=True)
class HeldSnapshot:
    """Times in seconds since the epoch."""

    id: str
    name: str | None
    execution_id: str
    parent_id: str | None
    request_id: str | None
    environment: str
    version: str
    language: Language
    network: Network
    resources: Resources
    created_at: float
    labels: dict[str, str] = field(default_factory=dict[str, str])
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of its execution: a portable form is restored with them. Never exported."""
    interpreter: Interpreter | None = None
    layers: Layers = ()
    receipt: ForkReceipt = field(default_factory=ForkReceipt)
    depth: int = 0
    checkpoint: bool = False
    keep: bool = False
    expires_at: float | None = None
    notes: list[str] = field(default_factory=list[str])

    frozen: FrozenSandbox | None = None
    image: Image | None = None
    """Of its environment; None until one that an earlier gateway made is restored."""
    live_lost: str = ""
    """Why there is no live form, when there was one."""

    portable_status: PortableStatus = "none"
    portable_error: str | None = None
    portable_bytes: int = 0
    excluded: list[LossInfo] = field(default_factory=list[LossInfo])
    memory_bytes: int = 0
    disk_bytes: int = 0

    looked_at: float = 0.0
    """When what it takes was last asked for, on the monotonic clock."""
    has_row: bool = False
    _uses: int = 0

    @property
    def forms(self) -> list[SnapshotForm]:
        forms: list[SnapshotForm] = []
        if self.frozen is not None:
            forms.append("live")
        if self.is_portable:
            forms.append("portable")
        return forms

    @property
    def is_portable(self) -> bool:
        return self.portable_status == "ready"

    @property
    def title(self) -> str:
        return repr(self.name) if self.name is not None else self.id

    @contextmanager
    def in_use(self) -> Generator[None]:
        """While it is restored, its portable form is not written: that would take the time of its branches."""
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1

    @property
    def is_in_use(self) -> bool:
        return self._uses > 0

    def describe(self, branches: int) -> Snapshot:
        """As clients see it.

        Args:
            branches: open executions that were restored from it.
        """
        return Snapshot(
            id=self.id,
            name=self.name,
            execution_id=self.execution_id,
            parent_id=self.parent_id,
            request_id=self.request_id,
            environment=self.environment,
            environment_version=self.version,
            language=self.language,
            forms=self.forms,
            portable_status=self.portable_status,
            portable_error=self.portable_error,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
            portable_bytes=self.portable_bytes,
            excluded=self.excluded,
            receipt=self.receipt,
            resources=self.resources,
            network=self.network,
            depth=self.depth,
            branches=branches,
            checkpoint=self.checkpoint,
            keep=self.keep,
            labels=self.labels,
            created_at=dt.datetime.fromtimestamp(self.created_at, dt.UTC),
            expires_at=None if self.expires_at is None else dt.datetime.fromtimestamp(self.expires_at, dt.UTC),
            notes=self.notes,
        )

    def detail(self) -> dict[str, Any]:
        """What its row has beside the columns of their own."""
        return {
            "network": self.network,
            "env_vars": dict(self.env_vars),
            "interpreter": None if self.interpreter is None else self.interpreter.model_dump(),
            "receipt": self.receipt.model_dump(),
            "depth": self.depth,
            "excluded": [loss.model_dump() for loss in self.excluded],
            "portable_error": self.portable_error,
            "disk_bytes": self.disk_bytes,
            "notes": self.notes,
        }

    def record(self) -> SnapshotRecord:
        return SnapshotRecord(
            id=self.id,
            name=self.name,
            execution_id=self.execution_id,
            parent_id=self.parent_id,
            request_id=self.request_id,
            environment=self.environment,
            version=self.version,
            language=self.language,
            created_at=self.created_at,
            resources=self.resources.model_dump(exclude_none=True),
            labels=self.labels,
            layers=self.layers,
            portable_status=self.portable_status,
            portable_bytes=self.portable_bytes,
            detail=self.detail(),
            expires_at=self.expires_at,
            keep=self.keep,
        )


def from_record(record: SnapshotRecord) -> HeldSnapshot:
    """One that an earlier gateway wrote: only its portable form is left."""
    detail = record.detail
    interpreter = detail.get("interpreter")
    return HeldSnapshot(
        id=record.id,
        name=record.name,
        execution_id=record.execution_id,
        parent_id=record.parent_id,
        request_id=record.request_id,
        environment=record.environment,
        version=record.version,
        language=cast("Language", record.language),
        network=detail.get("network", "none"),
        resources=Resources.model_validate(record.resources),
        created_at=record.created_at,
        labels=dict(record.labels),
        env_vars=detail.get("env_vars", {}),
        interpreter=None if interpreter is None else Interpreter.model_validate(interpreter),
        layers=tuple(record.layers),
        receipt=ForkReceipt.model_validate(detail.get("receipt", {})),
        depth=detail.get("depth", 0),
        keep=record.keep,
        notes=list(detail.get("notes", [])),
        live_lost="it was live only, and the gateway stopped",
        portable_status=cast("PortableStatus", record.portable_status),
        portable_error=detail.get("portable_error"),
        portable_bytes=record.portable_bytes,
        excluded=[LossInfo.model_validate(loss) for loss in detail.get("excluded", [])],
        disk_bytes=detail.get("disk_bytes", 0),
        has_row=True,
    )


def interpreter_info(host: HostInterpreter) -> Interpreter:
    return Interpreter(
        executable=host.executable, prefix=host.prefix, base_prefix=host.base_prefix, path=list(host.path)
    )


def losses_info(losses: tuple[Loss, ...] | list[Loss]) -> list[LossInfo]:
    """Losses as clients see them; names and reasons may come from a guest, so they are bounded."""
    return [
        LossInfo(kind=loss.kind, name=_text(loss.name), reason=_text(loss.reason), effect=loss.effect)
        for loss in losses[:MAX_LOSSES]
    ]


def receipt_info(receipt: Receipt) -> ForkReceipt:
    return ForkReceipt(
        stopped_s=receipt.stopped_s,
        reseeded=_texts(receipt.reseeded),
        closed_connections=_texts(receipt.closed_connections),
        lost_threads=_texts(receipt.lost_threads),
        lost_processes=_texts(receipt.lost_processes),
        reopened_files=_texts(receipt.reopened_files),
        copied_files=_texts(receipt.copied_files),
        remapped=_texts(receipt.remapped),
        lost=losses_info(receipt.lost),
        paused_runtimes=_texts(receipt.paused_runtimes),
        isolation=_text(receipt.isolation),
        notes=_texts(receipt.notes),
    )


def _texts(texts: tuple[str, ...]) -> list[str]:
    return [_text(text) for text in texts[:MAX_LOSSES]]


def _text(text: str) -> str:
    return clean_text(text[:MAX_TEXT_CHARS])
