"""The client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from faas import _calls, _log
from faas._async import _io
from faas._async.environments import EnvironmentManager
from faas._async.executions import DEFAULT_ONE_SHOT_ENVIRONMENT, ExecutionManager
from faas._async.snapshots import SnapshotManager
from faas._async.transport import Transport
from faas._config import resolve
from faas.errors import invalid
from faas.types import ExecutionResult, Health, Interpreter, Language, Network, Resources

__all__ = ["FaaSClient"]

_ENVIRONMENT_BY_SUFFIX = {".py": "python", ".sh": "alpine-fast"}


class FaaSClient:
    """Runs code in sandboxes, through a gateway.

    Args:
        api_key: key for a gateway on TCP; FAAS_API_KEY by default.
        endpoint: `http(s)://...` or `unix:///path.sock`; FAAS_ENDPOINT by default, else `http://localhost:8080`
            when there is a key, else the embedded gateway of this user, which is started on demand.

    Raises:
        ConfigurationError: the endpoint is none.

    Attributes:
        environments: list, get.
        executions: create, get, list, cancel, run, run_batch, stream.
        snapshots: create, create_from_script, check, restore, branch, get, list, tree, rename, update, delete, diff,
            export, import_.

    Example:
        >>> async with FaaSClient() as client:
        ...     result = await client.execute("print('Hello World')", environment="python")
        ...     print(result.stdout)
    """

    def __init__(self, api_key: str | None = None, endpoint: str | None = None) -> None:
        _log.configure()
        self._transport = Transport(resolve(api_key, endpoint))
        self.environments = EnvironmentManager(self._transport)
        self.executions = ExecutionManager(self._transport)
        self.snapshots = SnapshotManager(self._transport)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint}>"

    @property
    def endpoint(self) -> str:
        """Where the gateway is, as a URL."""
        return self._transport.config.display

    async def execute(
        self,
        code: str,
        environment: str = DEFAULT_ONE_SHOT_ENVIRONMENT,
        timeout: float = 30,
        resources: Resources | Mapping[str, object] | None = None,
        env_vars: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        interpreter: Interpreter | None = None,
        *,
        network: Network = "none",
        language: Language | None = None,
    ) -> ExecutionResult:
        """Run code once, in a sandbox of its own that is gone afterwards. Cancelling ends it.

        Args:
            code: in the language of the environment, or `language`.
            environment: what is in the sandbox.
            timeout: wall time of the code, seconds.
            resources: limits; what is not given is the environment's.
            env_vars: environment variables.
            labels: for the list of executions.
            interpreter: for environment `notebook`; None is the Python of this process.
            network: `full` reaches the internet, but neither this machine nor private networks.
            language: of the code; None is the environment's.

        Returns:
            The result. Code that fails is a result with status `error`, not an exception.

        Raises:
            APIError: the gateway refused; see `faas.errors`.
            TransportError: there was no answer.
        """
        return await self.executions.run(
            code,
            environment,
            timeout,
            resources=resources,
            env_vars=env_vars,
            labels=labels,
            interpreter=interpreter,
            network=network,
            language=language,
        )

    async def execute_file(self, file_path: str | os.PathLike[str], **kwargs: Any) -> ExecutionResult:
        """Run a local file's code once. Arguments as for `execute`.

        Without `environment`, the suffix decides: `.py` is `python`, `.sh` is `alpine-fast`.

        Raises:
            OSError: the file cannot be read.
            InvalidRequestError: it is not text, or its suffix says nothing.
        """
        path = Path(file_path)
        if kwargs.get("environment") is None:
            environment = _ENVIRONMENT_BY_SUFFIX.get(path.suffix.lower())
            if environment is None:
                known = ", ".join(_ENVIRONMENT_BY_SUFFIX)
                raise invalid(
                    f"The suffix of {path.name!r} does not say which environment runs it ({known} do)",
                    hint="give environment=",
                )
            kwargs["environment"] = environment
        try:
            code = await _io.run_blocking(path.read_text, "utf-8")
        except UnicodeDecodeError as error:
            raise invalid(f"{path.name!r} is not text in UTF-8: {error.reason}") from error
        return await self.execute(code, **kwargs)

    async def health(self) -> Health:
        """Ask the gateway how it is: its version, process id and backend."""
        return _calls.parse(Health, await self._transport.request(_calls.health()))

    async def aclose(self) -> None:
        """Close the connections. Executions stay as they are. Idempotent."""
        await self._transport.aclose()

    async def __aenter__(self) -> FaaSClient:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
