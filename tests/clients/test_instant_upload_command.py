"""`tusgate upload --direct --instant`: what the gateway has is not sent, and everything else is."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.clients.deployment import BucketObjects
from tests.clients.test_direct_upload_command import Direct, command, run
from tests.clients.upload_command import TIMEOUT
from tests.fault.proxy import S3FaultProxy
from tests.gateway import minio_settings
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.clients.payload import Payload
    from tests.clients.upload_command import Command
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

__all__ = ["command"]
pytestmark = [pytest.mark.clients, pytest.mark.servers, pytest.mark.slow]

INSTANT = {"TUSGATE_DEDUP": "on", "TUSGATE_INSTANT_UPLOAD": "on", "TUSGATE_INSTANT_KEYS": "k" * 32}
MIB = 1 << 20


@pytest.fixture
async def direct(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str
) -> AsyncIterator[Direct]:
    """Give a gateway that has instant uploads, unless the test is parametrised otherwise."""
    async with S3FaultProxy(minio.endpoint) as store:
        own = {"TUSGATE_DIRECT": "on", "TUSGATE_S3_PUBLIC_ENDPOINT": store.url} | getattr(request, "param", INSTANT)
        gateway = await asyncio.to_thread(start_gateway, minio_settings(minio, bucket) | own)
        yield Direct(gateway, store, BucketObjects(minio, bucket))


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def shown(url: str) -> dict[str, object]:
    file: dict[str, object] = json.loads(got(url))
    return file


async def test_what_is_known_is_not_sent_again_and_all_else_is(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    files = [payload(size) for size in (0, 1, 3 * MIB, 33 * MIB + 5)]
    paths, total = [str(file.path) for file in files], sum(file.size for file in files)
    first = await run(direct, command, "--instant", *paths)
    assert direct.store.history.bytes_put == total
    await asyncio.to_thread(wait_until, lambda: all(shown(url)["sha256"] for url in first), "the digests")

    second = await run(direct, command, "--instant", "--metadata", "filename=b.bin", *paths)
    assert direct.store.history.bytes_put == total
    assert not set(first) & set(second)
    assert {(shown(url)["state"], shown(url)["filename"]) for url in second} == {("complete", "b.bin")}
    contents = await asyncio.gather(*[asyncio.to_thread(got, f"{url}/content") for url in second])
    assert sorted(contents) == sorted(file.path.read_bytes() for file in files)

    altered = bytearray(files[-1].path.read_bytes())
    altered[4 * MIB] ^= 1
    files[-1].path.write_bytes(altered)
    await run(direct, command, "--instant", paths[-1])
    assert direct.store.history.bytes_put == total + len(altered)


@pytest.mark.parametrize("direct", [{}], indirect=True)
async def test_where_it_is_off_the_file_is_sent(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(MIB)
    (url,) = await run(direct, command, "--instant", str(file.path))
    direct.check(url, file)


def test_it_is_about_direct_uploads(command: Command) -> None:
    process = command.start("http://127.0.0.1:1/files", "--instant", "a.bin")
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, "expected --direct" in errors) == (2, True)
