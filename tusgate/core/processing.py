"""What happens to finished files: which processors each gets, and what becomes of their jobs.

Rule 1: processing never touches what a client of an upload sees: the row stays `complete`, and so do its bytes. What
        becomes of the file stands beside that (`Upload.processing`), derived from the states of its jobs.
Rule 2: a job belongs to whoever holds its claim, a random name that each claim has of its own. Whoever has lost it
        changes nothing any more; so a job has one outcome, however often it was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

from tusgate.core.content import is_listed, media_type
from tusgate.core.events import RetryPlan
from tusgate.core.model import Role

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.model import ObjectKey, Upload, UploadId

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
ClaimId = NewType("ClaimId", str)
"""Names one claim of one job: 128 random bits at least. Whoever knows it may end the job."""

MOST_TRIES: Final = 3
RETRIES: Final = RetryPlan(retries=MOST_TRIES - 1, first=10.0)
LEASE: Final = 60.0
"""Seconds after which another worker may take a job of which nobody has heard."""
HEARTBEAT_EVERY: Final = 15.0
INTENT_LIFE: Final = 1500.0
"""Seconds for which what a job has put into the store is its own without a heartbeat; less than the grace of the
collector, so that nothing is recorded that the collector is about to remove."""
LONGEST_ERROR: Final = 1000
MOST_DERIVED: Final = 16
"""Files that one job may make of a file."""


class JobState(StrEnum):
    """What has become of one processor's work on one file.

    WAITING: for a worker, maybe again. RUNNING: somebody holds its claim. DONE: it has found nothing wrong.
    REFUSED: the processor says that nobody should have this file. DEAD: given up; the file and its data stay.
    """

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    DEAD = "dead"


UNSETTLED: Final = frozenset({JobState.WAITING, JobState.RUNNING})


class Processed(StrEnum):
    """What has become of a file that has jobs."""

    PROCESSING = "processing"
    READY = "ready"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Declared:
    """A processor as whoever gives it work has to know it.

    Attributes:
        types: media types of the files that it gets, or patterns such as `image/*`.
    """

    name: str
    version: int
    types: tuple[str, ...]

    def takes(self, content_type: str | None) -> bool:
        """Return whether files of this type are for it; what takes everything takes files of no declared type, too."""
        name = media_type(content_type)
        return is_listed(name or "application/octet-stream", self.types)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be, of a file that is about to be complete.

    Attributes:
        is_gate: nobody reads the file before this one is done.
    """

    processor: str
    version: int
    is_gate: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which processors the files of somebody get, by name; and which of them have to be done before anybody reads."""

    processors: tuple[str, ...] = ()
    gates: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Processing:
    """Which jobs a file gets.

    Attributes:
        declared: all processors there are.
        usual: for tenants that have no choice of their own.
        tenants: those that have.
    """

    declared: tuple[Declared, ...] = ()
    usual: Chosen = Chosen()
    tenants: Mapping[str, Chosen] = field(default_factory=dict)

    def has_gates(self, tenant: str) -> bool:
        """Return whether somebody has to look at files of `tenant` before they are read, of some types at least."""
        return bool(self.tenants.get(tenant, self.usual).gates)

    def jobs_of(self, upload: Upload) -> tuple[NewJob, ...]:
        """Return the jobs of `upload`, which becomes complete now. What files are made of gets none."""
        if upload.role in {Role.PARTIAL, Role.GROUP}:
            return ()
        chosen = self.tenants.get(upload.scope.tenant, self.usual)
        return tuple(
            NewJob(each.name, each.version, each.name in chosen.gates)
            for each in self.declared
            if each.name in chosen.processors and each.takes(upload.content_type)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work of one processor on one file.

    Attributes:
        source: the file as it was when the job was read.
        tries: begun so far.
        progress: from 0 to 1, of the current try.
        claim: of whoever holds it; None while nobody does.
        error: of the last try that failed, or why the file was refused.
        facts: what the processor has found.
        due_at: when it is tried next, or its lease ends.
    """

    source: Upload
    processor: str
    version: int
    is_gate: bool
    state: JobState
    tries: int
    progress: float
    claim: ClaimId | None
    error: str | None
    facts: Mapping[str, Json]
    due_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSearch:
    """Which jobs an operator means; None does not restrict.

    Attributes:
        since, until: of files that became complete from then on, and before then.
    """

    upload_id: UploadId | None = None
    tenant: str | None = None
    processor: str | None = None
    state: JobState | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Overdue:
    """Jobs of one processor that nobody takes.

    Attributes:
        jobs: how many.
        seconds: since the first of them has been due.
    """

    processor: str
    jobs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ProcessorBacklog:
    """Jobs of one processor that are not settled.

    Attributes:
        waiting: for a worker, or for their next try.
        running: that somebody has taken, and has maybe abandoned.
        seconds: since the first of them that nobody has taken has been due; 0 when none is.
    """

    processor: str
    waiting: int
    running: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A derived file that is in the store and becomes a file when its job is done.

    Attributes:
        id: of the file to be.
        name: what it is to its source, such as `thumbnail`; unique among those of a job.
        crc64: -1 when the store does not say.
        grid: of the file, as its row has it.
    """

    id: UploadId
    name: str
    key: ObjectKey
    content_type: str
    filename: str
    size: int
    etag: str
    crc64: int
    grid: str


def processed(states: Sequence[JobState]) -> Processed:
    """Return what has become of a file with jobs in these states. A refusal outweighs a failure."""
    if UNSETTLED & set(states):
        return Processed.PROCESSING
    if JobState.REFUSED in states:
        return Processed.REFUSED
    return Processed.FAILED if JobState.DEAD in states else Processed.READY


def is_withheld(gates: Sequence[JobState]) -> bool:
    """Return whether a file whose gates are in these states is kept from readers. So it is when one was given up."""
    return any(state is not JobState.DONE for state in gates)


def derivation_of(job: Job, name: str) -> str:
    """Return what a derived file is to its source, among all derived files of it."""
    return f"{job.processor}/{name}"
