"""What the API takes and gives of direct uploads."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.content import Coding
from tusgate.core.direct import MOST_PART_DIGESTS, Plan, part_count, part_size
from tusgate.core.errors import InvalidRequest
from tusgate.core.fingerprint import parse_fingerprint
from tusgate.core.metadata import metadata_key
from tusgate.core.model import State
from tusgate.web.api.models import File, Name, Type, WrongPart
from tusgate.web.headers import MAX_NUMBER

if TYPE_CHECKING:
    from tusgate.core.direct import Standing
    from tusgate.core.model import Upload
    from tusgate.service.direct import Ticket, Tickets

MOST_URLS: Final = 1000
"""URLs in one answer."""
MOST_PARTS: Final = 10_000
"""Parts that S3 allows; all of them may be named by a Complete."""
_USUAL_URLS: Final = 100
_LONGEST_ETAG: Final = 128
_STRICT: Final = ConfigDict(extra="forbid", strict=True)

Algorithm = Literal["sha256", "crc64nvme"]


def _digest(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a digest in base64") from None
    return text


def _fingerprint(text: str | None) -> str | None:
    try:
        return None if text is None else str(parse_fingerprint(text))
    except InvalidRequest as error:
        raise ValueError(error.expected) from None


Digest = Annotated[str, AfterValidator(_digest)]


def _bytes_of(algorithm: str, text: str) -> bytes:
    digest = base64.b64decode(text)
    if len(digest) != DIGEST_SIZES[algorithm]:
        raise ValueError(f"digests of {DIGEST_SIZES[algorithm]} bytes for {algorithm}")
    return digest


def _whole_digest(checksum: WholeChecksum) -> WholeChecksum:
    _bytes_of(checksum.algorithm, checksum.value)
    return checksum


def _part_digests(checksums: PartChecksums) -> PartChecksums:
    for value in checksums.values:
        _bytes_of(checksums.algorithm, value)
    return checksums


def _plan_of(whole: WholeChecksum | None, parts: PartChecksums | None) -> Plan:
    return Plan(
        None if whole is None else Checksum(whole.algorithm, _bytes_of(whole.algorithm, whole.value)),
        None if parts is None else parts.algorithm,
        () if parts is None else tuple(_bytes_of(parts.algorithm, value) for value in parts.values),
    )


class WholeChecksum(BaseModel):
    """Checksum of the whole file."""

    model_config = _STRICT

    algorithm: Algorithm
    value: Digest = Field(description="In base64, as S3 shows it.")


class PartChecksums(BaseModel):
    """Checksums of the parts, in order."""

    model_config = _STRICT

    algorithm: Algorithm
    values: list[Digest] = Field(min_length=1, max_length=MOST_PART_DIGESTS, description="One for each part, base64.")


class NewDirectUpload(BaseModel):
    """A file whose parts the client is going to send to the store."""

    model_config = _STRICT

    size: int | None = Field(
        default=None,
        ge=0,
        le=MAX_NUMBER,
        description="Bytes. Without it you cut the file as you like, and name all parts when you complete.",
    )
    filename: Name = Field(default=None, description="One path segment, up to 255 characters.")
    content_type: Type = Field(default=None, description="A media type, with or without parameters.")
    content_encoding: Coding | None = Field(
        default=None,
        description="How you have compressed the file. Sizes and checksums are of what you send.",
    )
    metadata: dict[Annotated[str, AfterValidator(metadata_key)], str] = Field(
        default={}, description="Shown with the file, as that of tus clients is."
    )
    part_size: int | None = Field(
        default=None, ge=1, le=MAX_NUMBER, description="Bytes of a part that you wish; the answer says what counts."
    )
    checksum: Annotated[WholeChecksum, AfterValidator(_whole_digest)] | None = Field(
        default=None, description="Verified before the file is complete; if it is another file the upload fails."
    )
    part_checksums: Annotated[PartChecksums, AfterValidator(_part_digests)] | None = Field(
        default=None,
        description="The store refuses a part with another one. Needs `size`, and a `part_size` that the answer keeps.",
    )
    fingerprint: Annotated[str | None, AfterValidator(_fingerprint)] = Field(
        default=None,
        description=(
            "`sha256:`, `crc64nvme:` and hexadecimal digits, or `client:` and your own text. Your unfinished upload"
            " with the same one, as large and declared alike, is the answer then (200)."
        ),
    )
    urls: int = Field(default=_USUAL_URLS, ge=0, le=MOST_URLS, description="URLs in the answer, at most.")

    def plan(self) -> Plan:
        """Return what is declared of the bytes."""
        return _plan_of(self.checksum, self.part_checksums)


class NewPlan(BaseModel):
    """What an unfinished upload is to be of from now on."""

    model_config = _STRICT

    size: int = Field(ge=1, le=MAX_NUMBER, description="Bytes of the file as it is now.")
    checksum: Annotated[WholeChecksum, AfterValidator(_whole_digest)] | None = Field(
        default=None, description="Of the file as it is now, in place of the one that was declared before."
    )
    part_checksums: Annotated[PartChecksums, AfterValidator(_part_digests)] = Field(
        description="SHA-256 of all parts as they are now; parts have the size that they had."
    )
    fingerprint: Annotated[str | None, AfterValidator(_fingerprint)] = Field(
        default=None, description="As for a new upload."
    )
    urls: int = Field(default=_USUAL_URLS, ge=0, le=MOST_URLS, description="URLs in the answer, at most.")

    def plan(self) -> Plan:
        """Return what is declared of the bytes."""
        return _plan_of(self.checksum, self.part_checksums)


class UrlWish(BaseModel):
    """Which parts are to be sent now: those named, or those that are not in the store yet."""

    model_config = _STRICT

    parts: list[int] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_URLS,
        description="Numbers. Needed where the size was not declared. A part that is there can be sent again.",
    )
    after: int = Field(default=0, ge=0, description="Only parts above this number; `next_after` of the page before.")
    limit: int = Field(default=_USUAL_URLS, ge=1, le=MOST_URLS, description="URLs in the answer, at most.")
    seconds: int | None = Field(default=None, ge=1, description="How long they shall work; never longer than allowed.")


class NamedPart(BaseModel):
    """A part as the client knows it."""

    model_config = _STRICT

    number: int = Field(ge=1, le=MOST_PARTS)
    etag: str = Field(max_length=_LONGEST_ETAG, description="From the store's answer to the PUT; quotes do not matter.")


class DirectCompletion(BaseModel):
    """All parts are there."""

    model_config = _STRICT

    parts: list[NamedPart] | None = Field(
        default=None,
        max_length=MOST_PARTS,
        description="Compared with what the store has. Needed where the size was not declared.",
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> DirectCompletion:
        if self.parts is not None and len({part.number for part in self.parts}) != len(self.parts):
            raise ValueError("each part once")
        return self

    def named(self) -> dict[int, str] | None:
        """Return ETag by number."""
        return None if self.parts is None else {part.number: part.etag for part in self.parts}


class DirectLinks(BaseModel):
    """Absolute URLs."""

    self: str = Field(description="This upload.")
    file: str = Field(description="The same as a file.")
    parts: str = Field(description="What the store has of it.")
    urls: str = Field(description="Where URLs for parts are asked for.")
    complete: str = Field(description="Where it is told that all parts are there.")
    plan: str = Field(description="Where it is told that the file has changed.")


class DirectUpload(BaseModel):
    """An upload whose parts go to the store."""

    id: str
    state: State = Field(description="As that of every file.")
    reason: str | None = Field(description="Why it failed.")
    filename: str | None
    content_type: str | None
    size: int | None = Field(description="Bytes of the file; null while that is open.")
    part_size: int | None = Field(description="Bytes of every part but the last; null where you cut the file yourself.")
    part_count: int | None = Field(description="How many parts; null where you cut the file yourself.")
    expires_at: AwareDatetime | None = Field(description="When it ends, unless URLs are asked for.")
    links: DirectLinks

    @classmethod
    def of(cls, upload: Upload, links: DirectLinks) -> DirectUpload:
        """Return what the API shows of `upload`."""
        count = None if upload.plan is None else part_count(upload)
        return cls(
            id=upload.id,
            state=upload.state,
            reason=upload.reason,
            filename=upload.filename,
            content_type=upload.content_type,
            size=upload.length,
            part_size=None if count is None else part_size(upload),
            part_count=count,
            expires_at=upload.expires_at,
            links=links,
        )


class PartUrl(BaseModel):
    """How one part is sent: PUT its bytes to `url`, with `headers`."""

    number: int
    start: int | None = Field(description="Its first byte; null where you cut the file yourself.")
    size: int | None = Field(description="Its bytes, no more and no less; null where you cut the file yourself.")
    url: str = Field(description="A secret: whoever has it can send this part.")
    headers: dict[str, str] = Field(description="Signed: the store refuses the part without them.")

    @classmethod
    def of(cls, ticket: Ticket) -> PartUrl:
        """Return what the API tells of `ticket`."""
        wanted, signed = ticket.slot, ticket.signed
        return cls(number=wanted.number, start=wanted.start, size=wanted.size, url=signed.url, headers=signed.headers)


class PartUrls(BaseModel):
    """A page of URLs."""

    urls: list[PartUrl]
    expires_at: AwareDatetime = Field(description="What is begun before then is taken.")
    next_after: int | None = Field(description="Where the next page begins; null on the last one.")

    @classmethod
    def of(cls, page: Tickets) -> PartUrls:
        """Return what the API tells of `page`."""
        return cls(
            urls=[PartUrl.of(ticket) for ticket in page.tickets],
            expires_at=datetime.now(UTC) + timedelta(seconds=page.seconds),
            next_after=page.next_after,
        )


class BegunDirectUpload(BaseModel):
    """A new upload, and the URLs of its first parts."""

    upload: DirectUpload
    parts: PartUrls
    copies_left: int = Field(
        description=(
            "Parts that files of yours have, and that were not copied in time. Ask the same again for them, with the"
            " same `fingerprint`, or send them."
        )
    )


class FoundFile(BaseModel):
    """What there is of a file that was told by its fingerprint."""

    file: File = Field(description="`links.upload` is where an unfinished one is continued, by `created_via`.")
    is_finished: bool = Field(description="The file is there, and its digest was verified.")
    missing_parts: list[int] | None = Field(
        description=(
            "Of an unfinished direct upload of declared size the parts that are to be sent; null for all others, see"
            " `offset`."
        )
    )


class PartsQuery(BaseModel):
    """Which parts."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, description="Only parts above this number; `next_after` of the page before.")
    limit: int = Field(default=MOST_PARTS // 10, ge=1, le=MOST_PARTS, description="Parts in the answer, at most.")


class PartStanding(BaseModel):
    """One part, as planned and as the store has it."""

    number: int
    start: int | None = Field(description="Its first byte; null where you cut the file yourself.")
    size: int | None = Field(description="Its bytes as planned, or as they are where nothing was planned.")
    etag: str | None = Field(description="In the store; null when it is not there.")
    checksum: str | None = Field(description="What the store has computed, where that was declared.")
    wrong: list[WrongPart] = Field(description="Why it has to be sent (again); empty when it is right.")

    @classmethod
    def of(cls, standing: Standing, algorithm: str | None) -> PartStanding:
        """Return what the API shows of a part."""
        wanted, found = standing.slot, standing.found
        computed = None if found is None or algorithm is None else found.digest(algorithm)
        return cls(
            number=wanted.number,
            start=wanted.start,
            size=found.size if wanted.size is None and found is not None else wanted.size,
            etag=None if found is None else found.etag,
            checksum=None if computed is None else base64.b64encode(computed).decode(),
            wrong=[WrongPart.of(fault) for fault in standing.faults],
        )


class PartsPage(BaseModel):
    """Parts in order: those planned, and those that the store has."""

    parts: list[PartStanding]
    next_after: int | None = Field(description="Where the next page begins; null on the last one.")
