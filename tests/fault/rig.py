"""A real gateway process on SQLite, a fault proxy, MinIO behind it, and an eye on all three that no gateway helps."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault.proxy import S3FaultProxy
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server
    from tests.wire.client import Client

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
class Rig:
    """One gateway with its store.

    Attributes:
        client: speaks to the gateway.
        minio, bucket: the store behind the proxy; what is read here did not pass the gateway.
    """

    gateway: Gateway
    proxy: S3FaultProxy
    client: Client
    minio: S3Server
    bucket: str

    @property
    def control(self) -> Gateway:
        """The gateway, under the name by which the report of a failed test finds its log."""
        return self.gateway

    def row(self, path: str) -> sqlite3.Row:
        """Return the committed row of the upload at `path`."""
        (row,) = self.rows("SELECT * FROM uploads WHERE id = ?", id_of(path))
        return row

    def rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Read the gateway's database beside it."""
        file = self.gateway.home / "data" / "tusgate.sqlite3"
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return cast("list[sqlite3.Row]", connection.execute(statement, values).fetchall())
        finally:
            connection.close()

    async def stored(self, path: str) -> bytes:
        """Return the finished object of the upload at `path`, straight from the store."""
        return await asyncio.to_thread(self.minio.read, self.bucket, self.row(path)["object_key"])

    async def finished_keys(self) -> list[str]:
        """Return the keys of all objects that are not the gateway's own."""
        return [key for key in await self.keys() if not key.startswith(INTERNAL)]

    async def keys(self) -> list[str]:
        """Return all keys in the bucket."""
        return await asyncio.to_thread(self.minio.keys, self.bucket)

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
        row = self.row(path)
        abort = self.minio.client()._abort_multipart_upload
        await asyncio.to_thread(abort, self.bucket, row["object_key"], row["multipart_id"])

    async def check_books(self) -> None:
        """Hold the bucket against the database: I3 by size, I4 both ways, I11 as far as rows tell.

        Every complete upload has its object; every other finished-looking object, and every multipart upload that
        is not live, is named by a garbage row, so that it will go.
        """
        complete = self.rows("SELECT * FROM uploads WHERE state = 'complete'")
        doomed = {row["object_key"] for row in self.rows("SELECT object_key FROM garbage")}
        finished = await self.finished_keys()
        assert {row["object_key"] for row in complete} <= {*finished}
        assert {*finished} - doomed <= {row["object_key"] for row in complete}
        for row in complete:
            assert row["upload_offset"] == row["upload_length"]
        for row in self.rows("SELECT * FROM uploads"):
            live = {row["multipart_id"]} if row["state"] in ("uploading", "sealed") else set()
            if row["object_key"] not in doomed:
                assert {*await self.multiparts(row["id"])} <= live

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
        await self.until(lambda: not self.minio.keys(self.bucket))

    async def until_no_garbage(self) -> None:
        """Wait until the gateway has cleaned up all that it knows it must."""
        await self.until(lambda: not self.rows("SELECT 1 FROM garbage"))


def id_of(path: str) -> str:
    """Return the upload id in an upload path, which is its object key too as a rule."""
    return path.rsplit("/", 1)[-1]


def pieces_of(path: str) -> str:
    """Return what the keys of an upload's pieces begin with."""
    return f"{INTERNAL}pieces/{id_of(path)}/"
