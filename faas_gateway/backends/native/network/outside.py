"""Connections to the outside: to addresses that a policy has checked, and to no other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address

import anyio

from faas_gateway.backends.native.network.addresses import Address

ATTEMPT_S = 10.0


async def connect(addresses: Sequence[Address], port: int) -> socket.socket:
    """Connect to the first address that answers. Raises the OSError of the last one that did not.

    The caller sets the deadline for all of them; each has at most `ATTEMPT_S`, so that a dead one (IPv6 without a
    way out) leaves time for the next.
    """
    problem: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            return await _attempt(address, port)
        except OSError as e:
            problem = e
    raise problem


async def _attempt(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        prepare(sock)
        with anyio.fail_after(ATTEMPT_S):
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Small pieces at once, and little waiting in the kernel that has not been sent: that memory is nobody's limit."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


_TCP_NOTSENT_LOWAT = 25
_UNSENT_BYTES = 256 << 10
