"""The gateway or its launcher is killed, or has no room, while snapshots are taken, branched and written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from faas import SyncExecution, SyncFaaSClient, SyncSnapshotHandle, errors
from live import LiveGateway, wait_until
from test_gateway_faults import PYTHON, connected, family, gone, own
from test_gateway_faults import _start as start  # pyright: ignore[reportPrivateUsage]

__all__ = ["own"]  # a fixture of that module, by its name

pytestmark = pytest.mark.xdist_group("hostile-snapshot-gateway")


class Trying:
    """Calls in a thread of their own, until one fails: by whatever happens to the gateway."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        until = time.monotonic() + 20
        while self.error is None and time.monotonic() < until:
            try:
                self._call()
            except errors.FaaSError as error:
                self.error = error

    def ended(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the client still waits"
        assert self.error is not None


def prepared(client: SyncFaaSClient) -> tuple[SyncExecution, SyncSnapshotHandle]:
    session = client.executions.create(PYTHON, resources={"memory_mb": 512, "pids": 32})
    assert session.execute("x = 41; n = open('f', 'w').write('base')").status == "success"
    return session, session.snapshot("safe", portable="now")


def branch_and_close(client: SyncFaaSClient, snapshot: SyncSnapshotHandle) -> None:
    for one in client.snapshots.restore(snapshot, 8):
        one.close()


def check(client: SyncFaaSClient, snapshot: SyncSnapshotHandle) -> None:
    """What was portable is there, and only that."""
    (kept,) = client.snapshots.list()
    assert (kept.id, kept.forms) == (snapshot.id, ["portable"])
    with client.snapshots.restore(snapshot) as restored:
        assert restored.restored_from == "portable"
        assert restored.execute("print(x, open('f').read())", timeout=60).stdout == "41 base\n"
    client.snapshots.delete(snapshot)


def only_one_run(live: LiveGateway) -> None:
    runs = live.state / "native" / "runs"
    wait_until(lambda: len(list(runs.iterdir())) <= 1, 15, "the runs of those before to be gone")


@pytest.mark.parametrize("moment", ["branching", "writing"])
def test_a_gateway_killed_keeps_what_was_portable_and_nothing_else(own: LiveGateway, moment: str) -> None:
    with connected(own) as client:
        session, safe = prepared(client)
        if moment == "writing":
            session.execute("big = bytearray(300 << 20)\nfor i in range(0, len(big), 4096): big[i] = 1")
            trying = Trying(lambda: session.snapshot(portable="now"))
            snapshots = own.state / "snapshots"
            wait_until(lambda: len(list(snapshots.iterdir())) > 1, 10, "the writing to begin")
        else:
            trying = Trying(lambda: branch_and_close(client, safe))
            time.sleep(0.4)
        processes = family(own)
        os.kill(own.gateway().pid, signal.SIGKILL)
        trying.ended()
        gone(processes)
        start(own)
        check(client, safe)
        only_one_run(own)
        assert not list((own.state / "snapshots").iterdir())
        kept = own.state / "native" / "kept"
        wait_until(lambda: not kept.exists() or not list(kept.iterdir()), 10, "layers of nobody to be gone")


def test_a_launcher_killed_while_it_branches(own: LiveGateway) -> None:
    with connected(own) as client:
        session, safe = prepared(client)
        live = session.snapshot(portable="never")
        trying = Trying(lambda: branch_and_close(client, live))
        time.sleep(0.4)
        processes = family(own)[1:]
        (launcher,) = own.launchers()
        launcher.kill()
        trying.ended()
        gone(processes)
        wait_until(lambda: client.snapshots.get(safe).forms == ["portable"], 10, "the loss to be known")
        with contextlib.suppress(errors.UnknownSnapshotError, errors.SnapshotGoneError):
            client.snapshots.delete(live)
        check(client, safe)
        only_one_run(own)
