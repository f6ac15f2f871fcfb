"""What outlives a gateway: which executions and snapshots there were, how they ended, which requests were served."""

from faas_gateway.store.executions import (
    ExecutionFilter,
    ExecutionRecord,
    ExecutionStore,
    RequestRecord,
    open_store,
)
from faas_gateway.store.snapshots import SnapshotRecord, SnapshotStore

__all__ = [
    "ExecutionFilter",
    "ExecutionRecord",
    "ExecutionStore",
    "RequestRecord",
    "SnapshotRecord",
    "SnapshotStore",
    "open_store",
]
