"""SQLite in a file: the embedded store, for one process. WAL, flushed to disk at every commit.

It stands on the standard library's sqlite3 (see `sqlite_threads` for why not on an asyncio wrapper): a step is a
method `_...` that takes the connection and runs in the writing thread, inside a transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiosql

from tusgate.core.clockwatch import GO_ON, go_on
from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.dedup import may_adopt, may_begin_with
from tusgate.core.errors import Fenced, SettingsError, StillNeeded, UploadNotFound
from tusgate.core.events import NO_OUTBOX, EventType, deletion_of
from tusgate.core.grid import Grid
from tusgate.core.lifecycle import LEFT_OUT, step_to_object_of
from tusgate.core.model import FOREVER, State
from tusgate.core.quota import Usage
from tusgate.database.migrate import check_complete, missing
from tusgate.database.rows import (
    PARTS_FORGOTTEN,
    access_from,
    access_of,
    attempt_of,
    cell_start_of,
    check_endable,
    check_may_fail,
    check_unchanged,
    completed_before,
    content_of,
    counts_from,
    creation_of,
    description_of,
    end_of,
    ending_of,
    expectation_of,
    fenced_by,
    filter_of,
    fingerprint_columns,
    finishing_of,
    garbage_from,
    identity_of,
    identity_of_share,
    keeping_of,
    known_part_from,
    limits_of,
    milliseconds_from,
    milliseconds_of,
    misplaced,
    movement_of,
    multipart_of,
    not_described,
    not_shared,
    object_of,
    part_from,
    part_rows,
    piece_from,
    piece_rows,
    reading_from,
    retained,
    sealing_of,
    share_from,
    share_of,
    sharing_of,
    snapshot_of,
    spent_on,
    store_name_from,
    token_from,
    token_of,
    upload_from,
    usage_from,
)
from tusgate.database.sqlite_deliveries import SqliteDeliveries
from tusgate.database.sqlite_events import SqliteEvents
from tusgate.database.sqlite_jobs import SqliteJobs
from tusgate.database.sqlite_threads import ReadingThread, WritingThread

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from tusgate.core.access import ApiToken, NewApiToken
    from tusgate.core.audit import Access, AccessFilter, EndedAccess, NewAccess
    from tusgate.core.clockwatch import Judge, Verdict
    from tusgate.core.direct import KnownPart, Plan
    from tusgate.core.events import Outbox
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
        UploadId,
    )
    from tusgate.core.processing import NewJob
    from tusgate.core.quota import Quota
    from tusgate.core.sharing import NewShare, Share, ShareId
    from tusgate.database.migrate import Migration
    from tusgate.database.rows import Row
    from tusgate.ports import SurveyedDatabase

T = TypeVar("T")

_OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables; RETURNING is older (3.35)."""
_EVERYTHING = (0, 2**63 - 1)
"""All offsets, as a byte range."""

_queries: Any = aiosql.from_path(Path(__file__).with_name("sqlite.sql"), "sqlite3", mandatory_parameters=False)


