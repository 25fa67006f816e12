"""The rig of the fault tests, and the audit at the end of each of them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.audit.audit import audit
from tests.audit.facts import EVENTS
from tests.audit.foreign import plant
from tests.fault.books import PostgresBooks, SqliteBooks
from tests.fault.proxy import S3FaultProxy
from tests.fault.rig import Replica, Rig
from tests.fault.tcp import TcpFaultProxy
from tests.gateway import minio_settings
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.fault.books import Books
    from tests.gateway import Gateway
    from tests.servers.postgres import Postgres
    from tests.servers.s3 import S3Server

SMALLEST_PARTS_AND_COLD = {"TUSGATE_PART_SIZE": "5MiB", "TUSGATE_WARM_CELL_TTL": "0"}
"""Many parts from little data, and pieces that are really read back."""


@pytest.fixture
async def start_rig(
    request: pytest.FixtureRequest, minio: S3Server, bucket: str, start_gateway: Callable[..., Gateway]
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Start rigs: `await start_rig(settings, database="postgres", replicas=2)`.

    Gateways are ready and their calls so far forgotten. When the test ends, all faults are healed, and the auditor
    must find nothing.
    """
    rigs: list[Rig] = []
    async with AsyncExitStack() as stack:

        async def start(
            settings: Mapping[str, str] = SMALLEST_PARTS_AND_COLD,
            *,
            database: Literal["sqlite", "postgres"] = "sqlite",
            replicas: int = 1,
        ) -> Rig:
            assert replicas == 1 or database == "postgres"
            await asyncio.to_thread(plant, minio, bucket)
            dsn = await _new_database(stack, request) if database == "postgres" else None
            members = [await _replica(stack, start_gateway, minio, bucket, dsn, settings) for _ in range(replicas)]
            books: Books = (
                SqliteBooks(members[0].gateway.home / "data" / "tusgate.sqlite3") if dsn is None else PostgresBooks(dsn)
            )
            secrets = [minio.secret_key, *([urlsplit(dsn).password or ""] if dsn else [])]
            rigs.append(Rig(members, books, minio, bucket, secrets))
            return rigs[-1]

        yield start
        for rig in (rig for rig in rigs if not rig.spoiled):
            assert await audit(rig) == []


async def _new_database(stack: AsyncExitStack, request: pytest.FixtureRequest) -> str:
    """Create a database that outlives the gateways: `database_url`, asked for as late as this, would go before them."""
    server: Postgres = request.getfixturevalue("postgres_server")
    dsn = await asyncio.to_thread(server.new_database)
    stack.push_async_callback(asyncio.to_thread, server.drop_database, dsn)
    stack.push_async_callback(asyncio.to_thread, server.heal)
    return dsn


async def _replica(
    stack: AsyncExitStack,
    start_gateway: Callable[..., Gateway],
    minio: S3Server,
    bucket: str,
    dsn: str | None,
    settings: Mapping[str, str],
) -> Replica:
    store_link = await stack.enter_async_context(S3FaultProxy(minio.endpoint))
    own = minio_settings(minio, bucket) | {"TUSGATE_S3_ENDPOINT": store_link.url}
    own["TUSGATE_PUBLIC_ALIASES"] = "http://gateway.test"  # what the clients of the tests say for Host
    own["TUSGATE_SINKS"] = json.dumps([{"name": "audit", "type": "file", "path": EVENTS}])
    database_link = None
    if dsn is not None:
        address = urlsplit(dsn)
        assert address.hostname
        assert address.port
        database_link = await stack.enter_async_context(TcpFaultProxy(address.hostname, address.port))
        there = address.netloc.replace(f":{address.port}", f":{database_link.port}")
        own |= {"TUSGATE_DATABASE_URL": urlunsplit(address._replace(netloc=there))}
    # In a thread: the gateway is ready once its calls have passed the proxies, which run on this loop.
    gateway = await asyncio.to_thread(start_gateway, own | dict(settings))
    stack.push_async_callback(asyncio.to_thread, gateway.kill)
    client_link = await stack.enter_async_context(TcpFaultProxy("127.0.0.1", gateway.port))
    store_link.history.clear()
    return Replica(gateway, Client(gateway.port), store_link, client_link, database_link)


@pytest.fixture
async def rig(start_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Give a rig of one gateway on SQLite, with small parts and without warm cells."""
    return await start_rig()
