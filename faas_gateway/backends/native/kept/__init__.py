"""Kept layers: what sandboxes wrote, frozen, for snapshots. `KeptLayers` is the store of them."""

from faas_gateway.backends.native.kept.store import KeptLayers
from faas_gateway.backends.native.kept.terms import CopyLimits, ImportLimits, InvalidLayer, LayerTooLarge, Skipped

__all__ = ["CopyLimits", "ImportLimits", "InvalidLayer", "KeptLayers", "LayerTooLarge", "Skipped"]
