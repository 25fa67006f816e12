"""Jobs of finished files, in PostgreSQL. Settling one is a transaction; see `postgres`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiosql

from tusgate.core.errors import JobLost
from tusgate.core.events import EventType
from tusgate.core.processing import INTENT_LIFE, JobState, Processed
from tusgate.database.jobs import (
    OUTCOME_EVENTS,
    JobEndings,
    check_kept,
    dead_from,
    derived_of,
    holding_of,
    job_from,
    job_search_of,
    jobs_by_file,
    jobs_from,
    outcome_of,
    overdue_from,
    processor_backlog_from,
    settlement_of,
    staged_from,
    staged_with,
    uploads_by_source,
)
from tusgate.database.rows import identity_of, upload_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from tusgate.core.events import Outbox
    from tusgate.core.model import ObjectKey, Scope, Upload, UploadId
    from tusgate.core.processing import ClaimId, Job, JobSearch, Json, Overdue, ProcessorBacklog, Staged
    from tusgate.ports import JobQueue

    Connection = PoolConnectionProxy[asyncpg.Record]
    Lend = Callable[[], AbstractAsyncContextManager[Connection]]

_queries: Any = aiosql.from_path(Path(__file__).with_name("postgres_jobs.sql"), "asyncpg", mandatory_parameters=False)


class Tell(Protocol):
    """Writes the same event about uploads of one scope, within a transaction."""

    async def __call__(
        self, connection: Connection, event_type: EventType, scope: Scope, upload_ids: Sequence[UploadId], /
    ) -> None:
        """Write it, if anybody wants it."""


class PostgresJobs(JobEndings):
    """The port `JobQueue`.

    Args:
        lend: a connection for one statement.
        transact: a connection within a transaction.
        outbox: who is told.
        tell: writes an event within a transaction.
    """

    def __init__(self, lend: Lend, transact: Lend, outbox: Outbox, tell: Tell) -> None:
        self._lend = lend
        self._transact = transact
        self._outbox = outbox
        self._tell = tell

    async def claim(
        self,
        processors: Sequence[str],
        claim: ClaimId,
        holder: str,
        lease: float,
        tries: int,
        tenant: str | None = None,
    ) -> Job | None:
        """See `ports.JobQueue.claim`."""
        wanted = {"processors": list(processors), "tries": tries, "of_tenant": tenant}
        async with self._transact() as connection:
            row = await _queries.system_claim(connection, **wanted, claim=claim, holder=holder, lease=lease)
            return None if row is None else job_from(row, await _source(connection, row))

    async def held(self, tenant: str, claim: ClaimId) -> Job:
        """See `ports.JobQueue.held`."""
        async with self._transact() as connection:
            row = await _queries.tenant_held(connection, tenant=tenant, claim=claim)
            if row is None:
                raise JobLost
            return job_from(row, await _source(connection, row))

    async def lost(self, tries: int, limit: int) -> list[Job]:
        """See `ports.JobQueue.lost`."""
        async with self._transact() as connection:
            rows = [row async for row in _queries.system_lost(connection, tries=tries, limit=limit)]
            return [job_from(row, await _source(connection, row)) for row in rows]

    async def heartbeat(self, job: Job, lease: float, progress: float) -> None:
        """See `ports.JobQueue.heartbeat`."""
        values = {"lease": lease, "progress": progress, "intent_life": INTENT_LIFE}
        async with self._lend() as connection:
            if await _queries.heartbeat(connection, **holding_of(job), **values) is None:
                raise JobLost

    async def intend(self, job: Job, key: ObjectKey) -> None:
        """See `ports.JobQueue.intend`."""
        async with self._lend() as connection:
            found = await _queries.intend(connection, **holding_of(job), object_key=key, epoch=job.source.epoch)
        if found is None:
            raise JobLost

    async def stage(self, job: Job, staged: Staged) -> None:
        """See `ports.JobQueue.stage`."""
        async with self._transact() as connection:
            row = await _queries.get_staged(connection, **holding_of(job))
            if row is None:
                raise JobLost
            column = staged_with(staged_from(row["staged"]), staged)
            await _queries.stage(connection, **holding_of(job), staged=column)

    async def finish(self, job: Job, facts: Mapping[str, Json]) -> Upload:
        """See `ports.JobQueue.finish`."""
        async with self._transact() as connection:
            await _locked(connection, job)
            row = await _queries.get_staged(connection, **holding_of(job))
            if row is None:
                raise JobLost
            staged = staged_from(row["staged"])
            await self._settle(connection, job, JobState.DONE, facts=json.dumps(facts))
            await self._adopt(connection, job, staged)
            file = await self._outcome(connection, job)
        self._outbox.written()
        return file

    async def revive(self, file: Upload, processor: str | None = None) -> Upload:
        """See `ports.JobQueue.revive`."""
        async with self._transact() as connection:
            row = await _queries.lock_file(connection, **identity_of(file))
            if row is None:
                raise JobLost
            current = upload_from(row)
            if not [name async for name in _queries.revive(connection, **identity_of(file), processor=processor)]:
                return current
            revived = await self._noted(connection, current)
            await self._tell(connection, EventType.PROCESSING, file.scope, [file.id])
        self._outbox.written()
        return revived

    async def find(self, search: JobSearch, limit: int, after: Job | None = None) -> list[Job]:
        """See `ports.JobQueue.find`."""
        async with self._transact() as connection:
            rows = [row async for row in _queries.system_find(connection, **job_search_of(search, after), limit=limit)]
            ids = [row["upload_id"] for row in rows]
            return jobs_from(rows, [row async for row in _queries.system_get_uploads(connection, ids=ids)])

    async def drop(self, job: Job) -> Upload:
        """See `ports.JobQueue.drop`."""
        async with self._transact() as connection:
            before = await _locked(connection, job)
            if await _queries.drop(connection, **identity_of(job.source), processor=job.processor) is None:
                raise JobLost
            file = await self._outcome(connection, job, before.processing)
        self._outbox.written()
        return file

    async def overdue(self, patience: float) -> list[Overdue]:
        """See `ports.JobQueue.overdue`."""
        async with self._lend() as connection:
            return [overdue_from(row) async for row in _queries.system_overdue(connection, patience=patience)]

    async def backlog(self) -> list[ProcessorBacklog]:
        """See `ports.JobQueue.backlog`."""
        async with self._lend() as connection:
            return [processor_backlog_from(row) async for row in _queries.system_backlog(connection)]

    async def count_dead(self) -> dict[str, int]:
        """See `ports.JobQueue.count_dead`."""
        async with self._lend() as connection:
            return dead_from([row async for row in _queries.system_count_dead(connection)])

    async def of(self, files: Sequence[Upload]) -> dict[UploadId, list[Job]]:
        """See `ports.JobQueue.of`."""
        if not files:
            return {}
        async with self._lend() as connection:
            found = _queries.list_jobs(connection, **identity_of(files[0]) | {"ids": [file.id for file in files]})
            return jobs_by_file([row async for row in found], files)

    async def derived(self, files: Sequence[Upload]) -> dict[UploadId, list[Upload]]:
        """See `ports.JobQueue.derived`."""
        if not files:
            return {}
        async with self._lend() as connection:
            found = _queries.list_derived(connection, **identity_of(files[0]) | {"ids": [file.id for file in files]})
            return uploads_by_source([upload_from(row) async for row in found])

    async def _end_job(self, job: Job, state: JobState, **values: Any) -> Upload:
        async with self._transact() as connection:
            await _locked(connection, job)
            await self._settle(connection, job, state, **values)
            file = await self._outcome(connection, job)
        self._outbox.written()
        return file

    async def _settle(self, connection: Connection, job: Job, state: JobState, **values: Any) -> None:
        if await _queries.settle(connection, **holding_of(job), **settlement_of(state, **values)) is None:
            raise JobLost

    async def _adopt(self, connection: Connection, job: Job, staged: Sequence[Staged]) -> None:
        """Make files of what is staged."""
        if not staged:
            return
        keys = [each.key for each in staged]
        taken = _queries.take_over(connection, **identity_of(job.source), keys=keys, intent_life=INTENT_LIFE)
        check_kept(staged, [row async for row in taken])
        for each in staged:
            made = upload_from(await _queries.insert_derived(connection, **derived_of(job, each)))
            for event_type in (EventType.CREATED, EventType.COMPLETED):
                await self._tell(connection, event_type, made.scope, [made.id])

    async def _outcome(self, connection: Connection, job: Job, before: Processed | None = None) -> Upload:
        """Note what has become of the file, and tell it when that is the end of its jobs, and was not so `before`."""
        file = await self._noted(connection, job.source)
        if file.processing not in {None, Processed.PROCESSING, before}:
            await self._tell(connection, OUTCOME_EVENTS[file.processing], file.scope, [file.id])
        return file

    async def _noted(self, connection: Connection, file: Upload) -> Upload:
        rows = [row async for row in _queries.list_states(connection, **identity_of(file))]
        row = await _queries.note_outcome(connection, **identity_of(file), **outcome_of(rows))
        return upload_from(row)


async def _source(connection: Connection, row: Any) -> Upload:
    return upload_from(await _queries.system_get_upload(connection, upload_id=row["upload_id"]))


async def _locked(connection: Connection, job: Job) -> Upload:
    """Lock the file, as whoever ends it does before its jobs, and return it. Raises JobLost."""
    row = await _queries.lock_file(connection, **identity_of(job.source))
    if row is None:
        raise JobLost
    return upload_from(row)


if TYPE_CHECKING:
    _: type[JobQueue] = PostgresJobs
