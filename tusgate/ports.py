"""What the service needs from the outside, as Protocols. The docstrings are the contract; `tests/contract` holds it.

Every method is one atomic step: it happens whole or not at all, also when the process dies in the middle or the
call is cancelled (then the outcome is unknown to the caller, who must look again). All methods may be called
concurrently. Technology errors never pass a port: they arrive as `core.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from tusgate.core.clockwatch import go_on
from tusgate.core.model import FOREVER, Role

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from tusgate.core.access import ApiToken, NewApiToken, Presented, Principal
    from tusgate.core.audit import Access, AccessFilter, EndedAccess, NewAccess
    from tusgate.core.checkup import Seen
    from tusgate.core.clockwatch import Judge
    from tusgate.core.direct import KnownPart, ListedPart, Plan, Slot
    from tusgate.core.events import Delivery, Event, EventId, EventPlace, Outcome, Search, SinkBacklog
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.grid import Grid, PartLimits
    from tusgate.core.hooks import Answer, Question
    from tusgate.core.listing import Changes, FileFilter, Position
    from tusgate.core.model import (
        Garbage,
        Intent,
        Keeping,
        ListedObject,
        Misplaced,
        MultipartId,
        NewUpload,
        ObjectKey,
        Part,
        Piece,
        Scope,
        State,
        Step,
        StoredObject,
        StoreName,
        Upload,
        UploadId,
    )
    from tusgate.core.processing import ClaimId, Job, JobSearch, Json, Overdue, ProcessorBacklog, Staged
    from tusgate.core.quota import Quota, Usage
    from tusgate.core.sharing import NewShare, Share, ShareId

    Buffer = bytes | bytearray | memoryview


class Database(Protocol):
    """Offsets, metadata, parts and garbage. The only truth about what is committed.

    Time is the database's own clock. Every statement about an upload carries its tenant and owner in the WHERE;
    another owner's upload is UploadNotFound. A write by a stale epoch changes nothing and raises Fenced.

    Every method raises DatabaseUnavailable when the database cannot be used now (connection lost, read-only,
    disk full, time-out). The outcome of a write is then unknown: it may or may not have been committed.
    """

    async def migrate(self) -> list[str]:
        """Apply the migrations that are missing, under a lock; return their names. Safe to call from many processes."""

    async def check(self) -> None:
        """Raise SettingsError when the database would lose commits (fsync off) or is not migrated."""

    async def close(self) -> None:
        """Release all connections. Idempotent."""

    async def create(self, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        """Insert an upload at offset 0 in state UPLOADING, and write `intents`, in one commit.

        Raises:
            TokenSpent: an upload of this scope, in any state, has the same `token_id`; the error carries it.
        """

    async def create_partial(
        self, new: NewUpload, group: NewUpload, name: str, place: Callable[[Sequence[Grid]], Grid | None]
    ) -> Upload:
        """Insert a partial that wishes to lie in the multipart upload of the open group `name`, in one commit.

        Args:
            new: the partial, as it is inserted when there is no place for it.
            group: inserted when there is no open group of this name and owner that is at most
                `core.concat.JOINED_WITHIN` old.
            name: how the client calls the group.
            place: given the grids of all partials that the group ever had, returns that of the new one, or None. May
                be called in another thread. In place, a partial has this grid and the object key of the group.
        """

    async def concatenate(self, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part] = ()) -> Upload:
        """Insert a SEALED final of `sources`, in one commit. Compare-and-set on the state and offset of each.

        The sources live at least `final.lifetime` seconds from now on.

        Args:
            final: with `parts`, it takes over the row and the multipart upload of the open group with its id;
                partials of the group that are no sources end, for which they must not hold a byte.
            sources: in order, repeats allowed.
            parts: in the group's multipart upload, all that the final is made of.

        Raises:
            Fenced: a source has changed, the group is no longer open or has others that hold bytes: look again.
        """

    async def gather(self, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
        """Seal an open group, so that it becomes an object of `parts`; other partials than `members` end.

        Raises:
            Fenced: it is no longer open, one of `members` has changed, or others hold bytes.
        """

    async def sources(self, final: Upload) -> list[Upload]:
        """Return what `final` is made of, in order, as committed now."""

    async def members(self, group: Upload) -> list[Upload]:
        """Return the UPLOADING partials that lie in the multipart upload of `group`, oldest first."""

    async def find_final(self, final: NewUpload, first: UploadId) -> Upload | None:
        """Return a final with the Upload-Concat and metadata of `final`, whose first source is `first`, if any.

        SEALED or COMPLETE. That is how a client that has missed its answer gets it when it asks again.
        """

    async def get(self, scope: Scope, upload_id: UploadId, *, ahead: bool = False) -> Upload:
        """Return the committed upload: one SELECT, never waits for a writer. Raises UploadNotFound.

        With `ahead` it does not wait behind other requests for a connection either: for a client that asks where it is.
        """

    async def get_any(self, upload_id: UploadId) -> Upload | None:
        """Return the committed upload, whosever it is; None without one. For what the store says, never for clients."""

    async def list_files(self, scope: Scope, wanted: FileFilter, after: Position | None, limit: int) -> list[Upload]:
        """Return up to `limit` uploads of `scope` that `wanted` describes, the newest first, from the place `after` on.

        Going on after the last one of each page shows every upload once that is there all the time.
        """

    async def find_by_fingerprint(self, scope: Scope, wanted: Fingerprint, limit: int) -> list[Upload]:
        """Return up to `limit` live or complete uploads of `scope`, the newest first: no partials, nothing derived.

        Those that were created with this fingerprint; and complete ones of this CRC64NVME, or with this computed
        SHA-256, if it is one.
        """

    async def find_known_parts(self, scope: Scope, route: str | None, digests: Sequence[bytes]) -> list[KnownPart]:
        """Return for each of these SHA-256 a part of a finished file of `scope` on `route`, where there is one.

        Only parts whose digest was committed with them count, and no file that is kept from readers.
        """

    async def find_proved_etags(
        self, scope: Scope, route: str | None, pairs: Sequence[tuple[bytes, str]]
    ) -> set[tuple[bytes, str]]:
        """Return those of these pairs of SHA-256 and ETag that parts of uploads of `scope` on `route` have.

        Of uploads in any state: what the store has proved of bytes stays true when they are gone.
        """

    async def describe(
        self, scope: Scope, upload_id: UploadId, changes: Changes, *, may_shorten: bool = False
    ) -> Upload:
        """Set what `changes` names, all of it or nothing; neither the bytes nor `metadata` change.

        Args:
            scope: whose.
            upload_id: which.
            changes: new values; the times are of COMPLETE files only.
            may_shorten: a `retain_until` that is not over may become an earlier one, or none.

        Raises:
            UploadNotFound: unknown.
            UploadGone: it has failed, expired or been terminated.
            NotComplete: it has no times yet.
            InvalidRequest: a time is over.
            Retained: it must be kept for longer.
        """

    async def claim(self, upload: Upload, holder: str, intents: Sequence[Intent] = ()) -> tuple[Upload, list[Piece]]:
        """Become the writer of `upload`: raise its epoch by one, record `holder` and the time, write `intents`.

        Compare-and-set on the state UPLOADING, the epoch, the offset and the attempts that `upload` shows: with an
        attempt that it does not know of it would share a key. Returns the upload with the new epoch and the pieces (in
        order) that lie in the open cell; inline pieces carry their data.

        Raises:
            Fenced: the upload has moved on since `upload` was read: read it again.
        """

    async def intend(self, upload: Upload, intents: Sequence[Intent]) -> None:
        """Write `intents` for the writer, or finisher, with `upload.epoch`; UPLOADING or SEALED. Raises Fenced.

        A later commit that records the piece, the multipart upload or the object removes its intent; all others
        become garbage once a later epoch or the end of the upload makes them unreachable.
        """

    async def record_multipart(self, upload: Upload, multipart_id: MultipartId) -> Upload:
        """Store the id and key of a multipart upload, of `upload.object_key`, and drop its intent. Raises Fenced.

        Allowed in UPLOADING and SEALED (an upload may be sealed with pieces only), when none is recorded yet.
        """

    async def replan(self, upload: Upload, length: int, plan: Plan, fingerprint: str | None) -> Upload:
        """Let an unfinished upload be of another file, of `length` bytes; what was read of it before is fenced.

        Raises Fenced, also for one that is finished or has ended; QuotaExceeded: nothing has changed.
        """

    async def commit(self, upload: Upload, step: Step) -> Upload:
        """Apply `step`: compare-and-set on epoch, offset and state UPLOADING as `upload` shows them.

        In one transaction: offset, length, state, expiry, part rows, piece rows, absorbed piece rows deleted and
        their objects turned into garbage, intents of what is now recorded removed; for COMPLETE also the object.

        Raises:
            Fenced: another epoch, offset or state was found; nothing changed.
        """

    async def parts(self, upload: Upload) -> list[Part]:
        """Return all committed parts in order."""

    async def pieces(self, upload: Upload) -> list[Piece]:
        """Return all committed pieces in order, inline ones with their data."""

    async def absorb(self, upload: Upload, parts: Sequence[Part]) -> Upload:
        """For a SEALED upload: record `parts` and remove the pieces that lie in them; their objects become garbage.

        Raises:
            Fenced: the upload is no longer SEALED, or has one of these parts already.
        """

    async def complete(self, upload: Upload, stored: StoredObject, keeping: Keeping = FOREVER) -> Upload:
        """Move a SEALED upload to COMPLETE with its verified object; idempotent when it is COMPLETE already.

        The jobs that `keeping` gives it are written in the same commit.

        Raises:
            UploadGone: it was terminated or failed meanwhile.
        """

    async def fail(self, upload: Upload, reason: str) -> Upload:
        """Move an UPLOADING or SEALED upload to FAILED; pieces and the multipart upload become garbage.

        Partials that lie in its multipart upload fail with it.

        Raises Fenced when the upload is in another state, or has a later epoch: what a writer found wrong that was
        taken over is nothing to the one after it.
        """

    async def terminate(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> Upload:
        """Move any upload that is not terminated or expired to TERMINATED; everything it stored becomes garbage.

        Its jobs end with it, and so do the files that were made of it, unless they must be kept.
        The row stays, and has `by` in `ended_by`.

        A final in whose object partials lie becomes their group (again), and expires after the last of them.

        Raises:
            UploadNotFound: unknown.
            StillNeeded: an unfinished final is made of it.
            Retained: it must be kept.
            UploadGone: terminated or expired before.
        """

    async def claim_sealed(self, holder: str, lease: float, limit: int) -> list[Upload]:
        """Lease up to `limit` SEALED uploads of any tenant that nobody is finishing, for `lease` seconds.

        Skips rows that others hold (SKIP LOCKED); a lease that ran out may be taken again.
        """

    async def lease_sealed(self, upload: Upload, holder: str, lease: float) -> bool:
        """Take or renew the finishing lease of one SEALED upload; False when another holder has it."""

    async def release_sealed(self, upload: Upload, holder: str, retry_in: float) -> None:
        """Give the finishing lease back; others may take it after `retry_in` seconds."""

    async def expire(self, limit: int, judge: Judge = go_on) -> list[Upload]:
        """Move up to `limit` UPLOADING or COMPLETE uploads past their expiry to EXPIRED; what they stored is garbage.

        No partials that an unfinished final is made of; groups and finals only once all partials that lie in them have
        ended; no files that must be kept.

        First `judge` sees the clock, within the step: unless it says to go on, its verdict is kept for all processes
        and nothing is expired. The object at an upload's own key is not made garbage: unless an intent names it, no
        writer can have put it there, and then it is the work of a future that this database has forgotten (it was
        restored from a backup).
        """

    async def forget_ended(self, seconds: float, limit: int) -> int:
        """Delete the rows of up to `limit` uploads that ended `seconds` ago or earlier; return how many were found.

        From then on they are unknown instead of gone. Those that have garbage, or that others are made of, are left for
        later, those that note a spent upload token for ever. Parts go first, `PARTS_FORGOTTEN` for each upload and
        run at most: an upload with more of them takes several runs, and counts in each.
        """

    async def claim_undigested(self, lease: float, limit: int) -> list[Upload]:
        """Take up to `limit` COMPLETE files of any tenant whose SHA-256 is to be computed, for `lease` seconds."""

    async def postpone_digest(self, upload: Upload, seconds: float) -> None:
        """Let others take the file after `seconds`; nothing happens when it is digested, or gone."""

    async def record_digest(self, upload: Upload, sha256: bytes) -> Upload:
        """Record the SHA-256 of the object that `upload` shows; idempotent.

        Raises:
            Fenced: the file is no longer COMPLETE, or is another object.
        """

    async def find_twin(self, upload: Upload, sha256: bytes, lease: float) -> Upload | None:
        """Record the SHA-256 of `upload`, and return a file of the same bytes whose object it may share.

        That one is COMPLETE, of the same tenant (of any owner), route, length and content coding, and its own look is
        over. None: there is none, and the look of `upload` is over, too. Else it is due again after `lease` seconds,
        or over with `adopt` or `record_digest`. Looks for the same bytes come one after the other, so of any number
        of equal files that look at once exactly one finds none.

        Raises:
            Fenced: see `record_digest`.
        """

    async def adopt(self, upload: Upload, twin: Upload, kept_for: float) -> Upload:
        """Let `upload`, which has found `twin`, refer to the object of that from now on; return it.

        What it referred to becomes garbage that is due after `kept_for` seconds: it may be being read.

        Raises:
            Fenced: one of the two is no longer COMPLETE, or refers to another object than is shown here.
        """

    async def find_equal(self, new: NewUpload, sha256: bytes) -> Upload | None:
        """Return a file that `find_twin` would find for `new` if that had this digest; None: there is none.

        One SELECT, and nothing is recorded.
        """

    async def create_equal(self, new: NewUpload, twin: Upload, keeping: Keeping = FOREVER) -> Upload:
        """Insert an upload that is COMPLETE and refers to the object of `twin`, in one commit; return it.

        All else is as if its bytes had come: it counts as such, the events of its creation and completion are written,
        and so are the jobs that `keeping` gives it. Its digest is that of `twin`, and is not looked for again.

        Raises:
            TokenSpent: see `create`.
            Fenced: `twin` is no longer COMPLETE, or is another file than is shown here; or there is an upload with the
                id of `new` already. Nothing was made.
        """

    async def due_garbage(self, limit: int, grace: float) -> list[Garbage]:
        """Return up to `limit` garbage rows whose time has come, and postpone them by a minute.

        An intent is due `grace` seconds (the longest time that a request of a fenced writer may still be on its way)
        after its upload ended or got its latest epoch. What a live or complete upload refers to is never returned:
        those rows are dropped instead. What a live upload may still come to use (its own object key; multipart
        uploads of unknown id while it has none of its own to spare) waits. So does an object while a multipart upload
        that could still make it is not gone. An object that several files share is referred to until the last of
        them has ended; the row that each of them leaves when it ends is dropped, or returned, by what it is then.
        """

    async def drop_garbage(self, rows: Sequence[Garbage], grace: float) -> None:
        """Note that the store has confirmed these gone; forget those of which it did so `grace` seconds ago or earlier.

        The others are due once more after `grace` seconds: a request that was on its way when they were removed
        may have brought them back.
        """

    async def postpone_garbage(self, rows: Sequence[Garbage], seconds: float) -> None:
        """Try these again after `seconds`, counting the failed try."""

    async def limit_usage(self, tenant: str, quota: Quota | None) -> None:
        """Let no commit from now on add to what the tenant has once that is above `quota`; None lifts all limits.

        What an upload counts for says `core.quota.usage_of`. From then on any method of this port that would pass a
        limit changes nothing and raises QuotaExceeded or TooManyUploads; what takes away is never refused. Idempotent.
        """

    async def usage(self, tenant: str) -> Usage:
        """Return what the tenant has. One row where it has limits, else all its rows are counted."""

    async def listen(self, taken_over: Callable[[UploadId, int], None]) -> None:
        """Call `taken_over(upload_id, epoch)` soon after a writer has lost its upload. An accelerator.

        That is: another holder has claimed it with `epoch`, or it was terminated, expired or failed (`epoch` is one
        above its last). Returns at once; calls come until `close`.

        Calls may be missing or late; a database without notifications never calls.
        """


class Deliveries(Protocol):
    """Events that the steps of a database have written, on their way to sinks. Of all tenants.

    Every method raises DatabaseUnavailable as those of `Database` do.
    """

    async def claim(self, sink: str, holder: str, lease: float, limit: int) -> list[Delivery]:
        """Lease up to `limit` due deliveries to `sink` for `lease` seconds, and count a try of each.

        An event whose upload has an earlier one that is still WAITING for this sink is not due. Skips what others are
        claiming (SKIP LOCKED); a lease that ran out may be taken again. None while the sink is disabled.
        """

    async def settle(self, sink: str, holder: str, outcomes: Sequence[Outcome]) -> None:
        """Record how tries of `holder` have ended. One whose lease another has taken meanwhile is left alone."""

    async def give_back(self, sink: str, holder: str) -> None:
        """End all leases of `holder` for `sink`, and do not count the tries: it has not begun them, or stops."""

    async def disable(self, sink: str, reason: str) -> None:
        """Deliver nothing to `sink` any more, until `enable`. Idempotent; the first reason is kept."""

    async def enable(self, sink: str) -> None:
        """Deliver to `sink` again. Idempotent."""

    async def disabled(self) -> dict[str, str]:
        """Return the sinks that are disabled, and why."""

    async def backlog(self) -> list[SinkBacklog]:
        """Return by sink how many deliveries are WAITING, since when, and how many are DEAD.

        Looks at none that were made, of which there may be very many.
        """

    async def bury_unclaimed(self, sinks: Sequence[str], patience: float) -> None:
        """Give up deliveries that nobody will make: due for `patience` seconds, to a sink that is disabled or unknown.

        Args:
            sinks: all that are known.
            patience: seconds in which a release that knows more sinks would have claimed them.
        """

    async def purge(self, retention: float, dead_retention: float, limit: int) -> int:
        """Forget up to `limit` events older than `retention` seconds with all their deliveries; return how many.

        Unless one is WAITING, was settled less than `retention` seconds ago, or is DEAD for less than
        `dead_retention` seconds.
        """

    async def find(self, search: Search, limit: int, after: Delivery | None = None) -> list[Delivery]:
        """Return up to `limit` deliveries by time of their event, from the first one behind `after`."""

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        """Let these be delivered (again) as if they had never been tried; return how many are.

        One that is being tried right now, or was dropped, is left alone.
        """

    async def drop(self, deliveries: Sequence[Delivery]) -> int:
        """Forget these; return how many. One that is being tried right now is left alone."""


class Events(Protocol):
    """Events that the steps of a database have written, for those who listen.

    Every method raises DatabaseUnavailable as those of `Database` do. An owner of None stands for all of the tenant.
    """

    async def tail(self, tenants: Collection[str], seconds: float) -> list[EventId]:
        """Return the events of these tenants that occurred in the last `seconds`, by the clock of the database.

        Events become visible when their step is committed, so one may show up that occurred before others which have
        been seen: by no more than a step may take.
        """

    async def fetch(self, event_ids: Sequence[EventId]) -> list[Event]:
        """Return these events by their place; those that are not kept any more are left out."""

    async def of_upload(self, scope: Scope, upload_id: UploadId, after: int, limit: int) -> list[Event]:
        """Return the first `limit` events of an upload with a number above `after`; none for what is unknown."""

    async def when_was(self, tenant: str, owner: str | None, event_id: EventId) -> datetime | None:
        """Return when the event occurred; None when it is unknown, somebody else's, or not kept any more."""

    async def page(self, tenant: str, owner: str | None, after: EventPlace | None, limit: int) -> list[Event]:
        """Return the first `limit` events behind the place `after`, by their places."""


