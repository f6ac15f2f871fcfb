"""Where a sandbox may connect to: by the name it asks for, and again by every address that the name resolves to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from faas_gateway.backends.native.network import addresses, routes
from faas_gateway.backends.native.network.addresses import Address
from faas_gateway.backends.native.network.hosts import Host, Pattern

HOST_NAME = "host.faas.internal"
"""What code in a sandbox calls the machine of the gateway: its 127.0.0.1, where the operator has allowed a port."""
SMTP = 25
MOST_ADDRESSES = 16
"""Of a name's addresses, that many are looked at, and no other is connected to."""

_LOOPBACK = IPv4Address("127.0.0.1")

Resolve = Callable[[str, int], Awaitable[list[Address]]]


class Refused(Exception):
    """A sandbox may not connect there. The message is for its user, one line; it tells no address that a name has."""


class Allowance:
    """Private destinations that the operator of the gateway has opened, for every sandbox with a network.

    A name in it opens what this name resolves to, but never link-local addresses and metadata services.
    """

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._patterns = tuple(patterns)

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """From the form of FAAS_NETWORK_ALLOW: `127.0.0.1:8081, 10.0.0.0/8, pypi.corp.example`. Raises BadHost."""
        return cls(Pattern.parse(part) for part in text.split(",") if part.strip())

    def covers(self, host: Host, address: Address, port: int, reason: str) -> bool:
        """Whether an address that is refused for this reason has been opened."""
        if any(p.holds(address, port) for p in self._patterns):
            return True
        by_name = isinstance(host, str) and host != HOST_NAME and reason not in addresses.NEVER_BY_NAME
        return by_name and any(p.names(host, port) for p in self._patterns)


@dataclass(frozen=True)
class Policy:
    """Use `full` or `allow`. One policy serves any number of sandboxes.

    hosts: what may be asked for; None for everything. allowance: what the operator has opened.
    """

    hosts: tuple[Pattern, ...] | None
    allowance: Allowance

    @classmethod
    def full(cls, allowance: Allowance | None = None) -> Policy:
        """The public Internet, all ports but 25 (mail)."""
        return cls(None, allowance or Allowance())

    @classmethod
    def allow(cls, hosts: Iterable[str], allowance: Allowance | None = None) -> Policy:
        """Of what `full` allows, only these hosts. Raises BadHost for one that is not written as `Pattern` says."""
        return cls(tuple(Pattern.parse(host) for host in hosts), allowance or Allowance())

    async def addresses(self, host: Host, port: int, resolve: Resolve) -> list[Address]:
        """The addresses to connect to, and nothing else.

        One address that is refused is enough to refuse the name: such an answer is an attack or a mistake. What is
        returned has been checked; whoever resolves again (DNS rebinding) has checked nothing.

        Raises:
            Refused: it may not be connected to.
            OSError: the name does not resolve (`socket.gaierror`), or the kernel would not say what is local.
        """
        self._check_name(host, port)
        if host == HOST_NAME:
            found: list[Address] = [_LOOPBACK]
        elif isinstance(host, str):
            found = (await resolve(host, port))[:MOST_ADDRESSES]
        else:
            found = [host]
        for address in found:
            self._check_address(host, addresses.plain(address), port)
        return [addresses.plain(address) for address in found]

    def _check_name(self, host: Host, port: int) -> None:
        if self.hosts is not None and not any(pattern.names(host, port) for pattern in self.hosts):
            raise Refused(f"{host}:{port} is not among the hosts that this sandbox may reach")
        if host in addresses.METADATA_NAMES:
            raise Refused(f"{host} is {addresses.METADATA}")

    def _check_address(self, host: Host, address: Address, port: int) -> None:
        reason = addresses.refusal(address) or routes.refusal(address)
        if reason is not None:
            what = f"{host} {'resolves to' if isinstance(host, str) else 'is'} {reason}"
        elif port == SMTP:  # what a sandbox would do there is send spam in our name
            reason, what = "mail", f"port {port} is for mail servers among themselves"
        else:
            return
        if not self.allowance.covers(host, address, port, reason):
            raise Refused(f"{what}, which no sandbox reaches; FAAS_NETWORK_ALLOW of the gateway can allow it")
