"""The queue of S3 events: which requests are made for it, to whom, and what is no answer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.receiver import Received, Receiver, named_as_proxy, receiving, status
from tusgate.core.errors import StoreUnavailable
from tusgate.s3.queue import QueueConfig, SqsReports

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator


@asynccontextmanager
async def reports_of(server: Receiver) -> AsyncIterator[SqsReports]:
    url = f"http://127.0.0.1:{server.port}/1/queue"
    reports = SqsReports(QueueConfig(url=url, region="us-east-1", access_key="one", secret_key="1"))
    try:
        yield reports
    finally:
        await reports.close()


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by no other connection of a gateway."""
    async with receiving() as server, named_as_proxy(monkeypatch) as proxy, reports_of(server) as reports:
        server.answers = [status(503)]
        with pytest.raises(StoreUnavailable):
            await reports.receive()
        assert (len(server.received), proxy.received) == (1, [])


async def test_an_answer_that_breaks_off_is_none() -> None:
    async def break_off(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.close()

    async with receiving() as server, reports_of(server) as reports:
        server.answers = [break_off]
        with pytest.raises(StoreUnavailable):
            await reports.receive()
