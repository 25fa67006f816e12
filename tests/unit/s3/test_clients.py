"""Clients for S3: what they have in common."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from tusgate.s3.clients import open_client
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES


async def test_clients_share_what_is_known_of_the_service_and_nothing_else() -> None:
    """With a model each, every client took 12 MiB, and each full garbage collection 50 ms longer."""
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
