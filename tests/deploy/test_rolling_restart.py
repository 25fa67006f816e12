"""Two replicas behind the shipped nginx configuration, restarted in turn under the uploads of real clients."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tusclient.client import TusClient

from tests.clients.deployment import BucketObjects
from tests.clients.payload import MIB, write_payload
from tests.deploy.conftest import write_nginx_configuration
from tests.fault.tcp import TcpFaultProxy
from tests.gateway import Gateway, minio_settings
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.payload import Payload
    from tests.servers.nginx import Nginx
    from tests.servers.node import Node
    from tests.servers.s3 import S3Server

pytestmark = pytest.mark.clients

CLIENTS = 25
"""Of each of two kinds."""
EXIT_SECONDS = 10.0
"""Within which a replica must have saved all bytes and ended: the promise itself, and so a deadline."""
PATIENT = {"retryDelays": [0, 200, 500, 1000, 2000, 3000], "chunkSize": 3 * MIB}
BANDWIDTH = MIB
"""Bytes per second of each client, so that uploads last longer than both restarts."""


@pytest.fixture
def replicas(minio: S3Server, bucket: str, database_url: str, tmp_path: Path) -> Iterator[list[Gateway]]:
    """Two gateways on one database and bucket."""
    settings = {**minio_settings(minio, bucket), "TUSGATE_DATABASE_URL": database_url}
    with ExitStack() as stack:
        yield [stack.enter_context(Gateway(tmp_path / f"replica-{number}", settings)) for number in (1, 2)]


@pytest.fixture
def public_port(replicas: list[Gateway], nginx: Nginx, tmp_path: Path) -> Iterator[int]:
    """The port of nginx before both."""
    port = free_port()
    configuration = write_nginx_configuration(tmp_path, [replica.port for replica in replicas], port)
    with nginx.serving(configuration, port):
        yield port


async def tus_js(node: Node, endpoint: str, payload: Payload) -> list[str]:
    """Upload the payload `CLIENTS` times with tus-js-client; return the URLs."""
    task = {"endpoint": endpoint, "file": str(payload.path), "count": CLIENTS, "options": PATIENT}
    program = (str(node.program), str(node.clients / "js" / "fleet.mjs"), json.dumps(task))
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["error"] for line in lines if "error" in line] == []
    return [line["done"] for line in lines]


def tuspy(endpoint: str, payload: Payload) -> str:
    """Upload the payload with tuspy; return the URL."""
    with payload.path.open("rb") as file:
        uploader = TusClient(endpoint).uploader(file_stream=file, chunk_size=2 * MIB, retries=10, retry_delay=1)
        uploader.upload()
    return str(uploader.url)


async def restart_in_turn(replicas: list[Gateway], link: TcpFaultProxy) -> None:
    """Restart one after the other, each time in the middle of many requests."""
    for replica in replicas:
        passed = link.passed["up"]
        while link.passed["up"] < passed + 20 * MIB:  # noqa: ASYNC110 # bytes are counted, there is no event
            await asyncio.sleep(0.05)
        assert len(link.links) >= CLIENTS
        replica.terminate()
        assert await asyncio.to_thread(replica.exit_code, EXIT_SECONDS) == 0
        await asyncio.to_thread(replica.start)


async def test_no_upload_fails_while_the_replicas_are_restarted_in_turn(
    minio: S3Server, bucket: str, replicas: list[Gateway], public_port: int, node: Node, tmp_path: Path
) -> None:
    """CR-07, I1, I3, I20."""
    payload = write_payload(tmp_path, 20 * MIB + 7)
    threads = ThreadPoolExecutor(CLIENTS)
    async with TcpFaultProxy("127.0.0.1", public_port) as link:
        link.bandwidth = BANDWIDTH
        endpoint = f"http://{link.host}:{link.port}/files"
        loop = asyncio.get_running_loop()
        python = [loop.run_in_executor(threads, tuspy, endpoint, payload) for _ in range(CLIENTS)]
        javascript = asyncio.create_task(tus_js(node, endpoint, payload))
        await restart_in_turn(replicas, link)
        urls = [*await javascript, *await asyncio.gather(*python)]
    assert len({*urls}) == 2 * CLIENTS
    objects = BucketObjects(minio, bucket)
    keys = {url.rsplit("/", 1)[-1] for url in urls}
    assert keys <= {*objects.keys()}
    assert {objects.sha256(key) for key in keys} == {payload.sha256}
