"""All databases behind one face, so that one suite holds them to the port; and uploads to put into them."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import pytest

from tests.doubles.database import MemoryDatabase
from tusgate.core.events import NO_OUTBOX
from tusgate.core.grid import MIB, Grid
from tusgate.core.model import (
    CreatedVia,
    MultipartId,
    NewUpload,
    ObjectKey,
    Part,
    Piece,
    Role,
    Scope,
    State,
    Step,
    StoredObject,
    Upload,
    UploadId,
)
from tusgate.database.postgres import PostgresDatabase
from tusgate.database.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.servers.pgbouncer import PgBouncer
    from tusgate.core.events import Outbox
    from tusgate.ports import Database, SurveyedDatabase

ALICE = Scope("acme", "alice")
STRANGERS = (Scope("acme", "bob"), Scope("other", "alice"), Scope("other", "bob"))
CELL = 8 * MIB
LIFETIME = 3600.0
SQL_DATABASES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.servers),
    pytest.param("pgbouncer", marks=pytest.mark.servers),
]
"""Names of the rigs on real databases, as parameters of the fixture `rig`."""


class Rig(Protocol):
    """One database under test.

    Attributes:
        database: migrated, and closed after the test.
    """

    database: SurveyedDatabase

    def another(self) -> SurveyedDatabase:
        """Return one more client of the same database, as another process would have it."""

    def telling(self, outbox: Outbox) -> SurveyedDatabase:
        """Return one more client of the same database, whose steps write events."""

    async def plant_garbage(self, upload: Upload, key: str, multipart_id: str | None) -> None:
        """Insert a garbage row that should never have been written."""

    async def garbage_keys(self) -> list[str]:
        """Return the keys of all garbage rows and intents, due or not."""

    async def pass_time(self, seconds: float) -> None:
        """Let the clock of the database be `seconds` later for everything that is in it."""

    async def close(self) -> None:
        """Release all clients."""


class SqlRig(Rig, Protocol):
    """A real database, which can be reached behind the back of the port."""

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement."""

    def unfinished_write(self, upload: Upload) -> AbstractAsyncContextManager[None]:
        """Have another process in the middle of changing `upload`."""

    async def plant_garbage(self, upload: Upload, key: str, multipart_id: str | None) -> None:
        is_multipart, quoted_id = ("false", "NULL") if multipart_id is None else ("true", f"'{multipart_id}'")
        await self.query(
            "INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, multipart_id, created_at, due_at)"
            f" SELECT id, tenant, owner, '{key}', {is_multipart}, {quoted_id}, created_at, created_at"
            f" FROM uploads WHERE id = '{upload.id}'"
        )

    async def garbage_keys(self) -> list[str]:
        return [str(key) for (key,) in await self.query("SELECT object_key FROM garbage")]


class MemoryRig:
    """The double that the tests of the service run on."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self._memory = MemoryDatabase(lambda: self._now)
        self.database: SurveyedDatabase = self._memory

    def another(self) -> MemoryDatabase:
        return self._memory.another()

    def telling(self, outbox: Outbox) -> MemoryDatabase:
        return self._memory.another(outbox)

    async def plant_garbage(self, upload: Upload, key: str, multipart_id: str | None) -> None:
        self._memory.plant_garbage(upload, ObjectKey(key), None if multipart_id is None else MultipartId(multipart_id))

    async def garbage_keys(self) -> list[str]:
        return [garbage.key for garbage in self._memory.all_garbage()]

    async def pass_time(self, seconds: float) -> None:
        self._now += seconds

    async def close(self) -> None:
        return


class SqliteRig(SqlRig):
    """A file, and a clock that only moves when told to."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "tusgate.db"
        self._now = 1_800_000_000.0
        self._clients: list[SqliteDatabase] = []
        self.database: SurveyedDatabase = self.another()

    def telling(self, outbox: Outbox) -> SqliteDatabase:
        return self.another(outbox)

    def another(self, outbox: Outbox = NO_OUTBOX) -> SqliteDatabase:
        client = SqliteDatabase(self._path, lambda: self._now, outbox)
        self._clients.append(client)
        return client

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self._path)
        try:
            with connection:
                return connection.execute(sql).fetchall()
        finally:
            connection.close()

    @asynccontextmanager
    async def unfinished_write(self, upload: Upload) -> AsyncIterator[None]:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE uploads SET epoch = epoch + 100 WHERE id = ?", (upload.id,))
            yield
        finally:
            connection.close()

    async def pass_time(self, seconds: float) -> None:
        self._now += seconds

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


