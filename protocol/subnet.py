"""Network groups: the part of an IP address that one party controls.

Limits per group bound an attacker, because addresses cost money and peer ids do not.
Not here: the limits (``routing_table``, ``peer_view``, ``overlay``).
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Final

#: Addresses with a cached group (guess: those of two full views).
_ADDRESSES: Final = 8192
#: The groups of a machine's own addresses.
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")

#: Groups without a limit: all nodes on a loopback or private network have such addresses.
_PRIVATE: Final = (
    *("127.", "10.", "192.168.", "169.254.", "::1", "fc", "fd", "fe80", "0:0:0:0"),
    *(f"172.{number}." for number in range(16, 32)),
)


def limited(group: str) -> bool:
    """Whether a network group is scarce, so that many peers in it are suspicious; unknown and private ones are not."""
    return bool(group) and not group.startswith(_PRIVATE)


def private_range(group: str) -> str:
    """The name of the range of a group that is not public: loopback, link-local or private; empty for a public one."""
    return next((prefix for prefix in _PRIVATE if group.startswith(prefix)), "")


@functools.lru_cache(_ADDRESSES)
def network_group(address: str) -> str:
    """The part of an IP address that one party controls: the /24 of IPv4, the /48 of IPv6; empty if it is none.

    The text starts as the address does (``192.0.2.0/24``), so that private groups can be told by their prefix.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return LOOPBACK[ip.version == 6]
    return _shared(str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False)))


@functools.lru_cache(_ADDRESSES)
def _shared(name: str) -> str:
    """One string object per group.  It is cached and not interned, because strangers choose the addresses."""
    return name


@functools.lru_cache(_ADDRESSES)
def group_of(addrs: tuple[str, ...]) -> str:
    """The group of multiaddresses: that of the first public IP address among them, else of the first one."""
    groups = [
        group
        for parts in (addr.split("/") for addr in addrs)
        if len(parts) > 2 and parts[1] in ("ip4", "ip6") and (group := network_group(parts[2]))
    ]
    return next((group for group in groups if limited(group)), groups[0] if groups else "")
