"""Digests of a session's variables, so that two snapshots can be compared."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from time import monotonic
from typing import Any

from . import variables
from .portable_pickle import SessionPickler, fixed_references, type_of

DIGEST_S = 20.0
PICKLE_LIMIT_BYTES = 256 << 20
"""Of what is not in buffers: a pickle's memory of what it has seen grows with it."""

_HEX = re.compile(r"[0-9a-f]{32}")
_ORDERED = (str, bytes, int, float)


class TooMuch(Exception):
    """The value takes too long, or too much memory, to be hashed."""


def fingerprints(
    namespace: dict[str, Any], hidden: Mapping[str, Any], seconds: float = DIGEST_S
) -> list[dict[str, Any]]:
    """As `variables.listing`, each with `digest`: a hash of the value, "" where it has none, or no time was left."""
    deadline = monotonic() + seconds
    found = variables.listing(namespace, hidden)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in found:
            entry["digest"] = digest(namespace.get(entry["name"]), namespace, deadline)
    return found


def digest(value: Any, namespace: dict[str, Any], deadline: float) -> str:
    """A hash that is the same for an equal value in another interpreter; "" where there is none."""
    sink = _Sink(deadline)
    pickler = _DigestPickler(sink, namespace)
    try:
        pickler.dump(value)
    except BaseException:  # noqa: BLE001 - code of the user's objects runs here, and may raise anything
        return ""
    finally:
        pickler.clear_memo()
    return sink.hash.hexdigest()


class _Sink:
    """Takes the place of a `Writer`."""

    broken = None

    def __init__(self, deadline: float) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._deadline = deadline
        self._left = PICKLE_LIMIT_BYTES

    def write(self, data: Any, /) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch
        self._add(data)
        return len(data)

    def buffer(self, data: memoryview) -> None:
        for start in range(0, data.nbytes, 16 << 20):
            self._add(data[start : start + (16 << 20)])

    def buffer_of(self, _size: int, chunks: Any) -> None:
        for chunk in chunks:
            self._add(chunk)

    def _add(self, data: Any) -> None:
        if monotonic() > self._deadline:
            raise TooMuch
        self.hash.update(data)


class _DigestPickler(SessionPickler):
    """What differs between interpreters is left out: the identity of strings, the order of sets, gaps in arrays."""

    def __init__(self, sink: _Sink, namespace: dict[str, Any]) -> None:
        writer: Any = sink
        super().__init__(writer, namespace, fixed_references(namespace))

    def persistent_id(self, obj: Any) -> Any:
        kind: Any = type_of(obj)
        if kind is str:
            data = obj.encode("utf-8", "surrogatepass")
            return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "little")
        if kind in (set, frozenset) and obj:
            first = type_of(next(iter(obj)))
            if first in _ORDERED and all(type_of(item) is first for item in obj):
                return (kind.__name__, sorted(obj))
        return super().persistent_id(obj)

    def _is_spilled(self, values: Any) -> bool:
        return True  # so that gaps in memory make no difference

    def reducer_override(self, obj: Any) -> Any:
        reduced: Any = super().reducer_override(obj)
        if isinstance(obj, type) and reduced is not NotImplemented:
            args: tuple[Any, ...] = reduced[1]  # cloudpickle gives each class that it writes a random number
            plain = tuple("" if isinstance(a, str) and _HEX.fullmatch(a) else a for a in args)
            return (reduced[0], plain, *reduced[2:])
        return reduced