class SqliteDatabase:
    """The port `Database` on a SQLite file. Opened on first use, and again after an I/O error.

    Args:
        path: the file; its directory must exist.
        clock: seconds since 1970; the time of everything that this database decides.
        outbox: who is told of what happens to uploads.

    Attributes:
        deliveries: of the events that were written.
        events: for those who listen.
        jobs: of finished files.
    """

    def __init__(
        self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time, outbox: Outbox = NO_OUTBOX
    ) -> None:
        self._outbox = outbox
        self._writer = WritingThread(Path(path), clock, outbox)
        self._reader = ReadingThread(Path(path), clock)
        self.deliveries = SqliteDeliveries(self._reader, self._writer)
        self.events = SqliteEvents(self._reader)
        self.jobs = SqliteJobs(self._reader, self._writer, outbox, _tell)

    async def migrate(self) -> list[str]:
        """See `ports.Database.migrate`. The transaction of the writer is the lock."""
        await self._writer.make_file()
        return await self._writer.run(_migrate)

    async def check(self) -> None:
        """See `ports.Database.check`."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise SettingsError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or later is needed")
        await self._reader.run(_check)

    async def close(self) -> None:
        """See `ports.Database.close`."""
        await self._reader.close()
        await self._writer.close()

    async def create(self, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        """See `ports.Database.create`."""
        return await self._telling(EventType.CREATED, new.scope, partial(_create, new=new, intents=intents))

    async def create_partial(
        self, new: NewUpload, group: NewUpload, name: str, place: Callable[[Sequence[Grid]], Grid | None]
    ) -> Upload:
        """See `ports.Database.create_partial`."""
        return await self._telling(
            EventType.CREATED, new.scope, partial(_create_partial, new=new, group=group, name=name, place=place)
        )

    async def concatenate(self, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part] = ()) -> Upload:
        """See `ports.Database.concatenate`."""
        return await self._telling(
            EventType.CREATED, final.scope, partial(_concatenate, final=final, sources=sources, parts=parts)
        )

    async def gather(self, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
        """See `ports.Database.gather`."""
        return await self._telling(
            EventType.TERMINATED, group.scope, partial(_gather, group=group, members=members, parts=parts)
        )

    async def sources(self, final: Upload) -> list[Upload]:
        """See `ports.Database.sources`."""
        return await self._reader.run(partial(_sources, final=final))

    async def members(self, group: Upload) -> list[Upload]:
        """See `ports.Database.members`."""
        return await self._reader.run(partial(_members, group=group))

    async def find_final(self, final: NewUpload, first: UploadId) -> Upload | None:
        """See `ports.Database.find_final`."""
        return await self._reader.run(partial(_find_final, final=final, first=first))

    async def get(self, scope: Scope, upload_id: UploadId, *, ahead: bool = False) -> Upload:  # none waits
        """See `ports.Database.get`. What reads waits for nothing that writes."""
        return await self._reader.run(partial(_get, scope=scope, upload_id=upload_id))

    async def get_any(self, upload_id: UploadId) -> Upload | None:
        """See `ports.Database.get_any`."""
        row = await self._reader.run(lambda connection: _queries.system_get_upload(connection, id=upload_id))
        return None if row is None else upload_from(row)

    async def list_files(self, scope: Scope, wanted: FileFilter, after: Position | None, limit: int) -> list[Upload]:
        """See `ports.Database.list_files`."""
        return await self._reader.run(partial(_list_files, scope=scope, wanted=wanted, after=after, limit=limit))

    async def find_by_fingerprint(self, scope: Scope, wanted: Fingerprint, limit: int) -> list[Upload]:
        """See `ports.Database.find_by_fingerprint`."""
        columns = fingerprint_columns(scope, wanted)
        return await self._reader.run(
            lambda connection: [
                upload_from(row) for row in _queries.find_by_fingerprint(connection, **columns, limit=limit)
            ]
        )

    async def find_known_parts(self, scope: Scope, route: str | None, digests: Sequence[bytes]) -> list[KnownPart]:
        """See `ports.Database.find_known_parts`."""
        return await self._reader.run(partial(_find_known_parts, scope=scope, route=route, digests=digests))

    async def find_proved_etags(
        self, scope: Scope, route: str | None, pairs: Sequence[tuple[bytes, str]]
    ) -> set[tuple[bytes, str]]:
        """See `ports.Database.find_proved_etags`."""
        return await self._reader.run(partial(_find_proved_etags, scope=scope, route=route, pairs=pairs))

    async def describe(
        self, scope: Scope, upload_id: UploadId, changes: Changes, *, may_shorten: bool = False
    ) -> Upload:
        """See `ports.Database.describe`."""
        return await self._writer.run(
            partial(_describe, scope=scope, upload_id=upload_id, changes=changes, may_shorten=may_shorten)
        )

    async def claim(self, upload: Upload, holder: str, intents: Sequence[Intent] = ()) -> tuple[Upload, list[Piece]]:
        """See `ports.Database.claim`."""
        return await self._writer.run(partial(_claim, upload=upload, holder=holder, intents=intents))

    async def intend(self, upload: Upload, intents: Sequence[Intent]) -> None:
        """See `ports.Database.intend`."""
        await self._writer.run(partial(_intend, upload=upload, intents=intents))

    async def record_multipart(self, upload: Upload, multipart_id: MultipartId) -> Upload:
        """See `ports.Database.record_multipart`."""
        return await self._writer.run(partial(_record_multipart, upload=upload, multipart_id=multipart_id))

    async def replan(self, upload: Upload, length: int, plan: Plan, fingerprint: str | None) -> Upload:
        """See `ports.Database.replan`."""
        declared = {"length": length, "plan": plan.encode(), "fingerprint": fingerprint}

        def work(connection: sqlite3.Connection) -> Upload:
            return _changed(connection, upload, _queries.replan(connection, **expectation_of(upload), **declared))

        return await self._writer.run(work)

    async def commit(self, upload: Upload, step: Step) -> Upload:
        """See `ports.Database.commit`."""
        if step.stored is not None:
            return await self._telling(
                EventType.COMPLETED, upload.scope, partial(_commit_whole, upload=upload, step=step)
            )
        every = self._outbox.progress_every
        return await self._telling(
            EventType.PROGRESS, upload.scope, partial(_commit, upload=upload, step=step, progress_every=every)
        )

    async def parts(self, upload: Upload) -> list[Part]:
        """See `ports.Database.parts`."""
        return await self._reader.run(partial(_parts, upload=upload))

    async def pieces(self, upload: Upload) -> list[Piece]:
        """See `ports.Database.pieces`."""
        return await self._reader.run(partial(_pieces, upload=upload))

    async def absorb(self, upload: Upload, parts: Sequence[Part]) -> Upload:
        """See `ports.Database.absorb`. A part that is recorded already shows as a violated key."""
        return await self._writer.run(partial(_absorb, upload=upload, parts=parts))

    async def complete(self, upload: Upload, stored: StoredObject, keeping: Keeping = FOREVER) -> Upload:
        """See `ports.Database.complete`."""
        step = partial(_complete, upload=upload, stored=stored, keeping=keeping)
        return await self._telling(EventType.COMPLETED, upload.scope, step)

    async def fail(self, upload: Upload, reason: str) -> Upload:
        """See `ports.Database.fail`."""
        return await self._telling(EventType.FAILED, upload.scope, partial(_fail, upload=upload, reason=reason))

    async def terminate(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> Upload:
        """See `ports.Database.terminate`."""
        ended = await self._writer.run(partial(_terminate, scope=scope, upload_id=upload_id, by=by))
        self._outbox.written()
        return ended

    async def claim_sealed(self, holder: str, lease: float, limit: int) -> list[Upload]:
        """See `ports.Database.claim_sealed`."""
        return await self._writer.run(partial(_claim_sealed, holder=holder, lease=lease, limit=limit))

    async def lease_sealed(self, upload: Upload, holder: str, lease: float) -> bool:
        """See `ports.Database.lease_sealed`."""
        return await self._writer.run(partial(_lease_sealed, upload=upload, holder=holder, lease=lease))

    async def release_sealed(self, upload: Upload, holder: str, retry_in: float) -> None:
        """See `ports.Database.release_sealed`. Nothing happens when the lease has passed to another holder."""
        await self._writer.run(partial(_release_sealed, upload=upload, holder=holder, retry_in=retry_in))

    async def expire(self, limit: int, judge: Judge = go_on) -> list[Upload]:
        """See `ports.Database.expire`. `judge` runs in the writing thread."""
        expired = await self._writer.run(partial(_expire, limit=limit, judge=judge))
        if expired:
            self._outbox.written()
        return expired

    async def forget_ended(self, seconds: float, limit: int) -> int:
        """See `ports.Database.forget_ended`."""
        return await self._writer.run(partial(_forget_ended, seconds=seconds, limit=limit))

    async def claim_undigested(self, lease: float, limit: int) -> list[Upload]:
        """See `ports.Database.claim_undigested`."""
        bounds = {"lease": lease, "limit": limit}
        return await self._writer.run(
            lambda connection: [upload_from(row) for row in _queries.system_claim_undigested(connection, **bounds)]
        )

    async def postpone_digest(self, upload: Upload, seconds: float) -> None:
        """See `ports.Database.postpone_digest`."""
        await self._writer.run(
            lambda connection: _queries.postpone_digest(connection, **identity_of(upload), seconds=seconds)
        )

    async def record_digest(self, upload: Upload, sha256: bytes) -> Upload:
        """See `ports.Database.record_digest`."""
        return await self._writer.run(partial(_record_digest, upload=upload, sha256=sha256))

    async def find_twin(self, upload: Upload, sha256: bytes, lease: float) -> Upload | None:
        """See `ports.Database.find_twin`."""
        return await self._writer.run(partial(_find_twin, upload=upload, sha256=sha256, lease=lease))

    async def adopt(self, upload: Upload, twin: Upload, kept_for: float) -> Upload:
        """See `ports.Database.adopt`."""
        return await self._writer.run(partial(_adopt, upload=upload, twin=twin, kept_for=kept_for))

    async def find_equal(self, new: NewUpload, sha256: bytes) -> Upload | None:
        """See `ports.Database.find_equal`."""
        row = await self._reader.run(
            lambda connection: _queries.tenant_find_twin(connection, **content_of(new, sha256))
        )
        return None if row is None else upload_from(row)

    async def create_equal(self, new: NewUpload, twin: Upload, keeping: Keeping = FOREVER) -> Upload:
        """See `ports.Database.create_equal`."""
        step = partial(_create_equal, new=new, twin=twin, keeping=keeping)
        created = await self._telling(EventType.CREATED, new.scope, step)
        self._outbox.tell(EventType.COMPLETED, new.scope.tenant)
        return created

    async def due_garbage(self, limit: int, grace: float) -> list[Garbage]:
        """See `ports.Database.due_garbage`."""
        return await self._writer.run(partial(_due_garbage, limit=limit, grace=grace))

    async def drop_garbage(self, rows: Sequence[Garbage], grace: float) -> None:
        """See `ports.Database.drop_garbage`."""
        removed: list[dict[str, object]] = [{"id": row.id, "grace": grace} for row in rows]
        await self._writer.run(partial(_drop_garbage, removed=removed))

    async def postpone_garbage(self, rows: Sequence[Garbage], seconds: float) -> None:
        """See `ports.Database.postpone_garbage`."""
        delays = [{"id": row.id, "seconds": seconds} for row in rows]
        await self._writer.run(lambda connection: _queries.system_postpone_garbage(connection, delays))

    async def preview(self, limit: int, grace: float, judge: Judge) -> tuple[list[Upload], list[Garbage]]:
        """See `ports.SurveyedDatabase.preview`: the real statements, rolled back."""
        return await self._writer.run(partial(_preview, limit=limit, grace=grace, judge=judge))

    async def release_expiry(self) -> None:
        """See `ports.SurveyedDatabase.release_expiry`."""
        await self._writer.run(partial(_keep, verdict=GO_ON))

    async def survey(self, after: str, limit: int) -> list[Upload]:
        """See `ports.SurveyedDatabase.survey`."""
        return await self._reader.run(partial(_survey, after=after, limit=limit))

    async def names(self, upload_ids: Sequence[UploadId]) -> set[StoreName]:
        """See `ports.SurveyedDatabase.names`."""
        return await self._reader.run(partial(_names, ids=json.dumps(list(upload_ids))))

    async def count_by_state(self) -> dict[State, int]:
        """See `ports.SurveyedDatabase.count_by_state`."""
        return await self._reader.run(lambda connection: counts_from(list(_queries.system_count_by_state(connection))))

    async def create_token(self, new: NewApiToken) -> ApiToken:
        """See `ports.TokenStore.create_token`."""
        columns = token_of(new)
        return await self._writer.run(
            lambda connection: token_from(_queries.system_create_token(connection, **columns))
        )

    async def get_token(self, token_id: str) -> ApiToken | None:
        """See `ports.TokenStore.get_token`."""
        return await self._reader.run(lambda connection: _token_in(_queries.system_get_token(connection, id=token_id)))

    async def list_tokens(self) -> list[ApiToken]:
        """See `ports.TokenStore.list_tokens`."""
        return await self._reader.run(
            lambda connection: [token_from(row) for row in _queries.system_list_tokens(connection)]
        )

    async def revoke_token(self, token_id: str) -> ApiToken | None:
        """See `ports.TokenStore.revoke_token`."""
        return await self._writer.run(
            lambda connection: _token_in(_queries.system_revoke_token(connection, id=token_id))
        )

    async def note_token_use(self, token_id: str) -> None:
        """See `ports.TokenStore.note_token_use`."""
        await self._writer.run(lambda connection: _queries.system_note_token_use(connection, id=token_id))

    async def limit_usage(self, tenant: str, quota: Quota | None) -> None:
        """See `ports.Database.limit_usage`."""
        await self._writer.run(partial(_limit_usage, tenant=tenant, quota=quota))

    async def usage(self, tenant: str) -> Usage:
        """See `ports.Database.usage`."""
        return await self._reader.run(lambda connection: usage_from(_queries.system_usage(connection, tenant=tenant)))

    async def usages(self) -> dict[str, Usage]:
        """See `ports.SurveyedDatabase.usages`."""
        return await self._reader.run(_usages)

    async def limited_tenants(self) -> list[str]:
        """See `ports.SurveyedDatabase.limited_tenants`."""
        return await self._reader.run(
            lambda connection: [row["tenant"] for row in _queries.system_counted_usages(connection)]
        )

    async def recount(self) -> dict[str, tuple[Usage, Usage]]:
        """See `ports.SurveyedDatabase.recount`."""
        return await self._writer.run(_recount)

    async def check_routes(self, places: Mapping[str, str]) -> list[Misplaced]:
        """See `ports.SurveyedDatabase.check_routes`."""
        return await self._writer.run(partial(_check_routes, places=places))

    async def _telling(self, event_type: EventType, scope: Scope, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run a step that may write such events, and tell so after its commit."""
        result = await self._writer.run(step)
        self._outbox.tell(event_type, scope.tenant)
        return result

    async def create_share(self, new: NewShare) -> Share:
        """See `ports.ShareStore.create_share`."""
        return await self._writer.run(partial(_create_share, new=new))

    async def list_shares(self, scope: Scope, file_id: UploadId) -> list[Share]:
        """See `ports.ShareStore.list_shares`."""
        identity = {"upload_id": file_id, "tenant": scope.tenant, "owner": scope.owner}
        return await self._reader.run(
            lambda connection: [share_from(row) for row in _queries.list_shares(connection, **identity)]
        )

    async def revoke_share(self, scope: Scope, file_id: UploadId, share_id: ShareId) -> Share:
        """See `ports.ShareStore.revoke_share`."""
        identity = {"id": share_id, "upload_id": file_id, "tenant": scope.tenant, "owner": scope.owner}
        row = await self._writer.run(lambda connection: _queries.revoke_share(connection, **identity))
        if row is None:
            raise UploadNotFound
        return share_from(row)

    async def find_share(self, share_id: ShareId) -> Share | None:
        """See `ports.ShareStore.find_share`."""
        row = await self._reader.run(lambda connection: _queries.system_find_share(connection, id=share_id))
        return None if row is None else share_from(row)

    async def begin_try(self, share: Share, most: int, window: float) -> bool:
        """See `ports.ShareStore.begin_try`."""
        limits = {"most": most, "window": window}
        row = await self._writer.run(
            lambda connection: _queries.begin_try(connection, **identity_of_share(share), **limits)
        )
        return row is not None

    async def take_try_back(self, share: Share) -> None:
        """See `ports.ShareStore.take_try_back`."""
        await self._writer.run(lambda connection: _queries.take_try_back(connection, **identity_of_share(share)))

    async def count_download(self, share: Share) -> bool:
        """See `ports.ShareStore.count_download`."""
        row = await self._writer.run(lambda connection: _queries.count_download(connection, **identity_of_share(share)))
        return row is not None

    async def forget_shares(self, seconds: float, limit: int) -> int:
        """See `ports.ShareStore.forget_shares`."""
        bounds = {"seconds": seconds, "limit": limit}
        return len(await self._writer.run(lambda connection: list(_queries.system_forget_shares(connection, **bounds))))

    async def begin_accesses(self, new: Sequence[NewAccess]) -> None:
        """See `ports.AccessLog.begin_accesses`."""
        await self._writer.run(partial(_begin_accesses, new=new))

    async def begin_counted_access(self, new: NewAccess, share: Share) -> bool:
        """See `ports.AccessLog.begin_counted_access`."""
        return await self._writer.run(partial(_begin_counted_access, new=new, share=share))

    async def end_accesses(self, ended: Sequence[EndedAccess]) -> None:
        """See `ports.AccessLog.end_accesses`."""
        await self._writer.run(partial(_end_accesses, ended=ended))

    async def list_accesses(self, scope: Scope, file_id: UploadId, after: Position | None, limit: int) -> list[Access]:
        """See `ports.AccessLog.list_accesses`."""
        wanted = {"tenant": scope.tenant, "owner": scope.owner, "upload_id": file_id, **_place_of(after)}
        return await self._reader.run(
            lambda connection: [access_from(row) for row in _queries.list_accesses(connection, **wanted, limit=limit)]
        )

    async def list_all_accesses(
        self, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
    ) -> list[Access]:
        """See `ports.AccessLog.list_all_accesses`."""
        return await self._reader.run(
            partial(_list_all_accesses, tenant=tenant, wanted=wanted, after=after, limit=limit)
        )

    async def forget_accesses(self, seconds: float, limit: int) -> int:
        """See `ports.AccessLog.forget_accesses`."""
        bounds = {"seconds": seconds, "limit": limit}
        return len(
            await self._writer.run(lambda connection: list(_queries.system_forget_accesses(connection, **bounds)))
        )

    async def listen(self, taken_over: Callable[[UploadId, int], None]) -> None:
        """See `ports.Database.listen`. Never calls: there is one process, and it knows its own claims."""


