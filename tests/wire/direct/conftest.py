"""Fixtures: a gateway on a store that signs URLs, and a client that sends its parts there."""

from __future__ import annotations

import aiohttp
import pytest

from tests.wire.direct import DirectClient, store_on_double
from tests.wire.rig import running


@pytest.fixture
async def http():
    """A connection to the store."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def store():
    async with store_on_double() as opened:
        yield opened


@pytest.fixture
async def rig(tmp_path, store):
    async with running(tmp_path, store=store) as started:
        yield started


@pytest.fixture
def client(rig, http):
    return DirectClient(rig.client, http)
