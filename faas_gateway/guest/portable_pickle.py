"""Pickling of a session's variables: cloudpickle, and what it lacks for the variables of one session.

- functions of the session have its namespace as their globals, those of a module that module's;
- an object that is bound to a name is the same one wherever another variable holds it;
- the bytes of arrays are written from where they lie, or piece by piece where they must be copied;
- open files are opened again.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import importlib
import io
import os
import pickle
import stat
import sys
import types
from collections.abc import Iterator
from typing import Any

from . import portable_rebuild as rebuild
from .portable_stream import RecordReader, Writer

type_of: Any = type
_cloudpickle: Any = importlib.import_module("cloudpickle")
_Pickler: type[pickle.Pickler] = _cloudpickle.Pickler
PICKLE_PROTOCOL = 5
LARGE_BYTES = 4 << 20
"""From this size on, what pickle would copy as a whole is written piece by piece."""

_CACHED: Any = type(functools.lru_cache(int))
_NEAR_BYTES = 256 << 10
_FILES = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
_SENTINELS = (("dataclasses", "MISSING"), ("dataclasses", "KW_ONLY"), ("dataclasses", "_HAS_DEFAULT_FACTORY"))
_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")


class Missing(Exception):
    """A variable refers to another one that could not be read back."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """In a pickler's table: an object that is bound to this name, and not written yet."""

    name: str


class _Globals:
    """Stands for the globals of a module."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild.module_globals, (self._module,)


class _Hole:
    """Stands for a closure's cell, which is filled when the function is there; shared cells stay shared."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild.new_cell, ()


def fixed_references(namespace: dict[str, Any]) -> dict[int, Any]:
    """The start of a pickler's table: what is found in any interpreter, and the namespace itself."""
    table: dict[int, Any] = {id(namespace): ("namespace",)}
    for module, name in (*_SENTINELS, *(("sys", name) for name in _STREAMS)):
        value = getattr(sys.modules[module], name, None)
        if value is not None:
            table.setdefault(id(value), ("attribute", module, name))
    return table


