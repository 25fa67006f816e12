"""The rule for CORS of a bucket: which requests are made for it, and to whom."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.receiver import Receiver, named_as_proxy, receiving, status
from tusgate.core.errors import StoreRefused, StoreUnavailable
from tusgate.s3.config import S3Config
from tusgate.s3.door import BucketDoor
from tusgate.s3.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NO_RULES = b"<Error><Code>NoSuchCORSConfiguration</Code></Error>"
NONE_YET = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(NO_RULES), NO_RULES)


@pytest.fixture
async def store() -> AsyncIterator[Receiver]:
    """Whoever is asked as a store would be."""
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def door(store: Receiver) -> AsyncIterator[BucketDoor]:
    endpoint = f"http://127.0.0.1:{store.port}"
    config = S3Config(endpoint, "us-east-1", "bucket", "", "access", "secret", profile=PROFILES["minio"])
    async with AsyncExitStack() as stack:
        made = BucketDoor(config)
        stack.push_async_callback(made.close)
        yield made


async def test_a_proxy_in_the_environment_is_not_used(
    store: Receiver, door: BucketDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by no other connection to the store: a doctor that takes another way than parts do would see other things."""
    store.answers = [NONE_YET, status(200)]
    async with named_as_proxy(monkeypatch) as proxy:
        await door.open_to(["https://app.example"])
    assert proxy.received == []
    assert [request.path for request in store.received] == ["/bucket?cors", "/bucket?cors"]
    assert b"<AllowedOrigin>https://app.example</AllowedOrigin>" in store.received[1].body


async def test_no_redirect_is_followed(store: Receiver, door: BucketDoor) -> None:
    store.answers = [status(301)]
    with pytest.raises(StoreRefused):
        await door.open_to(["https://app.example"])
    assert [request.path for request in store.received] == ["/bucket?cors"]


async def test_what_is_no_answer_of_a_store_is_told_as_such(store: Receiver, door: BucketDoor) -> None:
    """A proxy's page, for instance."""
    page = b"<html><br>"
    store.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)]
    with pytest.raises(StoreUnavailable):
        await door.open_to(["https://app.example"])
