"""Tenants on a real MinIO: buckets of their own, encrypted as they want it, and what happens when the file changes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from minio.error import S3Error
from minio.sse import SseCustomerKey

from tests.conftest import _needed
from tests.gateway import TUSGATE, Gateway, minio_settings
from tests.servers.minio import running_with_encryption
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.s3 import S3Server

MIB = 1 << 20
LARGE = os.urandom(13 * MIB)


@pytest.fixture(scope="module")
def encrypting(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    with _needed(pytestconfig, "minio"), running_with_encryption() as server:
        yield server


pytestmark = pytest.mark.servers


class Place:
    """A gateway on a bucket for everybody and two for tenants."""

    def __init__(self, home: Path, server: S3Server) -> None:
        self.server = server
        self.plain, self.one, self.two = (server.make_bucket(name) for name in ("plain", "one", "two"))
        self.file = home / "tenants.toml"
        self.key = home / "customer.key"
        self.key.write_bytes(os.urandom(32))
        assert server.ca_file is not None
        trust = {"SSL_CERT_FILE": server.ca_file, "AWS_CA_BUNDLE": server.ca_file}
        settings = {**minio_settings(server, self.plain), **trust, "TUSGATE_TENANTS_FILE": str(self.file)}
        self.gateway = Gateway(home / "gateway", settings)
        self.client = Client(self.gateway.port)

    def write(self, text: str) -> None:
        routes = f"""
            [routes.one]
            bucket = "{self.one}"
            prefix = "in/"
            sse = "s3"
            cache_control = "private"
            content_disposition = "attachment"
            tags = {{ team = "a b" }}

            [routes.two]
            bucket = "{self.two}"
            sse = "customer"
            customer_key_file = "{self.key}"
        """
        self.file.write_text(routes + text)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the settings of the gateway."""
        gateway = self.gateway
        command = [*TUSGATE, *arguments]
        return subprocess.run(
            command, env=gateway.environment, cwd=gateway.home, capture_output=True, text=True, check=False
        )


@pytest.fixture
def place(tmp_path: Path, encrypting: S3Server) -> Iterator[Place]:
    place = Place(tmp_path, encrypting)
    yield place
    place.gateway.kill()


async def upload(place: Place, data: bytes) -> str:
    """Upload in two requests, with a piece in between."""
    path = await place.client.create(len(data), Upload_Metadata="filename YS50eHQ=")
    middle = len(data) // 2
    assert (await place.client.patch(path, 0, data[:middle])).status == 204
    assert (await place.client.patch(path, middle, data[middle:])).status == 204
    return path.rsplit("/", 1)[1]


@pytest.mark.parametrize("size", [1000, len(LARGE)])
async def test_objects_are_encrypted_by_the_store_and_described_as_the_route_says(place: Place, size: int) -> None:
    place.write('[tenants.default]\nroute = "one"')
    with place.gateway:
        upload_id = await upload(place, LARGE[:size])

    assert place.server.keys(place.plain) == []
    assert place.server.read(place.one, f"in/{upload_id}") == LARGE[:size]
    found = place.server.client().stat_object(bucket_name=place.one, object_name=f"in/{upload_id}")
    assert found.metadata is not None
    assert found.metadata["x-amz-server-side-encryption"] == "AES256"
    assert found.metadata["cache-control"] == "private"
    assert found.metadata["content-disposition"] == "attachment; filename*=UTF-8''a.txt"
    tags = place.server.client().get_object_tags(bucket_name=place.one, object_name=f"in/{upload_id}")
    assert dict(tags or {}) == {"team": "a b"}


@pytest.mark.parametrize("size", [1000, len(LARGE)])
async def test_objects_are_encrypted_with_the_customers_key_and_read_by_it_only(place: Place, size: int) -> None:
    place.write('[tenants.default]\nroute = "two"')
    with place.gateway:
        upload_id = await upload(place, LARGE[:size])
        content = await place.client.request("GET", f"/api/v1/files/{upload_id}/content", {"Host": "localhost"})
        assert content.body == LARGE[:size], "over TLS, with the key"

    assert not_readable(place, upload_id)
    key = SseCustomerKey(place.key.read_bytes())
    answer = place.server.client().get_object(bucket_name=place.two, object_name=upload_id, ssec=key)
    assert answer.read() == LARGE[:size]
    answer.close()


def not_readable(place: Place, key: str) -> bool:
    try:
        place.server.read(place.two, key)
    except S3Error:
        return True
    return False


async def test_a_changed_file_changes_where_new_uploads_go_and_nothing_else(place: Place) -> None:
    place.write('[tenants.default]\nroute = "one"')
    with place.gateway:
        path = await place.client.create(len(LARGE))
        assert (await place.client.patch(path, 0, LARGE[: 6 * MIB])).status == 204
        place.write("[tenants.default]")
        place.gateway.restart()
        assert (await place.client.patch(path, 6 * MIB, LARGE[6 * MIB :])).status == 204
        new = await upload(place, b"new")
    upload_id = path.rsplit("/", 1)[1]
    assert place.server.read(place.one, f"in/{upload_id}") == LARGE
    assert place.server.keys(place.plain) == [new]


async def test_a_route_that_uploads_lie_in_cannot_lead_elsewhere(place: Place) -> None:
    place.write('[tenants.default]\nroute = "one"')
    with place.gateway:
        await upload(place, b"data")
    place.file.write_text(place.file.read_text().replace('prefix = "in/"', 'prefix = "elsewhere/"'))
    refused = await asyncio.to_thread(place.run, "serve")
    assert refused.returncode == 2
    assert "routes.one" in refused.stderr
    assert f"{place.one}/in/" in refused.stderr


async def test_usage_is_told_by_the_command_line(place: Place) -> None:
    place.write('[tenants.default]\nroute = "one"\nquota_bytes = "1MiB"\nquota_files = 2')
    with place.gateway:
        await upload(place, b"data")
        told = await asyncio.to_thread(place.run, "usage", "--json", "--recount")
    assert told.returncode == 0, told.stderr
    assert told.stdout.replace("\n", "").replace(" ", "") == (
        '[{"tenant":"default","bytes":4,"files":1,"unfinished":0,'
        '"quota":{"bytes":1048576,"files":2,"unfinished":null}}]'
    )
