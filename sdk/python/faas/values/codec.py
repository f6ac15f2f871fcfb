"""Encoding and decoding of whole values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .decoder import DECODERS, Decoder
from .encoder import Encoder
from .envelope import open_envelope, seal
from .errors import ValueDecodeError, ValueEncodeError
from .nodes import Tagged

__all__ = ["decode", "decode_with", "encode"]

# What the constructors of Python, numpy, pandas, scipy, Pillow and arrow raise when the parts don't fit together.
# A warning is one of them where the caller has turned warnings into errors.
_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    Warning,
)


def encode(value: object, name: str = "value") -> list[bytes | memoryview]:
    """Encode a value.

    Args:
        value: what to send; see the package for the types that can travel.
        name: what to call it in an error.

    Returns:
        The encoded value in chunks of at most 1 MiB. The chunks of contiguous arrays are views of them: use the chunks
        before the value changes.

    Raises:
        ValueEncodeError: it names the type, the place inside the value, and what to send instead.
    """
    encoder = Encoder(name)
    try:
        return seal(encoder.encode(value), encoder.buffers)
    except RecursionError as error:
        raise ValueEncodeError(f"{name}: nested too deeply: flatten it, or save it to a file") from error


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Decode a value; `data` may come from an enemy.

    Returns:
        The value; its arrays are writable and own their memory.

    Raises:
        ValueDecodeError: the data is malformed, or a package is missing that the value needs.
    """
    return decode_with(data, DECODERS)


def decode_with(data: bytes | bytearray | memoryview, handlers: dict[str, Callable[[Decoder, Tagged], Any]]) -> Any:
    """Decode with a choice of handlers (by tag)."""
    try:
        node, buffers = open_envelope(data)
        decoder = Decoder(buffers, handlers)
        value = decoder.decode(node)
        decoder.finish()
    except ValueDecodeError:
        raise
    except _MALFORMED as error:
        raise ValueDecodeError(f"the encoded value is malformed ({type(error).__name__}: {error!s:.200})") from error
    return value
