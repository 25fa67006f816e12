"""Fixtures: a running gateway per test, default or with settings of the test's own."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.wire.rig import running


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
def client(rig):
    return rig.client


@pytest.fixture
async def start(tmp_path):
    """Start a gateway with a WebConfig and other settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def begin(config=None, **settings):
            return await stack.enter_async_context(running(tmp_path, config, **settings))

        yield begin
