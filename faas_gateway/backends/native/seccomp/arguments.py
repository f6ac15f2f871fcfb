"""Rules on the arguments of a system call, in the only form that is exact: masked equality.

libseccomp compares 64 bits, but the kernel reads these arguments as 32-bit ints: a caller that sets a high
bit would slip past a refused value (CVE-2019-10063). So a rule looks at the low 32 bits only, and "anything
else" is spelt out as a set of bit prefixes that do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

INT = 0xFFFFFFFF


@dataclass(frozen=True)
class Match:
    """True when `argument & mask == value`; arguments are counted from 0."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True)
class Rule:
    """What happens to a call when all of `matches` hold: allowed, or the error number it gets."""

    syscall: str
    matches: tuple[Match, ...]
    errno: int | None = None


def equal(argument: int, value: int, mask: int = INT) -> Match:
    return Match(argument, mask, value)


def others(argument: int, values: Iterable[int], mask: int = INT) -> Iterator[Match]:
    """Every value of `argument & mask` but the given ones, as prefixes that do not overlap."""
    bits = [1 << bit for bit in reversed(range(64)) if mask >> bit & 1]

    def split(depth: int, prefix: int, taken: list[int]) -> Iterator[Match]:
        if not taken:
            yield Match(argument, sum(bits[:depth]), prefix)
        elif depth < len(bits):
            bit = bits[depth]
            yield from split(depth + 1, prefix, [value for value in taken if not value & bit])
            yield from split(depth + 1, prefix | bit, [value for value in taken if value & bit])

    return split(0, 0, list(values))


def only(
    syscall: str,
    argument: int,
    values: tuple[int, ...],
    *,
    otherwise: int,
    mask: int = INT,
    given: tuple[Match, ...] = (),
) -> Iterator[Rule]:
    """Allow the call with these values and refuse it with any other, where `given` holds."""
    for value in values:
        yield Rule(syscall, (*given, equal(argument, value, mask)))
    for match in others(argument, values, mask):
        yield Rule(syscall, (*given, match), otherwise)


def never(
    syscall: str,
    argument: int,
    values: tuple[int, ...],
    *,
    errno: int,
    mask: int = INT,
    given: tuple[Match, ...] = (),
) -> Iterator[Rule]:
    """Refuse the call with these values and allow it with any other, where `given` holds."""
    for value in values:
        yield Rule(syscall, (*given, equal(argument, value, mask)), errno)
    for match in others(argument, values, mask):
        yield Rule(syscall, (*given, match))
