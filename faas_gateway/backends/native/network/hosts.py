"""Hosts as a sandbox, an execution's allow-list or an operator writes them: parsed strictly, compared exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network

from faas_gateway.backends.native.network.addresses import Address, Network, parse_address

Host = str | Address
"""A name in lower case without a final dot, or an address."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class BadHost(ValueError):
    """What was written is no host; the message says why."""


def parse_host(text: str) -> Host:
    """Parse a name or an address.

    Names that end in a number (`127.1`, `2130706433`, `0x7f.1`) are none: the C library takes them for addresses.
    """
    address = parse_address(text)
    if address is not None:
        return address
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadHost("no valid host name")
    if _NUMBER.fullmatch(labels[-1]):
        raise BadHost("neither a host name nor an address in the usual notation")
    return name


def parse_port(text: str) -> int:
    """Parse a port, 1 to 65535."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 0 < int(text) < 65536:
        raise BadHost("no valid port")
    return int(text)


def split_port(text: str) -> tuple[str, str]:
    """`host:port`, `[v6]:port`, `host` or `v6` taken apart; the port is empty where none is given."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or ":" not in host:
            raise BadHost("no valid host in brackets")
        if rest == ":":
            raise BadHost("no valid port")
        return host, rest[1:]
    if text.count(":") != 1:
        return text, ""
    host, _, port = text.partition(":")
    if not port:
        raise BadHost("no valid port")
    return host, port


@dataclass(frozen=True)
class Pattern:
    """`example.org`, `*.example.org` (what is below it, not itself), `192.0.2.7`, `10.0.0.0/8`; each also with `:port`.

    Use `parse`.
    """

    name: str = ""
    below: bool = False
    network: Network | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises BadHost, whose message quotes the text."""
        try:
            host, port_text = split_port(text.strip())
            port = parse_port(port_text) if port_text else None
            if "/" in host:
                return cls(network=ip_network(host), port=port)
            below = host.startswith("*.")
            parsed = parse_host(host[2:] if below else host)
            if isinstance(parsed, str):
                return cls(name=parsed, below=below, port=port)
            if below:
                raise BadHost("an address has nothing below it")
            return cls(network=ip_network(parsed), port=port)
        except ValueError as e:
            raise BadHost(f"{text.strip()!r}: {e}") from None

    def names(self, host: Host, port: int) -> bool:
        """Whether a host is meant as it was asked for."""
        if self.port not in (None, port):
            return False
        if not isinstance(host, str):
            return self.holds(host, port)
        return host.endswith(f".{self.name}") if self.below else bool(self.name) and host == self.name

    def holds(self, address: Address, port: int) -> bool:
        """Whether this is a pattern of addresses and the address is one of them."""
        return self.network is not None and self.port in (None, port) and address in self.network
