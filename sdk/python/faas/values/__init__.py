"""Values that travel between a notebook and a sandbox, without loss and without pickles.

The other side may be an enemy: decoding builds only the types named here, never runs or imports what the data names,
and allocates no more than a small multiple of the bytes that arrived. Whatever is not listed fails to encode with an
error that says what to send instead; nothing arrives as something else.

What travels:
    Python: None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice,
        Ellipsis, datetime, date, time, timedelta, timezone, ZoneInfo, Decimal, Fraction, UUID, PurePosixPath, Path,
        OrderedDict, defaultdict without a factory, Counter, deque. Subclasses (enums, named tuples, ...) don't.
    numpy: arrays of every dtype (objects one by one), scalars, dtypes, masked and record arrays.
    pandas (2.0 or newer): DataFrame, Series, every index, arrays and scalars, every dtype of its own; arrow-backed
        ones need pyarrow on both sides.
    scipy: sparse matrices and arrays.
    Pillow: images as pixels; one that was opened from a file arrives as its present frame in memory, with the plain
        part of its `info`.

Where the two sides differ: text columns arrive in Python's storage where pyarrow is missing, and those of dtype `str`
as object in a pandas that has no such dtype; time zones of pytz arrive as ZoneInfo where pytz is missing.

The format, `application/vnd.faas.value`: 7 magic bytes, 1 byte version, u32 little-endian header length, the header,
the raw buffers one after the other. The header is JSON: `{"value": node, "buffers": [lengths in bytes]}`; a plain value
is its own node, any other is an object with the kind in "$" that refers to buffers by index, each exactly once.

This folder imports only the standard library and can be copied elsewhere on its own; the packages are imported when a
value of theirs is met.
"""

from __future__ import annotations

from .codec import decode, encode
from .errors import ValueDecodeError, ValueEncodeError
from .plain_json import from_json, is_plain_json, to_json

__all__ = [
    "MEDIA_TYPE",
    "ValueDecodeError",
    "ValueEncodeError",
    "decode",
    "encode",
    "from_json",
    "is_plain_json",
    "to_json",
]

MEDIA_TYPE = "application/vnd.faas.value"
