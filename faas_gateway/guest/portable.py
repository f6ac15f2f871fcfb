"""A session's variables in a form that outlives its process: written one by one, and read into another interpreter.

    capture(namespace, hidden, fd, session_state(before, count))       restore(namespace, fd)

Each variable is a record of its own. One that cannot be written or read is named with the reason, and the others go
on. What variables share is kept where it is bound to a name, or within one record.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import types
import warnings
from collections.abc import Container, Generator, Mapping
from re import compile as regex
from typing import Any

from . import portable_stream as stream
from .portable_digest import fingerprints
from .portable_pickle import SessionPickler, SessionUnpickler, Waiting, find, fixed_references
from .portable_session import apply_after, apply_before, baseline, import_missing, session_state, submodules

__all__ = ["FormatProblem", "baseline", "capture", "fingerprints", "restore", "session_state"]

FormatProblem = stream.FormatProblem

_IPYTHONS = regex(r"_{1,3}|_i{1,3}|_i?\d+|_[iod]h|_exit_code|In|Out|get_ipython")
_MODULES = regex(r"__(name|doc|package|loader|spec|builtins?|file|cached|annotations|warningregistry)__")
_PLAIN = (bool, int, float, complex, type(None), type(Ellipsis), type(NotImplemented))
_SHARED_TEXT = 64 << 10


def user_variables(namespace: Mapping[Any, Any], hidden: Container[str]) -> dict[str, Any]:
    """Name to value of what is the user's own. Where hidden says the value too, a name that was taken counts."""
    found: dict[str, Any] = {}
    for name, value in list(namespace.items()):
        if not isinstance(name, str) or _MODULES.fullmatch(name) or _IPYTHONS.fullmatch(name):
            continue
        if name not in hidden or (isinstance(hidden, Mapping) and hidden[name] is not value):
            found[name] = value
    return found


def lost(name: str, reason: str) -> dict[str, str]:
    return {"kind": "variable", "name": name, "reason": reason, "effect": "lost"}


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line; the error may be one of the user's own, whose text fails too."""
    try:
        text = " ".join(str(error).split())[:300]
    except BaseException:  # noqa: BLE001
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name


@contextlib.contextmanager
def _undisturbed() -> Generator[None]:
    """No collections, which would walk all that is written or read again and again, and no warnings."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()


def capture(
    namespace: dict[str, Any], hidden: Container[str], fd: int, session: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the user's variables to fd, a pipe or a file.

    Returns `variables`, the names that were written, `excluded`, what was not, and `size_bytes`. Raises OSError when
    fd fails.
    """
    with _undisturbed():
        return _Capture(namespace, hidden, fd).run(dict(session or {}))


class _Capture:
    def __init__(self, namespace: dict[str, Any], hidden: Container[str], fd: int) -> None:
        self._namespace = namespace
        self._values = user_variables(namespace, hidden)
        self._writer = stream.Writer(fd)
        self._table = fixed_references(namespace)
        self._written: dict[str, None] = {}
        self._excluded: list[dict[str, str]] = []

    def run(self, session: dict[str, Any]) -> dict[str, Any]:
        modules = {n: v for n, v in self._values.items() if isinstance(v, types.ModuleType)}
        self._writer.mark(stream.HEADER, {"variables": list(self._values), "submodules": submodules(modules.values())})
        self._record("session", None, session)
        for name, value in self._values.items():
            if _is_shared(value):
                self._table.setdefault(id(value), Waiting(name))
        for name in sorted(self._values, key=self._rank):
            if name not in self._written:
                self._variable(name, self._values[name])
        self._writer.finish()
        return {
            "variables": [name for name in self._values if name in self._written],
            "excluded": self._excluded,
            "size_bytes": self._writer.size_bytes,
        }

    def _rank(self, name: str) -> int:
        """What others need to be read comes first; then what holds nothing else, for others to refer to."""
        value = self._values[name]
        if isinstance(value, types.ModuleType):
            return 0
        if isinstance(value, (type, types.FunctionType)):
            return 1
        return 2 if type(value).__module__.partition(".")[0] in ("numpy", "pandas", "scipy", "pyarrow") else 3

    def _variable(self, name: str, value: Any) -> None:
        known = self._table.get(id(value))
        if isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
            self._writer.mark(stream.NOTE, {"name": name, "module": value.__name__})
        elif isinstance(known, tuple):
            self._writer.mark(stream.NOTE, {"name": name, "reference": known})
        else:
            self._record("variable", name, value)
            return
        self._written[name] = None

    def _record(self, kind: str, name: str | None, value: Any) -> None:
        """Write a value, and with it those variables that it holds and that were not written yet."""
        self._writer.mark(stream.BEGIN, {"kind": kind, "name": name})
        pickler = SessionPickler(self._writer, self._namespace, self._table)
        names = [] if name is None else [name]
        try:
            pickler.dump(value)
            pickler.met.pop(name or "", None)
            for other, met in pickler.met.items():
                pickler.dump(met)
                names.append(other)
        except BaseException as e:  # noqa: BLE001 - code of the user's objects runs here, and may raise anything
            if self._writer.broken is not None:
                raise self._writer.broken from None
            self._writer.mark(stream.ABORT)
            if name is not None:
                self._excluded.append(lost(name, reason_of(e)))
            return
        finally:
            pickler.clear_memo()
        self._writer.mark(stream.COMMIT, {"names": names})
        self._excluded = [loss for loss in self._excluded if loss["name"] not in names]
        for each in names:
            self._written[each] = None
            written = self._values[each]
            if isinstance(self._table.get(id(written)), Waiting):
                self._table[id(written)] = ("variable", each)
            if isinstance(written, types.FunctionType):
                for number, cell in enumerate(written.__closure__ or ()):
                    self._table.setdefault(id(cell), ("cell", each, number))