class JobQueue(Protocol):
    """Jobs of finished files: the work of one processor on one file each. Of all tenants.

    A job is written by the step of `Database` that completes its file, and ends with the file. A method that is given
    a job changes nothing and raises JobLost unless its claim still holds. Every method raises DatabaseUnavailable as
    those of `Database` do.
    """

    async def claim(
        self,
        processors: Sequence[str],
        claim: ClaimId,
        holder: str,
        lease: float,
        tries: int,
        tenant: str | None = None,
    ) -> Job | None:
        """Take the job that has been due for longest, if there is one, for `lease` seconds, and count a try.

        Skips what others are claiming (SKIP LOCKED). One whose lease ran out may be taken again, under another claim;
        what its former holder had staged is garbage then.

        Args:
            processors: any of these.
            claim: its name from now on; nobody else may know it.
            holder: who takes it, for operators.
            lease: in seconds.
            tries: of jobs that have fewer.
            tenant: of its files only; None: of all.
        """

    async def held(self, tenant: str, claim: ClaimId) -> Job:
        """Return the job that has this claim. Raises JobLost."""

    async def lost(self, tries: int, limit: int) -> list[Job]:
        """Return jobs that had `tries` tries and whose last holder has not been heard of."""

    async def heartbeat(self, job: Job, lease: float, progress: float) -> None:
        """Hold on to `job` for `lease` seconds from now, and to what was announced and staged for it."""

    async def intend(self, job: Job, key: ObjectKey) -> None:
        """Announce that an object, or a multipart upload, is about to be made at `key`, in the store of the source.

        It becomes garbage `INTENT_LIFE` seconds after the last heartbeat at the earliest, unless `finish` takes it.
        """

    async def stage(self, job: Job, staged: Staged) -> None:
        """Note a derived file that is in the store, at a key that was announced; it replaces one of that name.

        Raises InvalidRequest when the job has `MOST_DERIVED` others.
        """

    async def finish(self, job: Job, facts: Mapping[str, Json]) -> Upload:
        """Settle `job` as done: all that is staged becomes complete files of the source's owner, in the same commit.

        Returns the source.

        Raises:
            JobLost: also when something that is staged may be gone by now.
            QuotaExceeded: the tenant has no room for the derived files; the job is as it was.
        """

    async def refuse(self, job: Job, reason: str, facts: Mapping[str, Json]) -> Upload:
        """Settle `job` as refused: nobody should have the file. Returns it."""

    async def fail(self, job: Job, error: str, retry_in: float | None) -> Upload:
        """Let others try after `retry_in` seconds, or give up (None): file and data stay. Returns the file."""

    async def release(self, job: Job, retry_in: float = 0.0) -> None:
        """Let others take `job` after `retry_in` seconds; the try is not counted."""

    async def revive(self, file: Upload, processor: str | None = None) -> Upload:
        """Let dead jobs of `file` be tried again as if they never had been. Raises JobLost when it is no file.

        Args:
            file: complete.
            processor: its job only; None: all of them.
        """

    async def find(self, search: JobSearch, limit: int, after: Job | None = None) -> list[Job]:
        """Return up to `limit` jobs by file and processor, from the first one behind `after`."""

    async def drop(self, job: Job) -> Upload:
        """Forget `job`, which waits or is dead, and return its file as it is without.

        One that is a gate no longer keeps the file from readers.

        Raises:
            JobLost: it is neither, somebody has it, or its file has ended.
        """

    async def overdue(self, patience: float) -> list[Overdue]:
        """Return by name the processors that have jobs which nobody has taken for `patience` seconds."""

    async def backlog(self) -> list[ProcessorBacklog]:
        """Return by processor how many jobs are not settled. Looks at no others, of which there may be very many."""

    async def count_dead(self) -> dict[str, int]:
        """Return by processor how many jobs are dead, where there are any. Reads the whole table."""

    async def of(self, files: Sequence[Upload]) -> dict[UploadId, list[Job]]:
        """Return the jobs of files of one scope, by their names."""

    async def derived(self, files: Sequence[Upload]) -> dict[UploadId, list[Upload]]:
        """Return the files that were made of files of one scope, and are still there."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A copy of a finished file, for a processor.

    Attributes:
        size: bytes.
    """

    path: Path
    size: int
    content_type: str | None
    filename: str | None


