"""A gateway in a few lines, with the interface of SyncFaaSClient: tests of the magics without sandboxes.

Its sessions run the code in this process. Inside a cell these functions are there:
emit(msg_type, **content)   send a Jupyter message
fail(code, evalue, hint)    end the request with this cause; `ends=True` ends the session with it
wait(seconds, deaf)         wait, like code that an interrupt can stop, or cannot if it is deaf
"""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import io
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from faas.errors import (
    ExecutionEndedError,
    NameTakenError,
    UnknownEnvironmentError,
    UnknownExecutionError,
    UnknownVariableError,
)
from faas.types import CellOrigin, CodeError, ExecutionInfo, ExecutionResult, OutputEvent, Progress, Resources


class Failure(BaseException):
    def __init__(self, code: str, evalue: str = "", hint: str = "", ends: bool = False) -> None:
        self.error = CodeError(code=code, evalue=evalue, hint=hint)
        self.ends = ends


class FakeStream:
    def __init__(self, execution: FakeExecution, code: str) -> None:
        self.request_id = "fake-request"
        self.interrupted = False
        self.result: ExecutionResult | None = None
        self._events = execution.run(code, self)

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> OutputEvent:
        # Blocking code is a Wait among the events: a generator that a KeyboardInterrupt passes through is
        # finished, and this stream has to go on after one.
        while True:
            if isinstance(self._current, Wait):
                self._current.until_done(self)
            event = self._current = next(self._events)
            if isinstance(event, OutputEvent):
                return event

    _current: object = None

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True


class Wait:
    def __init__(self, seconds: float, deaf: bool) -> None:
        self.end = time.monotonic() + seconds
        self.deaf = deaf

    def until_done(self, stream: FakeStream) -> None:
        while time.monotonic() < self.end and (self.deaf or not stream.interrupted):
            time.sleep(0.005)


class FakeVariables:
    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def push(self, name: str, value: object) -> None:
        from faas.errors import api_error

        if isinstance(value, io.IOBase):
            raise api_error("not_transferable", 422, "an open file belongs to its process")
        self._names[name] = value

    def pull(self, name: str) -> Any:
        from faas.errors import api_error

        if name not in self._names:
            raise UnknownVariableError(f"no variable {name}", code="unknown_variable", status=404)
        if callable(self._names[name]):
            raise api_error("not_transferable", 422, f"{name} is a function")
        return self._names[name]


class FakeExecution:
    def __init__(self, client: FakeClient, number: int, environment: str, name: str | None, **more: Any) -> None:
        self._client = client
        self.names: dict[str, Any] = {}
        self.variables = FakeVariables(self.names)
        self.origins: list[CellOrigin] = []
        self.timeouts: list[float | None] = []
        self.info = ExecutionInfo(
            id=f"exec-{number}",
            name=name,
            status="idle",
            environment=environment,
            base_image="host",
            resources=Resources(**{"memory_mb": 1024, "cpus": 2, **(more.get("resources") or {})}),
            enforcement={"memory_mb": "cgroup v2", "cpus": "none"},
            degraded=["cpus: no cgroup controller"],
            notes=["host stands in for python:3.11-slim"],
            labels=more.get("labels") or {},
            created_at=dt.datetime.now(dt.UTC),
        )

    id = property(lambda self: self.info.id)
    name = property(lambda self: self.info.name)
    status = property(lambda self: self.info.status)
    environment = property(lambda self: self.info.environment)

    def refresh(self) -> FakeExecution:
        self._client.check()
        return self

    def end(self, code: str) -> None:
        self.info = self.info.model_copy(update={"status": "terminated", "end_code": code})

    def close(self) -> None:
        self._client.check()
        self._client.log.append(f"close {self.name}")
        self.end("closed")

    def stream(
        self,
        code: str,
        timeout: float | None = None,
        cell: CellOrigin | None = None,
        interrupt_on_cancel: bool = True,
    ) -> FakeStream:
        self._client.check()
        if self.status == "terminated":
            raise ExecutionEndedError("the session ended", code="execution_ended", status=410)
        assert cell is not None
        self.origins.append(cell)
        self.timeouts.append(timeout)
        return FakeStream(self, code)

    def run(self, code: str, stream: FakeStream) -> Iterator[object]:
        def emit(msg_type: str, **content: Any) -> None:
            queue.append(OutputEvent(msg_type=msg_type, content=content))

        def fail(code: str, evalue: str = "", hint: str = "", *, ends: bool = False) -> None:
            raise Failure(code, evalue, hint, ends)

        queue: list[object] = []
        self.names.update(emit=emit, fail=fail)
        error: CodeError | None = None
        try:
            for node in ast.parse(code).body:
                source = ast.unparse(node)
                if source.startswith("wait("):
                    yield (wait := Wait(*ast.literal_eval(source[4:])))
                    if stream.interrupted and not wait.deaf:
                        raise KeyboardInterrupt
                    continue
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    value = None
                    if isinstance(node, ast.Expr):
                        value = eval(source, self.names)
                    else:
                        exec(compile(source, "<cell>", "exec"), self.names)
                if out.getvalue():
                    emit("stream", name="stdout", text=out.getvalue())
                if value is not None:
                    emit("execute_result", data={"text/plain": repr(value)}, metadata={}, execution_count=1)
                yield from queue
                queue.clear()
        except Failure as failure:
            error = failure.error
            if failure.ends:
                self.end(error.code)
        except KeyboardInterrupt:
            error = CodeError(
                code="cancelled", ename="KeyboardInterrupt", traceback=["remote trace", "KeyboardInterrupt: "]
            )
        except Exception as exc:  # noqa: BLE001 - whatever the cell raises
            lines = ["remote trace", "".join(traceback.format_exception_only(exc)).strip()]
            error = CodeError(code="exception", ename=type(exc).__name__, evalue=str(exc), traceback=lines)
        yield from queue
        stream.result = ExecutionResult(
            request_id=stream.request_id,
            execution_id=self.id,
            status="error" if error else "success",
            error=error,
        )


