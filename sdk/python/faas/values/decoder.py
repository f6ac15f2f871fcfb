"""From a tree of nodes and its buffers to a value. The input is hostile: only known kinds are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import numpy_arrays, packed, pandas_frames, pillow, python_types, scipy_sparse
from .encoder import MAX_DEPTH
from .errors import ValueDecodeError
from .nodes import TAG, Tagged, kind_of

__all__ = ["DECODERS", "PLAIN_DECODERS", "Decoder"]

_Handler = Callable[["Decoder", Tagged], Any]

PLAIN_DECODERS: dict[str, _Handler] = python_types.PLAIN_DECODERS
DECODERS: dict[str, _Handler] = {
    **python_types.DECODERS,
    **numpy_arrays.DECODERS,
    **pandas_frames.DECODERS,
    **scipy_sparse.DECODERS,
    **pillow.DECODERS,
}


class Decoder:
    """One run of decoding.

    Args:
        buffers: the envelope's buffers; each may be used once, so that a small input can't grow.
        handlers: what may be built, by tag.
    """

    def __init__(self, buffers: list[memoryview], handlers: dict[str, _Handler]) -> None:
        self._buffers: list[memoryview | None] = [*buffers]
        self._handlers = handlers
        self._depth = 0

    def decode(self, node: Any) -> Any:
        """The value of a node. Raises ValueDecodeError, or what the constructors of the value's type raise."""
        kind = kind_of(node)
        if kind is not dict and kind is not list:
            return node
        # More than the encoder allows: it counts values, and a value of pandas is several nodes.
        if self._depth > 2 * MAX_DEPTH:
            raise ValueDecodeError("the value is nested too deeply")
        self._depth += 1
        if kind is list:
            value: Any = [self.decode(item) for item in node]
        elif TAG not in node:
            value = {key: self.decode(item) for key, item in node.items()}
        else:
            tag = node[TAG]
            handler = self._handlers.get(tag) if type(tag) is str else None
            if handler is None:
                raise ValueDecodeError(f"unknown kind of value {tag!r:.60}")
            value = handler(self, node)
        self._depth -= 1
        return value

    def items(self, node: Any) -> list[Any]:
        """The items that `Encoder.items` made a node of."""
        if kind_of(node) is list:
            return [self.decode(item) for item in node]
        return packed.unpack(self, node)

    def buffer(self, node: Tagged, key: str = "b") -> memoryview:
        """The buffer that the field `key` refers to."""
        index = node.get(key)
        if type(index) is not int or not 0 <= index < len(self._buffers):
            raise ValueDecodeError("a value refers to a buffer that isn't there")
        buffer = self._buffers[index]
        if buffer is None:
            raise ValueDecodeError("a buffer is used twice")
        self._buffers[index] = None
        return buffer

    def finish(self) -> None:
        """Every buffer has to be part of the value."""
        if any(buffer is not None for buffer in self._buffers):
            raise ValueDecodeError("a buffer is not part of the value")
