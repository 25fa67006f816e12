"""Keeps webhooks out of the own network.

The name of a receiver may point anywhere, and elsewhere a moment later. So the guard stands where the connection is
made: it resolves, looks at every address, and the connection goes to one of those that it has seen.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp.abc import AbstractResolver

from tusgate.core.addresses import USUAL_PORTS, is_address, is_public

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

LOOKUPS: Final = 4
"""Names that are resolved for one receiver at once."""


class OwnThreads(AbstractResolver):
    """Asks the system in threads of its own: a name server that says nothing keeps one for a minute.

    In those that asyncio has for everybody no other name would be found meanwhile, that of the object store included.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, "names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError."""
        ask = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            {
                "hostname": host,
                "host": _with_zone(address),
                "port": port,
                "family": kind,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Let the threads end, as soon as they can. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _with_zone(address: tuple[object, ...]) -> str:
    """Return an address of a socket without its port; one of IPv6 may be good in one network only."""
    zone = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{zone}" if zone else str(address[0])


class AddressGuard(AbstractResolver):
    """Resolves names for an HTTP client, and refuses those that do not lead into the public internet.

    Args:
        allowed: host and port, exactly as in a URL, that may lead anywhere.
        resolver: finds the addresses.
    """

    def __init__(self, allowed: frozenset[tuple[str, int]], resolver: AbstractResolver | None = None) -> None:
        self._allowed = allowed
        self._resolver = resolver or OwnThreads()

    def check_literal(self, host: str, port: int) -> None:
        """Raise OSError for a host that is an address and not public: HTTP clients resolve names only."""
        if is_address(host):
            self._check(host, port, [host])

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError when one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        self._check(host, port, [result["host"] for result in found])
        return found

    def _check(self, host: str, port: int, addresses: list[str]) -> None:
        if (host, port) in self._allowed:
            return
        if port not in USUAL_PORTS:
            raise OSError(f"port {port} of {host} is not allowed")
        if not all(map(is_public, addresses)):
            raise OSError(f"{host} is not in the public internet")

    async def close(self) -> None:
        """Release the resolver."""
        await self._resolver.close()
