"""V36, EV-11: webhooks do not reach into the own network."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tusgate.core.addresses import is_address, is_public
from tusgate.sinks.addresses import AddressGuard

PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


class Names(AbstractResolver):
    """Answers one look-up after the other, as a name server does that changes its mind."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
            for each in self._answers.pop(0)
        ]

    async def close(self) -> None:
        return


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_network_of_ones_own_is_not_public(address: str) -> None:
    assert is_address(address)
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "example.com", "127.1", "0x7f.1", "2130706433", "127.0.0.1.nip.io"])
def test_a_name_is_no_address(host: str) -> None:
    assert not is_address(host)


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    guard = AddressGuard(frozenset(), Names(["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(OSError, match="not in the public internet"):
        await guard.resolve("receiver.example", 443)


async def test_what_is_connected_to_is_what_was_looked_at() -> None:
    """A name that is public at the first look and private at the second: each look is judged by itself."""
    guard = AddressGuard(frozenset(), Names(["8.8.8.8"], ["127.0.0.1"]))
    assert [found["host"] for found in await guard.resolve("rebinding.example", 443)] == ["8.8.8.8"]
    with pytest.raises(OSError, match="not in the public internet"):
        await guard.resolve("rebinding.example", 443)


async def test_the_allowlist_opens_one_host_on_one_port() -> None:
    guard = AddressGuard(frozenset({("hooks.internal", 8443)}), Names(["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]))
    assert await guard.resolve("hooks.internal", 8443)
    with pytest.raises(OSError, match="not in the public"):
        await guard.resolve("hooks.internal", 443)
    with pytest.raises(OSError, match="port 8443"):
        await guard.resolve("other.internal", 8443)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254"])
async def test_a_literal_address_is_looked_at_too(host: str) -> None:
    with pytest.raises(OSError, match="not in the public"):
        AddressGuard(frozenset()).check_literal(host, 443)
    AddressGuard(frozenset({(host, 443)})).check_literal(host, 443)


@pytest.mark.parametrize("spelling", ["localhost", "127.1", "0x7f.1", "2130706433", "0177.0.0.1"])
async def test_other_spellings_of_an_address_are_resolved_and_looked_at(spelling: str) -> None:
    with pytest.raises(OSError, match="not in the public"):
        await AddressGuard(frozenset()).resolve(spelling, 443)


async def test_name_servers_that_say_nothing_keep_no_thread_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """EV-03: the names of object stores are resolved in the threads that all share."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: answered.wait() and [])
    guard = AddressGuard(frozenset())
    threads = min(32, (os.cpu_count() or 1) + 4)
    try:
        for _ in range(2 * threads):
            with suppress(TimeoutError):
                await asyncio.wait_for(guard.resolve("dead.example", 443), 0.01)
        async with asyncio.timeout(5.0):
            await asyncio.gather(*[asyncio.to_thread(int) for _ in range(threads)])
    finally:
        answered.set()
        await guard.close()