class MadeFile(Protocol):
    """A file that a processor has made."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def name(self) -> str:
        """What it is to its source, such as `thumbnail`."""

    @property
    def content_type(self) -> str:
        """Its media type."""

    @property
    def filename(self) -> str:
        """What people see."""


class Made(Protocol):
    """What a processor has made and found."""

    @property
    def derived(self) -> Sequence[MadeFile]:
        """Files, in the workspace."""

    @property
    def facts(self) -> Mapping[str, Json]:
        """What it has found."""

    @property
    def refused(self) -> str | None:
        """Why nobody should have the file."""


class Sandbox(Protocol):
    """Runs processors, each in a process of its own with limits of time and memory."""

    async def run(self, processor: str, source: SourceFile, workspace: Path, progress: Callable[[float], None]) -> Made:
        """Run one processor; cancelled, nothing of it goes on. `progress` is told numbers from 0 to 1.

        Raises:
            ProcessingFailed: whatever went wrong.
        """


class Hook(Protocol):
    """Whoever is asked before something happens to an upload; also what a plug-in has to be.

    May be called concurrently, also for one upload, and is cancelled when it takes longer than it may.
    """

    @property
    def name(self) -> str:
        """What operators call it."""

    async def ask(self, question: Question) -> Answer:
        """Return what it says.

        Raises:
            HookFailed: it says nothing that can be understood. Whatever else is raised counts as that.
        """

    async def close(self) -> None:
        """Release all connections. Idempotent."""


class StoreDoor(Protocol):
    """A bucket as web pages meet it, at the address that signed URLs have.

    Attributes:
        cors_setting: how its server is told which pages may send parts, with `{origins}` in it, where buckets have no
            rules of their own; None: buckets have.
    """

    cors_setting: str | None

    async def send(self, origin: str, part: SignedPart, data: bytes) -> Seen:
        """Send a part as a page of `origin` would, preflight included. Raises StoreUnavailable when it is not reached.

        It is sent even where the preflight forbids it: that shows whether the URL is good.
        """

    async def open_to(self, origins: Sequence[str]) -> None:
        """Let pages of these origins send parts and see their ETags; rules that others have made stay.

        Raises:
            StoreRefused: the store has no such rules, or does not let us change them.
            StoreUnavailable: nobody knows whether it was done.
        """

    async def close(self) -> None:
        """Release all connections. Idempotent."""


@dataclass(frozen=True, slots=True)
class Report:
    """A message of the object store that waits in a queue.

    Attributes:
        text: as it came; whoever may write to the queue may have sent it.
        receipt: what `ReportQueue.drop` needs.
    """

    text: str
    receipt: str


class ReportQueue(Protocol):
    """A queue that the object store writes to. What is received and not dropped comes again, to whoever asks then."""

    async def receive(self) -> list[Report]:
        """Return the next reports; waits up to 20 s for one, and returns none then.

        Raises:
            StoreUnavailable: the queue cannot be reached, or refuses us.
        """

    async def drop(self, report: Report) -> None:
        """Remove a report for good. Raises StoreUnavailable; it may come again then."""

    async def close(self) -> None:
        """Release all connections. Idempotent."""


class Sink(Protocol):
    """Somebody who is told of events: at least once of each."""

    @property
    def name(self) -> str:
        """Return what it is called in settings, logs and rows."""

    async def deliver(self, event: Event) -> None:
        """Tell `event`; when this returns, it was taken. Ends within a time that is shorter than any lease.

        Raises:
            DeliveryFailed: not taken, or nobody knows; to be tried again.
            SinkGone: the receiver does not want to be told anything any more.
        """

    async def close(self) -> None:
        """Release all connections. Idempotent."""


class TokenStore(Protocol):
    """Static tokens. Raises DatabaseUnavailable as `Database` does; times are the database's."""

    async def create_token(self, new: NewApiToken) -> ApiToken:
        """Insert a token."""

    async def get_token(self, token_id: str) -> ApiToken | None:
        """Return the token, also one that expired or was revoked; None when there is none of that id."""

    async def list_tokens(self) -> list[ApiToken]:
        """Return all tokens of all tenants, the oldest first."""

    async def revoke_token(self, token_id: str) -> ApiToken | None:
        """Revoke the token and return it, None when there is none; a token that was revoked keeps its time."""

    async def note_token_use(self, token_id: str) -> None:
        """Record that the token was used now. Unknown ids do nothing."""


