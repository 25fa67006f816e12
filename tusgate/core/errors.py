"""Every error that tusgate raises on purpose. No HTTP in here: statuses live in `web/errors.py`.

TusgateError
├── InvalidRequest            a field is malformed; names it and what was expected
│   ├── InconsistentLength    a second, different upload length
│   └── ChecksumUnsupported   an algorithm we do not offer
├── UnsupportedVersion        a protocol version we do not speak
├── UnsupportedMediaType      wrong Content-Type, or any Content-Encoding
│   ├── TypeNotAllowed        the tenant takes no files of this type
│   └── ContentMismatch       the bytes are not of the declared type, or of none that is allowed
├── UnsupportedMethod         a method (or method override) that the resource does not have
├── UnknownHost               a request for a host name that is none of ours
├── OriginForbidden           a browser page from an origin that is not on the list
├── Unauthenticated           no credentials
│   ├── InvalidCredentials    credentials that prove nothing
│   └── CredentialsExpired    were good, and are no longer: expired or revoked
├── Forbidden                 somebody known, who may not do this
│   ├── PermissionMissing     the permission for this kind of request
│   ├── NotCovered            the upload token is for other files
│   ├── TokenSpent            the upload token has made its upload
│   └── NotPossessed          nobody knows that they have the file, or there is none like it
├── HookRefused               a hook does not want it
├── TenantUnknown             the identity belongs to a tenant that is not declared
├── TooManyRequests           new uploads faster than the tenant may
├── TooManyUploads            as many unfinished uploads as the tenant may have
├── UploadNotFound            unknown id, or somebody else's
├── UploadGone                expired, terminated or failed, and still remembered
├── OffsetMismatch            the request continues at another place than the upload does
├── WrongProtocol             appends are pinned to the protocol that created the upload
│   ├── NotDirect             parts are sent to the store only where the upload was created so
│   └── OnlyDirect            the upload was created so, and takes no bytes through the gateway
├── NotComplete               a file whose bytes are not all there and verified yet cannot be read
├── StillProcessing           a file that nobody reads before it was looked at
├── NotClean                  a file that nobody reads, because of what was found in it, or could not be found out
├── JobLost                   a job that somebody else has, that is settled, or whose file is gone
├── ProcessingFailed          a processor has not done its work on a file
├── DownloadsOff              this server hands out no files
├── OriginTokenMissing        files are handed out through the CDN only
├── DirectOff                 this server lets nobody send bytes to its store
├── InstantOff                this server makes no files of bytes that it has already
├── PartsRefused              what the store has is not what was planned; nothing has changed
├── PartsFixed                an upload that has all its parts takes no other ones
├── SharingOff                this server has no share links
├── TooManyShares             the file has as many share links as it may
├── TooManyTries              too many wrong passwords; others have to wait, too
├── AlreadyComplete           an append to an upload whose end has been declared and reached
├── FinalIsFixed              an append to an upload that is made of others, or a final with a body
├── StillNeeded               an unfinished final is made of it
├── Retained                  a file that must be kept until a time
├── TooLarge                  more bytes than declared, allowed, or than the part grid can address
│   ├── Overrun               more bytes than declared, where that spoils the upload for good
│   ├── QuotaExceeded         the tenant has as many bytes, or files, as it may
│   └── MetadataTooLarge      Upload-Metadata or the header block over the limit
├── ChecksumMismatch          the bytes of one request do not have the digest it announced
├── Fenced                    another request became the writer; this one may not change anything
├── Finishing                 all bytes are in, the object is not verified yet
├── Interrupted               the request body ended before its end
│   ├── ClientGone            connection closed or reset
│   ├── ClientStalled         no bytes for too long, or too few
│   ├── Superseded            a later request of the client asked where the upload stands
│   └── Draining              this process is shutting down
├── Unavailable               a dependency cannot be used now; trying again later helps
│   ├── DatabaseUnavailable
│   ├── HookUnavailable       a hook that has to be asked does not answer
│   ├── IdentityUnavailable   the keys of an issuer cannot be fetched, so nobody can be recognised
│   ├── StoreUnavailable
│   │   ├── PieceLost         the store no longer has bytes that wait for their part, or has other ones
│   │   └── ObjectLost        the store has no object where one should be, or another one
│   ├── TooManyDownloads      this process hands out as many files at once as it may
│   ├── TooManyListeners      as many follow the events of this process as may at once
│   ├── Overloaded            this process serves as many connections as it may
│   └── Throttled             requests about known uploads faster than the tenant may
├── StoreRefused              the object store says no for good (InvalidPart, EntityTooSmall, ...)
│   └── MultipartLost         the store no longer knows the multipart upload
├── DeliveryFailed            the receiver of an event did not take it
├── HookFailed                a hook has not answered, or nothing that can be understood
├── SinkGone                  the receiver of events does not want any more of them
└── SettingsError             a setting is wrong; start-up stops
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tusgate.core.direct import Fault
    from tusgate.core.hooks import Reply
    from tusgate.core.model import Upload

_FAULTS_TOLD: Final = 5
"""Faults that a message names; all of them go with the error."""


class TusgateError(Exception):
    """Root of the tree; never raised itself.

    The class docstring's first line is the default message. `code` is public and stable: it is what error
    bodies, logs and metrics show.

    Attributes:
        upload: the committed upload, where the raiser knew it; the only source of an offset in an error answer.
    """

    code = "internal"
    upload: Upload | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or type(self).__name__).splitlines()[0])


class InvalidRequest(TusgateError):
    """A field of the request is malformed."""

    code = "invalid_request"

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field = field
        self.expected = expected


class InconsistentLength(InvalidRequest):
    """The upload already has another length."""

    code = "inconsistent_length"


class ChecksumUnsupported(InvalidRequest):
    """The checksum algorithm is not offered."""

    code = "checksum_unsupported"


class UnsupportedVersion(TusgateError):
    """Tus-Resumable: expected 1.0.0."""

    code = "unsupported_version"


class UnsupportedMediaType(TusgateError):
    """The request body has a type or encoding that cannot be stored."""

    code = "unsupported_media_type"


class UnsupportedMethod(TusgateError):
    """This resource does not offer that method."""

    code = "unsupported_method"

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"method {method}: expected one of {', '.join(allowed)}")
        self.allowed = allowed


class UnknownHost(TusgateError):
    """The host name is none of this server's; to let it in, set TUSGATE_PUBLIC_URL or TUSGATE_PUBLIC_ALIASES."""

    code = "unknown_host"


