"""A page of executions out of the database, as they stand now."""

from __future__ import annotations

from collections.abc import Callable

from faas.types import ExecutionInfo, ExecutionPage, ExecutionStatus

from faas_gateway.managers import records
from faas_gateway.store import ExecutionFilter, ExecutionRecord, ExecutionStore

LIVE_STATUSES = frozenset({"starting", "idle", "busy"})


async def list_page(
    store: ExecutionStore,
    describe: Callable[[ExecutionRecord], ExecutionInfo],
    *,
    status: ExecutionStatus | None,
    wanted: ExecutionFilter,
    cursor: str | None,
    limit: int,
) -> ExecutionPage:
    """Newest first.

    Args:
        describe: how one stands now, which its row may not yet say.
        status: only these.
        wanted: what else to filter by; its statuses are set here.

    Raises:
        InvalidRequestError: the cursor is none of ours.
    """
    before = records.decode_cursor(cursor) if cursor else None
    statuses: tuple[str, ...] = ()
    if status is not None:
        # A row of an execution that just ended may still say live.
        statuses = ("live",) if status in LIVE_STATUSES else ("live", status)
    wanted = ExecutionFilter(statuses=statuses, environment=wanted.environment, labels=wanted.labels)
    items: list[ExecutionInfo] = []
    while True:
        rows = await store.list(wanted, before_seq=before, limit=limit + 1)
        for row in rows:
            info = describe(row)
            if status is not None and info.status != status:
                continue
            if len(items) == limit:
                return ExecutionPage(items=items, next_cursor=records.encode_cursor(before or 0))
            items.append(info)
            before = row.seq
        if len(rows) <= limit:
            return ExecutionPage(items=items)
        before = rows[-1].seq