class PostgresRig(SqlRig):
    """A database on a real server, reached directly or by way of `pooler`.

    Time passes by moving every time in it into the past.
    """

    TIMES = (
        (
            "uploads",
            (
                *("created_at", "updated_at", "held_since", "completed_at", "expires_at", "finisher_until"),
                *("progress_told_at", "retain_until", "digest_due_at"),
            ),
        ),
        ("garbage", ("created_at", "due_at", "removed_at")),
        ("expiry_brake", ("last_run", "waits_until")),
        ("events", ("occurred_at",)),
        ("deliveries", ("due_at", "settled_at")),
        ("shares", ("created_at", "expires_at", "revoked_at", "tries_since")),
        ("accesses", ("began_at", "ended_at")),
        ("jobs", ("due_at", "settled_at")),
    )

    def __init__(self, dsn: str, pooler: PgBouncer | None = None) -> None:
        self.dsn = dsn
        self._way = dsn if pooler is None else pooler.way_to(dsn)
        self._pooled = pooler is not None
        self._clients: list[PostgresDatabase] = []
        self.database: SurveyedDatabase = self.another()

    def telling(self, outbox: Outbox) -> PostgresDatabase:
        return self.another(outbox=outbox)

    def another(self, **options: Any) -> PostgresDatabase:
        own = {"pool_size": 5, "command_timeout": 10.0, "transaction_pooling": self._pooled, **options}
        client = PostgresDatabase(self._way, **own)
        self._clients.append(client)
        return client

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    @asynccontextmanager
    async def unfinished_write(self, upload: Upload) -> AsyncIterator[None]:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("BEGIN")
            await connection.execute("UPDATE uploads SET epoch = epoch + 100 WHERE id = $1", upload.id)
            yield
        finally:
            await connection.close()

    async def pass_time(self, seconds: float) -> None:
        for table, columns in self.TIMES:
            changes = ", ".join(f"{column} = {column} - interval '{seconds} seconds'" for column in columns)
            await self.query(f"UPDATE {table} SET {changes}")

    async def close(self) -> None:
        await asyncio.gather(*[client.close() for client in self._clients])


def a_new_upload(**changes: Any) -> NewUpload:
    """Return a creation request of 20 MiB in cells of 8 MiB by Alice."""
    upload_id = UploadId(secrets.token_urlsafe(16))
    new = NewUpload(
        id=upload_id,
        scope=ALICE,
        created_via=CreatedVia.TUS,
        length=20 * MIB,
        grid=Grid(((10_000, CELL),)),
        metadata=b"filename YS50eHQ=",
        filename="a.txt",
        content_type="text/plain",
        object_key=ObjectKey(f"acme/{upload_id}"),
        epoch=0,
        lifetime=LIFETIME,
    )
    return replace(new, **changes)


def a_final(**changes: Any) -> NewUpload:
    """Return a request by Alice for a final of 20 MiB."""
    return a_new_upload(**{"role": Role.FINAL, "concat": "final;/files/a /files/b", **changes})


def a_step(end: int, **changes: Any) -> Step:
    """Return a step of a 20 MiB upload to `end`."""
    state = State.SEALED if end == 20 * MIB else State.UPLOADING
    return replace(Step(end=end, length=20 * MIB, state=state, lifetime=LIFETIME), **changes)


def a_part(number: int, size: int = CELL) -> Part:
    return Part(number, (number - 1) * CELL, size, f"etag-{number}", number)


def a_piece(start: int, size: int, key: str) -> Piece:
    return Piece(start, size, 77, ObjectKey(key))


def an_inline_piece(start: int, data: bytes) -> Piece:
    return Piece(start, len(data), 78, None, data)


def an_object(upload: Upload, key: str | None = None) -> StoredObject:
    return StoredObject(ObjectKey(key or upload.object_key), upload.length or 0, "etag-of-all", 5)


def foreign(upload: Upload, scope: Scope) -> Upload:
    """Return `upload` as somebody would present it who knows its id but does not own it."""
    return replace(upload, scope=scope)


async def a_writer(database: Database, **changes: Any) -> Upload:
    """Return a new upload with its writer at epoch 1."""
    upload, _ = await database.claim(await database.create(a_new_upload(**changes)), "replica-1")
    return upload


async def a_sealed_upload(database: Database, **changes: Any) -> Upload:
    """Return an upload with a multipart upload, two parts and its last 4 MiB as one piece."""
    upload = await a_writer(database, **changes)
    upload = await database.record_multipart(upload, MultipartId(f"multipart-of-{upload.id}"))
    upload = await database.commit(upload, a_step(2 * CELL, parts=(a_part(1), a_part(2))))
    piece = a_piece(2 * CELL, 4 * MIB, f"pieces/{upload.id}/0")
    return await database.commit(upload, a_step(20 * MIB, pieces=(piece,)))


async def a_complete_upload(database: Database, **changes: Any) -> Upload:
    """Return a sealed upload after it has become an object."""
    sealed = await a_sealed_upload(database, **changes)
    sealed = await database.absorb(sealed, [a_part(3, 4 * MIB)])
    return await database.complete(sealed, an_object(sealed))


async def an_upload_in(database: Database, state: State) -> Upload:
    """Return an upload in `state`."""
    match state:
        case State.UPLOADING:
            return await a_writer(database)
        case State.SEALED:
            return await a_sealed_upload(database)
        case State.COMPLETE:
            return await a_complete_upload(database)
        case State.FAILED:
            return await database.fail(await a_writer(database), "broken")
        case State.TERMINATED:
            upload = await a_writer(database)
            return await database.terminate(upload.scope, upload.id)
        case State.EXPIRED:
            upload = await database.create(a_new_upload(lifetime=-1.0))
            assert [expired.id for expired in await database.expire(100)] == [upload.id]
            return await database.get(upload.scope, upload.id)


async def garbage_of(rig: Rig, upload: Upload) -> set[tuple[str, str | None]]:
    """Return (key, multipart id) of what may be removed of `upload` once every grace has passed.

    For a multipart upload of unknown id the second is "?", for an object None.
    """
    due = await rig.database.due_garbage(1000, 0.0)
    return {
        (row.key, (row.multipart_id or "?") if row.multipart else None) for row in due if row.upload_id == upload.id
    }
