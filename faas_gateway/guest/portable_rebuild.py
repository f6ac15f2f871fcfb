"""What the pickles of portable variables call when they are read. Their names are part of the file format."""

from __future__ import annotations

import array
import functools
import importlib
import io
import os
import types
from typing import Any, cast


def module_globals(name: str) -> dict[str, Any]:
    return importlib.import_module(name).__dict__


def new_cell() -> types.CellType:
    return types.CellType()


def build_function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """A function without what may refer to itself: `set_function` gives it the rest."""
    return types.FunctionType(code, namespace, name, None, closure)


def set_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    for cell, (full, contents) in zip(function.__closure__ or (), state.pop("cells"), strict=True):
        if full:
            cell.cell_contents = contents
    function.__dict__.update(state.pop("dict"))
    for name, value in state.items():
        setattr(function, name, value)


def build_cached(function: types.FunctionType, maxsize: int | None, typed: bool) -> Any:
    """`functools.lru_cache` again, empty."""
    return functools.lru_cache(maxsize, typed)(function)


def set_attributes(target: Any, state: dict[str, Any]) -> None:
    target.__dict__.update(state)


def build_array(typecode: str, data: Any) -> array.array[Any]:
    found: array.array[Any] = array.array(typecode)
    view = memoryview(data).cast("B")
    step = (1 << 20) * found.itemsize
    for start in range(0, view.nbytes, step):
        found.frombytes(view[start : start + step])
    return found


def open_file(path: str, how: dict[str, Any]) -> Any:
    """Open a file as it was open: at its position, and not truncated, whatever its mode; or leave it closed."""
    mode: str = how["mode"]

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags & ~(os.O_TRUNC | os.O_EXCL), 0o666)

    raw = io.FileIO(path, mode.replace("b", "").replace("t", ""), opener=opener)
    at, pending = how.get("pending", (0, b""))
    if pending and not ("a" in mode and os.fstat(raw.fileno()).st_size > at):  # else it has come there already
        os.pwrite(raw.fileno(), pending, at)
    raw.name = how["name"]
    file: Any = raw
    if how["kind"] == "random":
        file = io.BufferedRandom(raw)
    elif how["kind"] == "buffered":
        file = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
    if how["text"]:
        file = cast(Any, io.TextIOWrapper(file, **how["text"]))
        file.mode = mode
    if how["position"] is None:
        file.close()
    else:
        file.seek(how["position"])
    return file
