"""The store goes away as a whole, refuses us, or crawls; and service goes on by itself when that is over.

Held by every test here: I1 and I3 (`honest.Upload`), I8 (no success meanwhile), I20 (nobody restarts anything).
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.fault.honest import begin
from tests.fault.proxy import Reply, s3_error
from tests.fault.rig import KIB, MIB, PART, Rig, id_of
from tests.fault.tcp import TcpFaultProxy
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.servers.s3 import S3Server

    StartRig = Callable[..., Awaitable[Rig]]

LARGE = random.Random(11).randbytes(3 * PART + 100 * KIB + 7)
READY_SECONDS = 10.0
"""Within which the gateway serves again after a fault has ended: the promise itself, and so a deadline."""

OUTAGE = float(os.environ.get("TUSGATE_TEST_OUTAGE", "0"))
"""Seconds for which the store is down at least; DF-02 asks for five minutes now and then."""

REFUSALS = {
    "unknown_key": s3_error(403, "InvalidAccessKeyId"),
    "expired_token": s3_error(400, "ExpiredToken"),
    "clocks_differ": s3_error(403, "RequestTimeTooSkewed"),
    "wrong_signature": s3_error(403, "SignatureDoesNotMatch"),
    "no_rights": s3_error(403, "AccessDenied"),
    "no_bucket": s3_error(404, "NoSuchBucket"),
    "internal": s3_error(500, "InternalError"),
    "not_s3_at_all": Reply(404, b"<html>404 page not found</html>"),
}


async def readiness(rig: Rig) -> int:
    """Return the status of `/readyz`."""
    return (await rig.client.request("GET", "/readyz")).status


async def until_ready(rig: Rig) -> None:
    """Wait until the gateway says that it serves. TimeoutError when that takes longer than promised (I20)."""
    async with asyncio.timeout(READY_SECONDS):
        while await readiness(rig) != 200:  # noqa: ASYNC110 # another process does it: there is no event
            await asyncio.sleep(0.1)


async def assert_it_says_no_without_losing_anything(rig: Rig, path: str, offset: int) -> None:
    """Clients are asked to come again, nothing is acknowledged, and what was acknowledged is still told."""
    for answer in (
        await rig.client.patch(path, offset, LARGE[offset:]),
        await rig.client.post({"Upload-Length": "5", "Content-Type": "application/offset+octet-stream"}, b"hello"),
    ):
        assert answer.status == 503, answer
        assert int(answer.headers["Retry-After"]) >= 1
    looked = await rig.client.head(path)
    assert (looked.status, looked.offset) == (200, offset)


async def test_a_store_that_is_down_costs_time_and_nothing_else(rig: Rig) -> None:
    """DF-02: however long."""
    upload = await begin(rig, LARGE)
    await upload.send(PART + MIB)

    await asyncio.to_thread(rig.minio.kill)
    back = asyncio.get_running_loop().time() + OUTAGE
    await assert_it_says_no_without_losing_anything(rig, upload.path, upload.acknowledged)
    while asyncio.get_running_loop().time() < back:
        await assert_it_says_no_without_losing_anything(rig, upload.path, upload.acknowledged)
    await asyncio.to_thread(rig.minio.start)

    await until_ready(rig)
    await upload.run()


async def test_an_upload_that_was_sealed_before_the_store_went_away_is_finished_after_it_came_back(rig: Rig) -> None:
    """I5, CR-06."""
    upload = await begin(rig, LARGE)
    await upload.send(2 * PART)
    refused = rig.proxy.on("CompleteMultipartUpload", s3_error(500, "InternalError"))
    sending = asyncio.create_task(upload.send(len(LARGE)))
    await rig.until_state(upload.path, "sealed")
    await rig.until(lambda: refused.fired > TRIES)

    await asyncio.to_thread(rig.minio.kill)
    rig.proxy.clear_rules()
    await asyncio.to_thread(rig.minio.start)

    await rig.until_state(upload.path, "complete")  # by itself
    await sending
    await upload.run()


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_store_that_refuses_us_is_no_fault_of_the_clients(rig: Rig, refusal: Reply) -> None:
    """DF-12: 503, never 403 or 404; the upload is not given up, and goes on once the operator has mended it."""
    upload = await begin(rig, LARGE)
    await upload.send(PART + MIB)

    rig.proxy.on("*", refusal)
    await assert_it_says_no_without_losing_anything(rig, upload.path, upload.acknowledged)
    assert rig.row(upload.path)["state"] == "uploading"
    rig.proxy.clear_rules()

    await until_ready(rig)
    await upload.run()


async def test_a_store_that_asks_to_slow_down_gets_its_parts_again_and_no_more_than_three_times(rig: Rig) -> None:
    """DF-01: the client notices nothing."""
    upload = await begin(rig, LARGE)
    rules = [
        rig.proxy.on("UploadPart", s3_error(503, "SlowDown"), key=id_of(upload.path), part=part, times=TRIES - 1)
        for part in (1, 2, 3, 4)
    ]

    await upload.run()

    assert [rule.fired for rule in rules] == [TRIES - 1] * 4
    assert upload.turned_away == []
    for part in (1, 2, 3, 4):
        assert sum(call.kind == "UploadPart" and call.part == part for call in rig.proxy.history.calls) == TRIES


async def test_a_store_that_hangs_holds_up_nobody_who_does_not_need_it(rig: Rig) -> None:
    """I20: offsets are told from the database, and the writer goes on where it was."""
    upload = await begin(rig, LARGE)
    await upload.send(PART)

    await asyncio.to_thread(rig.minio.pause)
    sending = asyncio.create_task(upload.send(len(LARGE)))
    await rig.until(lambda: any(not call.finished for call in rig.proxy.history.calls))
    assert (await rig.client.head(upload.path)).offset == PART
    await rig.client.create(100)
    await asyncio.to_thread(rig.minio.resume)

    await sending
    await upload.run()


@pytest.fixture
async def slow_link(minio: S3Server) -> AsyncIterator[TcpFaultProxy]:
    """The network between the gateway and its store."""
    host, port = minio.endpoint.removeprefix("http://").split(":")
    async with TcpFaultProxy(host, int(port)) as link:
        yield link


@pytest.fixture
async def crawling_rig(slow_link: TcpFaultProxy, start_rig: StartRig) -> Rig:
    """A rig whose gateway has 24 MiB for all uploads; the link outlives it, for the audit."""
    endpoint = f"http://127.0.0.1:{slow_link.port}"
    return await start_rig({"TUSGATE_PART_SIZE": "5MiB", "TUSGATE_BUDGET": "24MiB", "TUSGATE_S3_ENDPOINT": endpoint})


async def test_a_crawling_store_slows_clients_down_instead_of_filling_memory(
    crawling_rig: Rig, slow_link: TcpFaultProxy
) -> None:
    """DF-10, I15: 50 clients push 6 MiB each, ten times what may be held; all of them finish."""
    rig, link = crawling_rig, slow_link
    data = LARGE[: 6 * MIB]
    uploads = [await begin(rig, data) for _ in range(50)]
    link.bandwidth = MIB  # bytes per second, of each connection
    before = psutil.Process(rig.gateway.pid).memory_info().rss
    sending = [asyncio.create_task(upload.send(len(data))) for upload in uploads]
    await rig.until(lambda: sum(rig.row(upload.path)["upload_offset"] for upload in uploads) >= 4 * PART)
    grown = psutil.Process(rig.gateway.pid).memory_info().rss - before
    link.bandwidth = 0

    await asyncio.gather(*sending)
    for upload in uploads:
        await upload.run()
    assert grown < 24 * MIB + 50 * MIB + 60 * MIB  # budget, a MiB for each connection, and room for the allocator
