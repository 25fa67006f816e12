"""The values that travel between the rooms of tusgate. All are frozen: a change makes a new value."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

from tusgate.core.dedup import NO_DEDUP, Dedup

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.direct import Plan
    from tusgate.core.grid import Grid
    from tusgate.core.processing import Processed, Processing

UploadId = NewType("UploadId", str)
ObjectKey = NewType("ObjectKey", str)
MultipartId = NewType("MultipartId", str)

UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{22,64}", re.ASCII)
"""Ids are ours: at least 128 random bits, never a path. Anything else is unknown without asking the database."""


class State(StrEnum):
    """Where an upload is in its life; the legal moves are in `core/lifecycle.py`."""

    UPLOADING = "uploading"
    SEALED = "sealed"
    COMPLETE = "complete"
    FAILED = "failed"
    EXPIRED = "expired"
    TERMINATED = "terminated"


class CreatedVia(StrEnum):
    """The protocol an upload was created with; appends stay with it."""

    TUS = "tus"
    RUFH = "rufh"
    PLAIN = "plain"
    DIRECT = "direct"

    @property
    def ends_by_request(self) -> bool:
        """Whether a request has to say that it is the last one: reaching the length alone ends nothing then."""
        return self in {CreatedVia.RUFH, CreatedVia.PLAIN}


class Role(StrEnum):
    """What an upload is to other uploads (tus concatenation); most are nothing to any other.

    PARTIAL: a piece of a file, to be named by a final.
    FINAL: the ordered bytes of its partials; takes no bytes itself.
    GROUP: owns the multipart upload that partials are parts of from the start, and later the object that they lie in.
        No client knows it: as soon as one does, it is their final, and after that was deleted it is gone.
    """

    PARTIAL = "partial"
    FINAL = "final"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose uploads a request may see: part of the WHERE of every statement.

    In open mode everybody is owner `""` of tenant `default`; see `core.access`.
    """

    tenant: str = "default"
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One upload as committed in the database.

    Attributes:
        length: declared bytes, None while deferred. See `final_length`.
        offset: committed bytes. Nothing else is ever told to a client.
        epoch: rises each time a request becomes the writer; fences every write.
        metadata: the raw Upload-Metadata header, echoed byte for byte; None when not given.
        object_key: where the object is, or will be unless a PutObject attempt has to move (see `put_attempts`).
        put_attempts: how many PutObject attempts have been announced; each has a key of its own.
        multipart_id: the S3 multipart upload, None until the first whole cell.
        etag, crc64: of the finished object.
        content_coding: such as `gzip`, when the client coded the file before it sent it; the bytes are never touched.
        reason: why the upload failed.
        expires_at: when it ends by itself; None = never.
        concat: the Upload-Concat header of a final, echoed as received.
        retain_until: until when nobody may delete it.
        ended_by: how whoever deleted it was known; see `Principal.proof`.
        sha256: of the finished object, once it was computed.
        group: the upload whose multipart upload holds the parts of this partial. Such a partial never has an object
            of its own: it stays UPLOADING when all its bytes are committed, until it expires or is ended.
        route: which store it lies in, by name; None: the one that the plain settings say. Fixed at creation.
        counted: False for a partial whose bytes count as those of its sealed group.
        plan: what was declared of the parts of a direct upload; None for all others.
        fingerprint: what the client tells the file by; see `core.fingerprint`.
        processing: what has become of the jobs of a finished file; None: it has none.
        withheld: nobody reads it: a job that has to be done before is not.
        derived_from: the file that this one was made of; both end together.
        derivation: what it is to that file, such as `thumbnail/thumbnail`: processor and name.
        object_of: the upload that the object was made by, and whose marker it carries, where the file shares that of
            another one; None: its own. That upload may be gone.
    """

    id: UploadId
    scope: Scope
    created_via: CreatedVia
    state: State
    length: int | None
    offset: int
    grid: Grid
    epoch: int
    metadata: bytes | None
    filename: str | None
    content_type: str | None
    object_key: ObjectKey
    put_attempts: int
    multipart_id: MultipartId | None
    etag: str | None
    crc64: int | None
    reason: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    expires_at: datetime | None
    content_coding: str | None = None
    role: Role | None = None
    concat: str | None = None
    group: UploadId | None = None
    route: str | None = None
    counted: bool = True
    plan: Plan | None = None
    fingerprint: str | None = None
    retain_until: datetime | None = None
    ended_by: str | None = None
    sha256: bytes | None = None
    processing: Processed | None = None
    withheld: bool = False
    derived_from: UploadId | None = None
    derivation: str | None = None
    object_of: UploadId | None = None

    @property
    def maker(self) -> UploadId:
        """The upload whose marker the finished object carries."""
        return self.object_of or self.id

    @property
    def has_all_bytes(self) -> bool:
        """Whether everything is committed, and the upload finished if it becomes an object of its own."""
        if self.group is not None:
            return self.state is State.UPLOADING and self.offset == self.length
        return self.state is State.COMPLETE

    @property
    def ends_by_request(self) -> bool:
        """Whether a request has to say that it is the last one; see `CreatedVia`."""
        return self.created_via.ends_by_request

    @property
    def final_length(self) -> int | None:
        """Bytes of the finished object; None while that is open.

        While an upload that ends by a request takes bytes, its `length` is what the client expects, and a bound.
        """
        return None if self.ends_by_request and self.state is State.UPLOADING else self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What a creation request asks for, after validation.

    Attributes:
        epoch: 1 when the creating request also writes (creation-with-upload), else 0.
        lifetime: seconds of inactivity after which the upload expires; None = never.
        max_age: seconds after creation at which it expires, active or not; None = never.
        role, concat, group, route, plan, fingerprint: see `Upload`.
        token_id: of the upload token that is spent on this upload.
    """

    id: UploadId
    scope: Scope
    created_via: CreatedVia
    length: int | None
    grid: Grid
    metadata: bytes | None
    filename: str | None
    content_type: str | None
    object_key: ObjectKey
    epoch: int
    lifetime: float | None
    max_age: float | None = None
    content_coding: str | None = None
    role: Role | None = None
    concat: str | None = None
    group: UploadId | None = None
    token_id: str | None = None
    route: str | None = None
    plan: Plan | None = None
    fingerprint: str | None = None

    @property
    def offset(self) -> int:
        """Nothing is committed yet."""
        return 0

    @property
    def put_attempts(self) -> int:
        """Nothing was stored yet."""
        return 0

    @property
    def multipart_id(self) -> MultipartId | None:
        """There is no multipart upload yet."""
        return None

    def made(self, now: datetime) -> Upload:
        """Return the upload as it is once it was made at `now`, of which only the database says when it expires."""
        is_final = self.role is Role.FINAL
        return Upload(
            id=self.id,
            scope=self.scope,
            created_via=self.created_via,
            state=State.SEALED if is_final else State.UPLOADING,
            length=self.length,
            offset=(self.length or 0) if is_final else 0,
            grid=self.grid,
            epoch=self.epoch,
            metadata=self.metadata,
            filename=self.filename,
            content_type=self.content_type,
            object_key=self.object_key,
            put_attempts=0,
            multipart_id=None,
            etag=None,
            crc64=None,
            reason=None,
            created_at=now,
            updated_at=now,
            completed_at=None,
            expires_at=None,
            content_coding=self.content_coding,
            role=self.role,
            concat=self.concat,
            group=self.group,
            route=self.route,
            plan=self.plan,
            fingerprint=self.fingerprint,
        )

    def with_all_bytes(self, now: datetime) -> Upload:
        """Return the upload as it would be at `now` if all its bytes had come. Its length is declared."""
        assert self.length is not None
        return replace(self.made(now), state=State.SEALED, offset=self.length)


