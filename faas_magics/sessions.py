"""The sessions of one notebook kernel: opened by the first cell that names them, kept, found again, replaced.

A cell without --name uses the private session `default`: it belongs to this kernel and ends with it. A
named session belongs to the gateway: other notebooks find it by its name, and it stays until it has been
idle for long enough.

When a session has ended (out of memory, died, expired, gateway gone), the cell that finds it so fails and
says why, because it was written for variables that are gone. The next cell starts a new session and says so
in one line. So nothing is lost silently, and nothing has to be typed to go on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faas_magics.errors import Interrupted, SessionError, sentence
from faas_magics.interrupts import Interrupts
from faas_magics.options import DEFAULT_SESSION, Options
from faas_magics.progress import ProgressLine

if TYPE_CHECKING:
    from faas import SyncExecution, SyncFaaSClient

__all__ = ["Session", "Sessions", "describe_end", "kernel_id", "note"]

DEFAULT_ENVIRONMENT = "notebook"
#: A notebook that was killed cannot close its session; a day without a cell ends it, and lets the gateway stop.
IDLE_TIMEOUT_S = 24 * 3600.0
_EXIT_DEADLINE_S = 2.0
_ENDED = ("terminated", "failed", "lost")
_WHY = {
    "closed": "was closed",
    "oom": "ran out of memory",
    "died": "died",
    "killed": "was terminated",
    "expired": "reached the end of its time",
    "idle": "was closed because it had been idle for long",
    "cpu_time": "used up its CPU time",
    "disk_full": "filled its disk",
    "timeout": "did not stop when a cell's time was over",
    "lost": "was lost with the gateway that ran it",
}
_GONE = "its variables and files are gone"


class Session:
    """One open execution, as this notebook sees it."""

    def __init__(self, name: str, execution: SyncExecution, asked: Options) -> None:
        self.name = name
        self.execution = execution
        self.asked = asked
        """The options that it was opened with (env, memory, cpus)."""
        self.ended = ""
        """Why it has ended, as the rest of a sentence; empty while it lives."""
        self.doubtful = False
        """The connection broke: whether it lives has to be asked before the next cell."""
        self.detached = False
        """A cell was left running by a second interrupt: the next one waits for it."""

    @property
    def private(self) -> bool:
        return self.name == DEFAULT_SESSION

    @property
    def environment(self) -> str:
        return self.execution.environment

    def __str__(self) -> str:
        return f"session '{self.name}' ({self.environment})"

    def examine(self) -> None:
        """Ask the gateway whether the session still lives, and note why if it does not."""
        from faas.errors import UnknownExecutionError

        try:
            self.execution.refresh()
        except UnknownExecutionError:
            self.end("lost", "")
            return
        self.doubtful = False
        info = self.execution.info
        if info.status in _ENDED:
            self.end(info.end_code or info.status, info.end_reason or "")

    def end(self, code: str, reason: str) -> None:
        self.ended = _WHY.get(code) or (f"ended ({reason or code})")

    def check(self, options: Options) -> None:
        """Raise SessionError if a cell asks for something else than what the session has."""
        has = self.execution.info.resources
        asked = self.asked
        for flag, wanted, values, unit in (
            ("--env", options.env, (self.environment,), ""),
            ("--memory", options.memory, (asked.memory, has.memory_mb), " MB"),
            ("--cpus", options.cpus, (asked.cpus, has.cpus), ""),
        ):
            if wanted is None or wanted in values:
                continue
            current = next((_plain(value) for value in values if value is not None), "")
            is_open = f"is open with {flag} {current}{unit}" if current else f"has no {flag} limit"
            raise SessionError(
                f"session '{self.name}' {is_open}, this cell asks for {flag} {_plain(wanted)}{unit}. Add --fresh "
                "to replace the session (its variables and files are lost), or --name NAME to use another one"
            )


class Sessions:
    """Owns the client and the sessions of this kernel.

    Arguments: the IPython shell; how to make a client (SyncFaaSClient when not given), called at the first
    use.
    """

    def __init__(self, shell: Any, connect: Callable[[], SyncFaaSClient] | None = None) -> None:
        self._shell = shell
        self._connect = connect
        self._client: SyncFaaSClient | None = None
        self._sessions: dict[str, Session] = {}
        self._notebook = kernel_id(shell)
        self._token = uuid.uuid4().hex[:12]
        self._opened = 0
        self._pid = os.getpid()

    def client(self) -> SyncFaaSClient:
        """Return the client, made at the first call."""
        if self._client is None:
            if self._connect is None:
                from faas import SyncFaaSClient

                self._connect = SyncFaaSClient
            self._client = self._connect()
        return self._client

    def known(self) -> list[Session]:
        """Return the sessions that cells of this notebook have used, the default one first."""
        return sorted(self._sessions.values(), key=lambda session: (not session.private, session.name))

    def acquire(self, options: Options, interrupts: Interrupts) -> Session:
        """Return the session that a cell with these options runs in; it is opened if need be.

        Raises SessionError for options that contradict the open session, Interrupted when stopped on the
        way, and the SDK's errors when a session cannot be opened.
        """
        from faas.errors import NameTakenError

        last = self._sessions.get(options.name)
        try:
            if last is not None and last.doubtful and not last.ended:
                interrupts.wait(last.examine)
            if last is not None and not last.ended and not options.fresh:
                self._know(options, last, interrupts)
                last.check(options)
                return last
            found = self._find(options.name, interrupts)
            if found is not None:
                self._know(options, found, interrupts)
                if not options.fresh:
                    return self._join(found, last, options)
                if not found.private:  # two cannot have its name, so it has to go first
                    self._replace(found, interrupts)
            try:
                session = self._open(_merge(options, found or last), interrupts)
                if found is not None and found.private:
                    self._replace(found, interrupts)
            except NameTakenError:
                # Another notebook was quicker: then that one is the session of this name.
                found = self._find(options.name, interrupts)
                if found is None:
                    raise
                return self._join(found, last, options)
        except KeyboardInterrupt:
            raise Interrupted("stopped before the session was ready; the cell was not run") from None
        self._sessions[options.name] = session
        if last is not None and last.ended and not options.fresh:
            note(f"new {session}: the last one {last.ended}, {_GONE}")
        return session

    def handle(self, name: str) -> SyncExecution:
        """Return the open session of this name, for the notebook's own code; none is opened.

        Raises SessionError where there is none, or it has ended.
        """
        from faas.errors import FaaSError, UnknownExecutionError

        session = self._sessions.get(name)
        try:
            if session is None and name != DEFAULT_SESSION:
                execution = self.client().executions.get(name)
                session = Session(name, execution, Options(env=execution.environment, name=name))
            if session is not None and not session.ended:
                session.examine()  # it may have ended since the last cell, and its info is that of its opening
        except UnknownExecutionError:
            pass
        except FaaSError as exc:
            raise SessionError(str(exc)) from exc
        if session is None:
            option = "" if name == DEFAULT_SESSION else f" --name {name}"
            raise SessionError(f"no session '{name}' is open: a %%faas{option} cell opens it")
        if session.ended:
            raise SessionError(sentence(f"{session} {session.ended}", _GONE, "the next %%faas cell opens a new one"))
        return session.execution

    def close(self) -> list[str]:
        """End the private session and the client; return the names of the sessions that ended. Idempotent."""
        client, self._client = self._client, None
        if client is None:
            return []
        closed = self._close_private()
        client.close()
        return closed

    def close_at_exit(self) -> None:
        """End the private session, within a short deadline, while the interpreter goes down.

        The connections are left to the process's end: closing them takes a thread, and none can start now.
        """
        if self._client is None or os.getpid() != self._pid:
            return  # nothing was used, or this is a fork of the kernel, which owns nothing
        if threading.current_thread() is not threading.main_thread():
            return
        self._client = None
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, _EXIT_DEADLINE_S)
        try:
            # If the gateway does not answer in time, it ends the session when that has been idle for long.
            with suppress(KeyboardInterrupt, RuntimeError):
                self._close_private()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def _close_private(self) -> list[str]:
        from faas.errors import FaaSError

        closed: list[str] = []
        for session in self.known():
            if session.private and not session.ended:
                with suppress(FaaSError):  # then the gateway ends it when it has been idle
                    session.execution.close()
                    closed.append(session.name)
        self._sessions.clear()
        return closed

    def _know(self, options: Options, found: Session, interrupts: Interrupts) -> None:
        """Raise UnknownEnvironmentError for a misspelt name: no advice about the open session, and no harm to it."""
        if options.env is not None and options.env != found.environment:
            client = interrupts.wait(self.client)
            interrupts.wait(client.environments.get, options.env)

    def _find(self, name: str, interrupts: Interrupts) -> Session | None:
        """Return the live session of this name: this notebook's own, or a named one from the gateway."""
        last = self._sessions.get(name)
        if last is not None and not last.ended:
            return last
        if name == DEFAULT_SESSION:
            return None
        from faas.errors import UnknownExecutionError

        client = interrupts.wait(self.client)
        try:
            execution = interrupts.wait(client.executions.get, name)
        except UnknownExecutionError:
            return None
        found = Session(name, execution, Options(env=execution.environment, name=name))
        if execution.status not in _ENDED:
            return found
        if execution.id == name:  # an id stands for this one alone: a new session would not be it
            found.end(execution.info.end_code or execution.status, execution.info.end_reason or "")
            raise SessionError(sentence(f"{found} {found.ended}", _GONE))
        return None

    def _join(self, found: Session, last: Session | None, options: Options) -> Session:
        found.check(options)
        self._sessions[found.name] = found
        if found.name == found.execution.id:
            return found  # asked for by its id, like a branch: it can be no other
        was = f"; the last one {last.ended}" if last is not None and last.ended else ""
        note(f"joined {found}, which was open already{was}")
        return found

    def _replace(self, old: Session, interrupts: Interrupts) -> None:
        from faas.errors import ConnectError, UnknownExecutionError

        # It may be gone, with its gateway or without. Any other failure might leave it running: raise that.
        with suppress(UnknownExecutionError, ConnectError):
            interrupts.wait(old.execution.close)
        old.end("closed", "")

    def _open(self, asked: Options, interrupts: Interrupts) -> Session:
        environment = asked.env or DEFAULT_ENVIRONMENT
        self._opened += 1
        private = asked.name == DEFAULT_SESSION
        name = f"notebook-{self._token}-{self._opened}" if private else asked.name
        resources: dict[str, Any] = {"memory_mb": asked.memory, "cpus": asked.cpus}
        with ProgressLine(self._shell, f"{environment} session", interrupts) as progress:
            client = interrupts.wait(self.client)
            if private and self._opened == 1:
                interrupts.wait(self._close_orphans, client)
            try:
                execution = interrupts.wait(
                    client.executions.create,
                    environment,
                    name=name,
                    resources={key: value for key, value in resources.items() if value is not None} or None,
                    idle_timeout_s=IDLE_TIMEOUT_S,
                    labels={"notebook": self._notebook, "session": asked.name, "kernel": self._token},
                    on_progress=progress,
                )
            except KeyboardInterrupt:
                self._abandon(client, name)
                raise
        return Session(asked.name, execution, asked)

    def _close_orphans(self, client: SyncFaaSClient) -> None:
        """End private sessions that an earlier life of this kernel left: a killed one cannot do it itself."""
        for info in client.executions.list(label=f"notebook:{self._notebook}"):
            private = info.labels.get("session") == DEFAULT_SESSION
            if private and info.labels.get("kernel") != self._token and info.status not in _ENDED:
                client.executions.cancel(info.id)

    def _abandon(self, client: SyncFaaSClient, name: str) -> None:
        from faas.errors import FaaSError

        with suppress(FaaSError):  # it was not opened, which is what is wanted
            client.executions.cancel(name)


def note(text: str) -> None:
    """Tell the user something that is no failure, in one line."""
    print(f"faas: {text}", file=sys.stderr, flush=True)


def kernel_id(shell: Any) -> str:
    """Return what tells this notebook kernel from others: the kernel's id, or the process of a terminal."""
    if getattr(shell, "kernel", None) is not None:
        from ipykernel.connect import get_connection_file

        with suppress(RuntimeError):  # a kernel in this process has no connection file
            return Path(get_connection_file()).stem.removeprefix("kernel-")[:128]
    return f"ipython-{os.getpid()}"


def describe_end(session: Session) -> str:
    """Return the message for a cell that found its session ended."""
    return sentence(f"{session} {session.ended}", _GONE, "run the cell again to start a new session")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _merge(options: Options, last: Session | None) -> Options:
    """What to open: a replaced session's settings stay unless the cell gives others."""
    before = last.asked if last is not None else Options()
    return Options(
        env=options.env or (last.environment if last is not None else None),
        name=options.name,
        memory=options.memory if options.memory is not None else before.memory,
        cpus=options.cpus if options.cpus is not None else before.cpus,
    )
