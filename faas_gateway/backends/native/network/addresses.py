"""Which addresses a sandbox may never be led to, whatever name it came by, and why.

The table is that of the IANA special-purpose registries, spelt out: `ipaddress.is_global` has changed its mind between
Python releases (CVE-2024-4032), and this must not.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LOOPBACK = "a loopback address"
PRIVATE = "a private address"
SHARED = "an address of a carrier's inner network"
LINK_LOCAL = "a link-local address"
METADATA = "a cloud's metadata service"
MULTICAST = "a multicast address"
BROADCAST = "a broadcast address"
UNSPECIFIED = "the unspecified address"
RESERVED = "a reserved address"
EXAMPLES = "an address reserved for tests and examples"
TUNNEL = "an address that stands for another one behind a tunnel"

_V4 = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/32", UNSPECIFIED),
        ("0.0.0.0/8", RESERVED),
        ("10.0.0.0/8", PRIVATE),
        ("100.64.0.0/10", SHARED),
        ("127.0.0.0/8", LOOPBACK),
        ("168.63.129.16/32", METADATA),  # Azure's, in the midst of public addresses
        ("169.254.0.0/16", LINK_LOCAL),
        ("172.16.0.0/12", PRIVATE),
        ("192.0.0.0/24", RESERVED),
        ("192.0.2.0/24", EXAMPLES),
        ("192.88.99.0/24", TUNNEL),
        ("192.168.0.0/16", PRIVATE),
        ("198.18.0.0/15", EXAMPLES),
        ("198.51.100.0/24", EXAMPLES),
        ("203.0.113.0/24", EXAMPLES),
        ("224.0.0.0/4", MULTICAST),
        ("255.255.255.255/32", BROADCAST),
        ("240.0.0.0/4", RESERVED),
    )
)
_V6 = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", UNSPECIFIED),
        ("::1/128", LOOPBACK),
        ("fc00::/7", PRIVATE),
        ("fe80::/10", LINK_LOCAL),
        ("fec0::/10", PRIVATE),
        ("ff00::/8", MULTICAST),
        ("2001:db8::/32", EXAMPLES),
        ("3fff::/20", EXAMPLES),
        ("2001::/32", TUNNEL),  # Teredo
        ("2001::/23", RESERVED),
        ("2002::/16", TUNNEL),  # 6to4
        ("64:ff9b:1::/48", TUNNEL),  # NAT64 of a network's own
    )
)
_GLOBAL = IPv6Network("2000::/3")  # all that has been given out; the rest is not routed
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)

#: What an operator's allowance lifts only where it gives the address itself: a name could be led there by its DNS.
NEVER_BY_NAME = frozenset({LINK_LOCAL, METADATA, MULTICAST, BROADCAST, UNSPECIFIED})

#: Names that clouds give their metadata services.
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "instance-data",
        "instance-data.ec2.internal",
    }
)


def plain(address: Address) -> Address:
    """The IPv4 address where one is only written as IPv6 (`::ffff:10.0.0.1`): the kernel takes it for that."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def parse_address(text: str) -> Address | None:
    """The address that a text is in the usual notation, else None; one with a scope (`fe80::1%eth0`) is none."""
    try:
        return None if "%" in text else plain(ip_address(text))
    except ValueError:
        return None


def refusal(address: Address) -> str | None:
    """Why nothing may be connected to this address; None for one in the public Internet."""
    address = plain(address)
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _V4 if address in network), None)
    if address in _NAT64:  # how a network without IPv4 reaches IPv4: what counts is where it leads
        return refusal(IPv4Address(int(address) & 0xFFFFFFFF))
    for network, reason in _V6:
        if address in network:
            return reason
    if address not in _GLOBAL:
        return RESERVED
    return TUNNEL if int(address) >> 32 & 0xFFFFFFFF in _ISATAP else None
