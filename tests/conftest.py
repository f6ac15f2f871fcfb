"""Fixtures of all rings. One live gateway serves the whole run, shared by pytest's parallel workers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faas import FaaSClient, SyncFaaSClient
from live import LiveGateway, wait_until


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """The run's shared gateway. Who leaves last stops it and counts what it left behind."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    live = LiveGateway(base / "shared-gateway")
    users = base / "shared-gateway" / "users"
    users.mkdir(exist_ok=True)
    me = users / str(os.getpid())
    me.touch()
    yield live
    with (base / "shared-gateway" / "leaving.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        me.unlink()
        if not list(users.iterdir()):
            live.stop()
            wait_until(lambda: not live.left_over(), 10, f"nothing left behind ({live.left_over()})")


@pytest.fixture(scope="session")
def gateway_env(gateway: LiveGateway) -> dict[str, str]:
    return dict(gateway.env)


@pytest.fixture
def client(gateway: LiveGateway) -> Iterator[SyncFaaSClient]:
    with gateway.client() as client:
        yield client


@pytest.fixture
async def aclient(gateway: LiveGateway) -> AsyncIterator[FaaSClient]:
    with gateway.environment():
        async with FaaSClient() as client:
            yield client


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    """A gateway for one test: to be killed, starved or restarted. Nothing of it may be left at the end."""
    live = LiveGateway(tmp_path / "gateway")
    yield live
    live.stop()
    wait_until(lambda: not live.left_over(), 15, f"nothing left behind ({live.left_over()})")
