"""What hooks get to know of a request."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from tusgate.web.hooks import exchange_of


class Connection(asyncio.Transport):
    """A connection from somewhere."""


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("203.0.113.7", 50123), "203.0.113.7:50123"),
        (("2001:db8::7", 50123, 0, 0), "[2001:db8::7]:50123"),
        ("", ""),
        (None, ""),
    ],
)
async def test_the_peer_is_written_as_go_writes_it(name: object, peer: str) -> None:
    """Servers written for tusd take it apart by `net.SplitHostPort`; who comes by a socket file has no address."""
    request = make_mocked_request("POST", "/files", transport=Connection({"peername": name}))
    assert exchange_of(request).seen().peer == peer
