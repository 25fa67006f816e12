"""Clients for S3: what they have in common."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

from tusgate.s3.clients import open_client
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES

MIB = 1 << 20


async def test_the_description_of_s3_is_in_memory_once_however_many_stores_there_are() -> None:
    """I15: a gateway has three clients for each of them."""
    config = S3Config("http://127.0.0.1:9", "us-east-1", "bucket", "", "access", "secret")
    async with AsyncExitStack() as stack:
        await open_client(stack, config, 1.0, 1)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(4):
            await open_client(stack, config, 1.0, 1)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    assert held < 4 * MIB


async def test_clients_share_what_is_known_of_the_service_and_nothing_else() -> None:
    config = S3Config("http://127.0.0.1:9", "us-east-1", "bucket", "", "one", "1", profile=PROFILES["minio"])
    other = S3Config("http://127.0.0.1:8", "eu-west-1", "bucket", "", "two", "2", profile=PROFILES["minio"])
    async with AsyncExitStack() as stack:
        first: Any = await open_client(stack, config, 5.0, 3)
        second: Any = await open_client(stack, other, 7.0, 4)
        assert first._loader is second._loader
        assert first.meta.events is not second.meta.events
        seen = [
            (each.meta.endpoint_url, each.meta.region_name, each.meta.config.read_timeout) for each in (first, second)
        ]
        assert seen == [("http://127.0.0.1:9", "us-east-1", 5.0), ("http://127.0.0.1:8", "eu-west-1", 7.0)]
        keys = [
            (await each._request_signer._credentials.get_frozen_credentials()).access_key for each in (first, second)
        ]
        assert keys == ["one", "two"]