class OriginForbidden(TusgateError):
    """Origin: not on the list of allowed origins."""

    code = "origin_forbidden"


class Unauthenticated(TusgateError):
    """This needs credentials: Authorization: Bearer."""

    code = "unauthenticated"


class InvalidCredentials(Unauthenticated):
    """The credentials are not valid."""

    code = "invalid_credentials"


class CredentialsExpired(Unauthenticated):
    """The credentials are no longer valid; go on with new ones."""

    code = "credentials_expired"


class Forbidden(TusgateError):
    """The credentials do not allow this."""

    code = "forbidden"


class PermissionMissing(Forbidden):
    """The credentials lack a permission."""

    code = "permission_missing"

    def __init__(self, needed: tuple[str, ...]) -> None:
        super().__init__(f"this needs the permission {' or '.join(needed)}")
        self.needed = needed


class NotCovered(Forbidden):
    """The upload token does not cover this upload."""

    code = "not_covered"


class TokenSpent(Forbidden):
    """The upload token has made its upload; another upload needs another token."""

    code = "token_spent"


class NotPossessed(Forbidden):
    """There is no such file here, or the answer does not prove that you have it: send its bytes."""

    code = "not_possessed"


class HookRefused(TusgateError):
    """A hook does not want this.

    Attributes:
        reply: what the client is to be told; made by `Reply.of_refusal`.
    """

    code = "refused_by_hook"

    def __init__(self, hook: str, reply: Reply) -> None:
        super().__init__(f"the hook {hook} refused it")
        self.reply = reply


