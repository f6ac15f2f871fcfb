"""The session's variables: what there is, and values in and out through the codec that needs no pickle."""

from __future__ import annotations

import importlib
import reprlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, cast

_values: Any = importlib.import_module(".values", __package__)  # the SDK's codec, laid beside us in a sandbox

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    list,
    tuple,
    dict,
    set,
    frozenset,
    range,
    type(None),
)
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 120
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = 8


class VariableProblem(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def listing(namespace: Mapping[Any, Any], hidden: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The user's own variables, modules left out, as a variable inspector shows them."""
    found: list[dict[str, Any]] = []
    names = sorted(name for name in list(namespace) if isinstance(name, str))
    for name, value in ((name, namespace[name]) for name in names if name in namespace):
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        if name in hidden and hidden[name] is value:
            continue
        try:
            found.append(describe(name, value))
        except Exception as e:  # noqa: BLE001 - objects of the user's run here, and one must not hide the others
            found.append(
                {"name": name, "type": type(value).__name__, "preview": f"({type(e).__name__} when looked at)"}
            )
    return found


def describe(name: str, value: Any) -> dict[str, Any]:
    kind = cast(type[object], type(value))
    shape = _shape(value)
    dtype = getattr(value, "dtype", None) if _is_array(value) else None
    return {
        "name": name,
        "type": kind.__name__,
        "module": kind.__module__,
        "shape": shape,
        "dtype": str(dtype) if dtype is not None else None,
        "size_bytes": _size(value),
        "preview": _preview(value, shape),
    }


def _is_array(value: Any) -> bool:
    return type(value).__module__.split(".")[0] in ("numpy", "pandas", "scipy", "torch", "polars", "xarray")


def _shape(value: Any) -> list[int] | None:
    if _is_array(value):
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return [int(n) for n in shape]  # type: ignore[misc]
        return None
    if isinstance(value, (list, tuple, dict, set, frozenset, str, bytes)):
        return [len(value)]  # type: ignore[arg-type]
    return None


def _size(value: Any) -> int | None:
    if _is_array(value):
        usage = getattr(value, "memory_usage", None)
        if callable(usage):
            total: Any = usage()
            return int(total.sum()) if hasattr(total, "sum") else int(total)
        size = getattr(value, "nbytes", None)
        if isinstance(size, int):
            return size
    return sys.getsizeof(value, 0) or None


def _preview(value: Any, shape: list[int] | None) -> str:
    if type(value) in _PLAIN:
        return _repr.repr(value)
    if _is_array(value) and shape is not None:
        return f"{type(value).__name__} {' x '.join(map(str, shape))}" if shape else repr(value)[:120]
    if isinstance(value, (types.FunctionType, type)):
        return value.__qualname__
    return ""


def encoded(namespace: Mapping[str, Any], name: str) -> Iterator[bytes]:
    if name not in namespace:
        raise VariableProblem("unknown_variable", f"there is no variable {name!r}")
    try:
        yield from _values.encode(namespace[name], name)
    except _values.ValueEncodeError as e:
        raise VariableProblem("not_transferable", str(e)) from None


def decoded(chunks: list[bytes]) -> Any:
    try:
        return _values.decode(b"".join(chunks))
    except _values.ValueDecodeError as e:
        raise VariableProblem("not_transferable", str(e)) from None
