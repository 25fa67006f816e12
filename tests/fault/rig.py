"""Real gateway processes, fault proxies on all their links, MinIO, and an eye on all of it that no gateway helps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from tests.audit.foreign import FOREIGN_OBJECTS
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.audit.journal import Journal
    from tests.fault.books import Books, Row
    from tests.fault.proxy import S3FaultProxy
    from tests.fault.tcp import TcpFaultProxy
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

KIB = 1 << 10
MIB = 1 << 20
PART = 5 * MIB
"""The smallest part that S3 allows, so that files of many parts stay small."""
INTERNAL = ".tusgate/"
"""Where the gateway keeps what is no finished object."""
PATIENCE = 60.0
"""Seconds after the last fault within which the gateway must have mended everything by itself (I5)."""


def lettered(letter: str, size: int, start: int = 0) -> bytes:
    """Return bytes whose every 16 name their writer and their place: a mix, a gap or a shift shows."""
    first = start // 16
    blocks = (start + size + 15) // 16 - first
    stamped = b"".join(b"%s%015x" % (letter.encode(), 16 * block) for block in range(first, first + blocks))
    return stamped[start - 16 * first :][:size]


@dataclass
class Replica:
    """One gateway and its links.

    Attributes:
        gateway: the process.
        client: speaks to it directly.
        store_link: between it and the store.
        client_link: before it, for clients whose network is to break.
        database_link: between it and PostgreSQL; None with SQLite.
    """

    gateway: Gateway
    client: Client
    store_link: S3FaultProxy
    client_link: TcpFaultProxy
    database_link: TcpFaultProxy | None = None

    @property
    def far_client(self) -> Client:
        """Speaks to the gateway through `client_link`."""
        return Client(self.client_link.port)

    async def heal(self) -> None:
        """End all faults of the links, so that only what they did is left."""
        self.store_link.clear_rules()
        for link in (self.client_link, self.database_link):
            if link is not None:
                await link.heal()


@dataclass
class Rig:
    """Gateways with their store and their database.

    Attributes:
        replicas: at least one; all use the same database and bucket.
        books: the database; what is read here did not pass a gateway.
        minio, bucket: the store behind the proxies; likewise.
        secrets: what must not stand in any log.
        journals: what clients sent and were told, for the audit at the end of the test.
        losses: upload ids whose bytes the test itself destroys.
        spoiled: the test breaks invariants on purpose, and there is no audit at its end.
    """

    replicas: list[Replica]
    books: Books
    minio: S3Server
    bucket: str
    secrets: list[str]
    journals: list[Journal] = field(default_factory=list)
    losses: set[str] = field(default_factory=set)
    spoiled: bool = False

    @property
    def gateway(self) -> Gateway:
        """The first gateway: the only one in most tests."""
        return self.replicas[0].gateway

    @property
    def proxy(self) -> S3FaultProxy:
        """The link between the first gateway and the store."""
        return self.replicas[0].store_link

    @property
    def client(self) -> Client:
        """Speaks to the first gateway."""
        return self.replicas[0].client

    @property
    def control(self) -> Gateway:
        """The first gateway, under the name by which the report of a failed test finds its log."""
        return self.gateway

    def row(self, path: str) -> Row:
        """Return the committed row of the upload at `path`."""
        (row,) = self.rows("SELECT * FROM uploads WHERE id = ?", id_of(path))
        return row

    def rows(self, statement: str, *values: object) -> list[Row]:
        """Read the database beside the gateways."""
        return self.books.rows(statement, *values)

    def expect_loss(self, path: str) -> None:
        """Tell the audit that the test itself destroys stored bytes of this upload."""
        self.losses.add(id_of(path))

    async def stored(self, path: str) -> bytes:
        """Return the finished object of the upload at `path`, straight from the store."""
        return await asyncio.to_thread(self.minio.read, self.bucket, self.row(path)["object_key"])

    async def finished_keys(self) -> list[str]:
        """Return the keys of all objects that are not the gateway's own."""
        return [key for key in await self.keys() if not key.startswith(INTERNAL)]

    async def keys(self) -> list[str]:
        """Return all keys in the bucket, except those of others."""
        return await asyncio.to_thread(self._keys)

    def _keys(self) -> list[str]:
        return [key for key in self.minio.keys(self.bucket) if key not in FOREIGN_OBJECTS]

    def committed(self, path: str) -> int | None:
        """Return the committed offset; None when the database cannot be read now."""
        try:
            return int(self.row(path)["upload_offset"])
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return None

    async def multiparts(self, path: str) -> list[str]:
        """Return the ids of the multipart uploads that the store holds for the upload at `path`."""
        return await asyncio.to_thread(self._multiparts, path)

    async def until_no_multiparts(self, path: str) -> None:
        """Wait until the store holds no multipart upload for the upload at `path`."""
        await self.until(lambda: not self._multiparts(path))

    def _multiparts(self, path: str) -> list[str]:
        key = id_of(path)
        found = self.minio.client()._list_multipart_uploads(bucket_name=self.bucket, prefix=key)
        return [upload.upload_id for upload in found.uploads if upload.object_name == key and upload.upload_id]

    async def abort_behind_its_back(self, path: str) -> None:
        """Throw the multipart upload away, as MinIO itself does 24 hours after it began."""
        self.expect_loss(path)
        row = self.row(path)
        abort = self.minio.client()._abort_multipart_upload
        await asyncio.to_thread(abort, self.bucket, row["object_key"], row["multipart_id"])

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait for something that can only be seen from outside. TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(holds):  # noqa: ASYNC110 # another process does it: there is no event
                await asyncio.sleep(0.02)

    async def until_state(self, path: str, *states: str) -> None:
        """Wait until the upload has reached one of `states`, without asking the gateway."""
        await self.until(lambda: self.row(path)["state"] in states)

    async def until_offset(self, path: str, offset: int) -> None:
        """Wait until the upload is committed up to `offset` or further, without asking the gateway."""
        await self.until(lambda: self.row(path)["upload_offset"] >= offset)

    async def until_empty(self) -> None:
        """Wait until the bucket has no objects."""
        await self.until(lambda: not self._keys())

    async def until_no_garbage(self) -> None:
        """Wait until the gateway has removed all that it knows it must; it looks again half an hour later."""
        await self.until(lambda: not self.rows("SELECT 1 FROM garbage WHERE removed_at IS NULL"))


def id_of(path: str) -> str:
    """Return the upload id in an upload path, which is its object key too as a rule."""
    return path.rsplit("/", 1)[-1]


def pieces_of(path: str) -> str:
    """Return what the keys of an upload's pieces begin with."""
    return f"{INTERNAL}pieces/{id_of(path)}/"
