"""The network of sandboxes: none of their own, and a proxy outside them that knows where they may go."""

from faas_gateway.backends.native.network.environment import HTTP_PORT, SOCKS_PORT, environment
from faas_gateway.backends.native.network.hosts import BadHost
from faas_gateway.backends.native.network.pip_index import pip_environment
from faas_gateway.backends.native.network.policy import HOST_NAME, Allowance, Policy, Refused
from faas_gateway.backends.native.network.proxy import Limits, Outlet, Proxy, Usage

__all__ = [
    "HOST_NAME",
    "HTTP_PORT",
    "SOCKS_PORT",
    "Allowance",
    "BadHost",
    "Limits",
    "Outlet",
    "Policy",
    "Proxy",
    "Refused",
    "Usage",
    "environment",
    "pip_environment",
]