def _is_shared(value: Any) -> bool:
    """Whether it is told from an equal one, or costs something to write twice, and is not found by importing it."""
    if isinstance(value, (str, bytes)):
        return len(value) >= _SHARED_TEXT
    if type(value) in _PLAIN or isinstance(value, types.ModuleType) or (type(value) is tuple and not value):
        return False
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        home = sys.modules.get(value.__module__ or "")
        return home is None or value.__module__ == "__main__" or getattr(home, value.__name__, None) is not value
    return True


def restore(namespace: dict[str, Any], fd: int) -> dict[str, Any]:
    """Read what `capture` wrote into a namespace, and set the directory, search path, environment and generators.

    Returns as `capture` does, and `session` with `execution_count`. Raises FormatProblem when fd holds something else;
    what a file that ends too early lacks is excluded.
    """
    with _undisturbed():
        return _Restore(namespace, fd).run()


class _Restore:
    def __init__(self, namespace: dict[str, Any], fd: int) -> None:
        self._namespace = namespace
        self._reader = stream.Reader(fd)
        self._values: dict[str, Any] = {}
        self._excluded: list[dict[str, str]] = []
        self._session: dict[str, Any] = {}
        self._header: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        tag, size = self._reader.next()
        if tag != stream.HEADER:
            raise FormatProblem("the file does not begin with its contents")
        header = self._header = self._reader.json(size)
        problem = ""
        try:
            while (tag := self._next()) != stream.END:
                if tag not in (stream.BEGIN, stream.NOTE):
                    raise FormatProblem(f"a block {tag!r} between records")
        except FormatProblem as e:
            problem = str(e)
        known = {loss["name"] for loss in self._excluded}
        for name in header["variables"]:
            if problem and name not in self._values and name not in known:
                self._excluded.append(lost(name, problem))
        apply_after(self._session)
        return {
            "variables": [name for name in header["variables"] if name in self._values],
            "excluded": self._excluded,
            "size_bytes": self._reader.size_bytes,
            "session": {"execution_count": self._session.get("execution_count")},
        }

    def _next(self) -> bytes:
        tag, size = self._reader.next()
        if tag == stream.NOTE:
            self._note(self._reader.json(size))
        elif tag == stream.BEGIN:
            self._record(self._reader.json(size))
        return tag

    def _note(self, about: dict[str, Any]) -> None:
        name = about["name"]
        try:
            if "module" in about:
                value = importlib.import_module(about["module"])
            else:
                value = find(about["reference"], self._namespace, self._values)
        except BaseException as e:  # noqa: BLE001 - to import a module runs its code
            self._excluded.append(lost(name, reason_of(e)))
        else:
            self._bind({name: value})

    def _bind(self, found: Mapping[str, Any]) -> None:
        """At once: reading what follows may run functions that need it."""
        self._values.update(found)
        self._namespace.update(found)

    def _record(self, about: dict[str, Any]) -> None:
        record = stream.RecordReader(self._reader)
        values: list[Any] = []
        error: BaseException | None = None
        try:
            unpickler = SessionUnpickler(record, self._namespace, self._values)
            while record.more():
                values.append(unpickler.load())
        except FormatProblem:
            raise
        except BaseException as e:  # noqa: BLE001 - to read a pickle runs code of its objects
            error = e
        tag, end = record.drain()
        if tag == stream.ABORT:
            return  # was excluded when it was written
        if about["kind"] == "session":
            self._begin(values[0] if error is None and values else {}, error)
        elif error is None and len(values) == len(end["names"]):
            self._bind(dict(zip(end["names"], values, strict=True)))
        else:
            reason = "the record is not whole" if error is None else reason_of(error)
            self._excluded.extend(lost(name, reason) for name in end["names"])

    def _begin(self, session: dict[str, Any], error: BaseException | None) -> None:
        self._session = session
        if error is not None:
            self._excluded.append(lost("(random generators, directory, environment)", reason_of(error)))
        for path, reason in apply_before(session):
            self._excluded.append({**lost(path, reason), "kind": "file"})
        import_missing(self._header["submodules"])
