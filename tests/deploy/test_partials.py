"""The longest header fields, both ways through the gateway and the shipped proxies: a final of a thousand partials."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.wire.client import CT, Client, V

if TYPE_CHECKING:
    from tests.deploy.conftest import Topology
    from tests.wire.client import Answer

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PARTIALS = 1_000
AT_ONCE = 20
KIB = 1 << 10


class Partials(NamedTuple):
    """A thousand finished partials.

    Attributes:
        paths: where they are, without the host.
        sha256: of their bytes in this order.
    """

    paths: list[str]
    sha256: str


@pytest.fixture
async def partials(topology: Topology) -> Partials:
    """Create them, each with a few bytes of its own."""
    client = Client(topology.deployment.gateway.port)
    slots = asyncio.Semaphore(AT_ONCE)
    contents = [b"partial %d\n" % number for number in range(PARTIALS)]

    async def create(content: bytes) -> str:
        async with slots:
            fields = {"Upload-Concat": "partial", "Upload-Length": str(len(content)), **CT}
            answer = await client.post(fields, content)
        assert answer.status == 201, answer
        return answer.upload_path

    paths = await asyncio.gather(*(create(content) for content in contents))
    return Partials(paths, hashlib.sha256(b"".join(contents)).hexdigest())


async def create(endpoint: str, fields: dict[str, str]) -> Answer:
    """Create an upload through whatever is at `endpoint`, and return what HEAD says of it there."""
    address = urlsplit(endpoint)
    assert address.port is not None
    client, host = Client(address.port), {"Host": address.netloc}
    created = await client.post(fields | host)
    assert created.status == 201, created
    head = await client.request("HEAD", created.upload_path, {**V, **host})
    assert head.status == 200, head
    head.headers["Location"] = created.upload_path
    return head


async def test_a_thousand_partials_become_one_file(topology: Topology, behind_caddy: str, partials: Partials) -> None:
    """By the gateway, nginx and Caddy as they are shipped; with and without the host in the URLs."""
    host = topology.endpoint.removesuffix("/files")
    for way in (topology.deployment.gateway.endpoint, topology.endpoint, behind_caddy):
        for prefix in ("", host):
            listed = "final;" + " ".join(prefix + path for path in partials.paths)
            head = await create(way, {"Upload-Concat": listed})
            assert head.headers["Upload-Concat"] == listed
            assert head.headers["Upload-Length"] == head.headers["Upload-Offset"]
            stored = await asyncio.to_thread(topology.deployment.stored_sha256, head.headers["Location"])
            assert stored == partials.sha256


async def test_the_longest_metadata_passes_nginx_and_caddy_both_ways(topology: Topology, behind_caddy: str) -> None:
    metadata = "note " + "QUFB" * (4 * KIB - 16)
    for way in (topology.endpoint, behind_caddy):
        head = await create(way, {"Upload-Length": "1", "Upload-Metadata": metadata})
        assert head.headers["Upload-Metadata"] == metadata
