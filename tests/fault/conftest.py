"""The rig of the fault tests."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.fault.proxy import S3FaultProxy
from tests.fault.rig import Rig
from tests.gateway import minio_settings
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

SMALLEST_PARTS_AND_COLD = {"TUSGATE_PART_SIZE": "5MiB", "TUSGATE_WARM_CELL_TTL": "0"}
"""Many parts from little data, and pieces that are really read back."""


@pytest.fixture
async def start_rig(
    minio: S3Server, bucket: str, start_gateway: Callable[..., Gateway]
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Start rigs: `await start_rig(settings)` has a ready gateway whose calls so far are forgotten."""
    async with AsyncExitStack() as stack:

        async def start(settings: dict[str, str]) -> Rig:
            proxy = await stack.enter_async_context(S3FaultProxy(minio.endpoint))
            behind = minio_settings(minio, bucket) | {"TUSGATE_S3_ENDPOINT": proxy.url} | settings
            # In a thread: the gateway is ready once its calls have passed the proxy, which runs on this loop.
            gateway = await asyncio.to_thread(start_gateway, behind)
            stack.push_async_callback(asyncio.to_thread, gateway.kill)
            proxy.history.clear()
            return Rig(gateway, proxy, Client(gateway.port), minio, bucket)

        yield start


@pytest.fixture
async def rig(start_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Give a rig with small parts and without warm cells."""
    return await start_rig(SMALLEST_PARTS_AND_COLD)