class ShareStore(Protocol):
    """Share links. Raises DatabaseUnavailable as `Database` does; times are the database's.

    A link that has been revoked or whose time is over is good for nothing from that moment on.
    """

    async def create_share(self, new: NewShare) -> Share:
        """Insert a link to a COMPLETE file of the scope.

        Raises:
            UploadNotFound, NotComplete, UploadGone: there is no such file.
            InvalidRequest: `expires_at` is over.
        """

    async def list_shares(self, scope: Scope, file_id: UploadId) -> list[Share]:
        """Return the links of a file, the newest first, ended ones too; none for what is unknown."""

    async def revoke_share(self, scope: Scope, file_id: UploadId, share_id: ShareId) -> Share:
        """End a link and return it; one that was revoked keeps its time. Raises UploadNotFound."""

    async def find_share(self, share_id: ShareId) -> Share | None:
        """Return a link that is good, of any tenant; None else. Whether it is used up does not count."""

    async def begin_try(self, share: Share, most: int, window: float) -> bool:
        """Count one try at the password; False, and nothing counted, when `most` were within `window` seconds.

        A window begins with its first try.
        """

    async def take_try_back(self, share: Share) -> None:
        """Count one try less."""

    async def count_download(self, share: Share) -> bool:
        """Count one download; False, and nothing counted, when the link is used up, or no longer good."""

    async def forget_shares(self, seconds: float, limit: int) -> int:
        """Delete up to `limit` links that ended, or lost their file, `seconds` ago or earlier; return how many."""


