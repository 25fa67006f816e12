"""The deployments and the payloads that every client is tried with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.deployment import BucketObjects, Deployment, DirectoryObjects
from tests.clients.payload import Payload, write_payload
from tests.clients.tus_js import TusJs
from tests.fault.tcp import TcpFaultProxy
from tests.gateway import Gateway, minio_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.servers.node import Node
    from tests.servers.postgres import Postgres
    from tests.servers.s3 import S3Server


@pytest.fixture(scope="session")
def production(
    minio_server: S3Server, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Give a gateway on MinIO and PostgreSQL."""
    bucket = minio_server.make_bucket("clients")
    dsn = postgres_server.new_database()
    settings = minio_settings(minio_server, bucket) | {"TUSGATE_DATABASE_URL": dsn}
    with Gateway(tmp_path_factory.mktemp("production"), settings) as gateway:
        yield Deployment(gateway, BucketObjects(minio_server, bucket))
    minio_server.remove_bucket(bucket)
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Give a gateway with the default settings: SQLite and a directory."""
    with Gateway(tmp_path_factory.mktemp("embedded")) as gateway:
        yield Deployment(gateway, DirectoryObjects(gateway.home / "data" / "objects"))


@pytest.fixture(params=["production", "embedded"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Give each deployment in turn."""
    chosen: Deployment = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
async def line(deployment: Deployment) -> AsyncIterator[TcpFaultProxy]:
    """Give the network between a client and the gateway of `deployment`, to be cut."""
    async with TcpFaultProxy("127.0.0.1", deployment.gateway.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Payload]:
    """Give the payload of a size, written once per session."""
    directory = tmp_path_factory.mktemp("payloads")
    written: dict[int, Payload] = {}

    def of_size(size: int) -> Payload:
        if size not in written:
            written[size] = write_payload(directory, size)
        return written[size]

    return of_size


@pytest.fixture
def tus_js(node: Node) -> TusJs:
    """Give tus-js-client under Node."""
    return TusJs(node)
