"""Random trees of run, snapshot, branch, write, delete and rewind over HTTP, live and portable, against a plain model.

FAAS_TREES is how many are drawn, FAAS_TREES_SEED the seed of one that failed, as it was printed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator

import pytest
from faas import FaaSClient
from live import LiveGateway, wait_until
from trees_run import Failure, grow, shrink

SHARDS = 4
AT_ONCE = 4
TREES = int(os.environ.get("FAAS_TREES", "500"))
SEED = os.environ.get("FAAS_TREES_SEED", "")
RUN = secrets.token_hex(4)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def trees_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """One of its own, so that nothing may be left between two shards."""
    live = LiveGateway(tmp_path_factory.mktemp("trees"))
    yield live
    live.stop()
    wait_until(lambda: not live.left_over(), 15, f"nothing left behind ({live.left_over()})")


async def _trees(client: FaaSClient, seeds: list[str]) -> list[Failure]:
    """All of them, some at once; those that failed."""
    failures: list[Failure] = []
    waiting = iter(seeds)

    async def work() -> None:
        for seed in waiting:
            failure = await grow(client, seed)
            if failure is not None:
                failures.append(failure)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return failures


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_trees_are_as_the_model_has_them(trees_gateway: LiveGateway, shard: int) -> None:
    seeds = [SEED] if SEED else [f"{RUN}-{number}" for number in range(shard, TREES, SHARDS)]
    print(f"seeds {seeds[0]} to {seeds[-1]}")
    with trees_gateway.environment():
        async with FaaSClient() as client:
            failures = await _trees(client, seeds)
            told = [str(await shrink(client, failure)) for failure in failures[:1]]
            told += [str(failure) for failure in failures[1:5]]
            assert await client.snapshots.list(checkpoints=True) == []
    assert not failures, f"{len(failures)} of {len(seeds)} trees differ\n\n" + "\n\n".join(told)
    await asyncio.to_thread(wait_until, lambda: not _held(trees_gateway), 15, "everything given back")


def _held(live: LiveGateway) -> list[str]:
    """What sessions and snapshots have on this machine, beside what the gateway makes ahead."""
    kept = [p for pattern in ("snapshots/*", "native/kept/*") for p in live.state.glob(pattern)]
    return [*live.boxes(), *map(str, kept)]
