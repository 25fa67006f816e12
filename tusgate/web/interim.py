"""Interim answers (1xx): what a client is told while its request goes on. The one place that writes them.

aiohttp has no way to send any but its own `100 Continue`, so they go to the transport as they are: before the final
answer nothing else is written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp.http import HttpVersion11

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

MOST: Final = 5
"""Interim answers to one request. Go's HTTP client, and so the Caddy and Traefik of many distributions, breaks a
request off at the sixth (net/http before Go 1.24: "too many 1xx informational responses")."""


def takes_interim(request: web.Request) -> bool:
    """Whether interim answers may be sent at all. RFC 9110, 15.2: never to an HTTP/1.0 client."""
    return request.version >= HttpVersion11


def awaits_continue(request: web.Request) -> bool:
    """Whether the client waits for `100 Continue` before it sends the body."""
    return takes_interim(request) and request.headers.get("Expect", "").lower() == "100-continue"


def send_interim(request: web.Request, status: str, headers: Mapping[str, str]) -> bool:
    """Send one interim answer, such as `100 Continue`; return whether the client was still there.

    Only before the final answer has begun. The values of `headers` are ours, or have been checked.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return False
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    transport.write("\r\n".join(lines).encode())
    return True
