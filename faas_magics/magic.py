"""`%%faas` and `%faas`: what a cell does from its first line to its result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class

from faas_magics.errors import (
    Interrupted,
    MagicError,
    OptionError,
    RemoteError,
    SessionError,
    TransferError,
    cell_failure,
    sentence,
)
from faas_magics.interrupts import Interrupts
from faas_magics.options import Options, cell_options, parse
from faas_magics.render import RemoteResult, Renderer
from faas_magics.sessions import Session, Sessions, describe_end, note

if TYPE_CHECKING:
    from faas.types import ExecutionResult

__all__ = ["FaaSMagics"]

#: Causes after which the session certainly goes on; after any other the gateway is asked.
_HARMLESS = ("exception", "exit_code")


@magics_class
class FaaSMagics(Magics):
    """The magics, and the sessions of this kernel."""

    def __init__(self, shell: Any, sessions: Sessions | None = None) -> None:
        super().__init__(shell)
        self.sessions = sessions or Sessions(shell)

    @line_cell_magic
    @cell_options
    def faas(self, line: str, cell: str | None = None) -> RemoteResult | None:
        """Run a cell in a sandbox: `%%faas [options]` on its first line. `%faas` alone shows the session.

        Variables and files stay from cell to cell of a session. Output, figures and errors show as in a
        local cell; the stop button interrupts the code and keeps the session. Options that are not given
        are those of the open session. When a session has ended, the cell that finds it so fails and says
        why; the next one starts a new session and says that it is new.
        """
        failure: BaseException
        try:
            if cell is None:
                return self._show(line)
            return self._run(parse(line), cell, f"%%faas {line}".rstrip())
        except MagicError as exc:
            failure = exc
        except KeyboardInterrupt:
            failure = Interrupted("stopped")
        # Raised here so that nothing of ours is the context of what the user sees.
        failure.__context__ = None
        raise failure.with_traceback(None)

    def _show(self, line: str) -> None:
        if line.strip():
            raise OptionError(
                "%faas alone shows the session and takes no options; to run code write "
                f"%%faas {line.strip()} on the first line of a cell"
            )
        from faas_magics.panel import show_sessions

        with Interrupts() as interrupts:
            show_sessions(self.shell, self.sessions, interrupts)

    def _run(self, options: Options, code: str, magic_line: str) -> RemoteResult | None:
        if not code.strip():
            raise OptionError("the cell is empty: write the code to run below the %%faas line")
        names: dict[str, Any] = self._namespace()
        for name in options.inputs:
            if name not in names:
                raise OptionError(f"--in {name}: this notebook has no variable {name!r}")
        from faas.errors import ExecutionEndedError, FaaSError, TransportError, UnknownExecutionError

        session: Session | None = None
        with Interrupts() as interrupts:
            try:
                session = self.sessions.acquire(options, interrupts)
                self._push(session, {name: names[name] for name in options.inputs}, interrupts)
                shown = self._execute(session, options, code, magic_line, interrupts)
                try:
                    self._pull(session, options.outputs, interrupts)
                except BaseException:
                    if shown is not None:  # the code did run, and this is what it gave
                        sys.displayhook(shown)
                    raise
            except (ExecutionEndedError, UnknownExecutionError) as exc:
                raise self._found_ended(session, exc, interrupts) from exc
            except TransportError as exc:
                if session is not None:
                    session.doubtful = True  # whether it lives on is asked before the next cell
                raise SessionError(str(exc)) from exc
            except FaaSError as exc:
                raise SessionError(str(exc)) from exc
        return shown

    def _execute(
        self, session: Session, options: Options, code: str, magic_line: str, interrupts: Interrupts
    ) -> RemoteResult | None:
        from faas.types import CellOrigin

        if session.detached:
            note(
                f"an earlier cell may still run in {session}; this one waits for it "
                "(%%faas --fresh starts a new session)"
            )
        origin = CellOrigin(execution_count=max(1, self._execution_count()), magic_line=magic_line[:4096])
        renderer = Renderer(self.shell)
        result = self._stream(session, options, code, origin, renderer, interrupts)
        session.detached = False
        shown = renderer.finish(success=result.status == "success")
        if result.status != "success":
            raise self._failure(session, options, result, renderer, interrupts)
        if result.truncated:
            note("the output is not whole: the cell printed more than a cell may print")
        return shown

    def _stream(
        self,
        session: Session,
        options: Options,
        code: str,
        origin: Any,
        renderer: Renderer,
        interrupts: Interrupts,
    ) -> ExecutionResult:
        """Show the request's messages as they come and return its result, through interrupts."""
        interrupted = False
        # The code is sent at the first step. An interrupt while it is waited for is ours to pass on.
        stream = session.execution.stream(code, options.timeout, cell=origin, interrupt_on_cancel=False)
        try:
            while True:
                try:
                    event = interrupts.wait(next, stream, None)
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
                    interrupts.wait(stream.interrupt)
                    continue
                if event is None:
                    break
                renderer.show(event)
        except KeyboardInterrupt:
            session.detached = True
            renderer.finish(success=False)
            raise Interrupted(
                f"no longer waiting: the code did not stop and may still run in {session}. Go on with "
                "%%faas --fresh for a new session; a cell without --fresh waits for that code"
            ) from None
        finally:
            stream.close()
        return stream.result

    def _failure(
        self,
        session: Session,
        options: Options,
        result: ExecutionResult,
        renderer: Renderer,
        interrupts: Interrupts,
    ) -> MagicError:
        from faas.errors import FaaSError
        from faas.types import CodeError

        error = result.error or CodeError(
            code="exception", ename="Error", evalue=f"the cell ended: {result.status}", hint=""
        )
        if not error.traceback and renderer.error and error.code in ("exception", "cancelled"):
            error = error.model_copy(update={"traceback": [str(x) for x in renderer.error.get("traceback", ())]})
        if error.code not in _HARMLESS:
            try:
                interrupts.wait(session.examine)
            except FaaSError:
                session.doubtful = True
        if session.ended:
            after = (
                f"session '{session.name}' ended with it: its variables and files are gone, "
                "the next %%faas cell starts a new one"
            )
        elif error.code in _HARMLESS or error.code == "cancelled":
            after = ""
        else:
            after = f"session '{session.name}' goes on with its variables and files"
        if error.code == "timeout" and options.timeout is not None and not error.evalue:
            error = error.model_copy(update={"evalue": f"the code ran longer than --timeout {options.timeout:g} s"})
        failure = cell_failure(error, after)
        if isinstance(failure, RemoteError) and session.ended:
            note(after)
        return failure

    def _found_ended(self, session: Session | None, exc: Exception, interrupts: Interrupts) -> SessionError:
        from faas.errors import FaaSError

        if session is None:
            return SessionError(str(exc))
        try:
            interrupts.wait(session.examine)
        except FaaSError:
            session.doubtful = True
        if not session.ended:
            session.end("ended", getattr(exc, "detail", str(exc)))
        return SessionError(describe_end(session))

    def _push(self, session: Session, values: dict[str, Any], interrupts: Interrupts) -> None:
        from faas.errors import NotTransferableError, TooLargeError

        for name, value in values.items():
            try:
                interrupts.wait(session.execution.variables.push, name, value)
            except (NotTransferableError, TooLargeError) as exc:
                kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
                raise TransferError(
                    sentence(f"--in {name} ({kind}) cannot be copied into the session", str(exc), "nothing was run")
                ) from exc
            except KeyboardInterrupt:
                raise Interrupted(f"stopped while {name} was copied into the session; the cell was not run") from None

    def _pull(self, session: Session, wanted: tuple[str, ...], interrupts: Interrupts) -> None:
        from faas.errors import NotTransferableError, TooLargeError, UnknownVariableError

        for name in wanted:
            try:
                value = interrupts.wait(session.execution.variables.pull, name)
            except UnknownVariableError:
                raise TransferError(f"--out {name}: the session has no variable {name!r}") from None
            except (NotTransferableError, TooLargeError) as exc:
                raise TransferError(sentence(f"--out {name} cannot be copied into the notebook", str(exc))) from exc
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped while {name} was copied into the notebook; the cell itself has run"
                ) from None
            self._namespace()[name] = value

    def _namespace(self) -> dict[str, Any]:
        shell: Any = self.shell
        return shell.user_ns

    def _execution_count(self) -> int:
        # `shell.execution_count` is the next cell's in newer versions of IPython; this is In[...] in all.
        shell: Any = self.shell
        return int(shell.displayhook.prompt_count)