def _token_in(row: Row | None) -> ApiToken | None:
    return None if row is None else token_from(row)


def _migrate(connection: sqlite3.Connection) -> list[str]:
    _queries.create_schema_migrations(connection)
    todo = missing("sqlite", _applied(connection))
    for migration in todo:
        _apply(connection, migration)
    return [migration.name for migration in todo]


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    """Run a migration statement by statement: `executescript` would commit the transaction first."""
    statement = ""
    for line in migration.sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    _queries.record_migration(connection, name=migration.name)


def _applied(connection: sqlite3.Connection) -> list[str]:
    return [row["name"] for row in _queries.applied_migrations(connection)]


def _check(connection: sqlite3.Connection) -> None:
    prepared = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone()
    check_complete("sqlite", _applied(connection) if prepared else [])


def _create(connection: sqlite3.Connection, new: NewUpload, intents: Sequence[Intent]) -> Upload:
    row = _queries.create_upload(connection, **creation_of(new), attempt=attempt_of(intents))
    if row is None:
        scope = new.scope
        spent = _queries.get_upload_of_token(connection, token_id=new.token_id, tenant=scope.tenant, owner=scope.owner)
        raise spent_on(upload_from(spent))
    created = upload_from(row)
    _insert_intents(connection, created, intents)
    _tell(connection, EventType.CREATED, created)
    return created


