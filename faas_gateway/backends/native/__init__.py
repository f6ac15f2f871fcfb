"""The native backend: sandboxes from Linux namespaces."""

from faas_gateway.backends.native.backend import NativeBackend

__all__ = ["NativeBackend"]
