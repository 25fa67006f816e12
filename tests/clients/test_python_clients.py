"""tuspy and aiotus, the two Python clients."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import aiohttp
import aiotus
import pytest
from tusclient.client import TusClient

from tests.clients.payload import BOUNDARY_SIZES, MIB, PART

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload
    from tests.fault.tcp import TcpFaultProxy

pytestmark = pytest.mark.clients
aiotus_sends_bytes = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


def tuspy(endpoint: str, payload: Payload, *, stop_at: int | None = None, **options: object) -> str:
    """Upload with tuspy, up to `stop_at` bytes, and return the URL."""
    with payload.path.open("rb") as file:
        uploader = TusClient(endpoint).uploader(file_stream=file, metadata={"filename": "päyload.bin"}, **options)
        uploader.upload(stop_at=stop_at)
    return str(uploader.url)


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_tuspy_sends_a_whole_file(production: Deployment, payload: Callable[[int], Payload], size: int) -> None:
    url = tuspy(production.gateway.endpoint, payload(size))
    assert production.stored_sha256(url) == payload(size).sha256


@pytest.mark.parametrize("checksums", [False, True], ids=["plain", "sha1-of-each-chunk"])
@pytest.mark.parametrize(("size", "chunk"), [(20_003, 1024), (3 * PART + 7, 5 * MIB)])
def test_tuspy_sends_chunks(
    deployment: Deployment, payload: Callable[[int], Payload], size: int, chunk: int, checksums: bool
) -> None:
    url = tuspy(deployment.gateway.endpoint, payload(size), chunk_size=chunk, upload_checksum=checksums)
    assert deployment.stored_sha256(url) == payload(size).sha256


def test_tuspy_stops_and_another_run_goes_on(deployment: Deployment, payload: Callable[[int], Payload]) -> None:
    file = payload(3 * PART + 7)
    url = tuspy(deployment.gateway.endpoint, file, chunk_size=3 * MIB, stop_at=10 * MIB)
    assert deployment.offset(url) == 10 * MIB
    assert tuspy(deployment.gateway.endpoint, file, url=url) == url
    assert deployment.stored_sha256(url) == file.sha256


@aiotus_sends_bytes
@pytest.mark.parametrize("size", BOUNDARY_SIZES)
async def test_aiotus_sends_a_file(deployment: Deployment, payload: Callable[[int], Payload], size: int) -> None:
    metadata = {"filename": b"payload.bin", "draft": None}
    async with aiohttp.ClientSession() as session:
        url = await aiotus.upload(
            deployment.gateway.endpoint, io.BytesIO(payload(size).bytes()), metadata, client_session=session
        )
        assert url is not None
        assert await aiotus.metadata(url, client_session=session) == metadata
    assert deployment.stored_sha256(str(url)) == payload(size).sha256


async def test_tuspy_heals_a_cut_connection(
    deployment: Deployment, line: TcpFaultProxy, payload: Callable[[int], Payload]
) -> None:
    file = payload(3 * PART + 7)
    cut = line.cut("up", after=PART + 1000)
    url = await asyncio.to_thread(tuspy, f"http://{line.host}:{line.port}/files", file, retries=5, retry_delay=0)
    assert cut.times == 0
    assert deployment.stored_sha256(url) == file.sha256


@aiotus_sends_bytes
async def test_aiotus_heals_a_cut_connection(
    deployment: Deployment, line: TcpFaultProxy, payload: Callable[[int], Payload]
) -> None:
    file = payload(3 * PART + 7)
    cut = line.cut("up", after=PART + 1000)
    url = await aiotus.upload(f"http://{line.host}:{line.port}/files", io.BytesIO(file.bytes()))
    assert url is not None
    assert cut.times == 0
    assert deployment.stored_sha256(str(url)) == file.sha256
