"""What outlives a gateway: which executions there were, how they ended, which requests they served."""

from faas_gateway.store.executions import (
    ExecutionFilter,
    ExecutionRecord,
    ExecutionStore,
    RequestRecord,
    open_store,
)

__all__ = ["ExecutionFilter", "ExecutionRecord", "ExecutionStore", "RequestRecord", "open_store"]
