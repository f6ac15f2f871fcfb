"""What an execution was opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from faas.types import ForkReceipt, Network, Resources, SnapshotForm

from faas_gateway.backends.base import Image, Language


@dataclass(frozen=True)
class Terms:
    """See `faas.types.ExecutionCreate` and `ExecutionInfo`; times in seconds, `created_at` since the epoch."""

    id: str
    name: str | None
    image: Image
    resources: Resources
    labels: dict[str, str]
    notes: tuple[str, ...]
    created_at: float
    language: Language = "python"
    network: Network = "none"
    env_vars: Mapping[str, str] = field(default_factory=dict[str, str])
    ttl_s: float | None = None
    idle_timeout_s: float | None = None
    one_shot: bool = False
    checkpoints_kept: int = 0
    """0: it keeps none."""
    snapshot_id: str | None = None
    branch_index: int | None = None
    restored_from: SnapshotForm | None = None
    receipt: ForkReceipt | None = None
    generation: int = 0
    """Live forks between the session that began it all and this one."""
