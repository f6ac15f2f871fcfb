"""Random generators across a fork: equal in all branches unless new seeds are asked for; identifiers never equal.

OpenSSL, `secrets` and `tempfile` notice a fork by the process id or ask the kernel each time. What would repeat is
Python's own state of `random` (which re-seeds itself after a fork, against what we promise), numpy's, and `uuid`.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

_UUID_EPOCH_100NS = 0x01B21DD213814000  # from 1582-10-15 to 1970 (RFC 9562)
_LOOKED_INTO = 1000
"""A container of the user's with more elements than this is not searched for generators."""


def save_random() -> object:
    """The state of `random` before a fork, for `restore_random` in the child."""
    return random.getstate()


def restore_random(state: Any) -> None:
    """In the child: the state as it was. (random.py seeds itself by a hook of os.register_at_fork)"""
    random.setstate(state)


def renew_identifiers() -> None:
    """In the child: uuid1, uuid6 and uuid7 go on from a node and counter that no relative has.

    libuuid keeps node, sequence and time in its own memory, so two branches would repeat each other's within the
    same microsecond.
    """
    node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # the multicast bit: not the address of any device
    module: Any = uuid
    module._node = node
    module._generate_time_safe = _TimeBased(node)
    for name in ("_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7"):
        if hasattr(module, name):
            setattr(module, name, None)


class _TimeBased:
    """Stands for libuuid's uuid_generate_time_safe: the 16 bytes of a version 1 UUID, and how safe they are (-1)."""

    def __init__(self, node: int) -> None:
        self._node = node
        self._sequence = int.from_bytes(os.urandom(2), "big") & 0x3FFF
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> tuple[bytes, int]:
        with self._lock:
            stamp = time.time_ns() // 100 + _UUID_EPOCH_100NS
            self._last = stamp = max(stamp, self._last + 1)
        fields = (stamp & 0xFFFFFFFF, stamp >> 32 & 0xFFFF, stamp >> 48 & 0x0FFF)
        sequence = self._sequence
        made = uuid.UUID(fields=(*fields, sequence >> 8 & 0x3F, sequence & 0xFF, self._node), version=1)
        return made.bytes, -1


def reseed(namespace: Mapping[str, Any]) -> list[str]:
    """Give every generator a state from the kernel: the libraries' global ones, and those in a namespace.

    Values, and the elements of lists, tuples and dicts among them, are looked at. Returns the names of what was seeded.
    """
    random.seed()
    seeded = ["random"]
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
        seeded.append("numpy.random")
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "seed"):
        torch.seed()
        seeded.append("torch")
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is not None and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(int.from_bytes(os.urandom(4), "big") >> 1)
        seeded.append("tensorflow")
    done: set[int] = set()
    for name, value in _within(namespace):
        if id(value) not in done and _reseed_one(value, numpy, torch):
            done.add(id(value))
            seeded.append(name)
    return seeded


def _within(namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(namespace.items()):
        yield name, value
        if _is_container(value) and len(value) <= _LOOKED_INTO:
            pairs: Any = value.items() if hasattr(value, "items") else enumerate(value)
            for key, element in list(pairs):
                yield f"{name}[{key!r:.40}]", element


def _is_container(value: object) -> bool:
    return isinstance(value, (list, tuple, dict))


def _reseed_one(value: Any, numpy: Any, torch: Any) -> bool:
    if isinstance(value, random.Random):
        if isinstance(value, random.SystemRandom):
            return False
        value.seed()
        return True
    if numpy is not None and isinstance(value, (numpy.Generator, numpy.RandomState)):
        source: Any = value
        _renew(source.bit_generator if isinstance(value, numpy.Generator) else source._bit_generator)
        return True
    if numpy is not None and isinstance(value, numpy.BitGenerator):
        _renew(value)
        return True
    generator: Any = getattr(torch, "Generator", None)
    if isinstance(generator, type) and isinstance(value, generator):
        seedable: Any = value
        seedable.seed()
        return True
    return False


def _renew(bits: Any) -> None:
    """With its seed sequence, from which `spawn` makes further generators."""
    fresh = type(bits)()
    state = fresh.__getstate__()
    if isinstance(state, tuple):
        bits.__setstate__(state)
    else:  # before numpy 1.25
        bits.state = fresh.state