@dataclass(frozen=True, slots=True)
class Part:
    """One committed S3 part: `size` bytes from byte `start`.

    Attributes:
        crc64: -1 when nobody has computed it: the part never passed through here, and the store shows no checksum.
        sha256: of a direct upload whose parts were declared so, as the store has proved it; None for all others.
    """

    number: int
    start: int
    size: int
    etag: str
    crc64: int
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Committed bytes that are not yet a part: in an object (`key`) or in the row (`data`).

    Attributes:
        skip: where the bytes begin in the object; above 0 only for what a final is made of.
    """

    start: int
    size: int
    crc64: int
    key: ObjectKey | None = None
    data: bytes | None = None
    skip: int = 0

    @property
    def end(self) -> int:
        """Offset of the byte after the piece."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A verified object in the store."""

    key: ObjectKey
    size: int
    etag: str
    crc64: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What becomes of a file once it is complete; partials and groups have rules of their own.

    Attributes:
        lifetime: seconds until it expires; None = never by itself.
        digests: its SHA-256 is to be computed.
        processing: says which jobs it gets; None: no file gets any.
        dedup: says whether it shares its object with equal files.
    """

    lifetime: float | None = None
    digests: bool = False
    processing: Processing | None = None
    dedup: Dedup = NO_DEDUP

    def wants_digest(self, scope: Scope) -> bool:
        """Return whether the SHA-256 of a file is to be computed: equal files are found by it."""
        return self.digests or self.dedup.is_on(scope.tenant)

    def has_gates(self, scope: Scope) -> bool:
        """Return whether files of `scope` have to be looked at before they are read, those of some types at least."""
        return self.processing is not None and self.processing.has_gates(scope.tenant)


FOREVER: Final = Keeping()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step forward of an upload, committed whole or not at all.

    Attributes:
        end: the new offset.
        length: the declared length from now on (None: still deferred).
        state: UPLOADING, SEALED, or COMPLETE (only together with `stored`).
        parts: new parts.
        pieces: new pieces.
        absorb: byte range `[from, to)` whose older piece rows this step replaces; their objects become garbage.
        stored: the finished object, when the whole upload was stored by one PutObject.
        lifetime: seconds until expiry from now on, while the state is UPLOADING, and of partials in any; None = never.
        max_age: seconds from the creation after which it expires all the same; None = never.
        keeping: of the finished file, together with `stored`.
    """

    end: int
    length: int | None
    state: State
    parts: tuple[Part, ...] = ()
    pieces: tuple[Piece, ...] = ()
    absorb: tuple[int, int] | None = None
    stored: StoredObject | None = None
    lifetime: float | None = None
    max_age: float | None = None
    keeping: Keeping = FOREVER


