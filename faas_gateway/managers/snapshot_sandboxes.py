"""Sandboxes out of a snapshot: forked from its live form, or made from its portable one."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
from faas.types import ForkReceipt, SnapshotForm

from faas_gateway.backends.base import (
    BranchSpec,
    CaptureReport,
    Ended,
    FrozenSandbox,
    Image,
    Sandbox,
    SandboxEnded,
)
from faas_gateway.errors import BACKEND_ERRORS, DeadlineError, GatewayError, SnapshotGoneError, StorageUnavailableError
from faas_gateway.ids import new_sandbox_id
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.limits import to_limits
from faas_gateway.managers.snapshot_portable import PortableWriter, close_sandbox, failure_reason
from faas_gateway.managers.snapshot_registry import SnapshotRegistry
from faas_gateway.managers.snapshot_state import HeldSnapshot, losses_info, receipt_info
from faas_gateway.managers.starter import Starter
from faas_gateway.managers.terms import Terms
from faas_gateway.settings import Settings

#: For each branch beside the first, seconds: long past what one takes.
BRANCH_DEADLINE_S = 0.2


@dataclass(frozen=True)
class Made:
    """One sandbox out of a snapshot. Who asked for it owns it."""

    sandbox: Sandbox
    receipt: ForkReceipt


@dataclass(frozen=True)
class MadeSet:
    """What came of the terms, in their order."""

    form: SnapshotForm
    items: list[Made | Exception]
    notes: list[str]


class SnapshotSandboxes:
    """Makes them.

    Args:
        registry: of the snapshots.
        writer: stands back with what it writes of a snapshot while that is restored.
        environments: of what the portable form is made.
        starter: makes its sandboxes.
        settings: deadlines.
    """

    def __init__(
        self,
        registry: SnapshotRegistry,
        writer: PortableWriter,
        environments: EnvironmentManager,
        starter: Starter,
        settings: Settings,
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._environments = environments
        self._starter = starter
        self._settings = settings

    async def image(self, held: HeldSnapshot) -> Image:
        """What its sandboxes are made of; built where an earlier gateway, or another machine, made the snapshot.

        Raises:
            UnknownEnvironmentError, BuildFailed, BackendUnavailable, StartFailed
        """
        if held.image is None:
            shipped = self._environments.get_shipped(held.environment)
            recipe = self._environments.recipe(shipped, held.interpreter)
            held.image = await self._environments.prepare(recipe, lambda _report: None)
        return held.image

    async def make(
        self, held: HeldSnapshot, terms: Sequence[Terms], form: SnapshotForm | None, *, reseed: bool
    ) -> MadeSet:
        """Sandboxes, as many of them as can be made. Whoever is cancelled here owns none.

        Args:
            held: the snapshot.
            terms: one for each; their environment variables come on top of the snapshot's.
            form: the best there is, when None.
            reseed: give random generators states of their own.

        Raises:
            SnapshotGoneError: it has not that form, or none.
        """
        notes: list[str] = []
        with self._writer.standing_back(held):
            if form == "live" or (form is None and held.frozen is not None):
                frozen = held.frozen
                if frozen is None:
                    raise self._gone(held, "live", held.live_lost or "it has no live form")
                try:
                    return MadeSet("live", await self._fork(frozen, terms, reseed=reseed), notes)
                except SandboxEnded as exc:
                    reason = f"its dormant process ended ({exc.ended.code}): {exc.ended.reason}"
                    if form == "live" or not held.is_portable:
                        raise self._gone(held, "live", reason) from exc
                    await self._registry.release_live(held, reason)
                    notes.append(f"restored from the portable form, because the live one is gone: {reason}")
            if not held.is_portable:
                why = held.portable_error or held.live_lost or f"its portable form is {held.portable_status}"
                raise self._gone(held, "portable", why)
            if not notes and form is None and held.live_lost:
                notes.append(f"restored from the portable form: {held.live_lost}")
            return MadeSet("portable", await self._restore(held, terms, reseed=reseed), notes)

    @asynccontextmanager
    async def hidden(self, held: HeldSnapshot) -> AsyncGenerator[Sandbox]:
        """A sandbox to look into, that no execution owns. Raises as `make`, and what kept it from being made."""
        terms = await self.terms(held, new_sandbox_id())
        (made,) = (await self.make(held, [terms], None, reseed=False)).items
        if isinstance(made, Exception):
            raise made
        try:
            yield made.sandbox
        finally:
            await close_sandbox(made.sandbox)

    async def terms(self, held: HeldSnapshot, sandbox_id: str) -> Terms:
        """What a sandbox of a snapshot is made with. Raises as `image`."""
        return Terms(
            id=sandbox_id,
            name=None,
            image=await self.image(held),
            resources=held.resources,
            labels={},
            notes=(),
            created_at=held.created_at,
            language=held.language,
            network=held.network,
            snapshot_id=held.id,
        )

    async def _fork(self, frozen: FrozenSandbox, terms: Sequence[Terms], *, reseed: bool) -> list[Made | Exception]:
        specs = [
            BranchSpec(id=t.id, limits=to_limits(t.resources), env_vars=t.env_vars, reseed=reseed, network=t.network)
            for t in terms
        ]
        deadline_s = self._settings.freeze_deadline_s + BRANCH_DEADLINE_S * len(specs)
        with anyio.move_on_after(deadline_s):
            results = await frozen.branch(specs)
            if results and all(isinstance(r, SandboxEnded) for r in results):
                first = results[0]
                assert isinstance(first, SandboxEnded)
                raise first
            return [_told(r) if isinstance(r, Exception) else Made(r[0], receipt_info(r[1])) for r in results]
        raise DeadlineError(f"Making {len(specs)} branches took longer than {deadline_s:g} s.")

    async def _restore(self, held: HeldSnapshot, terms: Sequence[Terms], *, reseed: bool) -> list[Made | Exception]:
        results: list[Made | Exception] = [SandboxEnded(Ended("lost", "it was not made"))] * len(terms)
        limiter = anyio.CapacityLimiter(self._settings.starts_at_once)

        async def restore(index: int) -> None:
            async with limiter:
                try:
                    results[index] = await self._restore_one(held, terms[index], reseed=reseed)
                except (GatewayError, *BACKEND_ERRORS) as exc:
                    results[index] = exc
                except OSError as exc:
                    results[index] = _told(exc)

        try:
            async with anyio.create_task_group() as group:
                for index in range(len(terms)):
                    group.start_soon(restore, index)
        except BaseException:
            for made in results:
                if isinstance(made, Made):
                    await close_sandbox(made.sandbox)
            raise
        return results

    async def _restore_one(self, held: HeldSnapshot, terms: Terms, *, reseed: bool) -> Made:
        terms = replace(terms, env_vars={**held.env_vars, **terms.env_vars})
        sandbox = await self._starter.start(terms, lambda _report: None, held.layers)
        try:
            lost = list(held.excluded)
            with anyio.move_on_after(self._settings.capture_deadline_s) as scope:
                if held.language != "shell":
                    lost += losses_info((await self._read_variables(held, sandbox)).excluded)
                    if reseed:
                        await sandbox.reseed()
            if scope.cancelled_caught:
                raise DeadlineError(
                    f"Reading the variables back took longer than {self._settings.capture_deadline_s:g} s."
                )
        except BaseException:
            await close_sandbox(sandbox)
            raise
        notes = ["restored from the portable form: files and variables, without running code and open files"]
        if held.version != terms.image.version:
            notes.append(f"its environment has changed since: {held.version} then, {terms.image.version} now")
        return Made(sandbox, ForkReceipt(lost=lost, notes=notes))

    async def _read_variables(self, held: HeldSnapshot, sandbox: Sandbox) -> CaptureReport:
        # A descriptor of its own, since several are read from at the same time.
        fd = await anyio.to_thread.run_sync(os.open, self._registry.variables(held), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return await sandbox.restore_variables(fd)
        finally:
            os.close(fd)

    @staticmethod
    def _gone(held: HeldSnapshot, form: SnapshotForm, why: str) -> SnapshotGoneError:
        other = {"live": held.is_portable, "portable": held.frozen is not None}[form]
        hint = "Take the other form (leave form out)." if other else "Take the snapshot again."
        return SnapshotGoneError(f"The {form} form of snapshot {held.title} is not there: {why}.", hint=hint)


def _told(exc: Exception) -> Exception:
    """A failure of one of several, for a client that asked for executions and has none that could have ended."""
    if isinstance(exc, SandboxEnded):
        return SnapshotGoneError(
            f"The dormant process of the snapshot ended ({exc.ended.code}) while branches were made: "
            f"{exc.ended.reason}.",
            hint="Restore it again: the portable form is taken where there is one.",
        )
    if isinstance(exc, OSError):
        return StorageUnavailableError(f"The branch could not be made: {failure_reason(exc)}.")
    return exc
