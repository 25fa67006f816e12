"""The database port in memory, for tests that run in virtual time. Held to the same contract as the real ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.doubles.jobs import MemoryJobs, Work
from tusgate.core.access import ApiToken
from tusgate.core.audit import Access, Ending
from tusgate.core.clockwatch import GO_ON, ClockReading, Verdict, go_on
from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.dedup import may_adopt, may_begin_with
from tusgate.core.direct import KnownPart, Plan
from tusgate.core.errors import (
    DatabaseUnavailable,
    Fenced,
    InvalidRequest,
    NotComplete,
    Retained,
    StillNeeded,
    TokenSpent,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.events import (
    NO_OUTBOX,
    Delivery,
    DeliveryState,
    Event,
    EventId,
    EventPlace,
    EventType,
    SinkBacklog,
    Watch,
    deletion_of,
)
from tusgate.core.lifecycle import LEFT_OUT, check_alive, check_present, sources_of, step_to_object_of
from tusgate.core.listing import folded
from tusgate.core.model import FOREVER, Garbage, Misplaced, Role, State, StoreName, Upload
from tusgate.core.processing import Processed
from tusgate.core.quota import Quota, Usage, passed_by, refusal_of, usage_of
from tusgate.core.sharing import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tusgate.core.access import NewApiToken
    from tusgate.core.audit import AccessFilter, AccessId, EndedAccess, NewAccess
    from tusgate.core.clockwatch import Judge
    from tusgate.core.events import Outbox, Outcome, Search
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.grid import Grid
    from tusgate.core.listing import Changes, FileFilter, Position
    from tusgate.core.model import (
        Intent,
        Keeping,
        MultipartId,
        NewUpload,
        ObjectKey,
        Part,
        Piece,
        Scope,
        Step,
        StoredObject,
        UploadId,
    )
    from tusgate.core.sharing import NewShare, ShareId
    from tusgate.ports import SurveyedDatabase

GARBAGE_PAUSE = 60.0
LIVE = frozenset({State.UPLOADING, State.SEALED})


@dataclass
class _Waste:
    """A garbage row; `intent_epoch` is set for an intent: the epoch of the writer that announced it."""

    garbage: Garbage
    created: float
    due: float
    intent_epoch: int | None
    removed: float | None = None


@dataclass
class _Sent:
    """A delivery; `due` and `settled` are times by the clock."""

    event: Event
    sink: str
    due: float
    state: DeliveryState = DeliveryState.WAITING
    tries: int = 0
    holder: str | None = None
    error: str | None = None
    settled: float | None = None

    @property
    def key(self) -> tuple[EventId, str]:
        return self.event.id, self.sink

    @property
    def shown(self) -> Delivery:
        return Delivery(
            event=self.event,
            sink=self.sink,
            state=self.state,
            tries=self.tries,
            due_at=datetime.fromtimestamp(self.due, UTC),
            error=self.error,
            settled_at=None if self.settled is None else datetime.fromtimestamp(self.settled, UTC),
        )


@dataclass
class _Row:
    upload: Upload
    parts: dict[int, Part] = field(default_factory=dict)
    pieces: dict[int, Piece] = field(default_factory=dict)
    waste: dict[int, _Waste] = field(default_factory=dict)
    held_since: float = 0.0
    changed: float = 0.0
    finisher: str | None = None
    finish_until: float = 0.0
    sources: list[UploadId] = field(default_factory=list)
    group_name: str | None = None
    event_number: int = 0
    progress_told_at: float = -math.inf
    digest_due: float | None = None


@dataclass
class _Shared:
    share: Share
    tries: int = 0
    tries_since: float = -math.inf


@dataclass
class _Tables:
    rows: dict[UploadId, _Row] = field(default_factory=dict)
    api_tokens: dict[str, ApiToken] = field(default_factory=dict)
    shares: dict[ShareId, _Shared] = field(default_factory=dict)
    accesses: dict[AccessId, Access] = field(default_factory=dict)
    spent: dict[tuple[Scope, str], UploadId] = field(default_factory=dict)
    deliveries: dict[tuple[EventId, str], _Sent] = field(default_factory=dict)
    disabled_sinks: dict[str, str] = field(default_factory=dict)
    events: dict[EventId, Event] = field(default_factory=dict)
    jobs: dict[tuple[UploadId, str], Work] = field(default_factory=dict)
    next_waste: int = 1
    quotas: dict[str, Quota] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    last_run: datetime | None = None
    verdict: Verdict = GO_ON


class MemoryDatabase:
    """All rows in dictionaries. No method awaits anything, and each checks before it changes: so it is atomic."""

    def __init__(self, clock: Callable[[], float], tables: _Tables | None = None, outbox: Outbox = NO_OUTBOX) -> None:
        self._clock = clock
        self._tables = tables or _Tables()
        self._outbox = outbox
        self._closed = False
        self.deliveries = MemoryDeliveries(clock, self._tables)
        self.events = MemoryEvents(clock, self._tables)
        self.jobs = MemoryJobs(self, self._tables.jobs)

    def another(self, outbox: Outbox | None = None) -> MemoryDatabase:
        """Return one more client of the same database."""
        return MemoryDatabase(self._clock, self._tables, outbox or self._outbox)

    async def migrate(self) -> list[str]:
        return []

    async def check(self) -> None:
        return

    async def close(self) -> None:
        self._closed = True

    async def create(self, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        for field_name, text in (("filename", new.filename), ("content_type", new.content_type)):
            if text is not None and not _is_storable(text):
                raise InvalidRequest(field_name, "text")
        if new.id in self._rows:
            raise _fenced_by(self._rows[new.id].upload)
        self._spend(new)
        now = self._now()
        upload = replace(new.made(now), expires_at=self._expiry(now, new.lifetime, new.max_age))
        self._check_room(None, upload)
        row = self._rows[new.id] = _Row(upload, held_since=self._clock(), changed=self._clock())
        self._announce(row, intents)
        self._tell(EventType.CREATED, row)
        return row.upload

    async def create_partial(
        self, new: NewUpload, group: NewUpload, name: str, place: Callable[[Sequence[Grid]], Grid | None]
    ) -> Upload:
        opened = self._open_group(group, name)
        if opened is None:
            opened = self._rows[(await self.create(group)).id]
            opened.group_name = name
        grid = place([row.upload.grid for row in self._rows.values() if row.upload.group == opened.upload.id])
        lives_until = self._expiry(self._now(), group.lifetime, group.max_age)
        if opened.upload.expires_at is not None and lives_until is not None:
            opened.upload = replace(opened.upload, expires_at=max(opened.upload.expires_at, lives_until))
        if grid is not None:
            new = replace(new, grid=grid, group=opened.upload.id, object_key=opened.upload.object_key)
            new = replace(new, route=opened.upload.route)
        return await self.create(new)

    def _open_group(self, group: NewUpload, name: str) -> _Row | None:
        found = (row for row in self._rows.values() if row.upload.scope == group.scope and row.group_name == name)
        oldest = self._now() - timedelta(seconds=JOINED_WITHIN)
        young = (row for row in found if row.upload.created_at >= oldest)
        return next((row for row in young if row.upload.state is State.UPLOADING), None)

    async def concatenate(self, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part] = ()) -> Upload:
        self._check_unchanged(sources)
        if parts:
            row = self._seal_group(self._find(final.scope, final.id), sources, parts)
            self._change(
                row,
                role=final.role,
                concat=final.concat,
                metadata=final.metadata,
                filename=final.filename,
                content_type=final.content_type,
                created_at=self._now(),
                expires_at=None,
            )
            self._tell(EventType.CREATED, row)
        else:
            row = self._rows[(await self.create(replace(final, lifetime=None, max_age=None))).id]
        row.sources = [source.id for source in sources]
        lives_until = self._expiry(self._now(), final.lifetime, None)
        for source in map(self._rows.__getitem__, row.sources):
            if source.upload.expires_at is not None and lives_until is not None:
                source.upload = replace(source.upload, expires_at=max(source.upload.expires_at, lives_until))
        return row.upload

    async def gather(self, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
        self._check_unchanged(members)
        return self._seal_group(self._find(group.scope, group.id), members, parts).upload

    def _check_unchanged(self, expected: Sequence[Upload]) -> None:
        for upload in expected:
            found = self._find(upload.scope, upload.id).upload
            if (found.state, found.offset, found.group) != (upload.state, upload.offset, upload.group):
                raise _fenced_by(found)

    def _seal_group(self, row: _Row, kept: Sequence[Upload], parts: Sequence[Part]) -> _Row:
        if row.upload.role is not Role.GROUP or row.upload.state is not State.UPLOADING:
            raise _fenced_by(row.upload)
        names = {upload.id for upload in kept}
        left_out = [member for member in self._members(row.upload) if member.upload.id not in names]
        for member in left_out:
            if member.upload.offset:
                raise _fenced_by(member.upload)
        total = sum(part.size for part in parts)
        for upload in kept:
            if upload.group == row.upload.id:
                self._change(self._rows[upload.id], counted=False)
        row.parts = {part.number: part for part in parts}
        row.group_name = None
        self._change(row, state=State.SEALED, offset=total, length=total)
        for member in left_out:
            self._change(member, state=State.TERMINATED, reason=LEFT_OUT, expires_at=None)
            self._tell(EventType.TERMINATED, member)
        return row

    def _members(self, group: Upload) -> list[_Row]:
        return [
            row for row in self._rows.values() if row.upload.group == group.id and row.upload.state is State.UPLOADING
        ]

    async def sources(self, final: Upload) -> list[Upload]:
        return [self._rows[source].upload for source in self._find(final.scope, final.id).sources]

    async def members(self, group: Upload) -> list[Upload]:
        return [row.upload for row in self._members(self._find(group.scope, group.id).upload)]

    async def find_final(self, final: NewUpload, first: UploadId) -> Upload | None:
        for row in self._rows.values():
            found = row.upload
            is_alike = (found.scope, found.concat, found.metadata) == (final.scope, final.concat, final.metadata)
            is_there = found.role is Role.FINAL and found.state in {State.SEALED, State.COMPLETE}
            if is_alike and is_there and row.sources[0] == first:
                return found
        return None

    async def get(self, scope: Scope, upload_id: UploadId, *, ahead: bool = False) -> Upload:
        return self._find(scope, upload_id).upload

    async def get_any(self, upload_id: UploadId) -> Upload | None:
        row = self._rows.get(upload_id)
        return None if row is None else row.upload

    async def list_files(self, scope: Scope, wanted: FileFilter, after: Position | None, limit: int) -> list[Upload]:
        found = [row.upload for row in self._rows.values() if row.upload.scope == scope]
        found = [upload for upload in found if _is_wanted(upload, wanted)]
        found.sort(key=_place, reverse=True)
        if after is not None:
            found = [upload for upload in found if _place(upload) < (after.created_at, after.id)]
        return found[:limit]

    async def find_by_fingerprint(self, scope: Scope, wanted: Fingerprint, limit: int) -> list[Upload]:
        found = [row.upload for row in self._rows.values() if row.upload.scope == scope]
        found = [upload for upload in found if _has_fingerprint(upload, wanted)]
        return sorted(found, key=_place, reverse=True)[:limit]

    async def find_known_parts(self, scope: Scope, route: str | None, digests: Sequence[bytes]) -> list[KnownPart]:
        known = {
            part.sha256: KnownPart(part.sha256, part.start, part.size, row.upload.object_key, row.upload.etag or "")
            for row in self._rows_on(scope, route)
            if row.upload.state is State.COMPLETE and not row.upload.withheld
            for part in row.parts.values()
            if part.sha256 is not None
        }
        return [known[each] for each in digests if each in known]

    async def find_proved_etags(
        self, scope: Scope, route: str | None, pairs: Sequence[tuple[bytes, str]]
    ) -> set[tuple[bytes, str]]:
        parts = [part for row in self._rows_on(scope, route) for part in row.parts.values()]
        return {pair for pair in pairs if any((part.sha256, part.etag) == pair for part in parts)}

    def _rows_on(self, scope: Scope, route: str | None) -> list[_Row]:
        return [row for row in self._rows.values() if (row.upload.scope, row.upload.route) == (scope, route)]

    async def describe(
        self, scope: Scope, upload_id: UploadId, changes: Changes, *, may_shorten: bool = False
    ) -> Upload:
        row = self._find(scope, upload_id)
        check_present(row.upload)
        times = {name: moment for name, moment in changes.items() if name in ("expires_at", "retain_until")}
        if times and (row.upload.state is not State.COMPLETE or row.upload.role is Role.PARTIAL):
            raise NotComplete
        held, wanted = row.upload.retain_until, changes.get("retain_until")
        is_held = held is not None and held > self._now() and not may_shorten
        if held is not None and is_held and "retain_until" in changes and (wanted is None or wanted < held):
            raise Retained(held)
        for name, moment in times.items():
            if isinstance(moment, datetime) and moment <= self._now():
                raise InvalidRequest(name, "a time that is not over")
        self._change(row, **changes)
        return row.upload

    async def claim_undigested(self, lease: float, limit: int) -> list[Upload]:
        now = self._clock()
        due = [row for row in self._rows.values() if row.digest_due is not None and row.digest_due <= now]
        due = sorted(due, key=lambda row: row.digest_due or 0.0)[:limit]
        for row in due:
            row.digest_due = now + lease
        return [row.upload for row in due]

    async def postpone_digest(self, upload: Upload, seconds: float) -> None:
        row = self._rows[upload.id]
        if row.upload.scope == upload.scope and row.digest_due is not None:
            row.digest_due = self._clock() + seconds

    async def record_digest(self, upload: Upload, sha256: bytes) -> Upload:
        row = self._find(upload.scope, upload.id)
        if row.upload.state is not State.COMPLETE or row.upload.etag != upload.etag:
            raise _fenced_by(row.upload)
        row.upload, row.digest_due = replace(row.upload, sha256=sha256), None
        return row.upload

    async def find_twin(self, upload: Upload, sha256: bytes, lease: float) -> Upload | None:
        row = self._find(upload.scope, upload.id)
        shown = (row.upload.object_key, row.upload.etag)
        if row.upload.state is not State.COMPLETE or shown != (upload.object_key, upload.etag):
            raise _fenced_by(row.upload)
        row.upload = replace(row.upload, sha256=sha256)
        twins = [each.upload for each in self._rows.values() if _is_twin(each, row.upload, sha256)]
        row.digest_due = self._clock() + lease if twins else None
        return max(twins, key=lambda twin: (twin.completed_at, twin.id), default=None)

    async def adopt(self, upload: Upload, twin: Upload, kept_for: float) -> Upload:
        row = self._find(upload.scope, upload.id)
        rows = [self._rows[each.id].upload for each in (upload, twin) if each.id in self._rows]
        if not may_adopt(upload, twin, [each for each in rows if each.state is State.COMPLETE]):
            raise _fenced_by(row.upload)
        self._discard(row, row.upload.object_key, kept_for=kept_for)
        crc64 = twin.crc64 if row.upload.crc64 is None else row.upload.crc64
        row.upload = replace(row.upload, object_key=twin.object_key, etag=twin.etag, crc64=crc64, object_of=twin.maker)
        row.digest_due = None
        return row.upload

    async def find_equal(self, new: NewUpload, sha256: bytes) -> Upload | None:
        twins = [each.upload for each in self._rows.values() if _is_twin(each, new, sha256)]
        return max(twins, key=lambda twin: (twin.completed_at, twin.id), default=None)

    async def create_equal(self, new: NewUpload, twin: Upload, keeping: Keeping = FOREVER) -> Upload:
        found = self._rows.get(twin.id)
        is_there = found is not None and found.upload.state is State.COMPLETE
        if not may_begin_with(new, twin, found.upload if found is not None and is_there else None):
            raise _fenced_by(twin)
        row = self._rows[(await self.create(new)).id]
        step = step_to_object_of(twin, row.upload, keeping)
        assert step.stored is not None
        self._commit_whole(row, step, step.stored)
        row.upload = replace(row.upload, sha256=twin.sha256, object_of=twin.maker)
        row.digest_due = None
        return row.upload

    async def claim(self, upload: Upload, holder: str, intents: Sequence[Intent] = ()) -> tuple[Upload, list[Piece]]:
        row = self._expected(upload, State.UPLOADING, at_offset=True)
        if row.upload.put_attempts != upload.put_attempts:
            raise _fenced_by(row.upload)
        row.held_since = self._clock()
        row.upload = replace(row.upload, epoch=upload.epoch + 1)
        self._announce(row, intents)
        at_end = upload.offset >= upload.grid.capacity
        start = upload.offset if at_end else upload.grid.cell_at(upload.offset, upload.length).start
        return row.upload, [piece for _, piece in sorted(row.pieces.items()) if piece.start >= start]

    async def intend(self, upload: Upload, intents: Sequence[Intent]) -> None:
        self._announce(self._expected(upload, *LIVE), intents)

    async def record_multipart(self, upload: Upload, multipart_id: MultipartId) -> Upload:
        row = self._expected(upload, *LIVE)
        if row.upload.multipart_id is not None:
            raise _fenced_by(row.upload)
        self._change(row, multipart_id=multipart_id, object_key=upload.object_key)
        # Of two announced with this epoch, the other may have made a multipart upload too: one intent only.
        for waste_id, waste in sorted(row.waste.items()):
            if waste.garbage.multipart and waste.intent_epoch == upload.epoch:
                del row.waste[waste_id]
                break
        return row.upload

    async def replan(self, upload: Upload, length: int, plan: Plan, fingerprint: str | None) -> Upload:
        row = self._expected(upload, State.UPLOADING, at_offset=True)
        changed = replace(row.upload, length=length, plan=plan, fingerprint=fingerprint, epoch=upload.epoch + 1)
        self._check_room(row, changed)
        row.held_since = self._clock()
        self._change(row, length=length, plan=plan, fingerprint=fingerprint, epoch=changed.epoch)
        return row.upload

    async def commit(self, upload: Upload, step: Step) -> Upload:
        row = self._expected(upload, State.UPLOADING, at_offset=True)
        if step.stored is not None:
            return self._commit_whole(row, step, step.stored)
        low, high = step.absorb or (0, 0)
        kept = {start for start in row.pieces if not low <= start < high}
        if any(part.number in row.parts for part in step.parts) or any(piece.start in kept for piece in step.pieces):
            raise _fenced_by(row.upload)
        self._check_room(row, replace(row.upload, offset=step.end, length=step.length, state=step.state))
        self._drop_pieces(row, low, high)
        is_due = step.end > upload.offset and row.progress_told_at <= self._clock() - self._outbox.progress_every
        row.pieces.update((piece.start, piece) for piece in step.pieces)
        row.parts.update((part.number, part) for part in step.parts)
        recorded = {piece.key for piece in step.pieces}
        row.waste = {
            waste_id: waste
            for waste_id, waste in row.waste.items()
            if waste.garbage.multipart or waste.intent_epoch != upload.epoch or waste.garbage.key not in recorded
        }
        self._change(
            row, offset=step.end, length=step.length, state=step.state, expires_at=self._next_expiry(row, step)
        )
        if is_due and self._tell(EventType.PROGRESS, row):
            row.progress_told_at = self._clock()
        return row.upload

    def _commit_whole(self, row: _Row, step: Step, stored: StoredObject) -> Upload:
        before = row.upload
        self._check_room(row, replace(before, offset=step.end, length=step.length, state=State.COMPLETE))
        self._change(row, offset=step.end, length=step.length, multipart_id=None)
        if before.multipart_id is not None:
            self._discard_multipart(row, before.multipart_id)
        return self._finish(row, stored, step.keeping, step)

    async def parts(self, upload: Upload) -> list[Part]:
        return [part for _, part in sorted(self._find(upload.scope, upload.id).parts.items())]

    async def pieces(self, upload: Upload) -> list[Piece]:
        return [piece for _, piece in sorted(self._find(upload.scope, upload.id).pieces.items())]

    async def absorb(self, upload: Upload, parts: Sequence[Part]) -> Upload:
        row = self._expected(upload, State.SEALED)
        if any(part.number in row.parts for part in parts):
            raise _fenced_by(row.upload)
        for part in parts:
            self._drop_pieces(row, part.start, part.start + part.size)
            row.parts[part.number] = part
        self._change(row)
        return row.upload

    async def complete(self, upload: Upload, stored: StoredObject, keeping: Keeping = FOREVER) -> Upload:
        found = self._find(upload.scope, upload.id).upload
        if found.state is State.COMPLETE:
            return found
        check_alive(found)
        return self._finish(self._expected(upload, State.SEALED, at_offset=True), stored, keeping)

    async def fail(self, upload: Upload, reason: str) -> Upload:
        row = self._find(upload.scope, upload.id)
        if row.upload.state not in sources_of(State.FAILED) or row.upload.epoch != upload.epoch:
            raise _fenced_by(row.upload)
        self._discard_contents(row, with_object=False)
        self._change(row, state=State.FAILED, reason=reason, expires_at=None)
        self._tell(EventType.FAILED, row)
        self._end_members(row, EventType.FAILED, reason=reason)
        return row.upload

    async def terminate(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> Upload:
        row = self._find(scope, upload_id)
        if row.upload.state not in sources_of(State.TERMINATED):
            raise UploadGone(row.upload.state, row.upload.reason)
        if row.upload.role is Role.GROUP:
            raise UploadGone(State.TERMINATED)
        if self._is_needed(row):
            raise StillNeeded
        if self._is_retained(row):
            assert row.upload.retain_until is not None
            raise Retained(row.upload.retain_until)
        row.digest_due = None
        self._tell(deletion_of(row.upload), row)
        self._end_work(row, State.TERMINATED, by)
        if row.upload.role is Role.FINAL and self._members(row.upload):
            self._change(
                row, role=Role.GROUP, concat=None, metadata=None, filename=None, expires_at=self._now(), ended_by=by
            )
            return row.upload
        has_object = row.upload.state is not State.FAILED and row.upload.group is None
        self._discard_contents(row, with_object=has_object)
        self._change(row, state=State.TERMINATED, expires_at=None, ended_by=by)
        self._end_members(row, EventType.TERMINATED)
        return row.upload

    def _end_work(self, row: _Row, state: State, by: str | None) -> None:
        """End the jobs of a file that ends, and the files that were made of it."""
        self.jobs.end(row.upload.id)
        for derived in list(self._rows.values()):
            is_made_of_it = derived.upload.derived_from == row.upload.id and derived.upload.state is State.COMPLETE
            if is_made_of_it and self._is_retained(derived):
                self._change(derived, expires_at=self._now())
            elif is_made_of_it:
                self._end_derived(derived, state, by)

    def _end_derived(self, row: _Row, state: State, by: str | None) -> None:
        self._tell(EventType.EXPIRED if state is State.EXPIRED else EventType.DELETED, row)
        self._discard_contents(row, with_object=True)
        self._change(row, state=state, expires_at=None, ended_by=by)

    def _insert(self, upload: Upload) -> _Row:
        row = self._rows[upload.id] = _Row(upload, changed=self._clock())
        return row

    def _end_members(self, row: _Row, event_type: EventType, **changes: object) -> None:
        for member in self._members(row.upload):
            self._drop_pieces(member)
            self._change(member, state=row.upload.state, expires_at=None, **changes)
            self._tell(event_type, member)

    def _is_needed(self, row: _Row) -> bool:
        """Return whether an unfinished final is made of this upload."""
        return any(
            row.upload.id in final.sources for final in self._rows.values() if final.upload.state is State.SEALED
        )

    def _is_retained(self, row: _Row) -> bool:
        return row.upload.retain_until is not None and row.upload.retain_until > self._now()

    def _may_expire(self, row: _Row) -> bool:
        if self._is_retained(row):
            return False
        if row.upload.role in {Role.GROUP, Role.FINAL}:
            return not self._members(row.upload)
        return row.upload.role is not Role.PARTIAL or not self._is_needed(row)

    async def claim_sealed(self, holder: str, lease: float, limit: int) -> list[Upload]:
        now = self._clock()
        free = [row for row in self._rows.values() if row.upload.state is State.SEALED and row.finish_until <= now]
        free = sorted(free, key=lambda row: row.changed)[:limit]
        for row in free:
            row.finisher, row.finish_until = holder, now + lease
        return [row.upload for row in free]

    async def lease_sealed(self, upload: Upload, holder: str, lease: float) -> bool:
        row = self._find(upload.scope, upload.id)
        free = row.finisher == holder or row.finish_until <= self._clock()
        if row.upload.state is not State.SEALED or not free:
            return False
        row.finisher, row.finish_until = holder, self._clock() + lease
        return True

    async def release_sealed(self, upload: Upload, holder: str, retry_in: float) -> None:
        row = self._find(upload.scope, upload.id)
        if row.upload.state is State.SEALED and row.finisher == holder:
            row.finisher, row.finish_until = None, self._clock() + retry_in

    async def expire(self, limit: int, judge: Judge = go_on) -> list[Upload]:
        now = self._now()
        verdict = judge(self._reading())
        if verdict.doubt is None:
            self._tables.last_run, self._tables.verdict = now, verdict
        if not verdict.goes_on:
            return []
        due = [
            (row.upload.expires_at, row)
            for row in self._rows.values()
            if row.upload.state in {State.UPLOADING, State.COMPLETE}
            and row.upload.expires_at
            and row.upload.expires_at <= now
            and self._may_expire(row)
        ]
        expired = [row for _, row in sorted(due, key=lambda entry: entry[0])[:limit]]
        for row in expired:
            if row.upload.state is State.EXPIRED:  # with the file that it was made of
                continue
            self._discard_contents(row, with_object=row.upload.state is State.COMPLETE)
            self._change(row, state=State.EXPIRED)
            self._tell(EventType.EXPIRED, row)
            self._end_work(row, State.EXPIRED, None)
            row.digest_due = None
        return [row.upload for row in expired]

    async def forget_ended(self, seconds: float, limit: int) -> int:
        before = self._clock() - seconds
        ended = [row for row in self._rows.values() if row.changed <= before and self._may_be_forgotten(row)]
        found = sorted(ended, key=lambda row: row.changed)[:limit]
        for row in found:
            del self._rows[row.upload.id]
        return len(found)

    def _may_be_forgotten(self, row: _Row) -> bool:
        others = self._rows.values()
        return (
            row.upload.state in {State.TERMINATED, State.EXPIRED, State.FAILED}
            and row.upload.id not in self._tables.spent.values()
            and not row.waste
            and all(other.upload.group != row.upload.id for other in others)
            and not any(o.upload.derived_from == row.upload.id and o.upload.state is State.COMPLETE for o in others)
            and not any(row.upload.id in other.sources and other.upload.state is State.SEALED for other in others)
        )

    async def due_garbage(self, limit: int, grace: float) -> list[Garbage]:
        now = self._clock()
        due = [
            (waste.due, waste_id, row)
            for row in self._rows.values()
            for waste_id, waste in row.waste.items()
            if waste.due <= now and _is_decided(row, waste, now - grace) and not self._may_be_made(row, waste.garbage)
        ]
        found = []
        for _, waste_id, row in sorted(due, key=lambda entry: entry[:2])[:limit]:
            waste = row.waste[waste_id]
            waste.due = now + GARBAGE_PAUSE
            if _is_referred_to(row, waste.garbage) or self._is_shared(row, waste.garbage):
                del row.waste[waste_id]
            elif not _may_still_be_used(row.upload, waste.garbage):
                found.append(replace(waste.garbage, spare=row.upload.multipart_id, route=row.upload.route))
        return found

    async def drop_garbage(self, rows: Sequence[Garbage], grace: float) -> None:
        now = self._clock()
        for row in rows:
            wastes = self._rows[row.upload_id].waste
            waste = wastes.get(row.id)
            if waste is None:
                continue
            if waste.removed is None:
                waste.removed, waste.due = now, now + grace
                waste.garbage = replace(waste.garbage, tries=0)
            elif waste.removed <= now - grace:
                del wastes[row.id]

    async def postpone_garbage(self, rows: Sequence[Garbage], seconds: float) -> None:
        for row in rows:
            waste = self._rows[row.upload_id].waste.get(row.id)
            if waste is not None:
                waste.due = self._clock() + seconds
                waste.garbage = replace(waste.garbage, tries=waste.garbage.tries + 1)

    async def preview(self, limit: int, grace: float, judge: Judge) -> tuple[list[Upload], list[Garbage]]:
        copied = MemoryDatabase(self._clock, copy.deepcopy(self._tables))
        return await copied.expire(limit, judge), await copied.due_garbage(limit, grace)

    async def release_expiry(self) -> None:
        self._tables.last_run, self._tables.verdict = self._now(), GO_ON

    async def survey(self, after: str, limit: int) -> list[Upload]:
        return [row.upload for upload_id, row in sorted(self._rows.items()) if upload_id > after][:limit]

    async def names(self, upload_ids: Sequence[UploadId]) -> set[StoreName]:
        rows = [self._rows[upload_id] for upload_id in upload_ids if upload_id in self._rows]
        names = {name for row in rows for name in _names_of(row)}
        return names | {
            StoreName(each.upload.object_key)
            for each in self._rows.values()
            if each.upload.object_of in upload_ids and each.upload.state is State.COMPLETE
        }

    async def count_by_state(self) -> dict[State, int]:
        states = [row.upload.state for row in self._rows.values()]
        return {state: states.count(state) for state in State}

    async def create_token(self, new: NewApiToken) -> ApiToken:
        now = self._now()
        token = self._api_tokens[new.id] = ApiToken(
            id=new.id,
            digest=new.digest,
            scope=new.scope,
            permissions=new.permissions,
            label=new.label,
            created_at=now,
            expires_at=None if new.lifetime is None else now + timedelta(seconds=new.lifetime),
        )
        return token

    async def get_token(self, token_id: str) -> ApiToken | None:
        return self._api_tokens.get(token_id)

    async def list_tokens(self) -> list[ApiToken]:
        return sorted(self._api_tokens.values(), key=lambda token: (token.created_at, token.id))

    async def revoke_token(self, token_id: str) -> ApiToken | None:
        token = self._api_tokens.get(token_id)
        if token is not None and token.revoked_at is None:
            token = self._api_tokens[token_id] = replace(token, revoked_at=self._now())
        return token

    async def note_token_use(self, token_id: str) -> None:
        if token_id in self._api_tokens:
            self._api_tokens[token_id] = replace(self._api_tokens[token_id], last_used_at=self._now())

    async def limit_usage(self, tenant: str, quota: Quota | None) -> None:
        self._tables.quotas.pop(tenant, None)
        if quota is not None:
            self._tables.quotas[tenant] = quota

    async def usage(self, tenant: str) -> Usage:
        return self._usage(tenant)

    def _usage(self, tenant: str) -> Usage:
        uploads = [row.upload for row in self._rows.values() if row.upload.scope.tenant == tenant]
        return sum(map(usage_of, uploads), Usage())

    async def usages(self) -> dict[str, Usage]:
        return {tenant: self._usage(tenant) for tenant in {row.upload.scope.tenant for row in self._rows.values()}}

    async def limited_tenants(self) -> list[str]:
        return sorted(self._tables.quotas)

    async def recount(self) -> dict[str, tuple[Usage, Usage]]:
        return {tenant: (self._usage(tenant), self._usage(tenant)) for tenant in self._tables.quotas}

    async def check_routes(self, places: Mapping[str, str]) -> list[Misplaced]:
        known = self._tables.places
        known.update({name: place for name, place in places.items() if name not in known})
        found = []
        for name, place in known.items():
            is_used = any(row.upload.route == name for row in self._rows.values())
            if places.get(name) != place:
                found.append(Misplaced(name, place, places.get(name), is_used))
        known.update({each.name: each.configured for each in found if each.configured and not each.is_used})
        return found

    async def create_share(self, new: NewShare) -> Share:
        file = self._find(new.scope, new.file_id).upload
        check_present(file)
        if file.state is not State.COMPLETE:
            raise NotComplete
        if new.expires_at is not None and new.expires_at <= self._now():
            raise InvalidRequest("expires_at", "a time that is not over")
        share = Share(
            id=new.id,
            scope=new.scope,
            file_id=new.file_id,
            created_by=new.created_by,
            password=new.password,
            max_downloads=new.max_downloads,
            downloads=0,
            created_at=self._now(),
            expires_at=new.expires_at,
            revoked_at=None,
        )
        self._shares[new.id] = _Shared(share)
        return share

    async def list_shares(self, scope: Scope, file_id: UploadId) -> list[Share]:
        all_shares = (row.share for row in self._shares.values())
        found = [share for share in all_shares if (share.scope, share.file_id) == (scope, file_id)]
        return sorted(found, key=lambda share: (share.created_at, share.id), reverse=True)

    async def revoke_share(self, scope: Scope, file_id: UploadId, share_id: ShareId) -> Share:
        row = self._shares.get(share_id)
        if row is None or (row.share.scope, row.share.file_id) != (scope, file_id):
            raise UploadNotFound
        row.share = replace(row.share, revoked_at=row.share.revoked_at or self._now())
        return row.share

    async def find_share(self, share_id: ShareId) -> Share | None:
        row = self._shares.get(share_id)
        return row.share if row is not None and self._is_good(row.share) else None

    async def begin_try(self, share: Share, most: int, window: float) -> bool:
        row = self._shares[share.id]
        if row.tries_since <= self._clock() - window:
            row.tries, row.tries_since = 0, self._clock()
        if row.tries >= most:
            return False
        row.tries += 1
        return True

    async def take_try_back(self, share: Share) -> None:
        row = self._shares[share.id]
        row.tries = max(row.tries - 1, 0)

    async def count_download(self, share: Share) -> bool:
        row = self._shares.get(share.id)
        if row is None or row.share.scope != share.scope or not self._is_good(row.share) or row.share.is_used_up:
            return False
        row.share = replace(row.share, downloads=row.share.downloads + 1)
        return True

    async def forget_shares(self, seconds: float, limit: int) -> int:
        before = self._now() - timedelta(seconds=seconds)
        over = [share_id for share_id, row in self._shares.items() if self._ended(row.share) <= before][:limit]
        for share_id in over:
            del self._shares[share_id]
        return len(over)

    async def begin_accesses(self, new: Sequence[NewAccess]) -> None:
        for each in new:
            self._begin_access(each)

    async def begin_counted_access(self, new: NewAccess, share: Share) -> bool:
        if not await self.count_download(share):
            return False
        self._begin_access(new)
        return True

    def _begin_access(self, new: NewAccess) -> None:
        self._accesses[new.id] = Access(
            id=new.id,
            scope=new.scope,
            file_id=new.file_id,
            reader=new.reader,
            proof=new.proof,
            how=new.how,
            client=new.client,
            first_byte=new.first_byte,
            wanted=new.wanted,
            sent=None,
            ending=new.ending,
            began_at=self._now(),
            ended_at=None if new.ending is Ending.STARTED else self._now(),
        )

    async def end_accesses(self, ended: Sequence[EndedAccess]) -> None:
        for each in ended:
            begun = each.begun
            row = self._accesses.get(begun.id)
            if row is not None and row.scope == begun.scope and row.ended_at is None:
                self._accesses[begun.id] = replace(row, sent=each.sent, ending=each.ending, ended_at=self._now())

    async def list_accesses(self, scope: Scope, file_id: UploadId, after: Position | None, limit: int) -> list[Access]:
        found = [row for row in self._accesses.values() if (row.scope, row.file_id) == (scope, file_id)]
        return _latest(found, after)[:limit]

    async def list_all_accesses(
        self, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
    ) -> list[Access]:
        found = [
            row
            for row in self._accesses.values()
            if row.scope.tenant == tenant
            and wanted.file_id in (None, row.file_id)
            and wanted.reader in (None, row.reader)
            and (wanted.began_from is None or row.began_at >= wanted.began_from)
            and (wanted.began_before is None or row.began_at < wanted.began_before)
        ]
        return _latest(found, after)[:limit]

    async def forget_accesses(self, seconds: float, limit: int) -> int:
        before = self._now() - timedelta(seconds=seconds)
        over = sorted((row.began_at, row.id) for row in self._accesses.values() if row.began_at <= before)[:limit]
        for _, access_id in over:
            del self._accesses[access_id]
        return len(over)

    def _is_good(self, share: Share) -> bool:
        return share.revoked_at is None and (share.expires_at is None or share.expires_at > self._now())

    def _ended(self, share: Share) -> datetime:
        file = self._rows[share.file_id].upload
        never = datetime.max.replace(tzinfo=UTC)
        gone = never if file.state is State.COMPLETE else file.updated_at
        return min(share.revoked_at or share.expires_at or never, gone)

    async def listen(self, taken_over: Callable[[UploadId, int], None]) -> None:
        return

    def all_garbage(self) -> list[Garbage]:
        """Return every garbage row and intent, due or not."""
        return [waste.garbage for row in self._rows.values() for waste in row.waste.values()]

    def plant_garbage(self, upload: Upload, key: ObjectKey, multipart_id: MultipartId | None) -> None:
        """Insert a garbage row that should never have been written."""
        self._discard(self._rows[upload.id], key, multipart=multipart_id is not None, multipart_id=multipart_id)

    @property
    def _rows(self) -> dict[UploadId, _Row]:
        if self._closed:
            raise DatabaseUnavailable("closed")
        return self._tables.rows

    @property
    def _api_tokens(self) -> dict[str, ApiToken]:
        if self._closed:
            raise DatabaseUnavailable("closed")
        return self._tables.api_tokens

    @property
    def _shares(self) -> dict[ShareId, _Shared]:
        if self._closed:
            raise DatabaseUnavailable("closed")
        return self._tables.shares

    @property
    def _accesses(self) -> dict[AccessId, Access]:
        if self._closed:
            raise DatabaseUnavailable("closed")
        return self._tables.accesses

    def _spend(self, new: NewUpload) -> None:
        if new.token_id is None:
            return
        key = (new.scope, new.token_id)
        if key in self._tables.spent:
            error = TokenSpent()
            error.upload = self._rows[self._tables.spent[key]].upload
            raise error
        self._tables.spent[key] = new.id

    def _reading(self) -> ClockReading:
        states = [row.upload for row in self._rows.values()]
        verdict = self._tables.verdict
        return ClockReading(
            now=self._now(),
            last_run=self._tables.last_run,
            waits_until=verdict.waits_until,
            held=verdict.held,
            at_stake=any(upload.state in {State.UPLOADING, State.COMPLETE} and upload.expires_at for upload in states),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _expiry(self, created: datetime, lifetime: float | None, max_age: float | None) -> datetime | None:
        ends = [self._now() + timedelta(seconds=lifetime)] if lifetime is not None else []
        ends += [created + timedelta(seconds=max_age)] if max_age is not None else []
        return min(ends, default=None)

    def _next_expiry(self, row: _Row, step: Step) -> datetime | None:
        if step.state is not State.UPLOADING and row.upload.role is not Role.PARTIAL:
            return None
        return self._expiry(row.upload.created_at, step.lifetime, step.max_age)

    def _find(self, scope: Scope, upload_id: UploadId) -> _Row:
        row = self._rows.get(upload_id)
        if row is None or row.upload.scope != scope:
            raise UploadNotFound
        return row

    def _expected(self, upload: Upload, *states: State, at_offset: bool = False) -> _Row:
        """Return the row if it is as `upload` shows it (compare-and-set)."""
        row = self._find(upload.scope, upload.id)
        found = row.upload
        if (found.epoch != upload.epoch or found.state not in states) or (at_offset and found.offset != upload.offset):
            raise _fenced_by(found)
        return row

    def _change(self, row: _Row, **changes: object) -> None:
        row.changed = self._clock()
        row.upload = replace(row.upload, updated_at=self._now(), **changes)  # type: ignore[arg-type]  # named by callers

    def _check_room(self, row: _Row | None, after: Upload) -> None:
        """Raise when a change that was not made yet passes a limit of the tenant."""
        quota = self._tables.quotas.get(after.scope.tenant, Quota())
        growth = usage_of(after) - (Usage() if row is None else usage_of(row.upload))
        passed = passed_by(growth, self._usage(after.scope.tenant) + growth, quota)
        if passed is not None:
            raise refusal_of(passed)

    def _announce(self, row: _Row, intents: Sequence[Intent]) -> None:
        for intent in intents:
            self._discard(row, intent.key, multipart=intent.multipart, intent_epoch=row.upload.epoch)
        attempt = max((intent.attempt for intent in intents if intent.attempt is not None), default=None)
        if attempt is not None:
            row.upload = replace(row.upload, put_attempts=attempt)

    def _finish(self, row: _Row, stored: StoredObject, keeping: Keeping, step: Step | None = None) -> Upload:
        jobs = () if keeping.processing is None else keeping.processing.jobs_of(row.upload)
        row.finisher, row.finish_until = None, 0.0
        keeps_expiring = row.upload.role in {Role.PARTIAL, Role.GROUP}
        anew = None if step is None else self._next_expiry(row, step)
        self._change(
            row,
            state=State.COMPLETE,
            object_key=stored.key,
            etag=stored.etag,
            crc64=stored.crc64 if stored.crc64 >= 0 else None,
            completed_at=self._now(),
            processing=Processed.PROCESSING if jobs else None,
            withheld=any(job.is_gate for job in jobs),
            expires_at=(anew or row.upload.expires_at)
            if keeps_expiring
            else self._expiry(self._now(), keeping.lifetime, None),
        )
        row.digest_due = self._clock() if keeping.wants_digest(row.upload.scope) and not keeps_expiring else None
        row.waste = {
            waste_id: waste
            for waste_id, waste in row.waste.items()
            if waste.garbage.multipart or waste.intent_epoch is None or waste.garbage.key != stored.key
        }
        self._drop_pieces(row)
        if row.upload.role is not Role.PARTIAL:
            self._tell(EventType.COMPLETED, row)
        if jobs:
            self.jobs.insert(row.upload, jobs)
            self._tell(EventType.PROCESSING, row)
        return row.upload

    def _tell(self, event_type: EventType, row: _Row) -> bool:
        """Write an event if anybody wants it; return whether."""
        sinks = self._outbox.sinks_for(event_type, row.upload.scope.tenant)
        if sinks is None or row.upload.role is Role.GROUP:
            return False
        row.event_number += 1
        event = Event(number=row.event_number, type=event_type, upload=row.upload, occurred_at=self._now())
        sent = [_Sent(event, sink, self._clock()) for sink in sinks]
        self._tables.events[event.id] = event
        self._tables.deliveries.update((each.key, each) for each in sent)
        self._outbox.written()
        return True

    def _discard_contents(self, row: _Row, *, with_object: bool) -> None:
        self._drop_pieces(row)
        if with_object:
            self._discard(row, row.upload.object_key)
        if row.upload.multipart_id is not None and row.upload.state in LIVE:
            self._discard_multipart(row, row.upload.multipart_id)

    def _discard_multipart(self, row: _Row, multipart_id: MultipartId) -> None:
        self._discard(row, row.upload.object_key, multipart=True, multipart_id=multipart_id)

    def _drop_pieces(self, row: _Row, low: int = 0, high: int = 1 << 63) -> None:
        """Delete the piece rows that begin in `[low, high)` and make their objects garbage."""
        for start in sorted(start for start in row.pieces if low <= start < high):
            key = row.pieces.pop(start).key
            if key is not None:
                self._discard(row, key)

    def _discard(
        self,
        row: _Row,
        key: ObjectKey,
        *,
        multipart: bool = False,
        multipart_id: MultipartId | None = None,
        intent_epoch: int | None = None,
        kept_for: float = 0.0,
    ) -> None:
        waste_id, now = self._tables.next_waste, self._clock()
        self._tables.next_waste += 1
        garbage = Garbage(waste_id, row.upload.id, key, multipart, multipart_id, 0)
        row.waste[waste_id] = _Waste(garbage, now, now + kept_for, intent_epoch)

    def _is_shared(self, row: _Row, garbage: Garbage) -> bool:
        makers = {row.upload.id, row.upload.maker}
        return not garbage.multipart and any(
            each.upload.maker in makers and each.upload.object_key == garbage.key
            for each in self._rows.values()
            if each.upload.state is State.COMPLETE
        )

    def _may_be_made(self, row: _Row, garbage: Garbage) -> bool:
        """Return whether an object may yet be made by a multipart upload that is not gone."""
        rows = [row, *(self._rows[each] for each in [row.upload.maker] if each in self._rows)]
        return not garbage.multipart and any(
            waste.garbage.key == garbage.key and waste.garbage.multipart_id is not None and waste.removed is None
            for each in rows
            for waste in each.waste.values()
        )


def _is_twin(row: _Row, upload: Upload | NewUpload, sha256: bytes) -> bool:
    other = row.upload
    return (
        other.id != upload.id
        and other.state is State.COMPLETE
        and row.digest_due is None
        and other.role in {None, Role.FINAL}
        and (other.scope.tenant, other.sha256, other.length) == (upload.scope.tenant, sha256, upload.length)
        and (other.route, other.content_coding) == (upload.route, upload.content_coding)
    )


def _place(upload: Upload) -> tuple[datetime, str]:
    return upload.created_at, upload.id


def _has_fingerprint(upload: Upload, wanted: Fingerprint) -> bool:
    is_live = upload.state in (State.UPLOADING, State.SEALED, State.COMPLETE)
    is_named = is_live and upload.fingerprint == str(wanted)
    digests = ((wanted.crc64, upload.crc64), (wanted.sha256, upload.sha256))
    is_equal = any(one is not None and one == other for one, other in digests)
    return (
        (is_named or (is_equal and upload.state is State.COMPLETE))
        and upload.role in (None, Role.FINAL)
        and upload.derived_from is None
    )


def _latest(found: list[Access], after: Position | None) -> list[Access]:
    """Return `found` with the latest first, from the place `after` on."""
    found.sort(key=_moment_of, reverse=True)
    return found if after is None else [row for row in found if _moment_of(row) < (after.created_at, after.id)]


def _moment_of(row: Access) -> tuple[datetime, str]:
    return row.began_at, row.id


def _is_wanted(upload: Upload, wanted: FileFilter) -> bool:
    name = folded(upload.filename or "\0")
    media_type = (upload.content_type or "").partition(";")[0].lower()
    kind = (wanted.content_type or "").removesuffix("*")
    return (
        upload.state in wanted.states
        and upload.role in (None, Role.FINAL)
        and wanted.created_via in (None, upload.created_via)
        and upload.derived_from == wanted.derived_from
        and (wanted.created_from is None or upload.created_at >= wanted.created_from)
        and (wanted.created_before is None or upload.created_at < wanted.created_before)
        and (wanted.name_prefix is None or name.startswith(folded(wanted.name_prefix)))
        and (wanted.name_contains is None or folded(wanted.name_contains) in name)
        and (not kind or (media_type.startswith(kind) if kind.endswith("/") else media_type == kind))
    )


class MemoryEvents:
    """The events of a `MemoryDatabase`, for those who listen."""

    def __init__(self, clock: Callable[[], float], tables: _Tables) -> None:
        self._clock = clock
        self._tables = tables

    def _sorted(self, tenant: str, owner: str | None) -> list[Event]:
        watch = Watch(tenant, owner)
        return sorted((each for each in self._tables.events.values() if watch.covers(each)), key=EventPlace.of)

    async def tail(self, tenants: Collection[str], seconds: float) -> list[EventId]:
        since = self._clock() - seconds
        events = [event for tenant in set(tenants) for event in self._sorted(tenant, None)]
        return [event.id for event in events if event.occurred_at.timestamp() >= since]

    async def fetch(self, event_ids: Sequence[EventId]) -> list[Event]:
        return sorted(
            (self._tables.events[each] for each in event_ids if each in self._tables.events), key=EventPlace.of
        )

    async def of_upload(self, scope: Scope, upload_id: UploadId, after: int, limit: int) -> list[Event]:
        events = self._sorted(scope.tenant, scope.owner)
        return [each for each in events if each.upload.id == upload_id and each.number > after][:limit]

    async def when_was(self, tenant: str, owner: str | None, event_id: EventId) -> datetime | None:
        event = self._tables.events.get(event_id)
        return event.occurred_at if event is not None and Watch(tenant, owner).covers(event) else None

    async def page(self, tenant: str, owner: str | None, after: EventPlace | None, limit: int) -> list[Event]:
        events = self._sorted(tenant, owner)
        return [each for each in events if after is None or EventPlace.of(each) > after][:limit]


class MemoryDeliveries:
    """The deliveries of a `MemoryDatabase`."""

    def __init__(self, clock: Callable[[], float], tables: _Tables) -> None:
        self._clock = clock
        self._tables = tables

    async def claim(self, sink: str, holder: str, lease: float, limit: int) -> list[Delivery]:
        now = self._clock()
        due = [each for each in self._waiting(sink) if each.due <= now and not self._is_behind(each)]
        if sink in self._tables.disabled_sinks:
            due = []
        claimed = sorted(due, key=lambda each: each.due)[:limit]
        for each in claimed:
            each.holder, each.due, each.tries = holder, now + lease, each.tries + 1
        return [each.shown for each in sorted(claimed, key=_order)]

    def _waiting(self, sink: str | None = None) -> list[_Sent]:
        return [
            each
            for each in self._tables.deliveries.values()
            if each.state is DeliveryState.WAITING and sink in {None, each.sink}
        ]

    def _is_behind(self, sent: _Sent) -> bool:
        """Return whether an earlier event of its upload waits."""
        return any(
            each.event.upload.id == sent.event.upload.id and each.event.number < sent.event.number
            for each in self._waiting(sent.sink)
        )

    async def settle(self, sink: str, holder: str, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            sent = self._tables.deliveries.get((outcome.event_id, sink))
            if sent is None or sent.holder != holder or sent.state is not DeliveryState.WAITING:
                continue
            sent.state, sent.error, sent.holder = outcome.state, outcome.error, None
            sent.due = self._clock() + outcome.delay
            sent.settled = None if outcome.state is DeliveryState.WAITING else self._clock()

    async def give_back(self, sink: str, holder: str) -> None:
        for sent in self._waiting(sink):
            if sent.holder == holder and sent.due > self._clock():
                sent.holder, sent.due, sent.tries = None, self._clock(), sent.tries - 1

    async def disable(self, sink: str, reason: str) -> None:
        self._tables.disabled_sinks.setdefault(sink, reason)

    async def enable(self, sink: str) -> None:
        self._tables.disabled_sinks.pop(sink, None)

    async def disabled(self) -> dict[str, str]:
        return dict(sorted(self._tables.disabled_sinks.items()))

    async def backlog(self) -> list[SinkBacklog]:
        by_kind: dict[tuple[str, DeliveryState], list[_Sent]] = {}
        for sent in self._tables.deliveries.values():
            if sent.state is not DeliveryState.DELIVERED:
                by_kind.setdefault((sent.sink, sent.state), []).append(sent)
        waiting_first = sorted(by_kind.items(), key=lambda item: (item[0][0], item[0][1] is DeliveryState.DEAD))
        return [SinkBacklog(*kind, len(found), self._age(kind[1], found)) for kind, found in waiting_first]

    def _age(self, state: DeliveryState, found: Sequence[_Sent]) -> float | None:
        if state is DeliveryState.DEAD:
            return None
        return self._clock() - min(each.event.occurred_at.timestamp() for each in found)

    async def bury_unclaimed(self, sinks: Sequence[str], patience: float) -> None:
        disabled = self._tables.disabled_sinks
        for sent in self._waiting():
            if sent.due <= self._clock() - patience and (sent.sink not in sinks or sent.sink in disabled):
                sent.state, sent.settled = DeliveryState.DEAD, self._clock()
                sent.error = disabled.get(sent.sink, "no gateway has this sink in its settings")

    async def purge(self, retention: float, dead_retention: float, limit: int) -> int:
        by_event: dict[EventId, list[_Sent]] = {event_id: [] for event_id in self._tables.events}
        for sent in self._tables.deliveries.values():
            by_event.setdefault(sent.event.id, []).append(sent)
        now = self._clock()
        old = [
            event_id
            for event_id, each in by_event.items()
            if self._tables.events[event_id].occurred_at.timestamp() <= now - retention
            and all(_is_settled(sent, now - retention, now - dead_retention) for sent in each)
        ]
        for event_id in old[:limit]:
            del self._tables.events[event_id]
            for sent in by_event[event_id]:
                del self._tables.deliveries[sent.key]
        return len(old[:limit])

    async def find(self, search: Search, limit: int, after: Delivery | None = None) -> list[Delivery]:
        found = sorted((sent for sent in self._tables.deliveries.values() if _is_meant(sent, search)), key=_order)
        rest = [sent for sent in found if after is None or _order(sent) > _order(self._kept(after))]
        return [sent.shown for sent in rest[:limit]]

    def _kept(self, delivery: Delivery) -> _Sent:
        return _Sent(delivery.event, delivery.sink, 0.0)

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        free = self._free(deliveries)
        for sent in free:
            sent.state, sent.tries, sent.holder = DeliveryState.WAITING, 0, None
            sent.due, sent.settled, sent.error = self._clock(), None, None
        return len(free)

    async def drop(self, deliveries: Sequence[Delivery]) -> int:
        free = self._free(deliveries)
        for sent in free:
            del self._tables.deliveries[sent.key]
        return len(free)

    def _free(self, deliveries: Sequence[Delivery]) -> list[_Sent]:
        found = [self._tables.deliveries.get((each.event.id, each.sink)) for each in deliveries]
        now = self._clock()
        return [
            sent
            for sent in found
            if sent is not None
            and not (sent.state is DeliveryState.WAITING and sent.holder is not None and sent.due > now)
        ]


def _order(sent: _Sent) -> tuple[datetime, str, int, str]:
    return sent.event.occurred_at, sent.event.upload.id, sent.event.number, sent.sink


def _is_settled(sent: _Sent, before: float, dead_before: float) -> bool:
    if sent.settled is None:
        return False
    return sent.settled <= before and (sent.state is not DeliveryState.DEAD or sent.settled <= dead_before)


def _is_meant(sent: _Sent, search: Search) -> bool:
    event = sent.event
    wanted = (
        (search.event_id, event.id),
        (search.upload_id, event.upload.id),
        (search.tenant, event.upload.scope.tenant),
        (search.type, event.type),
        (search.sink, sent.sink),
        (search.state, sent.state),
    )
    return (
        all(expected in {None, found} for expected, found in wanted)
        and (search.since is None or event.occurred_at >= search.since)
        and (search.until is None or event.occurred_at < search.until)
    )


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fenced_by(found: Upload) -> Fenced:
    error = Fenced()
    error.upload = found
    return error


def _is_decided(row: _Row, waste: _Waste, before: float) -> bool:
    """Return whether nobody can record this any more, since `before` at the latest. Always true but for intents."""
    if waste.intent_epoch is None:
        return True
    ended = row.upload.state not in LIVE and row.changed <= before
    taken_over = row.upload.epoch > waste.intent_epoch and row.held_since <= before
    return waste.created <= before and (ended or taken_over)


def _is_referred_to(row: _Row, garbage: Garbage) -> bool:
    upload = row.upload
    if garbage.multipart:
        is_own = garbage.multipart_id is not None and garbage.multipart_id == upload.multipart_id
        return is_own and upload.state in {*LIVE, State.COMPLETE}
    is_object = garbage.key == upload.object_key and upload.state is State.COMPLETE
    return is_object or any(piece.key == garbage.key for piece in row.pieces.values())


def _names_of(row: _Row) -> set[StoreName]:
    upload = row.upload
    names = {
        StoreName(waste.garbage.key, waste.garbage.multipart, waste.garbage.multipart_id)
        for waste in row.waste.values()
    }
    names |= {StoreName(piece.key) for piece in row.pieces.values() if piece.key is not None}
    if upload.state in {*LIVE, State.COMPLETE}:
        names.add(StoreName(upload.object_key))
    if upload.state in LIVE and upload.multipart_id is not None:
        names.add(StoreName(upload.object_key, multipart=True, multipart_id=upload.multipart_id))
    return names


def _may_still_be_used(upload: Upload, garbage: Garbage) -> bool:
    """Return whether a live upload may yet come to use it, or has no multipart upload of its own to be spared."""
    if upload.state not in LIVE:
        return False
    if garbage.multipart:
        return garbage.multipart_id is None and upload.multipart_id is None
    return garbage.key == upload.object_key


if TYPE_CHECKING:
    _: type[SurveyedDatabase] = MemoryDatabase
