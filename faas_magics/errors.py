"""What a `%%faas` cell raises: one line that says what happened and what to do, or the remote traceback.

    MagicError
    ├── OptionError      the magic's line cannot be understood
    ├── SessionError     the session could not be opened, or has ended
    ├── TransferError    a variable of --in or --out cannot travel
    ├── Interrupted      stopped by the user before or after the code ran, or no longer waited for
    ├── CellError        the cell failed for a cause that has no traceback; one subclass per cause
    └── RemoteError      the cell's own exception, with its traceback; one subclass per exception name

IPython shows an exception through `_render_traceback_` when there is one, so none of our frames is ever
shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from faas.types import CodeError

__all__ = [
    "CellError",
    "Interrupted",
    "MagicError",
    "OptionError",
    "RemoteError",
    "SessionError",
    "TransferError",
    "cell_failure",
    "sentence",
]

_E = TypeVar("_E", bound="MagicError")
_RED, _DEFAULT = "\x1b[31m", "\x1b[39m"

#: Causes of a failed request: the name of the exception, what to say when the gateway said nothing, and what to do
#: about it in the words of a notebook (the gateway's own hints speak of its API).
_CAUSES = {
    "oom": (
        "OutOfMemory",
        "the code used more memory than the session may use",
        "%%faas --fresh --memory MB allows more",
    ),
    "died": ("SandboxDied", "the session's process died while the code ran", ""),
    "killed": ("SandboxKilled", "the session was terminated while the code ran", ""),
    "lost": ("SessionLost", "the gateway that ran the session is gone", ""),
    "timeout": ("CellTimeout", "the code ran longer than it may", "--timeout S allows more"),
    "cpu_time": ("CPUTimeExceeded", "the session used up its CPU time", ""),
    "disk_full": ("DiskFull", "the session's disk is full", "delete files, or write less"),
    "pids": (
        "TooManyProcesses",
        "the session has as many processes and threads as it may have",
        "start fewer processes and threads",
    ),
    "output_truncated": (
        "OutputTruncated",
        "the code printed more than a cell may print",
        "print less, or write to a file",
    ),
    "exit_code": ("ExitStatus", "the code ended with an exit status other than 0", ""),
    "cancelled": ("Interrupted", "the code was interrupted", ""),
}


class MagicError(Exception):
    """Base class: shown as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{_RED}{type(self).__name__}{_DEFAULT}: {self}"]


class OptionError(MagicError):
    """The line after `%%faas` cannot be understood; nothing was run."""


class SessionError(MagicError):
    """The session could not be opened or used."""


class TransferError(MagicError):
    """A variable named by --in or --out cannot travel."""


class Interrupted(MagicError):
    """The user pressed stop."""


class CellError(MagicError):
    """The cell failed for a cause without a traceback (`code`: oom, died, timeout, ...)."""

    code: str = ""


class RemoteError(MagicError):
    """The cell's own exception: `ename`, `evalue` and `traceback` of the Jupyter `error` message."""

    def __init__(self, ename: str, evalue: str, traceback: list[str]) -> None:
        super().__init__(evalue)
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback

    def _render_traceback_(self) -> list[str]:
        return self.traceback or [f"{_RED}{self.ename}{_DEFAULT}: {self.evalue}"]


def cell_failure(error: CodeError, more: str = "") -> MagicError:
    """Return the exception for a request that did not succeed.

    Arguments: the result's `error`, and a sentence about the session to add to a message (not to a
    traceback).
    """
    if error.code in ("exception", "cancelled") and (error.traceback or error.ename):
        ename = _class_name(error.ename, "RemoteError")
        return _subclass(ename, RemoteError)(error.ename or ename, error.evalue, list(error.traceback))
    unknown = (
        _class_name(error.code.title().replace("_", ""), "CellError"),
        f"the code failed: {error.code}",
        error.hint,
    )
    name, default, hint = _CAUSES.get(error.code, unknown)
    failure = _subclass(name, CellError)(sentence(error.evalue or default, hint, more))
    failure.code = error.code
    return failure


def sentence(*parts: str) -> str:
    """Join clauses into sentences on one line, leaving out empty and repeated ones."""
    text = ""
    for part in (" ".join(part.split()) for part in parts):
        if not part or part.rstrip(".") in text:
            continue
        text = text.rstrip(".") + ". " + part[0].upper() + part[1:] if text else part
    return text


def _subclass(name: str, base: type[_E]) -> type[_E]:
    # The class of an exception is what notebooks show and what nbclient reports, so it bears the remote name.
    return cast("type[_E]", type(name, (base,), {"__module__": __name__}))


def _class_name(text: str, default: str) -> str:
    # The name comes out of a sandbox: it is shown, so it has to be a name.
    name = text.rpartition(".")[2]
    return name if re.fullmatch(r"[^\W\d]\w{0,99}", name) else default
