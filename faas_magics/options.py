"""The options of `%%faas`, their one table, and a parser whose every error is one line.

`magic_arguments` documents them (`%%faas?`). Parsing is our own because argparse cannot say which spelling
was meant, takes abbreviations silently and answers with its usage text.
"""

from __future__ import annotations

import difflib
import keyword
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments

from faas_magics.errors import OptionError

__all__ = ["DEFAULT_SESSION", "OPTIONS", "Option", "Options", "cell_options", "parse", "suggestion"]

DEFAULT_SESSION = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LARGEST_TIMEOUT_S = 30 * 86400


@dataclass(frozen=True)
class Options:
    """The magic's line, understood. None means that the option was not given."""

    env: str | None = None
    name: str = DEFAULT_SESSION
    timeout: float | None = None
    """Seconds."""
    memory: int | None = None
    """MiB."""
    cpus: float | None = None
    """Cores."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    fresh: bool = False


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError
    return value


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds <= _LARGEST_TIMEOUT_S:
        raise ValueError
    return seconds


def _megabytes(value: str) -> int:
    megabytes = int(value)
    if not 32 <= megabytes <= 16 << 20:
        raise ValueError
    return megabytes


def _cores(value: str) -> float:
    cores = float(value)
    if not 0 < cores <= 1024:
        raise ValueError
    return cores


def _variables(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names or not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise ValueError
    return names


@dataclass(frozen=True)
class Option:
    flag: str
    dest: str
    metavar: str | None
    help: str
    takes: str
    """What is allowed, for error messages: it follows the word "takes"."""
    convert: Callable[[str], object] | None

    @property
    def is_list(self) -> bool:
        return self.convert is _variables


OPTIONS: dict[str, Option] = {
    option.flag: option
    for option in (
        Option(
            "--env",
            "env",
            "NAME",
            "environment of the session, like python-ai (default: notebook, this notebook's own packages)",
            "the name of an environment, for example python-ai",
            _name,
        ),
        Option(
            "--name",
            "name",
            "SESSION",
            "session to use; a named one outlives the notebook and is found from other notebooks (default: a "
            "private one per notebook)",
            "letters, digits, '.', '_' and '-', at most 63, for example --name training",
            _name,
        ),
        Option(
            "--timeout",
            "timeout",
            "S",
            "seconds that this cell may run (default: the environment's limit)",
            "a number of seconds above 0 and up to 30 days, for example 60",
            _seconds,
        ),
        Option(
            "--memory",
            "memory",
            "MB",
            "memory of the session, MB",
            "a whole number of MB from 32, for example 2048",
            _megabytes,
        ),
        Option(
            "--cpus",
            "cpus",
            "N",
            "CPU cores of the session, fractions allowed",
            "a number of cores above 0 and up to 1024, for example 1.5",
            _cores,
        ),
        Option(
            "--in",
            "inputs",
            "a,b",
            "variables of this notebook to copy into the session before the code runs",
            "names of variables with commas between them, for example --in a,b",
            _variables,
        ),
        Option(
            "--out",
            "outputs",
            "c,d",
            "variables of the session to copy into this notebook after the code ran",
            "names of variables with commas between them, for example --out c,d",
            _variables,
        ),
        Option("--fresh", "fresh", None, "close the session and start a new one", "no value", None),
    )
}


def cell_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare the options on a magic function, for its help."""
    decorate: Any = argument
    for option in reversed(OPTIONS.values()):
        if option.metavar is None:
            function = decorate(option.flag, action="store_true", help=option.help)(function)
        else:
            function = decorate(option.flag, metavar=option.metavar, dest=option.dest, help=option.help)(function)
    finish: Any = magic_arguments("%faas")
    return finish(function)


def parse(line: str) -> Options:
    """Return the options of a magic line.

    Raises OptionError: one line that names the option, what is allowed, and the nearest spelling.
    """
    values: dict[str, object] = {}
    tokens = iter(_split(line))
    for token in tokens:
        flag, equals, value = token.partition("=")
        option = OPTIONS.get(flag)
        if option is None:
            raise OptionError(_unknown(flag))
        if option.dest in values:
            raise OptionError(f"{flag} is given twice")
        if option.convert is None:
            if equals:
                raise OptionError(f"{flag} takes {option.takes}")
            values[option.dest] = True
            continue
        if not equals:
            value = next(tokens, "--")
            if value.startswith("--"):
                raise OptionError(f"{flag} needs a value: it takes {option.takes}")
        if option.is_list:
            while value.endswith(","):  # "a, b" reads as well as "a,b"
                more = next(tokens, "")
                if not more:
                    break
                value += more
        try:
            values[option.dest] = option.convert(value)
        except ValueError:
            raise OptionError(f"{flag} takes {option.takes}; not {_short(value)}") from None
    return Options(**values)  # type: ignore[arg-type]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest of the known words, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as exc:
        raise OptionError(f"cannot read the options: {str(exc).lower()} in {_short(line)}") from None


def _unknown(word: str) -> str:
    allowed = " ".join(OPTIONS)
    if word.startswith("-"):
        near = suggestion("--" + word.lstrip("-").replace("_", "-"), OPTIONS)
        return f"unknown option {_short(word)}{near or '; allowed'}{' Allowed' if near else ''}: {allowed}"
    near = suggestion("--" + word, OPTIONS) or f"; did you mean --env {_short(word)}?"
    return f"unexpected {_short(word)}: options start with --{near} Allowed: {allowed}"


def _short(word: str) -> str:
    return repr(word) if len(word) <= 40 else repr(word[:37] + "...")
