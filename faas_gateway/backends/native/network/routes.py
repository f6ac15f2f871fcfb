"""Would the kernel keep a packet to this address on this machine? It is asked itself (rtnetlink(7), RTM_GETROUTE).

A list of the interfaces' addresses would miss what is routed to the machine in other ways (`ip route add local`),
and would be old as soon as it is made.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

from faas_gateway.backends.native.network.addresses import Address

_RTM_NEWROUTE, _RTM_GETROUTE, _NLMSG_ERROR = 24, 26, 2
_NLM_F_REQUEST = 1
_RTA_DST = 1
_UNICAST = 1
_KINDS = {2: "an address of this machine", 3: "a broadcast address", 4: "an anycast address", 5: "a multicast address"}
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
"""How routes of the kinds unreachable, prohibit and blackhole are reported, and that there is none."""
_ANSWER_S = 1.0


def refusal(address: Address) -> str | None:
    """Why this address is none of another machine; None where it is, or where there is no way to it.

    Raises OSError when the kernel does not answer: then nothing may be connected.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    raw = address.packed
    attribute = struct.pack("=HH", 4 + len(raw), _RTA_DST) + raw
    route = struct.pack("=BBBBBBBBI", family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
    size = 16 + len(route) + len(attribute)
    header = struct.pack("=IHHII", size, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as s:
        s.settimeout(_ANSWER_S)
        s.sendto(header + route + attribute, (0, 0))
        answer = s.recv(4096)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _RTM_NEWROUTE:
        route_type = answer[16 + 7]
        return None if route_type == _UNICAST else _KINDS.get(route_type, "an address that is not routed")
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code in _NO_WAY:
            return None
        raise OSError(code, os.strerror(code))
    raise OSError(errno.EPROTO, "unexpected answer about a route")