def _create_partial(
    connection: sqlite3.Connection,
    new: NewUpload,
    group: NewUpload,
    name: str,
    place: Callable[[Sequence[Grid]], Grid | None],
) -> Upload:
    _queries.close_group(connection, **creation_of(group), name=name, joined_within=JOINED_WITHIN)
    opened = upload_from(_queries.open_group(connection, **creation_of(group), name=name))
    grid = place([Grid.decode(row["grid"]) for row in _queries.list_grids(connection, **identity_of(opened))])
    if grid is not None:
        new = replace(new, grid=grid, group=opened.id, object_key=opened.object_key, route=opened.route)
    return _create(connection, new, ())


def _concatenate(
    connection: sqlite3.Connection, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part]
) -> Upload:
    _check_sources(connection, sources)
    if parts:
        sealed = _seal_group(connection, _get(connection, final.scope, final.id), sources, parts, final)
        _tell(connection, EventType.CREATED, sealed)
    else:
        sealed = _create(connection, final, ())
    ids = [source.id for source in sources]
    identity = identity_of(sealed)
    _queries.keep_sources(connection, **identity, ids=json.dumps(ids), lifetime=final.lifetime)
    _queries.insert_sources(
        connection, [identity | {"position": position, "source_id": each} for position, each in enumerate(ids)]
    )
    return sealed