@dataclass(frozen=True, slots=True)
class Intent:
    """Something that is about to be created in the store, written down first so that a crash cannot leak it.

    An intent is a garbage row that only becomes due when nothing refers to it any more.

    Attributes:
        key: the object to be written, or whose multipart upload is to be created.
        multipart: True for a CreateMultipartUpload.
        attempt: for a PutObject of the whole upload: the new value of `put_attempts`.
    """

    key: ObjectKey
    multipart: bool = False
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something in the store that nothing refers to any more.

    Attributes:
        id: row number.
        upload_id: the upload that it belonged to.
        key: object key.
        multipart: the row is about multipart uploads of `key`, not about the object.
        multipart_id: the one to abort; None with `multipart`: every one of `key` but `spare`.
        tries: how often collecting it has failed so far.
        spare: the upload's own multipart upload, which a search for those of `key` must leave alone.
        route: of the upload; says which store it lies in.
    """

    id: int
    upload_id: UploadId
    key: ObjectKey
    multipart: bool
    multipart_id: MultipartId | None
    tries: int
    spare: MultipartId | None = None
    route: str | None = None


@dataclass(frozen=True, slots=True)
class StoreName:
    """Something in the store as a row of the database names it.

    Attributes:
        key: object key.
        multipart: it is a multipart upload of `key`, not the object.
        multipart_id: which one; None with `multipart`: any.
    """

    key: ObjectKey
    multipart: bool = False
    multipart_id: MultipartId | None = None


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A route that no longer leads where it led when it was first used.

    Attributes:
        recorded: where it led.
        configured: where it leads now; None: there is no such route any more.
        is_used: something lies there that would be lost sight of.
    """

    name: str
    recorded: str
    configured: str | None
    is_used: bool


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a listing of the store shows it.

    Attributes:
        size: bytes.
        modified: when it appeared or was last replaced, by the store's clock.
    """

    key: ObjectKey
    size: int
    modified: datetime