class AccessLog(Protocol):
    """Who read what. Raises DatabaseUnavailable as `Database` does; times are the database's."""

    async def begin_accesses(self, new: Sequence[NewAccess]) -> None:
        """Insert all of `new` in one commit."""

    async def begin_counted_access(self, new: NewAccess, share: Share) -> bool:
        """Insert `new`, and count a download by the link `share`, in one commit.

        Returns:
            False, and nothing has changed, when `share` is used up, or no longer good.
        """

    async def end_accesses(self, ended: Sequence[EndedAccess]) -> None:
        """Note how accesses ended, and that it was now, in one commit. Those that have ended stay as they are."""

    async def list_accesses(self, scope: Scope, file_id: UploadId, after: Position | None, limit: int) -> list[Access]:
        """Return up to `limit` accesses to a file, the latest first, from the place `after` (beginning and id) on."""

    async def list_all_accesses(
        self, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
    ) -> list[Access]:
        """Return the same of all files of `tenant`, whoever owns them, as `wanted` describes."""

    async def forget_accesses(self, seconds: float, limit: int) -> int:
        """Delete up to `limit` accesses that began `seconds` ago or earlier, the oldest first; return how many."""


class ReadingDatabase(Database, ShareStore, AccessLog, Protocol):
    """A database with what reading files needs."""

    @property
    def jobs(self) -> JobQueue:
        """Return the jobs that its steps have written."""

    @property
    def deliveries(self) -> Deliveries:
        """Return the way to the events that the steps of this database write."""