def _gather(connection: sqlite3.Connection, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
    _check_sources(connection, members)
    return _seal_group(connection, group, members, parts, None)


def _check_sources(connection: sqlite3.Connection, sources: Sequence[Upload]) -> None:
    ids = json.dumps([source.id for source in sources])
    found = _queries.find_uploads(connection, **identity_of(sources[0]), ids=ids)
    check_unchanged(sources, {row["id"]: upload_from(row) for row in found})


def _seal_group(
    connection: sqlite3.Connection,
    group: Upload,
    kept: Sequence[Upload],
    parts: Sequence[Part],
    final: NewUpload | None,
) -> Upload:
    ids = json.dumps([upload.id for upload in kept])
    _queries.count_with_group(connection, **identity_of(group), ids=ids)
    sealed = _changed(connection, group, _queries.seal_group(connection, **sealing_of(group, parts, final)))
    _insert_parts_and_pieces(connection, sealed, parts, ())
    names = {upload.id for upload in kept}
    left_out = [member for member in _members(connection, sealed) if member.id not in names]
    for member in left_out:
        if member.offset:
            raise fenced_by(member)
    _end_members(connection, left_out, State.TERMINATED, LEFT_OUT)
    return sealed


def _end_members(connection: sqlite3.Connection, members: list[Upload], state: State, reason: str | None) -> None:
    for member in members:
        _queries.end_member(connection, **identity_of(member), state=state, reason=reason)
        _drop_pieces(connection, member, _EVERYTHING)
        _tell(connection, EventType.FAILED if state is State.FAILED else EventType.TERMINATED, member)


def _sources(connection: sqlite3.Connection, final: Upload) -> list[Upload]:
    _get(connection, final.scope, final.id)
    return [upload_from(row) for row in _queries.list_sources(connection, **identity_of(final))]


def _members(connection: sqlite3.Connection, group: Upload) -> list[Upload]:
    _get(connection, group.scope, group.id)
    return [upload_from(row) for row in _queries.list_members(connection, **identity_of(group))]


def _find_final(connection: sqlite3.Connection, final: NewUpload, first: UploadId) -> Upload | None:
    row = _queries.find_final(
        connection,
        tenant=final.scope.tenant,
        owner=final.scope.owner,
        source=first,
        concat=final.concat,
        metadata=final.metadata,
    )
    return None if row is None else upload_from(row)


def _get(connection: sqlite3.Connection, scope: Scope, upload_id: UploadId) -> Upload:
    row = _queries.get_upload(connection, id=upload_id, tenant=scope.tenant, owner=scope.owner)
    if row is None:
        raise UploadNotFound
    return upload_from(row)


def _list_files(
    connection: sqlite3.Connection, scope: Scope, wanted: FileFilter, after: Position | None, limit: int
) -> list[Upload]:
    always, never = -_EVERYTHING[1], _EVERYTHING[1]
    found = _queries.list_files(
        connection,
        **filter_of(wanted),
        tenant=scope.tenant,
        owner=scope.owner,
        states=json.dumps(sorted(wanted.states)),
        **_place_of(after),
        created_from=always if wanted.created_from is None else milliseconds_from(wanted.created_from),
        created_before=never if wanted.created_before is None else milliseconds_from(wanted.created_before),
        limit=limit,
    )
    return [upload_from(row) for row in found]


def _place_of(after: Position | None) -> dict[str, object]:
    """Return where a page begins; without a place before everything."""
    if after is None:
        return {"after_time": _EVERYTHING[1], "after_id": ""}
    return {"after_time": milliseconds_from(after.created_at), "after_id": after.id}


def _begin_accesses(connection: sqlite3.Connection, new: Sequence[NewAccess]) -> None:
    for each in new:
        _queries.begin_access(connection, **access_of(each))


def _begin_counted_access(connection: sqlite3.Connection, new: NewAccess, share: Share) -> bool:
    if _queries.count_download(connection, **identity_of_share(share)) is None:
        return False
    _queries.begin_access(connection, **access_of(new))
    return True


def _end_accesses(connection: sqlite3.Connection, ended: Sequence[EndedAccess]) -> None:
    for each in ended:
        _queries.end_access(connection, **end_of(each))


def _list_all_accesses(
    connection: sqlite3.Connection, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
) -> list[Access]:
    found = _queries.tenant_list_accesses(
        connection,
        tenant=tenant,
        upload_id=wanted.file_id,
        reader=wanted.reader,
        began_from=-_EVERYTHING[1] if wanted.began_from is None else milliseconds_from(wanted.began_from),
        began_before=_EVERYTHING[1] if wanted.began_before is None else milliseconds_from(wanted.began_before),
        **_place_of(after),
        limit=limit,
    )
    return [access_from(row) for row in found]


def _describe(
    connection: sqlite3.Connection, scope: Scope, upload_id: UploadId, changes: Changes, *, may_shorten: bool
) -> Upload:
    expires_at, retain_until = changes.get("expires_at"), changes.get("retain_until")
    row = _queries.describe(
        connection,
        id=upload_id,
        tenant=scope.tenant,
        owner=scope.owner,
        **description_of(changes),
        expires_at=None if expires_at is None else milliseconds_from(expires_at),
        retain_until=None if retain_until is None else milliseconds_from(retain_until),
        may_shorten=may_shorten,
    )
    if row is None:
        raise not_described(_get(connection, scope, upload_id), changes, may_shorten=may_shorten)
    return upload_from(row)


def _record_digest(connection: sqlite3.Connection, upload: Upload, sha256: bytes) -> Upload:
    row = _queries.record_digest(connection, **identity_of(upload), etag=upload.etag, sha256=sha256)
    return _changed(connection, upload, row)


def _find_twin(connection: sqlite3.Connection, upload: Upload, sha256: bytes, lease: float) -> Upload | None:
    twin = _queries.tenant_find_twin(connection, **content_of(upload, sha256))
    noted = _queries.note_content(
        connection,
        **identity_of(upload),
        object_key=upload.object_key,
        etag=upload.etag,
        sha256=sha256,
        lease=None if twin is None else lease,
    )
    _changed(connection, upload, noted)
    return None if twin is None else upload_from(twin)


def _adopt(connection: sqlite3.Connection, upload: Upload, twin: Upload, kept_for: float) -> Upload:
    ids, tenant = (upload.id, twin.id), upload.scope.tenant
    pair = [_queries.tenant_get_complete(connection, tenant=tenant, id=each) for each in ids]
    if not may_adopt(upload, twin, [upload_from(row) for row in pair if row is not None]):
        raise _refusal(connection, upload)
    sharing = sharing_of(upload, twin)
    row = _changed(connection, upload, _queries.adopt(connection, **sharing))
    _queries.discard_later(connection, **sharing, kept_for=kept_for)
    return row


def _create_equal(connection: sqlite3.Connection, new: NewUpload, twin: Upload, keeping: Keeping) -> Upload:
    found = _queries.tenant_get_complete(connection, tenant=new.scope.tenant, id=twin.id)
    if not may_begin_with(new, twin, None if found is None else upload_from(found)):
        raise fenced_by(twin)
    created = _create(connection, new, ())
    _commit_whole(connection, created, step_to_object_of(twin, created, keeping))
    row = _queries.begin_with(connection, **identity_of(created), object_of=twin.maker, sha256=twin.sha256)
    return upload_from(row)


def _create_share(connection: sqlite3.Connection, new: NewShare) -> Share:
    expires_at = None if new.expires_at is None else milliseconds_from(new.expires_at)
    row = _queries.create_share(connection, **share_of(new), expires_at=expires_at)
    if row is None:
        raise not_shared(_get(connection, new.scope, new.file_id))
    return share_from(row)


def _claim(
    connection: sqlite3.Connection, upload: Upload, holder: str, intents: Sequence[Intent]
) -> tuple[Upload, list[Piece]]:
    expected = {**expectation_of(upload), "put_attempts": upload.put_attempts}
    row = _queries.claim(connection, **expected, holder=holder, attempt=attempt_of(intents))
    claimed = _changed(connection, upload, row)
    _insert_intents(connection, claimed, intents)
    found = _queries.list_pieces(connection, **identity_of(upload), start=cell_start_of(upload))
    return claimed, [piece_from(row) for row in found]


def _intend(connection: sqlite3.Connection, upload: Upload, intents: Sequence[Intent]) -> None:
    if _queries.announce(connection, **expectation_of(upload), attempt=attempt_of(intents)) is None:
        raise _refusal(connection, upload)
    _insert_intents(connection, upload, intents)


def _record_multipart(connection: sqlite3.Connection, upload: Upload, multipart_id: MultipartId) -> Upload:
    row = _queries.record_multipart(connection, **multipart_of(upload, multipart_id))
    recorded = _changed(connection, upload, row)
    _queries.settle_multipart(connection, **expectation_of(upload))
    return recorded


def _commit(connection: sqlite3.Connection, upload: Upload, step: Step, progress_every: float) -> Upload:
    row = _queries.advance(connection, **expectation_of(upload), **movement_of(upload, step))
    moved = _changed(connection, upload, row)
    if step.absorb is not None:
        _drop_pieces(connection, moved, step.absorb)
    _insert_parts_and_pieces(connection, moved, step.parts, step.pieces)
    recorded = [expectation_of(moved) | {"object_key": piece.key} for piece in step.pieces if piece.key is not None]
    if recorded:
        _queries.settle_pieces(connection, recorded)
    if step.end > upload.offset:
        told = _queries.tell_progress(connection, **identity_of(upload), progress_every=progress_every)
        _insert_event(connection, EventType.PROGRESS, told)
    return moved


def _commit_whole(connection: sqlite3.Connection, upload: Upload, step: Step) -> Upload:
    """Finish an upload that is one PutObject; a multipart upload that was begun earlier is abandoned."""
    before = _get(connection, upload.scope, upload.id)
    row = _queries.finish(
        connection,
        **finishing_of(upload, step),
    )
    finished = _changed(connection, upload, row)
    _settle_object(connection, finished, _jobs_of(upload, step.keeping))
    if before.multipart_id is not None:
        _discard_multipart(connection, before)
    return finished


def _find_known_parts(
    connection: sqlite3.Connection, scope: Scope, route: str | None, digests: Sequence[bytes]
) -> list[KnownPart]:
    columns = {"tenant": scope.tenant, "owner": scope.owner, "route": route}
    rows = [_queries.find_known_part(connection, **columns, sha256=each) for each in digests]
    return [known_part_from(row) for row in rows if row is not None]


def _find_proved_etags(
    connection: sqlite3.Connection, scope: Scope, route: str | None, pairs: Sequence[tuple[bytes, str]]
) -> set[tuple[bytes, str]]:
    columns = {"tenant": scope.tenant, "owner": scope.owner, "route": route}
    return {
        (sha256, etag)
        for sha256, etag in pairs
        if _queries.find_proved_etag(connection, **columns, sha256=sha256, etag=etag) is not None
    }


def _parts(connection: sqlite3.Connection, upload: Upload) -> list[Part]:
    _get(connection, upload.scope, upload.id)
    return [part_from(row) for row in _queries.list_parts(connection, **identity_of(upload))]


def _pieces(connection: sqlite3.Connection, upload: Upload) -> list[Piece]:
    _get(connection, upload.scope, upload.id)
    return [piece_from(row) for row in _queries.list_pieces(connection, **identity_of(upload), start=0)]


def _absorb(connection: sqlite3.Connection, upload: Upload, parts: Sequence[Part]) -> Upload:
    row = _queries.touch_sealed(connection, **expectation_of(upload))
    sealed = _changed(connection, upload, row)
    _insert_parts_and_pieces(connection, sealed, parts, ())
    for part in parts:
        _drop_pieces(connection, sealed, (part.start, part.start + part.size))
    return sealed


def _complete(connection: sqlite3.Connection, upload: Upload, stored: StoredObject, keeping: Keeping) -> Upload:
    row = _queries.finish(
        connection,
        **expectation_of(upload),
        **object_of(stored),
        from_state=State.SEALED,
        end=upload.offset,
        length=upload.length,
        abandon_multipart=False,
        lifetime=None,
        max_age=None,
        **keeping_of(keeping, upload),
    )
    if row is None:
        return completed_before(_get(connection, upload.scope, upload.id))
    finished = upload_from(row)
    _settle_object(connection, finished, _jobs_of(upload, keeping))
    return finished


def _jobs_of(upload: Upload, keeping: Keeping) -> Sequence[NewJob]:
    return () if keeping.processing is None else keeping.processing.jobs_of(upload)


def _settle_object(connection: sqlite3.Connection, finished: Upload, jobs: Sequence[NewJob]) -> None:
    _queries.settle_object(connection, **identity_of(finished), object_key=finished.object_key)
    _drop_pieces(connection, finished, _EVERYTHING)
    _tell(connection, EventType.COMPLETED, finished)
    if finished.processing is not None:
        _queries.insert_jobs(connection, [identity_of(finished) | asdict(job) for job in jobs])
        _tell(connection, EventType.PROCESSING, finished)


def _fail(connection: sqlite3.Connection, upload: Upload, reason: str) -> Upload:
    found = _get(connection, upload.scope, upload.id)
    check_may_fail(found, upload)
    failed = _end(connection, found, State.FAILED, reason)
    _tell(connection, EventType.FAILED, failed)
    return failed


def _terminate(connection: sqlite3.Connection, scope: Scope, upload_id: UploadId, by: str | None) -> Upload:
    found = _get(connection, scope, upload_id)
    check_endable(found)
    if _queries.is_needed(connection, **identity_of(found)) is not None:
        raise StillNeeded
    if _queries.is_retained(connection, **identity_of(found)) is not None:
        raise retained(found)
    _tell(connection, deletion_of(found), found)  # before the change: what was deleted is described as it was
    _end_work(connection, found, State.TERMINATED, by)
    hidden = _queries.hide_final(connection, **identity_of(found), by=by)
    return upload_from(hidden) if hidden is not None else _end(connection, found, State.TERMINATED, None, by)


def _end(
    connection: sqlite3.Connection, found: Upload, state: State, reason: str | None, by: str | None = None
) -> Upload:
    ending = ending_of(found, state)
    row = _queries.end_upload(connection, **identity_of(found), state=state, reason=reason, by=by)
    _discard_contents(
        connection,
        found,
        has_object=bool(ending["discard_object"]),
        has_multipart=bool(ending["discard_multipart"]),
    )
    _end_members(connection, _members(connection, found), state, reason)
    return upload_from(row)


def _end_work(connection: sqlite3.Connection, file: Upload, state: State, by: str | None = None) -> None:
    """End the jobs of a file that ends, and the files that were made of it."""
    if file.processing is None:
        return
    _queries.delete_jobs(connection, **identity_of(file))
    for row in list(_queries.list_derived(connection, **identity_of(file))):
        derived = upload_from(row)
        _tell(connection, EventType.EXPIRED if state is State.EXPIRED else EventType.DELETED, derived)
        _end(connection, derived, state, None, by)
    _queries.keep_derived(connection, **identity_of(file))


def _expire(connection: sqlite3.Connection, limit: int, judge: Judge) -> list[Upload]:
    clock = _queries.system_clock(connection)
    verdict = judge(reading_from(clock))
    if verdict.doubt is not None:
        return []
    _keep(connection, verdict)
    if not verdict.goes_on:
        return []
    expired = []
    for row in list(_queries.system_due_to_expire(connection, limit=limit, now=clock["now"])):
        due = upload_from(row)
        ended = _queries.system_expire(connection, id=due.id)
        if ended is None:
            continue
        expired.append(upload_from(ended))
        finished = due.state is State.COMPLETE
        _discard_contents(connection, due, has_object=finished, has_multipart=not finished)
        _tell(connection, EventType.EXPIRED, due)
        _end_work(connection, due, State.EXPIRED)
    return expired


def _forget_ended(connection: sqlite3.Connection, seconds: float, limit: int) -> int:
    ended = [row["id"] for row in _queries.system_ended(connection, seconds=seconds, limit=limit)]
    _queries.system_forget_parts(connection, ids=json.dumps(ended), limit=limit * PARTS_FORGOTTEN)
    forgotten = [row["id"] for row in list(_queries.system_forget_ended(connection, ids=json.dumps(ended)))]
    _queries.system_forget_sources(connection, ids=json.dumps(forgotten))
    return len(ended)


def _keep(connection: sqlite3.Connection, verdict: Verdict) -> None:
    _queries.system_keep_verdict(connection, waits_until=milliseconds_of(verdict.waits_until), held=verdict.held)


def _preview(
    connection: sqlite3.Connection, limit: int, grace: float, judge: Judge
) -> tuple[list[Upload], list[Garbage]]:
    connection.execute("SAVEPOINT preview")
    found = _expire(connection, limit, judge), _due_garbage(connection, limit, grace)
    connection.execute("ROLLBACK TO preview")
    connection.execute("RELEASE preview")
    return found


def _survey(connection: sqlite3.Connection, after: str, limit: int) -> list[Upload]:
    return [upload_from(row) for row in _queries.system_survey(connection, after=after, limit=limit)]


def _names(connection: sqlite3.Connection, ids: str) -> set[StoreName]:
    return {store_name_from(row) for row in _queries.system_names(connection, ids=ids)}


def _limit_usage(connection: sqlite3.Connection, tenant: str, quota: Quota | None) -> None:
    if quota is None:
        _queries.stop_counting(connection, tenant=tenant)
    else:
        _queries.system_limit_usage(connection, **limits_of(tenant, quota))


def _usages(connection: sqlite3.Connection) -> dict[str, Usage]:
    return {row["tenant"]: usage_from(row) for row in _queries.system_usages(connection)}


def _recount(connection: sqlite3.Connection) -> dict[str, tuple[Usage, Usage]]:
    truth = _usages(connection)
    counted = {}
    for row in list(_queries.system_counted_usages(connection)):
        tenant = row["tenant"]
        counted[tenant] = usage_from(row), truth.get(tenant, Usage())
        _queries.system_recount(connection, tenant=tenant, **asdict(counted[tenant][1]))
    return counted


def _check_routes(connection: sqlite3.Connection, places: Mapping[str, str]) -> list[Misplaced]:
    _queries.system_note_routes(connection, [{"name": name, "place": place} for name, place in places.items()])
    found = misplaced(places, list(_queries.system_routes(connection)))
    for route in found:
        if not route.is_used and route.configured is not None:
            _queries.system_change_route(connection, name=route.name, place=route.configured)
    return found


def _discard_contents(connection: sqlite3.Connection, upload: Upload, *, has_object: bool, has_multipart: bool) -> None:
    _drop_pieces(connection, upload, _EVERYTHING)
    if has_object:
        _queries.discard(
            connection, **identity_of(upload), object_key=upload.object_key, multipart=False, multipart_id=None
        )
    if has_multipart and upload.multipart_id is not None:
        _discard_multipart(connection, upload)


def _discard_multipart(connection: sqlite3.Connection, upload: Upload) -> None:
    _queries.discard(
        connection,
        **identity_of(upload),
        object_key=upload.object_key,
        multipart=True,
        multipart_id=upload.multipart_id,
    )


def _drop_pieces(connection: sqlite3.Connection, upload: Upload, span: tuple[int, int]) -> None:
    """Delete the piece rows that begin in `[from, to)` and make their objects garbage."""
    low, high = span
    _queries.discard_pieces(connection, **identity_of(upload), absorb_from=low, absorb_to=high)
    _queries.delete_pieces(connection, **identity_of(upload), absorb_from=low, absorb_to=high)


def _insert_intents(connection: sqlite3.Connection, upload: Upload, intents: Sequence[Intent]) -> None:
    if intents:
        writer = {**identity_of(upload), "epoch": upload.epoch}
        _queries.insert_intents(
            connection,
            [writer | {"object_key": intent.key, "multipart": intent.multipart} for intent in intents],
        )


def _insert_parts_and_pieces(
    connection: sqlite3.Connection, upload: Upload, parts: Sequence[Part], pieces: Sequence[Piece]
) -> None:
    identity = identity_of(upload)
    if parts:
        _queries.insert_parts(connection, [identity | row for row in part_rows(parts)])
    if pieces:
        _queries.insert_pieces(connection, [identity | row for row in piece_rows(pieces)])


def _claim_sealed(connection: sqlite3.Connection, holder: str, lease: float, limit: int) -> list[Upload]:
    found = _queries.system_claim_sealed(connection, holder=holder, lease=lease, limit=limit)
    return [upload_from(row) for row in found]


def _lease_sealed(connection: sqlite3.Connection, upload: Upload, holder: str, lease: float) -> bool:
    row = _queries.lease_sealed(connection, **identity_of(upload), holder=holder, lease=lease)
    if row is None:
        _get(connection, upload.scope, upload.id)
    return row is not None


def _release_sealed(connection: sqlite3.Connection, upload: Upload, holder: str, retry_in: float) -> None:
    row = _queries.release_sealed(connection, **identity_of(upload), holder=holder, retry_in=retry_in)
    if row is None:
        _get(connection, upload.scope, upload.id)


def _drop_garbage(connection: sqlite3.Connection, removed: list[dict[str, object]]) -> None:
    _queries.system_drop_garbage(connection, removed)
    _queries.system_note_removed(connection, removed)


def _due_garbage(connection: sqlite3.Connection, limit: int, grace: float) -> list[Garbage]:
    due = list(_queries.system_due_garbage(connection, limit=limit, grace=grace))
    referenced = [{"id": row["id"]} for row in due if row["verdict"] == "referenced"]
    later = [{"id": row["id"]} for row in due if row["verdict"] != "referenced"]
    _queries.system_drop_referenced(connection, referenced)
    _queries.system_delay_garbage(connection, later)
    return [garbage_from(row) for row in due if row["verdict"] == "collect"]


def _tell(connection: sqlite3.Connection, event_type: EventType, upload: Upload) -> None:
    """Write an event about `upload` as it is now, if anybody wants to hear of it."""
    _insert_event(connection, event_type, _queries.tell(connection, **identity_of(upload), type=event_type))


def _insert_event(connection: sqlite3.Connection, event_type: EventType, told: sqlite3.Row | None) -> None:
    if told is not None:
        identity = {column: told[column] for column in ("id", "tenant", "owner")}
        identity |= {"number": told["event_number"], "type": event_type}
        _queries.insert_event(connection, **identity, upload=snapshot_of(told))
        _queries.insert_deliveries(connection, **identity)


def _changed(connection: sqlite3.Connection, upload: Upload, row: sqlite3.Row | None) -> Upload:
    """Return the upload after a compare-and-set on `upload`; no row means that it found something else."""
    if row is None:
        raise _refusal(connection, upload)
    return upload_from(row)


def _refusal(connection: sqlite3.Connection, upload: Upload) -> Fenced:
    return fenced_by(_get(connection, upload.scope, upload.id))


if TYPE_CHECKING:
    _: type[SurveyedDatabase] = SqliteDatabase
