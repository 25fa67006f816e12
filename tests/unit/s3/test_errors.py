"""What an answer of an S3 server means."""

from __future__ import annotations

import pytest

from tusgate.core.errors import MultipartLost, ObjectLost, StoreRefused, StoreUnavailable, TusgateError
from tusgate.s3.errors import Damaged, ObjectAbsent, Transient, error_code, failure


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchUpload", MultipartLost),
        (200, "NoSuchUpload", MultipartLost),
        (404, "NoSuchKey", MultipartLost),  # Ceph says so of a multipart upload that is gone
        (404, "", Transient),
        (404, "404", Transient),
        (400, "InvalidPart", StoreRefused),
        (500, "InvalidPart", StoreRefused),
        (400, "InvalidPartOrder", StoreRefused),
        (400, "EntityTooSmall", StoreRefused),
        (400, "BadDigest", Damaged),
        (400, "XAmzContentChecksumMismatch", Damaged),
        (403, "AccessDenied", StoreUnavailable),
        (403, "", StoreUnavailable),
        (403, "RequestTimeTooSkewed", StoreUnavailable),
        (400, "ExpiredToken", StoreUnavailable),
        (404, "NoSuchBucket", StoreUnavailable),
        (301, "PermanentRedirect", StoreUnavailable),
        (400, "RequestTimeout", Transient),
        (400, "SomethingNew", Transient),
        (429, "", Transient),
        (500, "InternalError", Transient),
        (502, "", Transient),
        (503, "SlowDown", Transient),
    ],
)
def test_an_answer_means(status: int, code: str, kind: type[TusgateError]) -> None:
    assert type(failure("UploadPart", status, code)) is kind


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentChecksumMismatch"])
def test_a_complete_whose_checksum_is_wrong_is_refused_for_good(code: str) -> None:
    """It sends no bytes that could have been damaged on their way."""
    assert type(failure("CompleteMultipartUpload", 400, code)) is StoreRefused


@pytest.mark.parametrize("operation", ["GetObject", "UploadPartCopy"])
def test_a_missing_object_is_absent(operation: str) -> None:
    assert type(failure(operation, 404, "NoSuchKey")) is ObjectAbsent


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidArgument"), (416, "InvalidRange"), (400, "InvalidRequest"), (501, "NotImplemented")],
)
def test_what_cannot_be_copied_is_refused_but_no_other_request_for_that_reason(status: int, code: str) -> None:
    assert type(failure("UploadPartCopy", status, code)) is StoreRefused
    assert type(failure("UploadPart", status, code)) is (StoreRefused if code == "NotImplemented" else Transient)


@pytest.mark.parametrize("operation", ["GetObject", "UploadPartCopy"])
def test_an_object_that_is_not_the_one_that_was_meant_is_lost(operation: str) -> None:
    """To read and to copy from; whoever has only just looked at it looks again, as at all that seems to be lost."""
    assert type(failure(operation, 412, "PreconditionFailed")) is ObjectLost


@pytest.mark.parametrize(
    ("status", "retry_after", "delay"),
    [(503, "3", 3.0), (503, None, 1.0), (503, "Fri, 31 Dec 1999 23:59:59 GMT", 1.0), (500, None, 0.0)],
)
def test_the_store_says_how_long_it_wants_to_be_left_alone(status: int, retry_after: str | None, delay: float) -> None:
    error = failure("UploadPart", status, "", retry_after)

    assert isinstance(error, Transient)
    assert error.delay == delay


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>x</Message></Error>", "NoSuchKey"),
        (b"<Error>\n  <Code>\n SlowDown </Code></Error>", "SlowDown"),
        (b"<html><h1>404 Not Found</h1></html>", ""),
        (b"<Error><Code><script>alert(1)</script></Code></Error>", ""),
        (b"", ""),
        (b"\xff\xfe<Code>", ""),
    ],
)
def test_the_error_code_is_read_from_the_body(body: bytes, code: str) -> None:
    assert error_code(body) == code