class SurveyedDatabase(ReadingDatabase, TokenStore, Protocol):
    """A database with what operators need beside the service: looks at everything, of all tenants."""

    @property
    def events(self) -> Events:
        """Return the events that its steps have written, for those who listen."""

    async def preview(self, limit: int, grace: float, judge: Judge) -> tuple[list[Upload], list[Garbage]]:
        """Return what `expire` and then `due_garbage` would return now. Nothing is changed."""

    async def release_expiry(self) -> None:
        """Let uploads expire again at once, whatever a verdict of a judge has said so far."""

    async def survey(self, after: str, limit: int) -> list[Upload]:
        """Return up to `limit` uploads in any state, in the order of their ids, from the first id above `after`."""

    async def names(self, upload_ids: Sequence[UploadId]) -> set[StoreName]:
        """Return what the rows of these uploads name in the store, all as committed at one moment.

        That is: the objects of live and complete uploads, the multipart uploads of live ones, pieces, garbage and
        intents; and objects that these uploads have made and that complete files share, though the row of their maker
        may be gone. Other unknown ids name nothing.
        """

    async def usages(self) -> dict[str, Usage]:
        """Return what each tenant has, counted anew. Reads all rows."""

    async def limited_tenants(self) -> list[str]:
        """Return the tenants that have limits, as `limit_usage` has set them."""

    async def recount(self) -> dict[str, tuple[Usage, Usage]]:
        """Count anew what tenants with limits have; return by tenant what had been noted, and what is now.

        May run beside gateways: each tenant's changes wait for its count, and none is missed.
        """

    async def check_routes(self, places: Mapping[str, str]) -> list[Misplaced]:
        """Note where routes lead that were not known so far; return those that have led elsewhere before.

        Where nothing lies at the former place any more, the new one is noted, and `is_used` is False.
        """

    async def count_by_state(self) -> dict[State, int]:
        """Return how many uploads are in each state. Reads all rows."""


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes to be stored: pieces that the store already holds, then buffers in memory. Can be sent again.

    Attributes:
        size: total bytes.
        crc64: CRC64NVME of all of them.
        pieces: stored pieces to read back first, in order (each has a `key`, and may be a range of that object).
        buffers: the rest, by reference; never copied or joined. Whoever made the body empties the list once the bytes
            are stored: what still refers to the body (an HTTP client's request, until garbage collection) then holds
            no memory.
    """

    size: int
    crc64: int
    pieces: tuple[Piece, ...] = ()
    buffers: list[Buffer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an object is stored with.

    Attributes:
        upload_id: kept as marker metadata; proves whose object it is when an answer was lost.
        content_type: sanitised, or None.
        content_coding: Content-Encoding, sanitised, or None.
        filename: for a Content-Disposition, where the store is to send one.
        is_passing: it is read back soon and then deleted: a piece, or a partial. Not what users get.
    """

    upload_id: UploadId
    content_type: str | None = None
    content_coding: str | None = None
    filename: str | None = None
    is_passing: bool = False

    @classmethod
    def of(cls, upload: Upload) -> Attributes:
        """Return what the finished object of `upload` is stored with; pieces carry the upload id only."""
        return cls(
            upload.id,
            upload.content_type,
            upload.content_coding,
            upload.filename,
            is_passing=upload.role is Role.PARTIAL,
        )


@dataclass(frozen=True, slots=True)
class SignedPart:
    """How one part is sent to the store: PUT its bytes to `url`.

    Attributes:
        url: a secret for as long as it works.
        headers: to be sent exactly so; Content-Length is not among them, as clients make it themselves.
    """

    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Presentation:
    """What the store is to answer with instead of the attributes that an object is stored with.

    Attributes:
        content_type, disposition, cache_control: values of header fields, in ASCII.
    """

    content_type: str
    disposition: str
    cache_control: str


class ObjectStore(Protocol):
    """Where bytes live. A returned call means durable; a raised or cancelled one means unknown.

    All writes are atomic and may be repeated with the same bytes. Every method raises StoreUnavailable when the
    store cannot be used now, after its own retries (three tries with jitter); credentials errors are of that kind.
    """

    limits: PartLimits
    completes_all_parts: bool
    """Whether Complete must list every part that was ever uploaded (Ceph, rclone)."""
    copies_parts: bool
    """Whether `copy_part` works at all; else it raises StoreRefused."""
    signs_parts: bool
    """Whether `presign_part` works at all; else it raises DirectOff."""
    direct_origin: str | None
    """Scheme and host of the URLs that `presign_part` makes."""
    part_checksums: frozenset[str]
    """Checksums that the store verifies of parts that others send, and shows in `list_parts`."""
    copies_declared_parts: bool
    """Whether parts whose SHA-256 was declared may be copied as well: `list_parts` shows that of a copied part, too, or
    none, and never another one, and parts that are sent are verified as ever."""

    async def check(self) -> None:
        """Raise StoreUnavailable when the bucket cannot be reached or written with these credentials."""

    async def close(self) -> None:
        """Release all connections. Idempotent."""

    async def put_object(self, key: ObjectKey, body: Body, attributes: Attributes) -> StoredObject:
        """Store a whole object; it appears at `key` at once or not at all.

        Raises:
            PieceLost: see `put_part`.
            StoreRefused: the store will never take it.
            StoreUnavailable: anything else, and bytes that did not arrive intact in three tries.
        """

    async def create_multipart(
        self, key: ObjectKey, attributes: Attributes, *, with_copies: bool = False, plan: Plan | None = None
    ) -> MultipartId:
        """Begin a multipart upload of `key`. Not idempotent, so tried once: each call may make another one.

        Args:
            key: of the object to be.
            attributes: of the object to be.
            with_copies: parts of it may be made by `copy_part`. Many stores do not compute the checksum of a copied
                part; these then do not check the whole at Complete, but uploaded parts all the same.
            plan: given when others send the parts. They bring the checksums that it declares, and no others.
        """

    async def put_part(self, key: ObjectKey, multipart_id: MultipartId, number: int, body: Body) -> str:
        """Store part `number`, replacing an earlier one; return its ETag (without quotes).

        Raises:
            MultipartLost: the store no longer has the multipart upload.
            PieceLost: the store says that a piece of `body` is not there, or gives back other bytes, three times.
            StoreRefused: the store will never take it.
            StoreUnavailable: anything else, and bytes that did not arrive intact in three tries: a link that damages
                them says nothing about the upload.
        """

    async def copy_part(
        self, key: ObjectKey, multipart_id: MultipartId, number: int, source: Piece, *, etag: str | None = None
    ) -> str:
        """Make part `number` of bytes that the store holds, replacing an earlier one; return its ETag.

        The bytes do not pass through this process. May take minutes. `source` stays as it is.

        Args:
            key: of the multipart upload.
            multipart_id: from `create_multipart` with `with_copies`.
            number: of the part.
            source: bytes `[skip, skip + size)` of the object at its `key`; at least one byte, at most
                `limits.max_part_size`. Their checksum may be -1, unknown, where `copies_declared_parts`.
            etag: of the one object that may be copied from.

        Raises:
            MultipartLost: the store no longer has the multipart upload.
            PieceLost: the store says that the object at `source.key` is not there, finds other bytes in it, or it is
                not the one with `etag`.
            StoreRefused: it will not copy these bytes, or copied others: `put_part` may still take them.
        """

    async def complete_multipart(
        self,
        key: ObjectKey,
        multipart_id: MultipartId,
        parts: Sequence[Part],
        crc64: int,
        *,
        with_copies: bool = False,
        plan: Plan | None = None,
    ) -> None:
        """Make the object from exactly `parts`. May take minutes. Verify with `find` afterwards, whatever happened.

        Args:
            key: of the multipart upload.
            multipart_id: from `create_multipart`.
            parts: uploaded or copied, in their order.
            crc64: of the whole; -1 when it is unknown.
            with_copies, plan: as given to `create_multipart`.

        Raises:
            MultipartLost: the store does not know it; that is no proof of failure (an answer may have been lost).
            StoreRefused: the parts are not acceptable (InvalidPart, EntityTooSmall): it will never succeed.
            StoreUnavailable: anything else; the outcome is unknown.
        """

    async def find(self, key: ObjectKey, upload_id: UploadId) -> StoredObject | None:
        """Return the object at `key` if it carries the marker of `upload_id`; None when it is surely not there.

        `crc64` of the result is -1 when the store does not report one. A vague 404 (no S3 error code where one is
        due), 403 or 500 is StoreUnavailable, never None.
        """

    async def multipart_exists(self, key: ObjectKey, multipart_id: MultipartId) -> bool:
        """Return whether the store still knows this multipart upload."""

    async def list_parts(self, key: ObjectKey, multipart_id: MultipartId) -> list[ListedPart]:
        """Return all parts that the store has of a multipart upload, in order.

        Raises MultipartLost when the store does not know it.
        """

    def presign_part(
        self, key: ObjectKey, multipart_id: MultipartId, slot: Slot, plan: Plan, seconds: int
    ) -> SignedPart:
        """Return what lets anybody send one part for `seconds`, as often as they like; the last one counts.

        Nothing is asked of the store. It refuses other sizes and other bytes than `slot` says. What is begun in time
        may end later. Raises DirectOff where there is no such thing.
        """

    async def abort_multipart(self, key: ObjectKey, multipart_id: MultipartId) -> None:
        """Throw the multipart upload away, repeated until the store says that it is gone. Idempotent."""

    async def list_multiparts(self, key: ObjectKey) -> list[MultipartId]:
        """Return the multipart uploads of exactly `key` (used for intents whose id was never recorded)."""

    async def delete_objects(self, keys: Sequence[ObjectKey]) -> None:
        """Delete objects; missing ones are fine. Idempotent."""

    def read(
        self, key: ObjectKey, start: int = 0, size: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream `size` bytes (None: to the end) of the object from byte `start`. Close it when it is given up.

        Args:
            key: of the object.
            start: first byte.
            size: bytes.
            etag: of the one object that may be read, from its first byte to the last. Such a read may take as long as
                its reader likes, and holds no connection that uploads need.

        Raises:
            ObjectLost: there is surely no object, or it is not the one with `etag`; also in the middle.
            StoreUnavailable: also in the middle: the iterator never ends early without an error.
        """

    def presign(
        self, method: Literal["GET", "HEAD"], key: ObjectKey, presentation: Presentation, seconds: int
    ) -> str | None:
        """Return a URL under which anybody can read the object for `seconds`; None where there is no such thing.

        Nothing is asked of the store. The URL is a secret for as long as it works, and cannot be revoked.
        """


class SurveyedStore(ObjectStore, Protocol):
    """A store with what operators need beside the service. The service itself never lists objects."""

    def list_objects(self, prefix: str = "") -> AsyncIterator[ListedObject]:
        """Yield the objects whose keys begin with `prefix`, in no particular order; never one outside of our prefix.

        What appears or goes meanwhile may be missing. Raises StoreUnavailable also in the middle.
        """

    async def owner_of(self, key: ObjectKey) -> UploadId | None:
        """Return whose marker the object at `key` carries; None when it carries none, or is surely not there."""


class Authority(Protocol):
    """Knows who sends a request. What it finds may be remembered for a while; it says for how long."""

    async def identify(self, presented: Presented) -> Principal:
        """Return who presents this.

        Raises:
            Unauthenticated: it proves nothing, or no longer does; see `core.errors`.
            Unavailable: that cannot be found out now. Never a reason to refuse anybody for good.
        """

    async def reaffirm(self, principal: Principal) -> None:
        """Raise CredentialsExpired when what proved `principal` was revoked since; or Unavailable.

        That its time has run out does not count: it was good when the request began.
        """

    async def close(self) -> None:
        """Release connections. Idempotent."""


class ByteSource(Protocol):
    """The body of one request, as it arrives."""

    size: int | None
    """Announced bytes (Content-Length); None when chunked."""

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has ended its side of the connection already; it may have sent all of the body before."""

    async def read(self, paid: int = 0) -> bytes:
        """Return the next chunk as it arrived, without copying; `b""` at the end.

        The first call sends `100 Continue` when the client waits for it.

        Args:
            paid: bytes that have room in memory; not many more should be read at once. 0: as many as there are.

        Raises:
            ClientGone: the connection broke before the end.
            ClientStalled: no byte for the idle time-out, or below the minimum rate.
            Interrupted: what was given to `interrupt`.
        """

    def interrupt(self, error: Exception) -> None:
        """Make the pending and every later `read` raise `error`. Idempotent; the first error stays."""
