"""What an S3 error means to us. One table; everything that is not in it is worth another try later.

The table is deliberately short on the permanent side: calling an error permanent ends an upload for good, so
only codes that speak about the bytes and parts themselves are.
"""

from __future__ import annotations

import re
from typing import Final

import structlog

from tusgate.core.errors import MultipartLost, ObjectLost, PieceLost, StoreRefused, StoreUnavailable, TusgateError

_log = structlog.get_logger(__name__)

_LOST: Final = frozenset({"NoSuchUpload"})
_ABSENT: Final = frozenset({"NoSuchKey"})
_REPLACED: Final = frozenset({"PreconditionFailed"})
_OF_ONE_OBJECT: Final = frozenset({"GetObject", "UploadPartCopy"})
_ON_MULTIPARTS: Final = frozenset({"UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListParts"})
_REFUSED: Final = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidPart",
        "InvalidPartOrder",
        "KeyTooLongError",
        "MetadataTooLarge",
        "NotImplemented",
    }
)
_REFUSED_COPIES: Final = frozenset({"InvalidArgument", "InvalidRange", "InvalidRequest"})
"""What a store answers to an UploadPartCopy of too much, too little, or a range that the source does not have. Nothing
is lost then: the same bytes may still be uploaded."""
_DAMAGED: Final = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "InvalidChecksum",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_MISCONFIGURED: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_THROTTLED: Final = frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "TooManyRequests"})
_THROTTLED_STATUSES: Final = frozenset({429, 503})
_THROTTLED_DELAY: Final = 1.0
"""Seconds to stay away at least from a server that asks for it without saying how long."""

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")


class Transient(StoreUnavailable):
    """The object store did not do it now; the same request may work in a moment.

    Attributes:
        delay: seconds that the store wants to be left alone.
        answered: the store sent this answer; False: the connection failed and the outcome is unknown.
    """

    def __init__(self, message: str, delay: float = 0.0, *, answered: bool = False) -> None:
        super().__init__(message)
        self.delay = delay
        self.answered = answered


class Damaged(Transient):
    """The bytes did not arrive with the checksum that was sent with them: a link damages them, and will be mended."""


class PieceDamaged(Transient, PieceLost):
    """A stored piece came back with another checksum; reading it again may help."""


class ObjectAbsent(ObjectLost):
    """The object store says in so many words that there is no such object."""


def error_code(body: bytes) -> str:
    """Return the S3 error code in an answer's body, `""` when there is none (a proxy's page, nothing)."""
    found = _CODE.search(body)
    return found[1].decode("ascii") if found else ""


def failure(operation: str, status: int, code: str, retry_after: str | None = None) -> TusgateError:
    """Return the exception for an answer that is not a success.

    The code decides, not the status: Ceph answers a missing multipart upload with NoSuchKey, AWS puts errors
    into answers with status 200, and a bare 404 may come from a proxy and proves nothing.

    Args:
        operation: the S3 operation.
        status: HTTP status.
        code: S3 error code, `""` when the answer had none.
        retry_after: value of the Retry-After header.
    """
    message = f"{operation}: {status} {code or 'without an S3 error code'}"
    if code in _LOST or (code in _ABSENT and operation in _ON_MULTIPARTS):
        return MultipartLost(message)
    if code in _ABSENT or (code in _REPLACED and operation in _OF_ONE_OBJECT):
        return (ObjectAbsent if code in _ABSENT else ObjectLost)(message)
    if code in _DAMAGED and operation != "CompleteMultipartUpload":  # that one sends no bytes: the parts are wrong
        return Damaged(message, answered=True)
    if code in _REFUSED or code in _DAMAGED or (code in _REFUSED_COPIES and operation == "UploadPartCopy"):
        return StoreRefused(message)
    if code in _MISCONFIGURED or status in {301, 307, 401, 403}:
        _log.error("store.rejects_us", operation=operation, status=status, s3_code=code)
        return StoreUnavailable(message)
    return Transient(message, _delay(status, code, retry_after), answered=True)


def _delay(status: int, code: str, retry_after: str | None) -> float:
    if retry_after and re.fullmatch(r"[0-9]{1,6}", retry_after, re.ASCII):
        return float(retry_after)
    return _THROTTLED_DELAY if code in _THROTTLED or status in _THROTTLED_STATUSES else 0.0
