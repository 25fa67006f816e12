"""What the API takes and gives. The OpenAPI document is made from these models: a description here is documentation."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from tusgate.core.direct import Wrong
from tusgate.core.events import EventType
from tusgate.core.lifecycle import GONE
from tusgate.core.listing import LISTED, PRESENT, FileFilter
from tusgate.core.metadata import clean_content_type, clean_filename, decoded_metadata
from tusgate.core.model import UPLOAD_ID, CreatedVia, State, UploadId
from tusgate.core.processing import JobState, Processed

if TYPE_CHECKING:
    from tusgate.core.direct import Fault
    from tusgate.core.events import Delivery
    from tusgate.core.listing import Changes
    from tusgate.core.model import Upload
    from tusgate.core.processing import Job
    from tusgate.core.quota import Quota, Usage

MOST_IN_A_PAGE: Final = 200
MOST_TO_DELETE: Final = 100
_LONGEST_TEXT: Final = 255
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Times beyond these are no times of files, and no two databases agree about them."""
_WANTED_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,127}/(?:\*|[\w!#$&^.+-]{1,127})", re.ASCII)


def _whole_name(name: str | None) -> str | None:
    if name is not None and clean_filename(name.encode("utf-8", "surrogatepass")) != name:
        raise ValueError("a name without slashes, control characters and surrounding blanks, of up to 255 characters")
    return name


def _whole_type(text: str | None) -> str | None:
    if text is not None and clean_content_type(text.encode("utf-8", "surrogatepass")) != text:
        raise ValueError("a media type such as image/png")
    return text


def _wanted_type(text: str | None) -> str | None:
    if text is not None and _WANTED_TYPE.fullmatch(text) is None:
        raise ValueError("a media type such as image/png, or image/*")
    return text.lower() if text is not None else None


def searched(text: str | None) -> str | None:
    """Return a text that is compared with what is stored. Raises ValueError for one that cannot be."""
    if text is not None and ("\0" in text or text.encode("utf-8", "replace").decode() != text):
        raise ValueError("characters that a file name may have")
    return text


def _within_reason(moment: datetime | None) -> datetime | None:
    if moment is not None and not _FIRST <= moment <= _LAST:
        raise ValueError("a time from 1970 to 9000")
    return moment


def _file_id(text: str) -> str:
    if UPLOAD_ID.fullmatch(text) is None:
        raise ValueError("the id of a file")
    return text


Name = Annotated[str | None, AfterValidator(_whole_name)]
Type = Annotated[str | None, AfterValidator(_whole_type)]
FileId = Annotated[str, AfterValidator(_file_id)]
Moment = Annotated[AwareDatetime | None, AfterValidator(_within_reason)]
ListedState = Literal["uploading", "sealed", "complete", "failed", "expired", "terminated"]


class Amount(BaseModel):
    """How much there is of something."""

    used: int
    limit: int | None = Field(description="Null: as much as one likes.")


class TenantUsage(BaseModel):
    """What the whole tenant has, not only the caller, and what it may have."""

    tenant: str
    bytes: Amount = Field(description="In the store, or promised to it by uploads of known length.")
    files: Amount = Field(description="Finished, or on their way. Partials are no files.")
    unfinished: Amount = Field(description="Uploads, and partials, that miss bytes or are being finished.")

    @classmethod
    def of(cls, tenant: str, usage: Usage, quota: Quota) -> TenantUsage:
        """Render what the database says, and what the tenants file says."""
        return cls(
            tenant=tenant,
            bytes=Amount(used=usage.bytes, limit=quota.bytes),
            files=Amount(used=usage.files, limit=quota.files),
            unfinished=Amount(used=usage.unfinished, limit=quota.unfinished),
        )


class Links(BaseModel):
    """Absolute URLs."""

    self: str = Field(description="This file in the API.")
    upload: str = Field(description="Where the upload is continued, by the protocol in `created_via`.")
    content: str | None = Field(description="The bytes; null until the file is complete, or where downloads are off.")


class JobShown(BaseModel):
    """What one processor does with a file, or has done."""

    model_config = ConfigDict(title="Job")

    name: str = Field(description="Of the processor.")
    version: int
    state: JobState = Field(
        description=(
            "`waiting` for a worker, maybe again, `running`, `done`; `refused`: nobody should have the file; `dead`:"
            " given up."
        )
    )
    progress: float = Field(description="From 0 to 1, of the current try.")
    tries: int = Field(description="Begun so far.")
    error: str | None = Field(description="Of the last try that failed, or why the file was refused.")
    facts: dict[str, Any] = Field(description="What the processor has found.")

    @classmethod
    def of(cls, job: Job) -> JobShown:
        """Return what the API shows of `job`."""
        return cls(
            name=job.processor,
            version=job.version,
            state=job.state,
            progress=job.progress,
            tries=job.tries,
            error=job.error,
            facts=dict(job.facts),
        )


class DerivedShown(BaseModel):
    """A file that was made of another one; it is a file in every way, and ends with the other one."""

    model_config = ConfigDict(title="Derived")

    id: str
    derivation: str = Field(description="Processor and name, such as `thumbnail/thumbnail`.")
    filename: str | None
    content_type: str | None
    size: int | None
    content: str | None = Field(description="The bytes; null where downloads are off.")


class FileProcessing(BaseModel):
    """What is done with a finished file. It stays `complete`, whatever becomes of its jobs."""

    model_config = ConfigDict(title="Processing")

    state: Processed = Field(
        description=(
            "`processing` until all jobs have ended, then `ready`; `failed` when one was given up, `refused` when one"
            " says that nobody should have the file."
        )
    )
    withheld: bool = Field(description="Nobody can read the file, because of a job that must be done before.")
    jobs: list[JobShown]
    derived: list[DerivedShown] = Field(description="What was made of the file.")


class Undelivered(BaseModel):
    """An event that a sink could not be told. Whoever runs the server sees why, and can have it tried again."""

    model_config = ConfigDict(title="Undelivered")

    type: EventType
    sink: str
    given_up_at: AwareDatetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Undelivered:
        """Return what the API shows of `delivery`."""
        return cls(type=delivery.event.type, sink=delivery.sink, given_up_at=delivery.settled_at)


class File(BaseModel):
    """A file: one upload, finished or on its way."""

    model_config = ConfigDict(title="File")

    id: str = Field(description="The last part of the upload's URL.")
    state: State = Field(
        description=(
            "`uploading` takes bytes, `sealed` has all of them and is being put together, `complete` can be downloaded,"
            " `failed` and `expired` have ended, `terminated` was deleted."
        )
    )
    reason: str | None = Field(description="Why it failed.")
    filename: str | None = Field(description="As the client said or somebody has changed it since; cleaned.")
    content_type: str | None = Field(description="As the client said or somebody has changed it since; not verified.")
    content_encoding: str | None = Field(
        description="How the client has compressed it, such as `gzip`. Sizes and checksums are of the bytes as stored."
    )
    size: int | None = Field(description="Bytes of the finished file; null while that is open.")
    offset: int = Field(description="Bytes that are stored. Only ever grows.")
    metadata: dict[str, str] = Field(
        description="What a tus client sent in Upload-Metadata; bytes that are not UTF-8 are shown as U+FFFD."
    )
    tenant: str
    owner: str
    created_at: AwareDatetime
    updated_at: AwareDatetime
    completed_at: AwareDatetime | None
    expires_at: AwareDatetime | None = Field(
        description="When a finished file is deleted, or an unfinished upload ends unless bytes come."
    )
    retain_until: AwareDatetime | None = Field(description="Until then nobody deletes it, and it does not expire.")
    ended_at: AwareDatetime | None = Field(description="When it failed, expired or was deleted.")
    ended_by: str | None = Field(description="How whoever deleted it was known, such as `token:<id>`.")
    etag: str | None = Field(description="Of the stored object, without quotes; the downloads' ETag is the same.")
    crc64nvme: str | None = Field(description="CRC64NVME of all bytes, in base64 as S3 shows it.")
    sha256: str | None = Field(
        description="SHA-256 of all bytes in hexadecimal digits, once it was computed, where the server does that."
    )
    created_via: CreatedVia = Field(description="The protocol that the upload came by.")
    processing: FileProcessing | None = Field(description="Null: no processor looks at it.")
    derived_from: str | None = Field(description="The file that it was made of.")
    derivation: str | None = Field(description="What it is to that file: processor and name.")
    undelivered: list[Undelivered] | None = Field(
        description="Events of the file that could not be told and were given up. Null in lists: ask for the file."
    )
    links: Links

    @classmethod
    def of(cls, upload: Upload, links: Links, processing: FileProcessing | None = None) -> File:
        """Return what the API shows of `upload`."""
        return cls(
            id=upload.id,
            state=upload.state,
            reason=upload.reason,
            filename=upload.filename,
            content_type=upload.content_type,
            content_encoding=upload.content_coding,
            size=upload.final_length,
            offset=upload.offset,
            metadata=decoded_metadata(upload.metadata),
            tenant=upload.scope.tenant,
            owner=upload.scope.owner,
            created_at=upload.created_at,
            updated_at=upload.updated_at,
            completed_at=upload.completed_at,
            expires_at=upload.expires_at,
            retain_until=upload.retain_until,
            ended_at=upload.updated_at if upload.state in GONE else None,
            ended_by=upload.ended_by,
            etag=upload.etag,
            crc64nvme=None if upload.crc64 is None else base64.b64encode(upload.crc64.to_bytes(8, "big")).decode(),
            sha256=None if upload.sha256 is None else upload.sha256.hex(),
            created_via=upload.created_via,
            processing=processing,
            derived_from=upload.derived_from,
            derivation=upload.derivation,
            undelivered=None,
            links=links,
        )


class FilePage(BaseModel):
    """Files, the newest first."""

    files: list[File]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class FileQuery(BaseModel):
    """Which files a listing has."""

    model_config = ConfigDict(extra="forbid")

    state: list[ListedState] = Field(
        default=[],
        description="Only files in these states; may be repeated. Without it all but expired and deleted ones.",
    )
    content_type: Annotated[str | None, AfterValidator(_wanted_type)] = Field(
        default=None, description="`image/png`, or `image/*`; parameters do not count."
    )
    created_from: Moment = Field(default=None, description="Created then or later; RFC 3339, with a time zone.")
    created_before: Moment = Field(default=None, description="Created earlier.")
    name_contains: Annotated[str | None, AfterValidator(searched)] = Field(
        default=None, min_length=1, max_length=_LONGEST_TEXT, description="A part of the file name, in any case."
    )
    name_prefix: Annotated[str | None, AfterValidator(searched)] = Field(
        default=None, min_length=1, max_length=_LONGEST_TEXT, description="The beginning of the file name, in any case."
    )
    created_via: CreatedVia | None = Field(default=None, description="Only uploads of this protocol.")
    derived_from: FileId | None = Field(
        default=None, description="Only files that were made of this one; without it only those that were sent."
    )
    limit: int = Field(default=50, ge=1, le=MOST_IN_A_PAGE, description="Files in a page, at most.")
    cursor: str | None = Field(default=None, max_length=128, description="`next_cursor` of the page before.")

    def filter(self) -> FileFilter:
        """Return what the database is asked for."""
        return FileFilter(
            states=frozenset(State(name) for name in self.state) & LISTED if self.state else PRESENT,
            content_type=self.content_type,
            created_from=self.created_from,
            created_before=self.created_before,
            name_contains=self.name_contains,
            name_prefix=self.name_prefix,
            created_via=self.created_via,
            derived_from=None if self.derived_from is None else UploadId(self.derived_from),
        )


class ContentQuery(BaseModel):
    """How a file is downloaded."""

    model_config = ConfigDict(extra="forbid")

    disposition: Literal["attachment", "inline"] = Field(
        default="attachment",
        description="`inline` lets browsers show images, audio, video and plain text; all else is always saved.",
    )


class FileChange(BaseModel):
    """New values for what is named; what is not named stays, null removes (RFC 7396)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    filename: Name = Field(default=None, description="One path segment, up to 255 characters.")
    content_type: Type = Field(default=None, description="A media type, with or without parameters.")
    expires_at: Moment = Field(default=None, description="When a finished file is deleted; null: never by itself.")
    retain_until: Moment = Field(
        default=None, description="Until then nobody deletes a finished file, and it does not expire; null: no longer."
    )

    @model_validator(mode="after")
    def _names_something(self) -> FileChange:
        if not self.model_fields_set:
            raise ValueError("filename, content_type, expires_at or retain_until")
        return self

    def changes(self) -> Changes:
        """Return the fields that were named."""
        return cast("Changes", {name: getattr(self, name) for name in self.model_fields_set})


class Deletion(BaseModel):
    """Files to delete."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[FileId] = Field(min_length=1, max_length=MOST_TO_DELETE, description="Ids of files, finished or not.")


class Deleted(BaseModel):
    """What became of one file that was to be deleted."""

    id: str
    outcome: Literal["deleted", "gone", "not_found", "refused", "retained"] = Field(
        description=(
            "`gone`: it was deleted, or had expired, before; `not_found`: there never was one, or not of yours;"
            " `refused`: a hook wants it to stay; `retained`: it must be kept."
        )
    )


class DeletionReport(BaseModel):
    """What became of each file, in the order of the request."""

    results: list[Deleted]


class WrongPart(BaseModel):
    """What is wrong with a part of a direct upload."""

    number: int
    wrong: Wrong = Field(
        description=(
            "`missing`: the store does not have it; `not_named`: the store has it, and the request leaves it out;"
            " `foreign`: it is no part of this upload; `size`, `etag`, `checksum`: it has other bytes than planned."
        )
    )
    expected: str | None = Field(description="Size, ETag or checksum that it should have.")
    found: str | None = Field(description="What it has in the store.")

    @classmethod
    def of(cls, fault: Fault) -> WrongPart:
        """Return what the API tells of `fault`."""
        return cls(number=fault.number, wrong=fault.wrong, expected=fault.expected, found=fault.found)


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence; begins with the name of the field where there is one.")
    code: str = Field(description="Stable name of the kind of error.")
    field: str | None = Field(default=None, description="The member, parameter or header field that is wrong.")
    parts: list[WrongPart] | None = Field(default=None, description="All parts of a direct upload that are wrong.")
    retain_until: AwareDatetime | None = Field(default=None, description="With `retained`: until when.")
