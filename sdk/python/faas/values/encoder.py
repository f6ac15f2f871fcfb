"""From a value to a tree of nodes and a list of buffers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import numpy_arrays, packed, pandas_frames, pillow, python_types, scipy_sparse
from .errors import ValueEncodeError
from .nodes import TAG, Node, is_unicode, kind_of

__all__ = ["MAX_DEPTH", "Encoder"]

MAX_DEPTH = 100
_HEADER_TEXT = 4096

_PACKAGES: dict[str, Callable[[type], Callable[[Encoder, Any], Node] | None]] = {
    "numpy": numpy_arrays.encoder_for,
    "pandas": pandas_frames.encoder_for,
    "scipy": scipy_sparse.encoder_for,
    "PIL": pillow.encoder_for,
}


class Encoder:
    """One run of encoding. `buffers` holds the binary parts that the returned nodes refer to by index."""

    def __init__(self, name: str) -> None:
        self.buffers: list[bytes | memoryview] = []
        self._path: list[str | int | tuple[Any]] = [name]
        self._open: set[int] = set()

    def encode(self, value: Any) -> Node:
        """The node of a value. Raises ValueEncodeError."""
        kind = kind_of(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return self.text(value)
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {TAG: "int", "v": f"{value:x}"}
        if kind is float and math.isfinite(value):
            return value
        encode = python_types.ENCODERS.get(kind) or _package_encoder(kind)
        if encode is None:
            raise self.refuse(value)
        if id(value) in self._open:
            raise self.error(f"the {_type_name(kind)} contains itself: send it without the cycle")
        if len(self._open) >= MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep: flatten it, or save it to a file")
        self._open.add(id(value))
        try:
            return encode(self, value)
        finally:
            self._open.discard(id(value))

    def child(self, segment: str | int | tuple[Any], value: Any) -> Node:
        """The node of a part; `segment` is its place: an index, a (key,) that was encoded, or text such as `.index`."""
        self._path.append(segment)
        node = self.encode(value)
        # Not in a finally: an error has already read the path, and it ends the whole run.
        self._path.pop()
        return node

    def within(self, segment: str | int | tuple[Any], encode: Callable[[Encoder, Any], Node], value: Any) -> Node:
        """As `child`, for a part that has a function of its own to encode it."""
        self._path.append(segment)
        node = encode(self, value)
        self._path.pop()
        return node

    def items(self, values: Sequence[Any]) -> Node:
        """The node of a run of items: packed into buffers where they are many of one kind, else one by one."""
        return packed.pack(self, values) or [self.child(index, value) for index, value in enumerate(values)]

    def text(self, value: str) -> Node:
        """The node of a text."""
        if len(value) <= _HEADER_TEXT and is_unicode(value):
            return value
        return {TAG: "str", "b": self.buffer(value.encode("utf-8", "surrogatepass"))}

    def buffer(self, data: bytes | memoryview) -> int:
        """Keep binary data; returns the index by which a node refers to it."""
        self.buffers.append(data)
        return len(self.buffers) - 1

    def error(self, reason: str, within: Iterable[str | int | tuple[Any]] = ()) -> ValueEncodeError:
        """The error for the present place."""
        return ValueEncodeError(f"{''.join(map(_segment, (*self._path, *within)))}: {reason}")

    def refuse(self, value: Any) -> ValueEncodeError:
        """The error for a value whose type can't travel."""
        return self.error(f"a value of type {_type_name(kind_of(value))} can't be sent: {_way_out(value)}")


def _package_encoder(kind: type) -> Callable[[Encoder, Any], Node] | None:
    module: Any = kind.__module__
    package = module.partition(".")[0] if type(module) is str else ""
    return _PACKAGES[package](kind) if package in _PACKAGES and package in sys.modules else None


def _segment(segment: str | int | tuple[Any]) -> str:
    if isinstance(segment, str):
        return segment
    if isinstance(segment, int):
        return f"[{segment}]"
    return f"[{repr(segment[0])[:60]}]"


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _way_out(value: Any) -> str:
    kind = kind_of(value)
    if isinstance(value, enum.Enum):
        return "send its .value"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "send dataclasses.asdict(...) of it"
    if tuple in kind.__mro__ and hasattr(kind, "_fields"):
        return "send tuple(...) or ._asdict() of it"
    if isinstance(value, dt.tzinfo):
        return "use datetime.timezone or zoneinfo.ZoneInfo"
    module = str(kind.__module__).partition(".")[0]
    if module == "torch":
        return "send .detach().cpu().numpy() of it"
    if module in ("polars", "pyarrow", "geopandas"):
        return "send a pandas DataFrame or Series, or save it to a file"
    for base in kind.__mro__[1:]:
        if base is object:
            break
        if base in python_types.ENCODERS or _package_encoder(base):
            return f"it is a subclass, convert it to a plain {_type_name(base)}"
    if hasattr(kind, "__next__"):
        return "send list(...) of it"
    return "send arrays, DataFrames or plain Python values, or save it to a file"