class FakeExecutions:
    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self.all: list[FakeExecution] = []

    def create(
        self, environment: str, *, on_progress: Callable[[Progress], None] | None = None, **more: Any
    ) -> FakeExecution:
        self._client.check()
        self._client.environments.get(environment)
        if any(other.name == more["name"] and other.status == "idle" for other in self.all):
            raise NameTakenError("taken", code="name_taken", status=409)
        for index in range(int(self._client.opening_s / 0.05)):
            time.sleep(0.05)
            if on_progress is not None:
                on_progress(Progress(stage="build", message="installing numpy", fraction=index / 40))
        execution = FakeExecution(self._client, len(self.all) + 1, environment, **more)
        self._client.log.append(f"create {environment}")
        self.all.append(execution)
        return execution

    def get(self, name: str) -> FakeExecution:
        self._client.check()
        for execution in reversed(self.all):
            if name in (execution.name, execution.id):
                return execution
        raise UnknownExecutionError(f"no {name}", code="unknown_execution", status=404)

    def list(self, label: str) -> list[ExecutionInfo]:
        key, _, value = label.partition(":")
        return [execution.info for execution in self.all if execution.info.labels.get(key) == value]

    def cancel(self, name: str) -> None:
        self._client.log.append("cancel")
        self.get(name).end("closed")


class FakeEnvironments:
    def get(self, name: str) -> str:
        if name not in ("python", "python-ai", "notebook"):
            problem = f"no environment is called {name!r}"
            raise UnknownEnvironmentError(problem, code="unknown_environment", status=404)
        return name


class FakeClient:
    """`down`: raised by every call; `opening_s`: how long a session takes to open; `log`: what was asked."""

    def __init__(self) -> None:
        self.executions = FakeExecutions(self)
        self.environments = FakeEnvironments()
        self.down: Exception | None = None
        self.opening_s = 0.0
        self.log: list[str] = []
        self.closed = False

    def check(self) -> None:
        if self.down is not None:
            raise self.down

    def close(self) -> None:
        self.closed = True


def install(shell: Any, client: FakeClient | None = None) -> FakeClient:
    """Register the magics on a shell, with a fake gateway behind them."""
    from faas_magics.complete import make_matcher
    from faas_magics.magic import FaaSMagics
    from faas_magics.sessions import Sessions

    client = client or FakeClient()
    connect: Any = lambda: client  # noqa: E731
    magics = FaaSMagics(shell, Sessions(shell, connect))
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(make_matcher(shell, magics.sessions))
    return client


class Shell:
    """An IPython shell in this process with the magics on a fake gateway; a context manager."""

    def __init__(self) -> None:
        from IPython.core.displaypub import CapturingDisplayPublisher
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        config = Config()
        config.HistoryManager.enabled = False
        self.ip = InteractiveShell(config=config)
        self.ip.display_pub = CapturingDisplayPublisher()
        self.client = install(self.ip)

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *exc: object) -> None:
        import atexit

        atexit.unregister(self.ip.atexit_operations)
        self.ip.atexit_operations()
        self.ip.restore_sys_module_state()

    def run(self, cell: str) -> Any:
        """Run a cell that has to succeed and return its value."""
        result = self.ip.run_cell(cell, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        assert error is None, f"{type(error).__name__}: {error}"
        return result.result

    def fail(self, cell: str) -> BaseException:
        """Run a cell that has to fail and return its exception."""
        result = self.ip.run_cell(cell, store_history=True)
        assert result.error_in_exec is not None
        return result.error_in_exec

    @property
    def session(self) -> FakeExecution:
        """The execution that was opened last."""
        return self.client.executions.all[-1]

    @property
    def published(self) -> list[dict[str, Any]]:
        return self.ip.display_pub.outputs