class SessionPickler(_Pickler):
    """One record's pickler. `table`: id of an object to its reference, or to `Waiting`; `met`: those it came across."""

    def __init__(self, writer: Writer, namespace: dict[str, Any], table: dict[int, Any]) -> None:
        self._writer = writer
        self._namespace = namespace
        self._find = table.get
        self._spilled: dict[int, tuple[int, Any]] = {}
        self._holes: dict[int, _Hole] = {}
        numpy: Any = sys.modules.get("numpy")
        self._spilling: dict[Any, Any] = {str: self._text}
        if numpy is not None and hasattr(numpy, "ndarray"):
            self._spilling[numpy.ndarray] = self._array
        self.met: dict[str, Any] = {}
        super().__init__(writer, PICKLE_PROTOCOL, buffer_callback=self._out_of_band)

    def persistent_id(self, obj: Any) -> Any:
        found: Any = self._find(id(obj))
        if found is not None:
            if type(found) is not Waiting:
                return found
            self.met.setdefault(found.name, obj)
        spill: Any = self._spilling.get(type_of(obj))
        return None if spill is None else spill(obj)

    def reducer_override(self, obj: Any) -> Any:
        kind: Any = type_of(obj)
        if kind is types.FunctionType:
            plain = super().reducer_override(obj)
            home = None if plain is NotImplemented else self._home(obj)
            return plain if home is None else self._function(obj, home)
        if kind is _CACHED and self._home(getattr(obj, "__wrapped__", None)) is not None:
            how = obj.cache_parameters()
            own: dict[str, Any] = {**obj.__dict__}
            args = (obj.__wrapped__, how["maxsize"], how["typed"])
            return rebuild.build_cached, args, own, None, None, rebuild.set_attributes
        if kind in _FILES:
            return _file(obj)
        if kind is array.array and obj.itemsize * len(obj) >= LARGE_BYTES:
            return rebuild.build_array, (obj.typecode, pickle.PickleBuffer(obj))
        return super().reducer_override(obj)

    def _out_of_band(self, found: pickle.PickleBuffer) -> bool:
        try:
            view = found.raw()
        except BufferError:
            return True  # not contiguous: left to the pickle itself
        self._writer.buffer(view)
        return False

    def _home(self, function: Any) -> Any:
        """What stands for the globals of a function that is written by value, if an interpreter has them anyway."""
        if type(function) is not types.FunctionType:
            return None
        if function.__globals__ is self._namespace:
            return self._namespace
        name = function.__globals__.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        importable = getattr(module, "__spec__", None) is not None and name != "__main__"
        return _Globals(name) if importable and vars(module) is function.__globals__ else None  # type: ignore[arg-type]

    def _function(self, function: types.FunctionType, home: Any) -> tuple[Any, ...]:
        cells = function.__closure__
        holes = None if cells is None else tuple(self._hole(cell) for cell in cells)
        lazy = hasattr(function, "__annotate__")  # from Python 3.14 on: to look at annotations runs them
        names = ["__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__"]
        names += ["__annotate__" if lazy else "__annotations__", "__type_params__"]
        state = {name: getattr(function, name) for name in names if hasattr(function, name)}
        state["dict"] = dict(function.__dict__)
        state["cells"] = [_contents(c) if type(c) is _Hole else (False, None) for c in holes or ()]
        args = (function.__code__, home, function.__name__, holes)
        return rebuild.build_function, args, state, None, None, rebuild.set_function

    def _hole(self, cell: types.CellType) -> Any:
        """A cell of a variable that was written before is the same one."""
        known = self._find(id(cell))
        return self._holes.setdefault(id(cell), _Hole(cell)) if known is None else cell

    def _spill(self, obj: Any, write: Any, *about: Any) -> tuple[Any, ...]:
        """Write obj as a buffer of its own, once."""
        known = self._spilled.get(id(obj))
        if known is not None:
            return ("again", known[0])
        write()
        number = len(self._spilled)
        self._spilled[id(obj)] = (number, obj)
        return (*about, number)

    def _text(self, text: str) -> tuple[Any, ...] | None:
        if len(text) < LARGE_BYTES:
            return None

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(text), LARGE_BYTES):
                yield text[start : start + LARGE_BYTES].encode("utf-8", "surrogatepass")

        size = len(text) if text.isascii() else sum(map(len, chunks()))
        return self._spill(text, lambda: self._writer.buffer_of(size, chunks()), "text")

    def _is_spilled(self, values: Any) -> bool:
        if values.nbytes < LARGE_BYTES:
            return False
        return values.dtype.kind in "mM" or not (values.flags.c_contiguous or values.flags.f_contiguous)

    def _array(self, values: Any) -> tuple[Any, ...] | None:
        """Arrays that numpy would copy: those with gaps between their items, and times, which have no buffers."""
        if values.dtype.hasobject or not self._is_spilled(values):
            return None
        numpy: Any = sys.modules["numpy"]
        order = "C" if values.flags.c_contiguous or not values.flags.f_contiguous else "F"
        per_chunk = max(1, LARGE_BYTES // values.dtype.itemsize)

        def chunks() -> Iterator[Any]:
            flags = ["external_loop", "buffered", "zerosize_ok"]
            for chunk in numpy.nditer(values, flags=flags, order=order, buffersize=per_chunk):
                for start in range(0, len(chunk), per_chunk):
                    piece = numpy.ascontiguousarray(chunk[start : start + per_chunk])
                    yield piece.view("u1") if piece.dtype.fields is None else piece.tobytes()

        def write() -> None:
            self._writer.buffer_of(values.nbytes, chunks())

        return self._spill(values, write, "array", values.dtype, values.shape, order, bool(values.flags.writeable))


def _contents(hole: _Hole) -> tuple[bool, Any]:
    try:
        return True, hole.cell.cell_contents
    except ValueError:
        return False, None


def _file(file: Any) -> tuple[Any, ...]:
    """How to open a file again. Raises PicklingError for what is no file on disk."""
    if file.closed:
        return rebuild.open_file, (os.devnull, _how(file, None))
    number = file.fileno()
    if not stat.S_ISREG(os.fstat(number).st_mode):
        raise pickle.PicklingError("open, but not a regular file")
    path = os.readlink(f"/proc/self/fd/{number}")
    if os.fstat(number).st_nlink == 0 or not os.path.exists(path):
        raise pickle.PicklingError("an open file that was deleted")
    # The files of a snapshot are as they were without what is in the buffer.
    pending = _flush(file, number, path) if file.writable() and not isinstance(file, io.FileIO) else (0, b"")
    return rebuild.open_file, (path, {**_how(file, file.tell()), "pending": pending})


def _flush(file: Any, number: int, path: str) -> tuple[int, bytes]:
    """Where something came to be in the file that was in the buffer, and what."""
    at = os.fstat(number).st_size if "a" in file.mode else os.lseek(number, 0, os.SEEK_CUR)
    if "a" in file.mode or not file.readable():
        file.flush()
        end = os.lseek(number, 0, os.SEEK_CUR)
        if end <= at:
            return 0, b""
        with open(path, "rb", buffering=0) as there:
            return at, os.pread(there.fileno(), end - at, at)
    # What was read ahead lies in the same buffer, before or behind: it is somewhere near.
    start = max(0, at - _NEAR_BYTES)
    with open(path, "rb", buffering=0) as there:
        before = os.pread(there.fileno(), 2 * _NEAR_BYTES, start)
        file.flush()
        after = os.pread(there.fileno(), 2 * _NEAR_BYTES, start)
    if before == after:
        return 0, b""
    return start, after


def _how(file: Any, position: int | None) -> dict[str, Any]:
    """The arguments with which a file was opened; no position: it is closed."""
    text: dict[str, Any] = {}
    kind = "buffered"
    if isinstance(file, io.FileIO):
        kind = "raw"
    elif isinstance(file, io.BufferedRandom):
        kind = "random"
    elif type_of(file) is io.TextIOWrapper:
        # the one argument that cannot be asked for is newline: it is the default afterwards
        text = {"encoding": file.encoding, "errors": file.errors, "line_buffering": file.line_buffering}
        kind = "random" if isinstance(file.buffer, io.BufferedRandom) else "buffered"
    return {"kind": kind, "mode": file.mode, "name": file.name, "position": position, "text": text}


_REFERENCES = ("variable", "cell", "namespace", "attribute")


def find(reference: Any, namespace: dict[str, Any], values: dict[str, Any]) -> Any:
    """What a reference stands for. Raises Missing."""
    kind, *about = reference
    if kind == "namespace":
        return namespace
    if kind == "attribute":
        return getattr(importlib.import_module(about[0]), about[1])
    if about[0] not in values:
        raise Missing(f"it needs {about[0]!r}, which could not be read back")
    value = values[about[0]]
    return value.__closure__[about[1]] if kind == "cell" else value


class SessionUnpickler(pickle.Unpickler):
    """One record's unpickler. `values`: what was read before, by name."""

    def __init__(self, record: RecordReader, namespace: dict[str, Any], values: dict[str, Any]) -> None:
        super().__init__(record, buffers=record)
        self._record = record
        self._namespace = namespace
        self._values = values
        self._spilled: dict[int, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        kind, *about = pid
        if kind in _REFERENCES:
            return find(pid, self._namespace, self._values)
        if kind == "again":
            return self._spilled[about[0]]
        data = next(self._record)
        if kind == "text":
            found: Any = str(memoryview(data), "utf-8", "surrogatepass")
        elif kind == "array":
            dtype, shape, order, writeable, _ = about
            found = importlib.import_module("numpy").frombuffer(data, dtype).reshape(shape, order=order)
            found.flags.writeable = writeable
        else:
            raise pickle.UnpicklingError(f"a reference of a kind that is not known here: {kind!r}")
        self._spilled[about[-1]] = found
        return found