class TypeNotAllowed(UnsupportedMediaType):
    """Files of this type are not taken here."""

    code = "type_not_allowed"


class ContentMismatch(UnsupportedMediaType):
    """The content is not what its type says."""

    code = "content_mismatch"


class TenantUnknown(TusgateError):
    """This server does not know the tenant."""

    code = "tenant_unknown"


class TooManyRequests(TusgateError):
    """Too many new uploads in a short time; try again later."""

    code = "too_many_requests"


class TooManyUploads(TusgateError):
    """Too many unfinished uploads; finish or delete some first."""

    code = "too_many_uploads"


class UploadNotFound(TusgateError):
    """There is no such upload."""

    code = "not_found"


class FinalIsFixed(TusgateError):
    """The upload takes no bytes in this way: it is a concatenation of others, or part of one in another protocol."""

    code = "final_is_fixed"


class StillNeeded(TusgateError):
    """The upload is part of a concatenation that is not finished yet."""

    code = "still_needed"


class Retained(TusgateError):
    """The file must be kept until a time, which only an administrator may bring forward."""

    code = "retained"

    def __init__(self, until: datetime) -> None:
        super().__init__(f"the file is kept until {until.isoformat()}")
        self.until = until


class UploadGone(TusgateError):
    """The upload existed and is no longer available."""

    code = "gone"

    def __init__(self, state: str, reason: str | None = None) -> None:
        super().__init__(f"the upload is {state}" + (f": {reason}" if reason else ""))
        self.state = state


class OffsetMismatch(TusgateError):
    """The request does not continue where the upload stands."""

    code = "offset_mismatch"

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"Upload-Offset: expected {expected}, got {provided}")
        self.expected = expected
        self.provided = provided


class WrongProtocol(TusgateError):
    """The upload was created with another protocol."""

    code = "wrong_protocol"


class NotComplete(TusgateError):
    """The file is not complete yet; try again when its state is complete."""

    code = "not_complete"


class StillProcessing(TusgateError):
    """The file is still being looked at; nobody reads it before."""

    code = "still_processing"


class NotClean(TusgateError):
    """The file was refused by a processor, or could not be looked at; nobody reads it."""

    code = "not_clean"


class JobLost(TusgateError):
    """The job is somebody else's by now, is settled, or its file is gone."""

    code = "job_lost"


