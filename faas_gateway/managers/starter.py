"""Makes sandboxes: a bounded number at a time, each within a deadline, the other callers in a bounded queue."""

from __future__ import annotations

import anyio

from faas_gateway.backends.base import (
    BackendUnavailable,
    Layers,
    ProgressReport,
    Report,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
    StartFailed,
)
from faas_gateway.errors import CapacityError
from faas_gateway.managers.environments import EnvironmentManager
from faas_gateway.managers.limits import to_limits
from faas_gateway.managers.terms import Terms
from faas_gateway.settings import Settings


class Starter:
    """Asks the backend for sandboxes, no faster than it can make them."""

    def __init__(self, backend: SandboxBackend, environments: EnvironmentManager, settings: Settings) -> None:
        self._backend = backend
        self._environments = environments
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(settings.starts_at_once)
        self._waiting = 0
        self.isolation = ""
        """What parts a sandbox from the host, in words; known after the first `probe`."""

    async def probe(self) -> str:
        """What isolates the sandboxes of this machine. Raises BackendUnavailable where it cannot make any."""
        if not self.isolation:
            capabilities = await self._backend.probe()
            if not capabilities.available:
                # Not remembered: the owner may lift the restriction while the gateway runs.
                raise BackendUnavailable(capabilities.problem, capabilities.remedy)
            self.isolation = capabilities.isolation or capabilities.name
        return self.isolation

    async def start(self, terms: Terms, report: Report, layers: Layers | None = None) -> Sandbox:
        """A new sandbox; its caller owns it.

        Args:
            terms: its id, what it is made of and what it may use.
            report: told of the start.
            layers: files of a snapshot, to be on top of the image's.

        Raises:
            CapacityError: too many callers wait.
            BackendUnavailable, StartFailed: as the backend does; the latter also when the deadline passed.
        """
        if self._waiting >= self._settings.starts_waiting:
            raise CapacityError(
                f"{self._waiting} callers wait for a sandbox to be made.", hint="Try again in a moment."
            )
        spec = SandboxSpec(
            id=terms.id,
            image=terms.image,
            limits=to_limits(terms.resources),
            env_vars=terms.env_vars,
            network=terms.network,
            language=terms.language,
        )
        self._waiting += 1
        try:
            async with self._limiter:
                report(ProgressReport("start", "starting the sandbox"))
                with anyio.move_on_after(self._settings.start_deadline_s):
                    if layers is not None:
                        return await self._backend.restore(spec, layers)
                    return await self._backend.create(spec)
                raise StartFailed(f"the sandbox was not there within {self._settings.start_deadline_s:g} s")
        except StartFailed:
            self._environments.forget(terms.image.recipe)
            raise
        finally:
            self._waiting -= 1
