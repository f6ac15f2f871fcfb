"""The words of this package: limits, what is left out, what is refused, and the names that mean something."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
OPAQUE = "user.overlay.opaque"
WHITEOUT = "user.overlay.whiteout"
OVERLAY = "user.overlay."
"""Extended attributes of overlayfs, mounted with userxattr (kernel.org, overlayfs)."""

OCI_WHITEOUT = ".wh."
OCI_OPAQUE = ".wh..wh..opq"
LITERAL = "FAAS.literal"
"""A pax header of ours: the name is meant as it is, though it begins like an OCI whiteout."""

DEPTH_LIMIT = 1000
"""Folders within folders. What lies deeper is left out, and named."""


@dataclass(frozen=True)
class ImportLimits:
    """What a stream may unpack to."""

    size_bytes: int = 64 * GIB
    """Of file contents, and of any one file's length, holes included."""
    entries: int = 2_000_000
    depth: int = DEPTH_LIMIT


@dataclass(frozen=True)
class CopyLimits:
    """What a copy may take; whoever writes at the same time could go on for ever."""

    size_bytes: int = 64 * GIB
    entries: int = 2_000_000
    depth: int = DEPTH_LIMIT


@dataclass(frozen=True)
class Skipped:
    """Something that a layer, copy or stream does not hold."""

    path: str
    reason: str


class InvalidLayer(Exception):
    """A stream is no layer, or one that would reach out of its folder."""


class LayerTooLarge(Exception):
    """More than the limits allow."""
