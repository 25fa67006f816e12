"""compose.yaml's topology without containers: the shipped MinIO set-up, settings, migrations and nginx.conf."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import minio
import pytest
from minio.credentials.providers import StaticProvider
from minio.error import S3Error

from tests.clients.raw_http import RawConnection
from tests.deploy import compose, tus
from tests.deploy.conftest import run_setup

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Topology
    from tests.servers.s3 import S3Server

pytestmark = pytest.mark.servers

MIB = 1 << 20


def as_gateway(server: S3Server) -> minio.Minio:
    settings = compose.environment_of("gateway", compose.example_environment())
    return minio.Minio(
        endpoint=server.endpoint.removeprefix("http://"),
        access_key=settings["TUSGATE_S3_ACCESS_KEY"],
        secret_key=settings["TUSGATE_S3_SECRET_KEY"],
        secure=False,
        region=server.region,
    )


def test_the_gateways_key_may_use_its_bucket_and_no_other(shipped_minio: S3Server) -> None:
    client = as_gateway(shipped_minio)
    assert client.bucket_exists(bucket_name="uploads")
    other = shipped_minio.make_bucket("other")
    with pytest.raises(S3Error) as refused:
        list(client.list_objects(bucket_name=other))
    assert refused.value.code == "AccessDenied"


def test_setting_minio_up_again_changes_nothing(shipped_minio: S3Server, mc: Path, tmp_path: Path) -> None:
    run_setup(mc, shipped_minio.endpoint, tmp_path)
    assert as_gateway(shipped_minio).bucket_exists(bucket_name="uploads")


def test_minio_took_the_expiry_that_compose_gives_it(shipped_minio: S3Server) -> None:
    admin = minio.MinioAdmin(
        endpoint=shipped_minio.endpoint.removeprefix("http://"),
        credentials=StaticProvider(shipped_minio.access_key, shipped_minio.secret_key),
        secure=False,
    )
    assert "MINIO_API_STALE_UPLOADS_EXPIRY=192h" in admin.config_get("api")


def test_upload_urls_lead_through_the_proxy(topology: Topology) -> None:
    assert tus.create(topology.endpoint, 10).startswith(f"{topology.endpoint}/")


def test_bytes_are_committed_while_the_client_is_still_sending_through_nginx(topology: Topology) -> None:
    data = os.urandom(20 * MIB)
    url = tus.create(topology.endpoint, len(data))
    with RawConnection(topology.endpoint) as connection:
        tus.begin(connection, url, 0, len(data))
        connection.send(data[: 9 * MIB])
        # 11 MiB have not been sent yet: a proxy that buffers has passed nothing on.
        topology.deployment.wait_for_offset(url, 8 * MIB)
        connection.send(data[9 * MIB :])
        answer = connection.answer("PATCH")
    assert (answer.status, answer.offset) == (204, len(data))
    assert topology.deployment.stored_sha256(url) == hashlib.sha256(data).hexdigest()


def test_what_arrived_before_a_cut_through_nginx_is_kept(topology: Topology) -> None:
    data = os.urandom(3 * MIB)
    url = tus.create(topology.endpoint, len(data))
    with RawConnection(topology.endpoint) as connection:
        tus.begin(connection, url, 0, len(data))
        connection.send(data[: 2 * MIB])
    offset = topology.deployment.wait_for_offset(url, 1)
    assert offset <= 2 * MIB
    assert tus.append(url, offset, data[offset:]).offset == len(data)
    assert topology.deployment.stored_sha256(url) == hashlib.sha256(data).hexdigest()


def test_a_chunked_body_passes_nginx_as_it_is(topology: Topology) -> None:
    data = os.urandom(MIB + 7)
    url = tus.create(topology.endpoint, len(data))
    headers = {**tus.APPEND, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
    with RawConnection(topology.endpoint) as connection:
        connection.send_head("PATCH", url, headers)
        connection.send_chunks(data[at : at + 300_000] for at in range(0, len(data), 300_000))
        connection.end_chunks()
        assert connection.answer("PATCH").offset == len(data)
    assert topology.deployment.stored_sha256(url) == hashlib.sha256(data).hexdigest()


def test_long_metadata_passes_nginx(topology: Topology) -> None:
    tus.create(topology.endpoint, 1, **{"Upload-Metadata": f"note {'YWFh' * 3500}"})
