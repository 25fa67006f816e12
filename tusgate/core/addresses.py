"""How network addresses are written, and which belong to the public internet."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

USUAL_PORTS: Final = frozenset({80, 443})
_HOST_AND_PORT: Final = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s/:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE: Final = ipaddress.ip_network("::/96")


def is_address(host: str) -> bool:
    """Return whether `host` is an address and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Return whether `address` belongs to the public internet, an IPv4 address within an IPv6 one included."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = _embedded(found)
        if inner is not None:
            return is_public(str(inner))
        if found.teredo is not None or found in _IPV4_COMPATIBLE or found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def place_of(text: str) -> str | tuple[str, int]:
    """Return where a server listens: `/run/x.sock` as it is, `host:3310` and `[::1]:3310` as host and port.

    Raises ValueError for all else.
    """
    if text.startswith("/"):
        return text
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise ValueError
    return found["literal"] or found["host"], int(found["port"])
