"""The hostile ring runs against two gateways: root's, where the tests are run by root, and an ordinary user's.

A neighbour session that was open before has to keep its state through everything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from faas import SyncExecution, SyncFaaSClient
from live import LiveGateway
from rings import Ring, shared_ordinary_gateway

IDENTITIES = ["root", "user"] if os.geteuid() == 0 else ["user"]


@pytest.fixture(scope="session", params=IDENTITIES)
def ring(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with contextlib.ExitStack() as stack:
        live: LiveGateway
        if request.param == "user" and os.geteuid() == 0:
            base = tmp_path_factory.getbasetemp()
            if os.environ.get("PYTEST_XDIST_WORKER"):
                base = base.parent
            live = stack.enter_context(shared_ordinary_gateway(base / "ordinary-gateway"))
        else:
            live = request.getfixturevalue("gateway")
            with live.client() as client:
                client.environments.list()  # starts it
        client = stack.enter_context(SyncFaaSClient(endpoint=f"unix://{live.socket}"))
        owner = live.gateway().uids().effective
        assert (owner == 0) == (request.param == "root")
        yield Ring(request.param, live, client)


@pytest.fixture(scope="module")
def neighbour(ring: Ring) -> Iterator[SyncExecution]:
    with ring.client.executions.create("python") as execution:
        assert execution.execute("state = 41").status == "success"
        yield execution


@pytest.fixture
def unharmed(neighbour: SyncExecution) -> Iterator[None]:
    """Whatever a test does in its own sandbox, the neighbour answers, and with its state."""
    yield
    assert neighbour.execute("print(state + 1)", timeout=20).stdout == "42\n"


@pytest.fixture(scope="module")
def grouped(ring: Ring) -> bool:
    """Whether control groups hold the limits of this ring's sandboxes; else rlimits and a watch do, less firmly."""
    with ring.client.executions.create("alpine-fast", resources={"memory_mb": 64, "pids": 32}) as execution:
        return all("cgroup" in execution.info.enforcement[limit] for limit in ("memory_mb", "pids"))
