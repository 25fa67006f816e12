"""Jobs of finished files: rows, values and how a try ends, the same for both databases. See `rows` for its rules."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from tusgate.core.errors import InvalidRequest, JobLost
from tusgate.core.events import EventType
from tusgate.core.model import CreatedVia
from tusgate.core.processing import (
    LONGEST_ERROR,
    MOST_DERIVED,
    Job,
    JobState,
    Overdue,
    Processed,
    ProcessorBacklog,
    Staged,
    derivation_of,
    is_withheld,
    processed,
)
from tusgate.database.rows import crc_to, folded_name, identity_of, moment_from, optional_moment, upload_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tusgate.core.model import Upload, UploadId
    from tusgate.core.processing import JobSearch, Json
    from tusgate.database.rows import Row

OUTCOME_EVENTS: Final = {
    Processed.READY: EventType.READY,
    Processed.REFUSED: EventType.PROCESSING_FAILED,
    Processed.FAILED: EventType.PROCESSING_FAILED,
}
"""What is told when all jobs of a file have ended."""


class JobEndings(ABC):
    """The ways in which a try of a job ends without a result; how that is written is each dialect's own."""

    @abstractmethod
    async def _end_job(self, job: Job, state: JobState, **values: Any) -> Upload:
        """Settle the job as `settlement_of(state, **values)` says, and return its file. Raises JobLost."""

    async def refuse(self, job: Job, reason: str, facts: Mapping[str, Json]) -> Upload:
        """See `ports.JobQueue.refuse`."""
        return await self._end_job(job, JobState.REFUSED, error=reason, facts=json.dumps(facts))

    async def fail(self, job: Job, error: str, retry_in: float | None) -> Upload:
        """See `ports.JobQueue.fail`."""
        state = JobState.DEAD if retry_in is None else JobState.WAITING
        return await self._end_job(job, state, error=error, delay=retry_in or 0.0)

    async def release(self, job: Job, retry_in: float = 0.0) -> None:
        """See `ports.JobQueue.release`."""
        await self._end_job(job, JobState.WAITING, not_counted=1, delay=retry_in)


def job_from(row: Row, source: Upload) -> Job:
    """Return the job that `row` of the table jobs holds, on the file `source`."""
    return Job(
        source=source,
        processor=row["processor"],
        version=row["version"],
        is_gate=bool(row["is_gate"]),
        state=JobState(row["state"]),
        tries=row["tries"],
        progress=row["progress"],
        claim=row["claim"],
        error=row["error"],
        facts=json.loads(row["facts"]),
        due_at=moment_from(row["due_at"]),
        settled_at=optional_moment(row["settled_at"]),
    )


def job_search_of(search: JobSearch, after: Job | None) -> dict[str, Any]:
    """Return the parameters of a search that goes on after `after`."""
    return {
        "upload_id": search.upload_id,
        "of_tenant": search.tenant,
        "processor": search.processor,
        "state": search.state,
        "since": search.since,
        "until": search.until,
        "after_upload": after and after.source.id,
        "after_processor": after and after.processor,
    }


def jobs_from(rows: Sequence[Row], sources: Sequence[Row]) -> list[Job]:
    """Return the jobs in `rows`, whose files are in `sources`."""
    files = {row["id"]: row for row in sources}
    return [job_from(row, upload_from(files[row["upload_id"]])) for row in rows]


def overdue_from(row: Row) -> Overdue:
    """Return what a row of `system_overdue` says."""
    return Overdue(row["processor"], row["jobs"], row["seconds"])


def processor_backlog_from(row: Row) -> ProcessorBacklog:
    """Return what a row of `system_backlog` says."""
    return ProcessorBacklog(row["processor"], row["waiting"], row["running"], row["seconds"])


def dead_from(rows: Iterable[Row]) -> dict[str, int]:
    """Return what the rows of `system_count_dead` say."""
    return {row["processor"]: row["jobs"] for row in rows}


def holding_of(job: Job) -> dict[str, object]:
    """Return what every statement of whoever holds a job has in its WHERE."""
    return {**identity_of(job.source), "processor": job.processor, "claim": job.claim}


def staged_to(staged: Sequence[Staged]) -> str:
    """Return the column of files that wait for the end of their job."""
    return json.dumps([asdict(each) for each in staged])


def staged_with(staged: Sequence[Staged], new: Staged) -> str:
    """Return the column once `new` has taken the place of what had its name. Raises InvalidRequest: too many."""
    others = [each for each in staged if each.name != new.name]
    if len(others) >= MOST_DERIVED:
        raise InvalidRequest("name", f"at most {MOST_DERIVED} files of one job")
    return staged_to([*others, new])


def staged_from(text: str) -> list[Staged]:
    """Return the files that `staged_to` wrote."""
    return [Staged(**each) for each in json.loads(text)]


def derived_of(job: Job, staged: Staged) -> dict[str, object]:
    """Return the columns of a derived file, which is complete from the start. It came in one piece, as by a PUT."""
    return {
        "id": staged.id,
        "tenant": job.source.scope.tenant,
        "owner": job.source.scope.owner,
        "created_via": CreatedVia.PLAIN,
        "length": staged.size,
        "grid": staged.grid,
        "filename": staged.filename,
        "filename_folded": folded_name(staged.filename),
        "content_type": staged.content_type,
        "object_key": staged.key,
        "etag": staged.etag,
        "crc64": crc_to(staged.crc64),
        "route": job.source.route,
        "derived_from": job.source.id,
        "derivation": derivation_of(job, staged.name),
    }


def settlement_of(
    state: JobState, *, error: str | None = None, facts: str | None = None, delay: float = 0.0, not_counted: int = 0
) -> dict[str, object]:
    """Return the columns of a job that is taken from its holder.

    Args:
        state: from now on.
        error: why.
        facts: as JSON; None: as they are.
        delay: seconds until it may be claimed again.
        not_counted: tries that do not count.
    """
    told = None if error is None else _storable(error[:LONGEST_ERROR])
    return {"state": state, "error": told, "facts": facts, "delay": delay, "not_counted": not_counted}


def _storable(text: str) -> str:
    """Return `text` without what no database takes: NUL, and halves of characters."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def check_kept(staged: Sequence[Staged], taken: Sequence[Row]) -> None:
    """Raise JobLost unless all of `staged` was still its job's own: the intents that were taken over say so."""
    if {each.key for each in staged} - {row["object_key"] for row in taken if not row["multipart"]}:
        raise JobLost


def jobs_by_file(rows: Sequence[Row], files: Sequence[Upload]) -> dict[UploadId, list[Job]]:
    """Return the jobs of `files` by the id of the file."""
    found: dict[UploadId, list[Job]] = {file.id: [] for file in files}
    sources = {file.id: file for file in files}
    for row in rows:
        found[row["upload_id"]].append(job_from(row, sources[row["upload_id"]]))
    return found


def uploads_by_source(derived: Sequence[Upload]) -> dict[UploadId, list[Upload]]:
    """Return derived files by the id of the file that they were made of."""
    found: dict[UploadId, list[Upload]] = {}
    for each in derived:
        if each.derived_from is not None:
            found.setdefault(each.derived_from, []).append(each)
    return found


def outcome_of(rows: Sequence[Row]) -> dict[str, object]:
    """Return the columns of a file whose jobs are `rows`."""
    states = [JobState(row["state"]) for row in rows]
    gates = [state for state, row in zip(states, rows, strict=True) if row["is_gate"]]
    return {"processing": processed(states), "withheld": is_withheld(gates)}
