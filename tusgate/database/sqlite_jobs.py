"""Jobs of finished files, in SQLite. A step is a function that runs in the writing thread; see `sqlite`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tusgate.database.rows import identity_of, milliseconds_of, upload_from

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from tusgate.core.events import Outbox
    from tusgate.core.model import ObjectKey, Upload, UploadId
    from tusgate.core.processing import ClaimId, Job, JobSearch, Json, Overdue, ProcessorBacklog, Staged
    from tusgate.database.sqlite_threads import ReadingThread, WritingThread
    from tusgate.ports import JobQueue

    Tell = Callable[[sqlite3.Connection, EventType, Upload], None]

_queries: Any = aiosql.from_path(Path(__file__).with_name("sqlite_jobs.sql"), "sqlite3", mandatory_parameters=False)


class SqliteJobs(JobEndings):
    """The port `JobQueue`.

    Args:
        reader, writer: threads of the database.
        outbox: who is told.
        tell: writes an event within a step.
    """

    def __init__(self, reader: ReadingThread, writer: WritingThread, outbox: Outbox, tell: Tell) -> None:
        self._reader = reader
        self._writer = writer
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
        wanted = {"processors": json.dumps(list(processors)), "tries": tries, "of_tenant": tenant}

        def step(connection: sqlite3.Connection) -> Job | None:
            row = _queries.system_claim(connection, **wanted, claim=claim, holder=holder, lease=lease)
            return None if row is None else job_from(row, _source(connection, row))

        return await self._writer.run(step)

    async def held(self, tenant: str, claim: ClaimId) -> Job:
        """See `ports.JobQueue.held`."""

        def step(connection: sqlite3.Connection) -> Job:
            row = _queries.tenant_held(connection, tenant=tenant, claim=claim)
            if row is None:
                raise JobLost
            return job_from(row, _source(connection, row))

        return await self._reader.run(step)

    async def lost(self, tries: int, limit: int) -> list[Job]:
        """See `ports.JobQueue.lost`."""

        def step(connection: sqlite3.Connection) -> list[Job]:
            rows = list(_queries.system_lost(connection, tries=tries, limit=limit))
            return [job_from(row, _source(connection, row)) for row in rows]

        return await self._reader.run(step)

    async def heartbeat(self, job: Job, lease: float, progress: float) -> None:
        """See `ports.JobQueue.heartbeat`."""

        def step(connection: sqlite3.Connection) -> None:
            if _queries.heartbeat(connection, **holding_of(job), lease=lease, progress=progress) is None:
                raise JobLost
            _queries.keep_intents(connection, **identity_of(job.source), intent_life=INTENT_LIFE)

        await self._writer.run(step)

    async def intend(self, job: Job, key: ObjectKey) -> None:
        """See `ports.JobQueue.intend`."""
        intent = {**identity_of(job.source), "object_key": key, "epoch": job.source.epoch}

        def step(connection: sqlite3.Connection) -> None:
            _staged(connection, job)
            _queries.intend(connection, [intent | {"multipart": False}, intent | {"multipart": True}])

        await self._writer.run(step)

    async def stage(self, job: Job, staged: Staged) -> None:
        """See `ports.JobQueue.stage`."""

        def step(connection: sqlite3.Connection) -> None:
            column = staged_with(_staged(connection, job), staged)
            _queries.stage(connection, **holding_of(job), staged=column)

        await self._writer.run(step)

    async def finish(self, job: Job, facts: Mapping[str, Json]) -> Upload:
        """See `ports.JobQueue.finish`."""

        def step(connection: sqlite3.Connection) -> Upload:
            _file(connection, job)
            staged = _staged(connection, job)
            _settle(connection, job, JobState.DONE, facts=json.dumps(facts))
            self._adopt(connection, job, staged)
            return self._outcome(connection, job)

        return await self._telling(step)

    async def revive(self, file: Upload, processor: str | None = None) -> Upload:
        """See `ports.JobQueue.revive`."""

        def step(connection: sqlite3.Connection) -> Upload:
            row = _queries.get_file(connection, **identity_of(file))
            if row is None:
                raise JobLost
            if not list(_queries.revive(connection, **identity_of(file), processor=processor)):
                return upload_from(row)
            revived = _noted(connection, file)
            self._tell(connection, EventType.PROCESSING, revived)
            return revived

        return await self._telling(step)

    async def find(self, search: JobSearch, limit: int, after: Job | None = None) -> list[Job]:
        """See `ports.JobQueue.find`."""
        wanted = job_search_of(search, after)
        wanted |= {name: milliseconds_of(wanted[name]) for name in ("since", "until")}

        def step(connection: sqlite3.Connection) -> list[Job]:
            rows = list(_queries.system_find(connection, **wanted, limit=limit))
            ids = json.dumps([row["upload_id"] for row in rows])
            return jobs_from(rows, list(_queries.system_get_uploads(connection, ids=ids)))

        return await self._reader.run(step)

    async def drop(self, job: Job) -> Upload:
        """See `ports.JobQueue.drop`."""

        def step(connection: sqlite3.Connection) -> Upload:
            before = _file(connection, job)
            if _queries.drop(connection, **identity_of(job.source), processor=job.processor) is None:
                raise JobLost
            return self._outcome(connection, job, before.processing)

        return await self._telling(step)

    async def overdue(self, patience: float) -> list[Overdue]:
        """See `ports.JobQueue.overdue`."""
        return await self._reader.run(
            lambda connection: [overdue_from(row) for row in _queries.system_overdue(connection, patience=patience)]
        )

    async def backlog(self) -> list[ProcessorBacklog]:
        """See `ports.JobQueue.backlog`."""
        return await self._reader.run(
            lambda connection: [processor_backlog_from(row) for row in _queries.system_backlog(connection)]
        )

    async def count_dead(self) -> dict[str, int]:
        """See `ports.JobQueue.count_dead`."""
        return await self._reader.run(lambda connection: dead_from(_queries.system_count_dead(connection)))

    async def of(self, files: Sequence[Upload]) -> dict[UploadId, list[Job]]:
        """See `ports.JobQueue.of`."""
        if not files:
            return {}
        wanted = identity_of(files[0]) | {"ids": json.dumps([file.id for file in files])}
        return await self._reader.run(
            lambda connection: jobs_by_file(list(_queries.list_jobs(connection, **wanted)), files)
        )

    async def derived(self, files: Sequence[Upload]) -> dict[UploadId, list[Upload]]:
        """See `ports.JobQueue.derived`."""
        if not files:
            return {}
        wanted = identity_of(files[0]) | {"ids": json.dumps([file.id for file in files])}
        return await self._reader.run(
            lambda connection: uploads_by_source(
                [upload_from(row) for row in _queries.list_derived(connection, **wanted)]
            )
        )

    async def _telling(self, step: Callable[[sqlite3.Connection], Upload]) -> Upload:
        file = await self._writer.run(step)
        self._outbox.written()
        return file

    async def _end_job(self, job: Job, state: JobState, **values: Any) -> Upload:
        return await self._telling(partial(self._end_step, job=job, state=state, values=values))

    def _end_step(self, connection: sqlite3.Connection, job: Job, state: JobState, values: dict[str, Any]) -> Upload:
        _file(connection, job)
        _settle(connection, job, state, **values)
        return self._outcome(connection, job)

    def _adopt(self, connection: sqlite3.Connection, job: Job, staged: Sequence[Staged]) -> None:
        """Make files of what is staged."""
        keys = json.dumps([each.key for each in staged])
        taken = _queries.take_over(connection, **identity_of(job.source), keys=keys, intent_life=INTENT_LIFE)
        check_kept(staged, list(taken))
        for each in staged:
            made = upload_from(_queries.insert_derived(connection, **derived_of(job, each)))
            for event_type in (EventType.CREATED, EventType.COMPLETED):
                self._tell(connection, event_type, made)

    def _outcome(self, connection: sqlite3.Connection, job: Job, before: Processed | None = None) -> Upload:
        """Note what has become of the file, and tell it when that is the end of its jobs, and was not so `before`."""
        file = _noted(connection, job.source)
        if file.processing not in {None, Processed.PROCESSING, before}:
            self._tell(connection, OUTCOME_EVENTS[file.processing], file)
        return file


def _source(connection: sqlite3.Connection, row: Any) -> Upload:
    return upload_from(_queries.system_get_upload(connection, upload_id=row["upload_id"]))


def _file(connection: sqlite3.Connection, job: Job) -> Upload:
    row = _queries.get_file(connection, **identity_of(job.source))
    if row is None:
        raise JobLost
    return upload_from(row)


def _staged(connection: sqlite3.Connection, job: Job) -> list[Staged]:
    row = _queries.get_staged(connection, **holding_of(job))
    if row is None:
        raise JobLost
    return staged_from(row["staged"])


def _settle(connection: sqlite3.Connection, job: Job, state: JobState, **values: Any) -> None:
    if _queries.settle(connection, **holding_of(job), **settlement_of(state, **values)) is None:
        raise JobLost


def _noted(connection: sqlite3.Connection, file: Upload) -> Upload:
    rows = list(_queries.list_states(connection, **identity_of(file)))
    return upload_from(_queries.note_outcome(connection, **identity_of(file), **outcome_of(rows)))


if TYPE_CHECKING:
    _: type[JobQueue] = SqliteJobs
