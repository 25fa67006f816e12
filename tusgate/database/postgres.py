"""PostgreSQL through asyncpg: the production store.

A step is one statement, so one round trip. How connections are had is said in `postgres_connections`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aiosql
import asyncpg
import structlog

from tusgate.core.clockwatch import GO_ON, go_on
from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.dedup import may_adopt, may_begin_with
from tusgate.core.errors import (
    Fenced,
    SettingsError,
    StillNeeded,
    UploadNotFound,
)
from tusgate.core.events import NO_OUTBOX, EventType, Outbox, deletion_of
from tusgate.core.grid import Grid
from tusgate.core.lifecycle import LEFT_OUT, step_to_object_of
from tusgate.core.model import FOREVER, State, UploadId
from tusgate.core.quota import Usage
from tusgate.database.migrate import check_complete, missing
from tusgate.database.postgres_connections import PostgresConnections
from tusgate.database.postgres_deliveries import PostgresDeliveries
from tusgate.database.postgres_errors import TECHNOLOGY_ERRORS
from tusgate.database.postgres_events import PostgresEvents
from tusgate.database.postgres_jobs import PostgresJobs
from tusgate.database.rows import (
    PARTS_FORGOTTEN,
    access_from,
    access_of,
    cell_start_of,
    check_endable,
    check_may_fail,
    check_unchanged,
    completed_before,
    content_of,
    counts_from,
    creation_of,
    description_of,
    ended_accesses,
    ending_of,
    expectation_of,
    fenced_by,
    filter_of,
    fingerprint_columns,
    finishing_of,
    garbage_from,
    identity_of,
    identity_of_share,
    intent_columns,
    keeping_of,
    known_part_from,
    limits_of,
    misplaced,
    movement_of,
    multipart_of,
    new_accesses,
    not_described,
    not_shared,
    object_of,
    part_columns,
    part_from,
    piece_columns,
    piece_from,
    reading_from,
    retained,
    sealing_of,
    share_from,
    share_of,
    sharing_of,
    spent_on,
    store_name_from,
    token_from,
    token_of,
    upload_from,
    usage_from,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from tusgate.core.access import ApiToken, NewApiToken
    from tusgate.core.audit import Access, AccessFilter, EndedAccess, NewAccess
    from tusgate.core.clockwatch import Judge, Verdict
    from tusgate.core.direct import KnownPart, Plan
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.listing import Changes, FileFilter, Position
    from tusgate.core.model import (
        Garbage,
        Intent,
        Keeping,
        Misplaced,
        MultipartId,
        NewUpload,
        Part,
        Piece,
        Scope,
        Step,
        StoredObject,
        StoreName,
        Upload,
    )
    from tusgate.core.quota import Quota
    from tusgate.core.sharing import NewShare, Share, ShareId
    from tusgate.ports import SurveyedDatabase

    Connection = PoolConnectionProxy[asyncpg.Record]
    Session = asyncpg.Connection[asyncpg.Record]

log = structlog.get_logger(__name__)

CHANNEL: Final = "tusgate_writer"
"""Where a claim or an end announces `<upload id> <epoch>`; the statements have the same name in them."""
MIGRATION_TIMEOUT: Final = 3600.0
RELISTEN_DELAY: Final = 1.0
LISTENER_CHECK_INTERVAL: Final = 30.0
"""Seconds between looks whether the listening connection is still there: a lost peer says nothing by itself."""
_MIGRATION_LOCK: Final = 0x7475736761746501
"""Key of the advisory lock: "tusgate" and a number."""

_POOLER_OPTION: Final = ("pgbouncer", "true")

_queries: Any = aiosql.from_path(Path(__file__).with_name("postgres.sql"), "asyncpg", mandatory_parameters=False)


class PostgresDatabase:
    """The port `Database` on a PostgreSQL server. Connects on first use, and again after every loss.

    Args:
        dsn: libpq URL; of several hosts, the one that is the primary is used.
        pool_size: most connections at once; one for looks comes on top, and one listens when `listen` was called.
        command_timeout: seconds that one step may take, the wait for a free connection included.
        transaction_pooling: True behind a pooler that gives each transaction another server connection (pgbouncer
            in transaction mode): nothing is prepared or set per connection, and notifications do not arrive.
        outbox: who is told of what happens to uploads.

    Attributes:
        deliveries: of the events that were written.
        events: for those who listen.
        jobs: of finished files.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int,
        command_timeout: float,
        transaction_pooling: bool = False,
        outbox: Outbox = NO_OUTBOX,
    ) -> None:
        self._connections = PostgresConnections(
            dsn, pool_size, command_timeout, transaction_pooling=transaction_pooling
        )
        self._statement, self._transaction = self._connections.statement, self._connections.transaction
        self.deliveries = PostgresDeliveries(self._statement)
        self.events = PostgresEvents(self._statement)
        self.jobs = PostgresJobs(self._statement, self._transaction, outbox, self._tell)
        self._outbox = outbox
        self._transaction_pooling = transaction_pooling
        self._listener: asyncio.Task[None] | None = None
        self._warned = False

    @classmethod
    async def connect(
        cls, dsn: str, *, pool_size: int = 10, command_timeout: float = 10.0, outbox: Outbox = NO_OUTBOX
    ) -> Self:
        """Return the database; nothing is sent before the first call, so the server may still be away.

        `pgbouncer=true` in the query of `dsn` sets `transaction_pooling`; the server does not see it.
        """
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, keep_blank_values=True)
        others = [option for option in options if option != _POOLER_OPTION]
        return cls(
            dsn if others == options else urlunsplit(parts._replace(query=urlencode(others))),
            pool_size=pool_size,
            command_timeout=command_timeout,
            transaction_pooling=others != options,
            outbox=outbox,
        )

    async def migrate(self) -> list[str]:
        """See `ports.Database.migrate`. All missing migrations are one transaction."""
        async with self._transaction(MIGRATION_TIMEOUT) as connection:
            await connection.execute("SET LOCAL statement_timeout = 0", timeout=MIGRATION_TIMEOUT)
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK, timeout=MIGRATION_TIMEOUT)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations"
                " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            applied = [row["name"] async for row in _queries.applied_migrations(connection)]
            todo = missing("postgres", applied)
            for migration in todo:
                await connection.execute(migration.sql, timeout=MIGRATION_TIMEOUT)
                await _queries.record_migration(connection, name=migration.name)
        return [migration.name for migration in todo]

    async def check(self) -> None:
        """See `ports.Database.check`. Warns of synchronous_commit = off, which may lose the last acknowledged bytes."""
        async with self._statement() as connection:
            server = await _queries.durability(connection)
            if server["fsync"] == "off":
                raise SettingsError("PostgreSQL runs with fsync=off: a power cut would lose acknowledged bytes")
            if server["read_only"] == "on":
                raise asyncpg.ReadOnlySQLTransactionError("the server is read-only")
            if server["synchronous_commit"] == "off" and not self._warned:
                self._warned = True
                log.warning("database.unsafe", setting="synchronous_commit", value="off")
            try:
                applied = [row["name"] async for row in _queries.applied_migrations(connection)]
            except asyncpg.UndefinedTableError:
                applied = []
        check_complete("postgres", applied)

    async def close(self) -> None:
        """See `ports.Database.close`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        await self._connections.close()

    async def create(self, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        """See `ports.Database.create`."""
        async with self._statement() as connection:
            created = await self._insert(connection, new, intents)
        self._outbox.tell(EventType.CREATED, new.scope.tenant)
        return created

    async def create_partial(
        self, new: NewUpload, group: NewUpload, name: str, place: Callable[[Sequence[Grid]], Grid | None]
    ) -> Upload:
        """See `ports.Database.create_partial`."""
        async with self._transaction() as connection:
            await _queries.close_group(connection, **creation_of(group), name=name, joined_within=JOINED_WITHIN)
            opened = upload_from(await _queries.open_group(connection, **creation_of(group), name=name))
            found = [Grid.decode(row["grid"]) async for row in _queries.list_grids(connection, **identity_of(opened))]
            grid = place(found)
            if grid is not None:
                new = replace(new, grid=grid, group=opened.id, object_key=opened.object_key, route=opened.route)
            created = await self._insert(connection, new)
        self._outbox.tell(EventType.CREATED, new.scope.tenant)
        return created

    async def concatenate(self, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part] = ()) -> Upload:
        """See `ports.Database.concatenate`."""
        async with self._transaction() as connection:
            if parts:
                group = await self._locked(connection, final.scope, final.id)
                await _lock_sources(connection, sources)
                sealed = await self._seal_group(connection, group, sources, parts, final)
                await self._tell(connection, EventType.CREATED, sealed.scope, [sealed.id])
            else:
                await _lock_sources(connection, sources)
                sealed = await self._insert(connection, final)
            ids = [source.id for source in sources]
            await _queries.keep_sources(connection, **identity_of(sealed), ids=ids, lifetime=final.lifetime)
            await _queries.insert_sources(connection, **identity_of(sealed), sources=ids)
        self._outbox.tell(EventType.CREATED, final.scope.tenant)
        return sealed

    async def gather(self, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
        """See `ports.Database.gather`."""
        async with self._transaction() as connection:
            found = await self._locked(connection, group.scope, group.id)
            await _lock_sources(connection, members)
            sealed = await self._seal_group(connection, found, members, parts, None)
        self._outbox.tell(EventType.TERMINATED, group.scope.tenant)
        return sealed

    async def sources(self, final: Upload) -> list[Upload]:
        """See `ports.Database.sources`."""
        found = await self._all(_queries.list_sources, **identity_of(final))
        if not found:
            await self.get(final.scope, final.id)
        return [upload_from(row) for row in found]

    async def members(self, group: Upload) -> list[Upload]:
        """See `ports.Database.members`."""
        found = await self._all(_queries.list_members, **identity_of(group))
        if not found:
            await self.get(group.scope, group.id)
        return [upload_from(row) for row in found]

    async def find_final(self, final: NewUpload, first: UploadId) -> Upload | None:
        """See `ports.Database.find_final`."""
        row = await self._one(
            _queries.find_final,
            tenant=final.scope.tenant,
            owner=final.scope.owner,
            source=first,
            concat=final.concat,
            metadata=final.metadata,
        )
        return None if row is None else upload_from(row)

    async def get(self, scope: Scope, upload_id: UploadId, *, ahead: bool = False) -> Upload:
        """See `ports.Database.get`."""
        lending = self._connections.look() if ahead else self._connections.statement()
        async with lending as connection:
            row = await _queries.get_upload(connection, id=upload_id, tenant=scope.tenant, owner=scope.owner)
        return upload_from(_present(row))

    async def get_any(self, upload_id: UploadId) -> Upload | None:
        """See `ports.Database.get_any`."""
        row = await self._one(_queries.system_get_upload, id=upload_id)
        return None if row is None else upload_from(row)

    async def list_files(self, scope: Scope, wanted: FileFilter, after: Position | None, limit: int) -> list[Upload]:
        """See `ports.Database.list_files`."""
        found = await self._all(
            _queries.list_files,
            **filter_of(wanted),
            tenant=scope.tenant,
            owner=scope.owner,
            states=sorted(wanted.states),
            after_time=None if after is None else after.created_at,
            after_id="" if after is None else after.id,
            created_from=wanted.created_from,
            created_before=wanted.created_before,
            limit=limit,
        )
        return [upload_from(row) for row in found]

    async def find_by_fingerprint(self, scope: Scope, wanted: Fingerprint, limit: int) -> list[Upload]:
        """See `ports.Database.find_by_fingerprint`."""
        found = await self._all(_queries.find_by_fingerprint, **fingerprint_columns(scope, wanted), limit=limit)
        return [upload_from(row) for row in found]

    async def find_known_parts(self, scope: Scope, route: str | None, digests: Sequence[bytes]) -> list[KnownPart]:
        """See `ports.Database.find_known_parts`."""
        columns = {"tenant": scope.tenant, "owner": scope.owner, "route": route, "digests": list(digests)}
        return [known_part_from(row) for row in await self._all(_queries.find_known_parts, **columns)]

    async def find_proved_etags(
        self, scope: Scope, route: str | None, pairs: Sequence[tuple[bytes, str]]
    ) -> set[tuple[bytes, str]]:
        """See `ports.Database.find_proved_etags`."""
        found = await self._all(
            _queries.find_proved_etags,
            tenant=scope.tenant,
            owner=scope.owner,
            route=route,
            digests=[sha256 for sha256, _ in pairs],
            etags=[etag for _, etag in pairs],
        )
        return {(row["sha256"], row["etag"]) for row in found}

    async def describe(
        self, scope: Scope, upload_id: UploadId, changes: Changes, *, may_shorten: bool = False
    ) -> Upload:
        """See `ports.Database.describe`."""
        row = await self._one(
            _queries.describe,
            id=upload_id,
            tenant=scope.tenant,
            owner=scope.owner,
            **description_of(changes),
            expires_at=changes.get("expires_at"),
            retain_until=changes.get("retain_until"),
            may_shorten=may_shorten,
        )
        if row is None:
            raise not_described(await self.get(scope, upload_id), changes, may_shorten=may_shorten)
        return upload_from(row)

    async def claim(self, upload: Upload, holder: str, intents: Sequence[Intent] = ()) -> tuple[Upload, list[Piece]]:
        """See `ports.Database.claim`. Another holder is told (`listen`) when the last claim was its own."""
        found = await self._all(
            _queries.claim,
            **expectation_of(upload),
            **intent_columns(intents),
            put_attempts=upload.put_attempts,
            holder=holder,
            cell_start=cell_start_of(upload),
        )
        if not found:
            raise await self._refusal(upload)
        pieces = [piece_from(row, "piece_") for row in found if row["piece_start_offset"] is not None]
        return upload_from(found[0]), pieces

    async def intend(self, upload: Upload, intents: Sequence[Intent]) -> None:
        """See `ports.Database.intend`."""
        row = await self._one(_queries.intend, **expectation_of(upload), **intent_columns(intents))
        if row is None:
            raise await self._refusal(upload)

    async def record_multipart(self, upload: Upload, multipart_id: MultipartId) -> Upload:
        """See `ports.Database.record_multipart`."""
        return await self._change(upload, _queries.record_multipart, **multipart_of(upload, multipart_id))

    async def replan(self, upload: Upload, length: int, plan: Plan, fingerprint: str | None) -> Upload:
        """See `ports.Database.replan`."""
        declared = {"length": length, "plan": plan.encode(), "fingerprint": fingerprint}
        return await self._change(upload, _queries.replan, **expectation_of(upload), **declared)

    async def commit(self, upload: Upload, step: Step) -> Upload:
        """See `ports.Database.commit`."""
        event_type = EventType.PROGRESS if step.stored is None else EventType.COMPLETED
        if step.stored is not None:
            moved = await self._change(
                upload,
                _queries.finish,
                **finishing_of(upload, step),
                **self._sinks_of_the_end(upload),
            )
        else:
            moved = await self._change(
                upload,
                _queries.advance,
                **expectation_of(upload),
                **movement_of(upload, step),
                **part_columns(step.parts),
                **piece_columns(step.pieces),
                **self._sinks(event_type, upload),
                progress_every=self._outbox.progress_every,
            )
        if step.stored is not None:
            self._tell_finished(moved)
        else:
            self._outbox.tell(event_type, upload.scope.tenant)
        return moved

    async def parts(self, upload: Upload) -> list[Part]:
        """See `ports.Database.parts`."""
        found = await self._all(_queries.list_parts, **identity_of(upload))
        if not found:
            await self.get(upload.scope, upload.id)
        return [part_from(row) for row in found]

    async def pieces(self, upload: Upload) -> list[Piece]:
        """See `ports.Database.pieces`."""
        found = await self._all(_queries.list_pieces, **identity_of(upload))
        if not found:
            await self.get(upload.scope, upload.id)
        return [piece_from(row) for row in found]

    async def absorb(self, upload: Upload, parts: Sequence[Part]) -> Upload:
        """See `ports.Database.absorb`. A part that is recorded already shows as a violated key."""
        return await self._change(upload, _queries.absorb, **expectation_of(upload), **part_columns(parts))

    async def complete(self, upload: Upload, stored: StoredObject, keeping: Keeping = FOREVER) -> Upload:
        """See `ports.Database.complete`."""
        row = await self._one(
            _queries.finish,
            **expectation_of(upload),
            **object_of(stored),
            from_state=State.SEALED,
            end=upload.offset,
            length=upload.length,
            abandon_multipart=False,
            lifetime=None,
            max_age=None,
            **keeping_of(keeping, upload),
            **self._sinks_of_the_end(upload),
        )
        if row is not None:
            finished = upload_from(row)
            self._tell_finished(finished)
            return finished
        found = await self.get(upload.scope, upload.id)
        return completed_before(found)

    def _tell_finished(self, finished: Upload) -> None:
        self._outbox.tell(EventType.COMPLETED, finished.scope.tenant)
        if finished.processing is not None:
            self._outbox.tell(EventType.PROCESSING, finished.scope.tenant)

    async def fail(self, upload: Upload, reason: str) -> Upload:
        """See `ports.Database.fail`."""
        async with self._transaction() as connection:
            found = await self._locked(connection, upload.scope, upload.id)
            check_may_fail(found, upload)
            row = await _queries.end_upload(
                connection, **identity_of(upload), **ending_of(found, State.FAILED), reason=reason, by=None
            )
            await self._tell(connection, EventType.FAILED, found.scope, [found.id, *row["member_ids"]])
        self._outbox.tell(EventType.FAILED, upload.scope.tenant)
        return upload_from(row)

    async def terminate(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> Upload:
        """See `ports.Database.terminate`."""
        async with self._transaction() as connection:
            found = await self._locked(connection, scope, upload_id)
            check_endable(found)
            if await _queries.is_needed(connection, **identity_of(found)) is not None:
                raise StillNeeded
            if await _queries.is_retained(connection, **identity_of(found)) is not None:
                raise retained(found)
            # Before the change: what was deleted is described as it was.
            await self._tell(connection, deletion_of(found), found.scope, [found.id])
            row = await _queries.hide_final(connection, **identity_of(found), by=by) or await _queries.end_upload(
                connection, **identity_of(found), **ending_of(found, State.TERMINATED), reason=None, by=by
            )
            await self._end_work(connection, found, State.TERMINATED, by)
        self._outbox.tell(deletion_of(found), scope.tenant)
        return upload_from(row)

    async def claim_sealed(self, holder: str, lease: float, limit: int) -> list[Upload]:
        """See `ports.Database.claim_sealed`."""
        found = await self._all(_queries.system_claim_sealed, holder=holder, lease=lease, limit=limit)
        return [upload_from(row) for row in found]

    async def lease_sealed(self, upload: Upload, holder: str, lease: float) -> bool:
        """See `ports.Database.lease_sealed`."""
        row = await self._one(_queries.lease_sealed, **identity_of(upload), holder=holder, lease=lease)
        if row is None:
            await self.get(upload.scope, upload.id)
        return row is not None

    async def release_sealed(self, upload: Upload, holder: str, retry_in: float) -> None:
        """See `ports.Database.release_sealed`. Nothing happens when the lease has passed to another holder."""
        row = await self._one(_queries.release_sealed, **identity_of(upload), holder=holder, retry_in=retry_in)
        if row is None:
            await self.get(upload.scope, upload.id)

    async def expire(self, limit: int, judge: Judge = go_on) -> list[Upload]:
        """See `ports.Database.expire`. Uploads that are being changed right now are left for the next run."""
        async with self._transaction() as connection:
            expired = await _expire(connection, limit, judge)
            for upload in expired:
                await self._tell(connection, EventType.EXPIRED, upload.scope, [upload.id])
                await self._end_work(connection, upload, State.EXPIRED)
        if expired:
            self._outbox.written()
        return expired

    async def forget_ended(self, seconds: float, limit: int) -> int:
        """See `ports.Database.forget_ended`."""
        async with self._transaction() as connection:
            found = _queries.system_lock_ended(connection, seconds=seconds, limit=limit)
            ids = [row["id"] async for row in found]
            await _queries.system_forget_parts(connection, ids=ids, limit=limit * PARTS_FORGOTTEN)
            await _queries.system_forget_ended(connection, ids=ids)
        return len(ids)

    async def claim_undigested(self, lease: float, limit: int) -> list[Upload]:
        """See `ports.Database.claim_undigested`."""
        return [upload_from(row) for row in await self._all(_queries.system_claim_undigested, lease=lease, limit=limit)]

    async def postpone_digest(self, upload: Upload, seconds: float) -> None:
        """See `ports.Database.postpone_digest`."""
        async with self._statement() as connection:
            await _queries.postpone_digest(connection, **identity_of(upload), seconds=seconds)

    async def record_digest(self, upload: Upload, sha256: bytes) -> Upload:
        """See `ports.Database.record_digest`."""
        return await self._change(
            upload, _queries.record_digest, **identity_of(upload), etag=upload.etag, sha256=sha256
        )

    async def find_twin(self, upload: Upload, sha256: bytes, lease: float) -> Upload | None:
        """See `ports.Database.find_twin`."""
        content = content_of(upload, sha256)
        async with self._transaction() as connection:
            await _queries.lock_content(connection, tenant=upload.scope.tenant, sha256=sha256)
            twin = await _queries.tenant_find_twin(connection, **content)
            noted = await _queries.note_content(
                connection,
                **identity_of(upload),
                object_key=upload.object_key,
                etag=upload.etag,
                sha256=sha256,
                lease=None if twin is None else lease,
            )
        if noted is None:
            raise await self._refusal(upload)
        return None if twin is None else upload_from(twin)

    async def adopt(self, upload: Upload, twin: Upload, kept_for: float) -> Upload:
        """See `ports.Database.adopt`."""
        async with self._transaction() as connection:
            ids = [upload.id, twin.id]
            pair = _queries.tenant_lock_pair(connection, tenant=upload.scope.tenant, ids=ids)
            row = None
            if may_adopt(upload, twin, [upload_from(each) async for each in pair]):
                row = await _queries.adopt(connection, **sharing_of(upload, twin), kept_for=kept_for)
        if row is None:
            raise await self._refusal(upload)
        return upload_from(row)

    async def find_equal(self, new: NewUpload, sha256: bytes) -> Upload | None:
        """See `ports.Database.find_equal`."""
        row = await self._one(_queries.tenant_find_twin, **content_of(new, sha256))
        return None if row is None else upload_from(row)

    async def create_equal(self, new: NewUpload, twin: Upload, keeping: Keeping = FOREVER) -> Upload:
        """See `ports.Database.create_equal`. The file whose object is shared is locked first, as by who ends it."""
        async with self._transaction() as connection:
            locked = _queries.tenant_lock_pair(connection, tenant=new.scope.tenant, ids=[twin.id])
            found = [upload_from(row) async for row in locked]
            if not may_begin_with(new, twin, found[0] if found else None):
                raise fenced_by(twin)
            created = await self._insert(connection, new)
            finishing = finishing_of(created, step_to_object_of(twin, created, keeping))
            await _queries.finish(connection, **finishing, **self._sinks_of_the_end(created))
            row = await _queries.begin_with(
                connection, **identity_of(created), object_of=twin.maker, sha256=twin.sha256
            )
        finished = upload_from(_present(row))
        self._outbox.tell(EventType.CREATED, new.scope.tenant)
        self._tell_finished(finished)
        return finished

    async def due_garbage(self, limit: int, grace: float) -> list[Garbage]:
        """See `ports.Database.due_garbage`."""
        found = await self._all(_queries.system_due_garbage, limit=limit, grace=grace)
        return [garbage_from(row) for row in found]

    async def drop_garbage(self, rows: Sequence[Garbage], grace: float) -> None:
        """See `ports.Database.drop_garbage`."""
        async with self._statement() as connection:
            await _queries.system_drop_garbage(connection, ids=[row.id for row in rows], grace=grace)

    async def postpone_garbage(self, rows: Sequence[Garbage], seconds: float) -> None:
        """See `ports.Database.postpone_garbage`."""
        async with self._statement() as connection:
            await _queries.system_postpone_garbage(connection, ids=[row.id for row in rows], seconds=seconds)

    async def preview(self, limit: int, grace: float, judge: Judge) -> tuple[list[Upload], list[Garbage]]:
        """See `ports.SurveyedDatabase.preview`: the real statements, in a transaction that is rolled back."""
        async with self._connections.session() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                expired = await _expire(connection, limit, judge)
                due = [row async for row in _queries.system_due_garbage(connection, limit=limit, grace=grace)]
            finally:
                await transaction.rollback()
        return expired, [garbage_from(row) for row in due]

    async def release_expiry(self) -> None:
        """See `ports.SurveyedDatabase.release_expiry`."""
        async with self._statement() as connection:
            await _keep(connection, GO_ON)

    async def survey(self, after: str, limit: int) -> list[Upload]:
        """See `ports.SurveyedDatabase.survey`."""
        return [upload_from(row) for row in await self._all(_queries.system_survey, after=after, limit=limit)]

    async def names(self, upload_ids: Sequence[UploadId]) -> set[StoreName]:
        """See `ports.SurveyedDatabase.names`."""
        return {store_name_from(row) for row in await self._all(_queries.system_names, ids=list(upload_ids))}

    async def count_by_state(self) -> dict[State, int]:
        """See `ports.SurveyedDatabase.count_by_state`."""
        return counts_from(await self._all(_queries.system_count_by_state))

    async def create_token(self, new: NewApiToken) -> ApiToken:
        """See `ports.TokenStore.create_token`."""
        row = await self._one(_queries.system_create_token, **token_of(new))
        assert row is not None  # an INSERT without ON CONFLICT returns its row or raises
        return token_from(row)

    async def get_token(self, token_id: str) -> ApiToken | None:
        """See `ports.TokenStore.get_token`."""
        row = await self._one(_queries.system_get_token, id=token_id)
        return None if row is None else token_from(row)

    async def list_tokens(self) -> list[ApiToken]:
        """See `ports.TokenStore.list_tokens`."""
        return [token_from(row) for row in await self._all(_queries.system_list_tokens)]

    async def revoke_token(self, token_id: str) -> ApiToken | None:
        """See `ports.TokenStore.revoke_token`."""
        row = await self._one(_queries.system_revoke_token, id=token_id)
        return None if row is None else token_from(row)

    async def note_token_use(self, token_id: str) -> None:
        """See `ports.TokenStore.note_token_use`."""
        async with self._statement() as connection:
            await _queries.system_note_token_use(connection, id=token_id)

    async def limit_usage(self, tenant: str, quota: Quota | None) -> None:
        """See `ports.Database.limit_usage`. Counting begins in two steps: only one tenant's changes wait for it."""
        if quota is None:
            async with self._statement() as connection:
                await _queries.stop_counting(connection, tenant=tenant)
            return
        limits = limits_of(tenant, quota)
        row = await self._one(_queries.change_limits, **limits)
        if row is None:
            async with self._transaction() as connection:
                await connection.execute("LOCK TABLE uploads IN SHARE MODE")
                await _queries.begin_counting(connection, **limits)
        if row is None or not row["is_counted"]:
            async with self._transaction() as connection:
                await _recount(connection, tenant)

    async def usage(self, tenant: str) -> Usage:
        """See `ports.Database.usage`."""
        row = await self._one(_queries.system_usage, tenant=tenant)
        assert row is not None  # one of the two halves has it
        return usage_from(row)

    async def usages(self) -> dict[str, Usage]:
        """See `ports.SurveyedDatabase.usages`."""
        return {row["tenant"]: usage_from(row) for row in await self._all(_queries.system_usages)}

    async def limited_tenants(self) -> list[str]:
        """See `ports.SurveyedDatabase.limited_tenants`."""
        return [row["tenant"] for row in await self._all(_queries.system_limited_tenants)]

    async def recount(self) -> dict[str, tuple[Usage, Usage]]:
        """See `ports.SurveyedDatabase.recount`. One transaction for each tenant."""
        counted = {}
        for tenant in await self.limited_tenants():
            async with self._transaction() as connection:
                counted[tenant] = await _recount(connection, tenant)
        return counted

    async def check_routes(self, places: Mapping[str, str]) -> list[Misplaced]:
        """See `ports.SurveyedDatabase.check_routes`."""
        async with self._transaction() as connection:
            await _queries.system_note_routes(connection, names=list(places), places=list(places.values()))
            found = misplaced(places, [row async for row in _queries.system_routes(connection)])
            for route in found:
                if not route.is_used and route.configured is not None:
                    await _queries.system_change_route(connection, name=route.name, place=route.configured)
        return found

    async def create_share(self, new: NewShare) -> Share:
        """See `ports.ShareStore.create_share`."""
        row = await self._one(_queries.create_share, **share_of(new), expires_at=new.expires_at)
        if row is None:
            raise not_shared(await self.get(new.scope, new.file_id))
        return share_from(row)

    async def list_shares(self, scope: Scope, file_id: UploadId) -> list[Share]:
        """See `ports.ShareStore.list_shares`."""
        identity = {"upload_id": file_id, "tenant": scope.tenant, "owner": scope.owner}
        return [share_from(row) for row in await self._all(_queries.list_shares, **identity)]

    async def revoke_share(self, scope: Scope, file_id: UploadId, share_id: ShareId) -> Share:
        """See `ports.ShareStore.revoke_share`."""
        identity = {"id": share_id, "upload_id": file_id, "tenant": scope.tenant, "owner": scope.owner}
        return share_from(_present(await self._one(_queries.revoke_share, **identity)))

    async def find_share(self, share_id: ShareId) -> Share | None:
        """See `ports.ShareStore.find_share`."""
        row = await self._one(_queries.system_find_share, id=share_id)
        return None if row is None else share_from(row)

    async def begin_try(self, share: Share, most: int, window: float) -> bool:
        """See `ports.ShareStore.begin_try`."""
        return await self._one(_queries.begin_try, **identity_of_share(share), most=most, window=window) is not None

    async def take_try_back(self, share: Share) -> None:
        """See `ports.ShareStore.take_try_back`."""
        async with self._statement() as connection:
            await _queries.take_try_back(connection, **identity_of_share(share))

    async def count_download(self, share: Share) -> bool:
        """See `ports.ShareStore.count_download`."""
        return await self._one(_queries.count_download, **identity_of_share(share)) is not None

    async def forget_shares(self, seconds: float, limit: int) -> int:
        """See `ports.ShareStore.forget_shares`."""
        return len(await self._all(_queries.system_forget_shares, seconds=seconds, limit=limit))

    async def begin_accesses(self, new: Sequence[NewAccess]) -> None:
        """See `ports.AccessLog.begin_accesses`."""
        async with self._statement() as connection:
            await _queries.begin_accesses(connection, **new_accesses(new))

    async def begin_counted_access(self, new: NewAccess, share: Share) -> bool:
        """See `ports.AccessLog.begin_counted_access`."""
        return await self._one(_queries.begin_counted_access, **access_of(new), share_id=share.id) is not None

    async def end_accesses(self, ended: Sequence[EndedAccess]) -> None:
        """See `ports.AccessLog.end_accesses`."""
        async with self._statement() as connection:
            await _queries.end_accesses(connection, **ended_accesses(ended))

    async def list_accesses(self, scope: Scope, file_id: UploadId, after: Position | None, limit: int) -> list[Access]:
        """See `ports.AccessLog.list_accesses`."""
        found = await self._all(
            _queries.list_accesses,
            tenant=scope.tenant,
            owner=scope.owner,
            upload_id=file_id,
            after_time=None if after is None else after.created_at,
            after_id="" if after is None else after.id,
            limit=limit,
        )
        return [access_from(row) for row in found]

    async def list_all_accesses(
        self, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
    ) -> list[Access]:
        """See `ports.AccessLog.list_all_accesses`."""
        found = await self._all(
            _queries.tenant_list_accesses,
            tenant=tenant,
            upload_id=wanted.file_id,
            reader=wanted.reader,
            began_from=wanted.began_from,
            began_before=wanted.began_before,
            after_time=None if after is None else after.created_at,
            after_id="" if after is None else after.id,
            limit=limit,
        )
        return [access_from(row) for row in found]

    async def forget_accesses(self, seconds: float, limit: int) -> int:
        """See `ports.AccessLog.forget_accesses`."""
        return len(await self._all(_queries.system_forget_accesses, seconds=seconds, limit=limit))

    async def listen(self, taken_over: Callable[[UploadId, int], None]) -> None:
        """See `ports.Database.listen`. Returns at once; the listening ends with `close`.

        A process is told of claims by other holders, when its own claim was the one before, and of all ends.
        """
        if self._listener is None and not self._transaction_pooling:
            self._listener = asyncio.create_task(self._listen_for_ever(taken_over))

    async def _listen_for_ever(self, taken_over: Callable[[UploadId, int], None]) -> None:
        while True:
            try:
                await self._listen_once(taken_over)
            except TECHNOLOGY_ERRORS as error:
                log.debug("database.listener_lost", error=str(error))
            await asyncio.sleep(RELISTEN_DELAY)

    async def _listen_once(self, taken_over: Callable[[UploadId, int], None]) -> None:
        def receive(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            upload_id, _, epoch = str(payload).partition(" ")
            if epoch.isdecimal():
                taken_over(UploadId(upload_id), int(epoch))

        connection = await self._connections.connect()
        try:
            await connection.add_listener(CHANNEL, receive)
            while True:
                await asyncio.sleep(LISTENER_CHECK_INTERVAL)
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    async def _one(self, query: Any, **parameters: object) -> asyncpg.Record | None:
        """Run a statement that is one step and returns at most one row."""
        async with self._statement() as connection:
            row: asyncpg.Record | None = await query(connection, **parameters)
            return row

    async def _all(self, query: Any, **parameters: object) -> list[asyncpg.Record]:
        """Run a statement that is one step and returns any number of rows."""
        async with self._statement() as connection:
            return [row async for row in query(connection, **parameters)]

    async def _change(self, upload: Upload, query: Any, **parameters: object) -> Upload:
        """Run a compare-and-set on `upload`; no row means that it found something else."""
        row = await self._one(query, **parameters)
        if row is None:
            raise await self._refusal(upload)
        return upload_from(row)

    def _sinks(self, event_type: EventType, upload: Upload | NewUpload) -> dict[str, object]:
        return {"sinks": self._outbox.sinks_for(event_type, upload.scope.tenant)}

    def _sinks_of_the_end(self, upload: Upload) -> dict[str, object]:
        processing_sinks = self._outbox.sinks_for(EventType.PROCESSING, upload.scope.tenant)
        return {**self._sinks(EventType.COMPLETED, upload), "processing_sinks": processing_sinks}

    async def _tell(
        self, connection: Connection, event_type: EventType, scope: Scope, upload_ids: Sequence[UploadId]
    ) -> None:
        """Write the same event about these uploads, in the transaction that runs."""
        sinks = self._outbox.sinks_for(event_type, scope.tenant)
        if sinks is not None and upload_ids:
            await _queries.tell(
                connection, tenant=scope.tenant, owner=scope.owner, ids=list(upload_ids), type=event_type, sinks=sinks
            )

    async def _end_work(self, connection: Connection, file: Upload, state: State, by: str | None = None) -> None:
        """End the jobs of a file that ends, and the files that were made of it."""
        if file.processing is None:
            return
        await _queries.delete_jobs(connection, **identity_of(file))
        derived = [upload_from(row) async for row in _queries.lock_derived(connection, **identity_of(file))]
        ids = [each.id for each in derived]
        told = EventType.EXPIRED if state is State.EXPIRED else EventType.DELETED
        await self._tell(connection, told, file.scope, ids)
        await _queries.end_derived(connection, **identity_of(file), ids=ids, state=state, by=by)
        await _queries.keep_derived(connection, **identity_of(file))

    async def _insert(self, connection: Connection, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        """Insert an upload. Raises TokenSpent when its token has made another one."""
        row = await _queries.create_upload(
            connection, **creation_of(new), **intent_columns(intents), **self._sinks(EventType.CREATED, new)
        )
        if row is None:
            row = await _queries.get_upload_of_token(
                connection, token_id=new.token_id, tenant=new.scope.tenant, owner=new.scope.owner
            )
            raise spent_on(upload_from(_present(row)))
        return upload_from(row)

    async def _seal_group(
        self,
        connection: Connection,
        group: Upload,
        kept: Sequence[Upload],
        parts: Sequence[Part],
        final: NewUpload | None,
    ) -> Upload:
        ids = [upload.id for upload in kept]
        await _queries.count_with_group(connection, **identity_of(group), ids=ids)
        row = await _queries.seal_group(connection, **sealing_of(group, parts, final))
        if row is None:
            raise fenced_by(group)
        sealed = upload_from(row)
        await _queries.insert_parts(connection, **identity_of(sealed), **part_columns(parts))
        ended = _queries.leave_out(connection, **identity_of(sealed), ids=ids, reason=LEFT_OUT)
        await self._tell(connection, EventType.TERMINATED, group.scope, [row["id"] async for row in ended])
        async for member in _queries.list_members(connection, **identity_of(sealed)):
            if member["id"] not in ids:
                raise fenced_by(upload_from(member))
        return sealed

    async def _refusal(self, upload: Upload) -> Fenced:
        """Return why a compare-and-set on `upload` found no row. Raises UploadNotFound."""
        return fenced_by(await self.get(upload.scope, upload.id))

    async def _locked(self, connection: Connection, scope: Scope, upload_id: UploadId) -> Upload:
        row = await _queries.lock_upload(connection, id=upload_id, tenant=scope.tenant, owner=scope.owner)
        return upload_from(_present(row))


async def _lock_sources(connection: Connection, sources: Sequence[Upload]) -> None:
    """Lock and compare; their group, if it changes too, has been locked before."""
    ids = [source.id for source in sources]
    found = _queries.lock_sources(connection, **identity_of(sources[0]), ids=ids)
    check_unchanged(sources, {row["id"]: upload_from(row) async for row in found})


async def _recount(connection: Connection, tenant: str) -> tuple[Usage, Usage]:
    """Return what was noted, and what is noted now; nothing at all when counting has been stopped meanwhile."""
    before = await _queries.lock_usage(connection, tenant=tenant)
    if before is None:
        return Usage(), Usage()
    return usage_from(before), usage_from(await _queries.system_recount(connection, tenant=tenant))


async def _expire(connection: Connection, limit: int, judge: Judge) -> list[Upload]:
    reading = reading_from(await _queries.system_clock(connection))
    verdict = judge(reading)
    if verdict.doubt is not None:
        return []
    await _keep(connection, verdict)
    if not verdict.goes_on:
        return []
    # now() is the time at which the transaction began: uploads are judged by the clock that was.
    ids = [row["id"] async for row in _queries.system_lock_expired(connection, limit=limit)]
    return [upload_from(row) async for row in _queries.system_expire(connection, ids=ids)] if ids else []


async def _keep(connection: Connection, verdict: Verdict) -> None:
    await _queries.system_keep_verdict(connection, waits_until=verdict.waits_until, held=verdict.held)


def _present(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise UploadNotFound
    return row


if TYPE_CHECKING:
    _: type[SurveyedDatabase] = PostgresDatabase