class ProcessingFailed(TusgateError):
    """The processor has not done its work.

    Attributes:
        permanent: trying again would end the same way.
    """

    code = "processing_failed"

    def __init__(self, message: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class DownloadsOff(TusgateError):
    """Downloads are switched off on this server."""

    code = "downloads_off"


class OriginTokenMissing(TusgateError):
    """Files are handed out through the CDN only: X-Origin-Token is missing or wrong."""

    code = "origin_token_missing"


class NotDirect(WrongProtocol):
    """The upload goes through the gateway; its bytes cannot be sent to the store."""

    code = "not_direct"


class OnlyDirect(WrongProtocol):
    """The bytes of this upload are sent to the store itself, not through the gateway."""

    code = "only_direct"


class DirectOff(TusgateError):
    """This server takes no uploads directly to its store: that needs S3, and TUSGATE_DIRECT."""

    code = "direct_off"


class InstantOff(TusgateError):
    """This server makes no file without its bytes: that needs TUSGATE_INSTANT_UPLOAD, and TUSGATE_DEDUP."""

    code = "instant_off"


class PartsRefused(TusgateError):
    """The parts in the store are not those that were planned; send what is wrong again.

    Attributes:
        faults: everything that is wrong, in the order of the parts.
    """

    code = "parts_refused"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(
            "the store does not have the parts that were planned: "
            + ", ".join(f"part {fault.number} {fault.wrong}" for fault in faults[:_FAULTS_TOLD])
            + (f" and {len(faults) - _FAULTS_TOLD} more" if len(faults) > _FAULTS_TOLD else "")
        )
        self.faults = tuple(faults)


class PartsFixed(TusgateError):
    """The upload has all its parts; no more can be sent."""

    code = "parts_fixed"


class SharingOff(TusgateError):
    """Share links are switched off on this server."""

    code = "sharing_off"


class TooManyShares(TusgateError):
    """The file has as many share links as it may."""

    code = "too_many_shares"

    def __init__(self, most: int) -> None:
        super().__init__(f"the file has {most} share links already")


class TooManyTries(TusgateError):
    """Too many wrong passwords were tried; wait before the next one."""

    code = "too_many_tries"


class AlreadyComplete(TusgateError):
    """The upload is complete; nothing can be added."""

    code = "already_complete"


class TooLarge(TusgateError):
    """The upload would become larger than declared or allowed."""

    code = "too_large"


class Overrun(TooLarge):
    """More bytes than the declared length: the upload is invalid."""

    code = "overrun"


class QuotaExceeded(TooLarge):
    """The tenant's quota is used up."""

    code = "quota_exceeded"


class MetadataTooLarge(TooLarge):
    """The metadata is larger than this server takes."""

    code = "metadata_too_large"


class ChecksumMismatch(TusgateError):
    """The bytes received do not have the announced checksum."""

    code = "checksum_mismatch"


class Fenced(TusgateError):
    """Another request has taken over this upload."""

    code = "fenced"


class Finishing(TusgateError):
    """All bytes are stored; the object is still being put together."""

    code = "finishing"


class Interrupted(TusgateError):
    """The request body ended early."""

    code = "interrupted"


class ClientGone(Interrupted):
    """The client closed the connection."""

    code = "client_gone"


class ClientStalled(Interrupted):
    """The client sent no bytes, or too few, for too long."""

    code = "client_stalled"


class Superseded(Interrupted):
    """A later request about this upload has ended this one."""

    code = "superseded"


class Draining(Interrupted):
    """This server is shutting down; resume at the given offset."""

    code = "draining"


class Unavailable(TusgateError):
    """A service that this server needs cannot be reached; try again."""

    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached; try again."""

    code = "database_unavailable"


class HookUnavailable(Unavailable):
    """A hook that has to be asked does not answer."""

    code = "hook_unavailable"


class IdentityUnavailable(Unavailable):
    """The keys that prove identities cannot be fetched; try again."""

    code = "identity_unavailable"


class StoreUnavailable(Unavailable):
    """The object store cannot be reached; try again."""

    code = "store_unavailable"


class PieceLost(StoreUnavailable):
    """The object store no longer has bytes that it had confirmed, or has damaged them."""

    code = "piece_lost"


class ObjectLost(StoreUnavailable):
    """The object store no longer has the object that it had confirmed, or has another one in its place."""

    code = "object_lost"


class TooManyDownloads(Unavailable):
    """This server hands out as many files at once as it may; try again."""

    code = "too_many_downloads"


class TooManyListeners(Unavailable):
    """As many clients follow the events of this server as may at once; try again."""

    code = "too_many_listeners"


class Overloaded(Unavailable):
    """This server has as many connections as it can serve; try again."""

    code = "overloaded"


class Throttled(Unavailable):
    """Too many requests in a short time; try again later."""

    code = "throttled"


class StoreRefused(TusgateError):
    """The object store refuses the request for good."""

    code = "store_refused"


class MultipartLost(StoreRefused):
    """The object store no longer has the multipart upload."""

    code = "multipart_lost"


class DeliveryFailed(TusgateError):
    """The receiver of an event did not take it.

    Attributes:
        retry_after: seconds for which it wants to be left alone, if it said so.
    """

    code = "delivery_failed"

    def __init__(self, message: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HookFailed(TusgateError):
    """The hook has not answered."""

    code = "hook_failed"


class SinkGone(TusgateError):
    """The receiver of events does not want any more of them."""

    code = "sink_gone"


class SettingsError(TusgateError):
    """A setting has a value that cannot be used."""

    code = "settings"
