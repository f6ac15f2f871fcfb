"""The two errors of the value codec."""

from __future__ import annotations

__all__ = ["ValueDecodeError", "ValueEncodeError"]


class ValueEncodeError(ValueError):
    """A value can't travel; the message names the type, the place inside the value, and what to do."""


class ValueDecodeError(ValueError):
    """The bytes are not a well-formed encoded value, or a package that the value needs is missing here."""
