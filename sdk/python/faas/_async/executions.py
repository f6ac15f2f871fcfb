"""Executions: opening, finding and ending them, and code that needs one only once."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

from faas import _calls
from faas._async.events import EventSource
from faas._async.execution import Execution
from faas._async.one_shot import CommandStream, execute_batch, execute_once
from faas._async.stream import OutputStream
from faas._async.transport import Transport
from faas._batch import batch_fields
from faas._config import Config
from faas._events import problem_of, read_model
from faas._interpreter import current_interpreter
from faas.errors import APIError
from faas.types import (
    ExecutionInfo,
    ExecutionPage,
    ExecutionResult,
    Interpreter,
    Language,
    Network,
    OneShotCreate,
    Progress,
    Resources,
)

__all__ = ["ExecutionManager"]

DEFAULT_ONE_SHOT_ENVIRONMENT = "alpine-fast"


class ExecutionManager:
    """`client.executions`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        environment: str = "python",
        *,
        name: str | None = None,
        resources: Resources | Mapping[str, object] | None = None,
        network: Network = "none",
        language: Language | None = None,
        checkpoint: Literal["none", "every-request"] = "none",
        checkpoints_kept: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        idle_timeout_s: float | None = None,
        interpreter: Interpreter | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Execution:
        """Open an execution that stays until it is closed.

        Args:
            environment: what is in the sandbox.
            name: stands for the id everywhere; unique among open executions.
            resources: limits; what is not given is the environment's.
            network: `full` reaches the internet, but neither this machine nor private networks.
            language: of the code; None is the environment's.
            checkpoint: `every-request` takes a live snapshot after each request, for `Execution.rewind`.
            checkpoints_kept: how many of them; the oldest goes first. None is the gateway's default.
            env_vars: environment variables of all that runs in it.
            labels: to find it by.
            ttl_s: ends this long after it was opened, seconds.
            idle_timeout_s: ends after this long without a request, seconds.
            interpreter: for environment `notebook`; None is the Python of this process.
            on_progress: called with each step while the environment is built and the sandbox started.

        Raises:
            UnknownEnvironmentError, NameTakenError, BuildError, StartError, CapacityError
            SandboxUnavailableError: this machine cannot make sandboxes; its hint lifts the restriction.
        """
        call = _calls.create_execution(
            environment=environment,
            name=name,
            language=language,
            resources=resources,
            network=network,
            checkpoint=checkpoint,
            checkpoints_kept=checkpoints_kept,
            env_vars=env_vars,
            labels=labels,
            ttl_s=ttl_s,
            idle_timeout_s=idle_timeout_s,
            interpreter=fill_interpreter(interpreter, environment, self._transport.config),
        )
        source = await EventSource.open(self._transport, call)
        try:
            while True:
                for sse in await source.read():
                    if sse.event == "progress" and on_progress is not None:
                        on_progress(read_model(Progress, sse))
                    elif sse.event == "problem":
                        raise problem_of(sse)
                    elif sse.event == "execution":
                        info = read_model(ExecutionInfo, sse)
                        await source.finish()
                        return Execution(self._transport, info)
        finally:
            await source.aclose()

    async def get(self, id_or_name: str) -> Execution:
        """Return a handle on an open execution.

        Raises:
            UnknownExecutionError: there is none of that id or name.
        """
        content = await self._transport.request(_calls.get_execution(id_or_name))
        return Execution(self._transport, _calls.parse(ExecutionInfo, content))

    async def list(
        self,
        status: str | None = None,
        environment: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[ExecutionInfo]:
        """Return executions, newest first.

        Args:
            status: only those in this status.
            environment: only those of this environment.
            label: only those with this label, as "key:value".
            limit: at most so many; None is all.
        """
        found: list[ExecutionInfo] = []
        cursor: str | None = None
        while limit is None or len(found) < limit:
            size = _calls.PAGE_SIZE if limit is None else min(_calls.PAGE_SIZE, limit - len(found))
            call = _calls.list_executions(status, environment, label, size, cursor)
            page = _calls.parse(ExecutionPage, await self._transport.request(call))
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                break
        return found[:limit]

    async def cancel(self, id_or_name: str) -> ExecutionInfo:
        """End an execution and all that runs in it. Idempotent."""
        content = await self._transport.request(_calls.cancel_execution(id_or_name))
        return _calls.parse(ExecutionInfo, content)

    async def run(
        self,
        command: str | Sequence[str],
        environment: str = DEFAULT_ONE_SHOT_ENVIRONMENT,
        timeout: float = 30,
        *,
        resources: Resources | Mapping[str, object] | None = None,
        network: Network = "none",
        language: Language | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        interpreter: Interpreter | None = None,
    ) -> ExecutionResult:
        """Run one thing in a sandbox of its own, which is gone afterwards.

        Args:
            command: a string is code in the environment's language; a list is a program and its arguments.
            environment, resources, network, language, env_vars, labels, interpreter: as for `create`.
            timeout: wall time of the code, seconds.
        """
        if isinstance(command, str):
            return await execute_once(
                self._transport,
                code=command,
                environment=environment,
                timeout=timeout,
                resources=resources,
                network=network,
                language=language,
                env_vars=env_vars,
                labels=labels,
                interpreter=fill_interpreter(interpreter, environment, self._transport.config),
            )
        async with await self.create(
            environment,
            resources=resources,
            network=network,
            language=language,
            env_vars=env_vars,
            labels=labels,
            interpreter=interpreter,
        ) as execution:
            return await execution.run(command, timeout=timeout)

    @overload
    async def run_batch(
        self,
        requests: Sequence[str | Mapping[str, object] | OneShotCreate],
        environment: str = ...,
        timeout: float = ...,
        *,
        return_exceptions: Literal[False] = ...,
        resources: Resources | Mapping[str, object] | None = ...,
        network: Network = ...,
        language: Language | None = ...,
        env_vars: Mapping[str, str] | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> builtins.list[ExecutionResult]: ...
    @overload
    async def run_batch(
        self,
        requests: Sequence[str | Mapping[str, object] | OneShotCreate],
        environment: str = ...,
        timeout: float = ...,
        *,
        return_exceptions: bool,
        resources: Resources | Mapping[str, object] | None = ...,
        network: Network = ...,
        language: Language | None = ...,
        env_vars: Mapping[str, str] | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> builtins.list[ExecutionResult | APIError]: ...
    async def run_batch(
        self,
        requests: Sequence[str | Mapping[str, object] | OneShotCreate],
        environment: str = DEFAULT_ONE_SHOT_ENVIRONMENT,
        timeout: float = 30,
        *,
        return_exceptions: bool = False,
        resources: Resources | Mapping[str, object] | None = None,
        network: Network = "none",
        language: Language | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Any:
        """Run code many times at once, each in a sandbox of its own. Cancelling ends all of them.

        Args:
            requests: code, or a dict or `OneShotCreate` with `code` and whatever else is to differ from the
                arguments here.
            environment, timeout, resources, network, language, env_vars, labels: as for `run`, of all.
            return_exceptions: put what the gateway refused into the list, in its place.

        Returns:
            The results in the order of `requests`. Code that fails is a result with status `error`.

        Raises:
            APIError: the gateway refused the batch or, without `return_exceptions`, any of it: the first.
            TransportError: there was no answer.
        """
        common: dict[str, object] = {
            "environment": environment,
            "timeout": timeout,
            "resources": resources,
            "network": network,
            "language": language,
            "env_vars": env_vars,
            "labels": labels,
        }
        fields = batch_fields(requests, common)
        for item in fields:
            item["interpreter"] = fill_interpreter(item.get("interpreter"), item["environment"], self._transport.config)
        results = await execute_batch(self._transport, fields) if fields else []
        if not return_exceptions:
            for result in results:
                if isinstance(result, APIError):
                    raise result
        return results

    def stream(
        self,
        command: str | Sequence[str],
        environment: str = DEFAULT_ONE_SHOT_ENVIRONMENT,
        timeout: float = 30,
        *,
        resources: Resources | Mapping[str, object] | None = None,
        network: Network = "none",
        language: Language | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        interpreter: Interpreter | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> OutputStream:
        """Run one thing in a sandbox of its own, and iterate over its output. Arguments as for `run`.

        Leaving the iteration early? Close the stream, which ends the sandbox: `async with` does it.
        """
        if isinstance(command, str):
            request_id = _calls.new_request_id()
            call = _calls.one_shot(
                stream=True,
                code=command,
                environment=environment,
                timeout=timeout,
                resources=resources,
                network=network,
                language=language,
                env_vars=env_vars,
                labels=labels,
                interpreter=fill_interpreter(interpreter, environment, self._transport.config),
                request_id=request_id,
            )
            return OutputStream(self._transport, call, request_id, None, on_progress=on_progress)

        async def create() -> Execution:
            return await self.create(
                environment,
                resources=resources,
                network=network,
                language=language,
                env_vars=env_vars,
                labels=labels,
                interpreter=interpreter,
                on_progress=on_progress,
            )

        return CommandStream(self._transport, create, command, timeout)


def fill_interpreter(given: Interpreter | None, environment: str, config: Config) -> Interpreter | None:
    """What to send: environment `notebook` is the Python of this process, if the gateway can see it."""
    if given is None and environment == "notebook" and config.same_machine:
        return current_interpreter()
    return given
