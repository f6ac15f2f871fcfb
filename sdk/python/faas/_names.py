"""Names that are known without asking a gateway; notebooks complete them, so nothing is imported here."""

from __future__ import annotations

__all__ = ["SHIPPED_ENVIRONMENTS"]

#: Names that are there before any gateway was asked; the gateway's list is the truth.
SHIPPED_ENVIRONMENTS = ("alpine-fast", "notebook", "python", "python-ai")
