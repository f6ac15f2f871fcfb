"""A session, a snapshot of it and branches, for the hostile ring; and a census of them all."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from faas import SyncExecution, SyncFaaSClient, SyncSnapshotHandle, errors
from live import LiveGateway, wait_until
from rings import GONE_S, Ring, Victim


@dataclass
class Family:
    """Sessions and snapshots that a test makes; all are closed and deleted at its end, and nothing may be left."""

    ring: Ring
    members: list[Victim] = field(default_factory=list[Victim])
    snapshots: list[SyncSnapshotHandle] = field(default_factory=list[SyncSnapshotHandle])

    @property
    def client(self) -> SyncFaaSClient:
        return self.ring.client

    def open(self, environment: str = "python", **resources: float) -> Victim:
        return self.adopt(self.client.executions.create(environment, resources=resources))

    def adopt(self, execution: SyncExecution) -> Victim:
        victim = Victim(self.ring, execution)
        self.members.append(victim)
        victim.look()
        return victim

    def snapshot(self, victim: Victim, portable: str = "never", timeout: float = 30) -> SyncSnapshotHandle:
        """What is in the sandbox now is what goes dormant: it is counted from here on."""
        taken = victim.execution.snapshot(portable=portable, timeout=timeout)  # type: ignore[arg-type]
        self.snapshots.append(taken)
        return taken

    def branch(self, snapshot: SyncSnapshotHandle, count: int = 1) -> list[Victim]:
        made = [Victim(self.ring, e) for e in self.client.snapshots.branch(snapshot, count)]
        self.members += made  # all of them, before a look at one that does not answer
        for victim in made:
            victim.look()
        return made

    def close(self) -> None:
        for victim in self.members:
            victim.execution.close()
        for snapshot in self.snapshots:
            with contextlib.suppress(errors.UnknownSnapshotError):
                self.client.snapshots.delete(snapshot)
        for victim in self.members:
            victim.assert_gone()
        names = {s.id for s in self.snapshots}
        wait_until(lambda: not names & set(self.ring.live.boxes()), GONE_S, f"no box of {names}")
        wait_until(lambda: not kept(self.ring.live, names), GONE_S, f"no file of {names}")


@contextlib.contextmanager
def family(ring: Ring) -> Generator[Family]:
    made = Family(ring)
    try:
        yield made
    finally:
        made.close()


def kept(live: LiveGateway, names: set[str]) -> list[Path]:
    """Files of snapshots with these ids, in the folder of snapshots and among the layers that are kept."""
    return [p for p in live.state.rglob("*") if any(name in p.name for name in names)]
