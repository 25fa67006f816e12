"""The jobs of a `MemoryDatabase`: the port `JobQueue`, held to the same contract as the real ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tusgate.core.errors import InvalidRequest, JobLost
from tusgate.core.events import EventType
from tusgate.core.grid import Grid
from tusgate.core.model import CreatedVia, Intent, State, Upload
from tusgate.core.processing import (
    INTENT_LIFE,
    MOST_DERIVED,
    UNSETTLED,
    Job,
    JobState,
    Overdue,
    Processed,
    ProcessorBacklog,
    derivation_of,
    is_withheld,
    processed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.doubles.database import MemoryDatabase, _Row
    from tusgate.core.model import ObjectKey, UploadId
    from tusgate.core.processing import ClaimId, JobSearch, Json, NewJob, Staged
    from tusgate.ports import JobQueue

ENDINGS = {
    Processed.READY: EventType.READY,
    Processed.REFUSED: EventType.PROCESSING_FAILED,
    Processed.FAILED: EventType.PROCESSING_FAILED,
}


@dataclass
class Work:
    """A row; `due` is a time by the clock."""

    job: Job
    due: float
    staged: list[Staged] = field(default_factory=list)


class MemoryJobs:
    """Jobs in the dictionary of the database's tables."""

    def __init__(self, database: MemoryDatabase, table: dict[tuple[UploadId, str], Work]) -> None:
        self._database = database
        self._table = table

    def insert(self, source: Upload, new: Sequence[NewJob]) -> None:
        """Write the jobs of a file that has just become complete."""
        for each in new:
            job = Job(
                source=source,
                processor=each.processor,
                version=each.version,
                is_gate=each.is_gate,
                state=JobState.WAITING,
                tries=0,
                progress=0.0,
                claim=None,
                error=None,
                facts={},
                due_at=datetime.fromtimestamp(self._now, UTC),
                settled_at=None,
            )
            self._table[source.id, each.processor] = Work(job, self._now)

    def end(self, source: UploadId) -> None:
        """Forget the jobs of a file that ends."""
        for key in [key for key in self._table if key[0] == source]:
            del self._table[key]

    async def claim(
        self,
        processors: Sequence[str],
        claim: ClaimId,
        holder: str,
        lease: float,
        tries: int,
        tenant: str | None = None,
    ) -> Job | None:
        due = [
            work
            for work in self._table.values()
            if work.job.processor in processors
            and work.job.state in {JobState.WAITING, JobState.RUNNING}
            and work.due <= self._now
            and work.job.tries < tries
            and tenant in {None, work.job.source.scope.tenant}
        ]
        if not due:
            return None
        work = min(due, key=lambda each: each.due)
        work.staged = []
        self._change(work, lease, state=JobState.RUNNING, claim=claim, tries=work.job.tries + 1, progress=0.0)
        return self._shown(work)

    async def held(self, tenant: str, claim: ClaimId) -> Job:
        for work in self._table.values():
            if work.job.claim == claim and work.job.source.scope.tenant == tenant:
                return self._shown(work)
        raise JobLost

    async def lost(self, tries: int, limit: int) -> list[Job]:
        works = [
            work
            for work in self._table.values()
            if work.job.state is JobState.RUNNING and work.due <= self._now and work.job.tries >= tries
        ]
        return [self._shown(work) for work in works[:limit]]

    async def heartbeat(self, job: Job, lease: float, progress: float) -> None:
        work = self._held(job)
        self._change(work, lease, progress=max(work.job.progress, progress))
        for waste in self._row(job).waste.values():
            is_young = waste.created > self._now - INTENT_LIFE
            if waste.intent_epoch is not None and waste.removed is None and is_young:
                waste.created = self._now

    async def intend(self, job: Job, key: ObjectKey) -> None:
        self._held(job)
        self._database._announce(self._row(job), [Intent(key), Intent(key, multipart=True)])

    async def stage(self, job: Job, staged: Staged) -> None:
        work = self._held(job)
        others = [each for each in work.staged if each.name != staged.name]
        if len(others) >= MOST_DERIVED:
            raise InvalidRequest("name", f"at most {MOST_DERIVED} files of one job")
        work.staged = [*others, staged]

    async def finish(self, job: Job, facts: Mapping[str, Json]) -> Upload:
        work = self._held(job)
        source, staged = self._row(job), list(work.staged)
        own = {
            waste.garbage.key: waste_id
            for waste_id, waste in source.waste.items()
            if waste.intent_epoch is not None
            and waste.removed is None
            and waste.created > self._now - INTENT_LIFE
            and not waste.garbage.multipart
        }
        if not {each.key for each in staged} <= set(own):
            raise JobLost
        made = [self._made(job, each) for each in staged]
        for upload in made:
            self._database._check_room(None, upload)
        keys = {each.key for each in staged}
        source.waste = {key: waste for key, waste in source.waste.items() if waste.garbage.key not in keys}
        for upload in made:
            row = self._database._insert(upload)
            self._database._tell(EventType.CREATED, row)
            self._database._tell(EventType.COMPLETED, row)
        return self._settle(work, JobState.DONE, facts=facts, error=None, progress=1.0)

    async def refuse(self, job: Job, reason: str, facts: Mapping[str, Json]) -> Upload:
        return self._settle(self._held(job), JobState.REFUSED, error=reason, facts=facts)

    async def fail(self, job: Job, error: str, retry_in: float | None) -> Upload:
        work = self._held(job)
        if retry_in is None:
            return self._settle(work, JobState.DEAD, error=error)
        return self._settle(work, JobState.WAITING, retry_in, error=error)

    async def release(self, job: Job, retry_in: float = 0.0) -> None:
        work = self._held(job)
        self._settle(work, JobState.WAITING, retry_in, tries=work.job.tries - 1, error=None)

    async def revive(self, file: Upload, processor: str | None = None) -> Upload:
        row = self._rows.get(file.id)
        if row is None or row.upload.scope != file.scope or row.upload.state is not State.COMPLETE:
            raise JobLost
        meant = [work for work in self._of(file.id) if processor in {None, work.job.processor}]
        dead = [work for work in meant if work.job.state is JobState.DEAD]
        for work in dead:
            self._change(work, 0.0, state=JobState.WAITING, tries=0, settled_at=None, progress=0.0)
        if dead:
            self._note(row)
            self._database._tell(EventType.PROCESSING, row)
        return row.upload

    async def find(self, search: JobSearch, limit: int, after: Job | None = None) -> list[Job]:
        last = None if after is None else (after.source.id, after.processor)
        found = [
            self._shown(work)
            for key, work in sorted(self._table.items(), key=lambda item: item[0])
            if last is None or key > last
        ]
        return [job for job in found if _is_meant(job, search)][:limit]

    async def drop(self, job: Job) -> Upload:
        work = self._table.get((job.source.id, job.processor))
        if work is None or work.job.source.scope != job.source.scope or not self._is_free(work):
            raise JobLost
        del self._table[job.source.id, job.processor]
        row = self._row(job)
        before = row.upload.processing
        self._note(row)
        if row.upload.processing in ENDINGS and row.upload.processing is not before:
            self._database._tell(ENDINGS[row.upload.processing], row)
        return row.upload

    def _is_free(self, work: Work) -> bool:
        is_left_alone = work.job.state is JobState.RUNNING and work.due <= self._now
        return is_left_alone or work.job.state in {JobState.WAITING, JobState.DEAD}

    async def overdue(self, patience: float) -> list[Overdue]:
        due: dict[str, list[float]] = {}
        for work in self._table.values():
            if work.job.state in UNSETTLED and work.due <= self._now - patience:
                due.setdefault(work.job.processor, []).append(self._now - work.due)
        return [Overdue(name, len(ages), max(ages)) for name, ages in sorted(due.items())]

    async def backlog(self) -> list[ProcessorBacklog]:
        found: dict[str, list[Work]] = {}
        for work in self._table.values():
            if work.job.state in UNSETTLED:
                found.setdefault(work.job.processor, []).append(work)
        return [
            ProcessorBacklog(
                name,
                sum(each.job.state is JobState.WAITING for each in works),
                sum(each.job.state is JobState.RUNNING for each in works),
                max(0.0, self._now - min(each.due for each in works)),
            )
            for name, works in sorted(found.items())
        ]

    async def count_dead(self) -> dict[str, int]:
        dead = [work.job.processor for work in self._table.values() if work.job.state is JobState.DEAD]
        return dict(sorted(Counter(dead).items()))

    async def of(self, files: Sequence[Upload]) -> dict[UploadId, list[Job]]:
        return {
            file.id: sorted(
                (replace(work.job, source=file) for work in self._of(file.id) if work.job.source.scope == file.scope),
                key=lambda job: job.processor,
            )
            for file in files
        }

    async def derived(self, files: Sequence[Upload]) -> dict[UploadId, list[Upload]]:
        found = {file.id: [each for each in self._derived_of(file.id) if each.scope == file.scope] for file in files}
        return {key: sorted(each, key=lambda upload: upload.derivation or "") for key, each in found.items() if each}

    @property
    def _now(self) -> float:
        return self._database._clock()

    @property
    def _rows(self) -> dict[UploadId, _Row]:
        return self._database._rows

    def _row(self, job: Job) -> _Row:
        return self._rows[job.source.id]

    def _of(self, source: UploadId) -> list[Work]:
        return [work for (upload_id, _), work in self._table.items() if upload_id == source]

    def _derived_of(self, source: UploadId) -> list[Upload]:
        uploads = [row.upload for row in self._rows.values()]
        return [each for each in uploads if each.derived_from == source and each.state is State.COMPLETE]

    def _held(self, job: Job) -> Work:
        work = self._table.get((job.source.id, job.processor))
        is_held = work is not None and work.job.state is JobState.RUNNING and work.job.claim == job.claim
        if work is None or not is_held or work.job.source.scope != job.source.scope:
            raise JobLost
        return work

    def _shown(self, work: Work) -> Job:
        return replace(work.job, source=self._row(work.job).upload)

    def _change(self, work: Work, due_in: float, **changes: object) -> None:
        work.due = self._now + due_in
        due_at = datetime.fromtimestamp(work.due, UTC)
        work.job = replace(work.job, due_at=due_at, **changes)  # type: ignore[arg-type]  # named by callers

    def _settle(self, work: Work, state: JobState, due_in: float = 0.0, **changes: object) -> Upload:
        settled = None if state is JobState.WAITING else datetime.fromtimestamp(self._now, UTC)
        work.staged = []
        self._change(work, due_in, state=state, claim=None, settled_at=settled, **changes)
        row = self._row(work.job)
        self._note(row)
        if row.upload.processing in ENDINGS:
            self._database._tell(ENDINGS[row.upload.processing], row)
        return row.upload

    def _note(self, row: _Row) -> None:
        jobs = [work.job for work in self._of(row.upload.id)]
        gates = [job.state for job in jobs if job.is_gate]
        self._database._change(row, processing=processed([job.state for job in jobs]), withheld=is_withheld(gates))

    def _made(self, job: Job, staged: Staged) -> Upload:
        now = datetime.fromtimestamp(self._now, UTC)
        return Upload(
            id=staged.id,
            scope=job.source.scope,
            created_via=CreatedVia.PLAIN,
            state=State.COMPLETE,
            length=staged.size,
            offset=staged.size,
            grid=Grid.decode(staged.grid),
            epoch=0,
            metadata=None,
            filename=staged.filename,
            content_type=staged.content_type,
            object_key=staged.key,
            put_attempts=0,
            multipart_id=None,
            etag=staged.etag,
            crc64=staged.crc64 if staged.crc64 >= 0 else None,
            reason=None,
            created_at=now,
            updated_at=now,
            completed_at=now,
            expires_at=None,
            route=job.source.route,
            derived_from=job.source.id,
            derivation=derivation_of(job, staged.name),
        )


def _is_meant(job: Job, search: JobSearch) -> bool:
    completed = job.source.completed_at
    assert completed is not None
    return (
        search.upload_id in {None, job.source.id}
        and search.tenant in {None, job.source.scope.tenant}
        and search.processor in {None, job.processor}
        and search.state in {None, job.state}
        and (search.since is None or completed >= search.since)
        and (search.until is None or completed < search.until)
    )


if TYPE_CHECKING:
    _: type[JobQueue] = MemoryJobs
