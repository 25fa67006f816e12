from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.content import check_content, check_type
from tusgate.core.errors import ContentMismatch, TypeNotAllowed

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(80)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1" + bytes(80)
PDF = b"%PDF-1.7\n1 0 obj\n" + bytes(80)
ZIP = b"PK\3\4\x14\0\0\0\x08\0" + bytes(80)
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(80)
PROGRAM = b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff" + bytes(80)
TEXT = b"a,b,c\r\n1,2,\xc3\xa9\r\n"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (PNG, "image/png"),
        (PNG, "IMAGE/PNG; charset=binary"),
        (JPEG, "image/jpeg"),
        (JPEG, "image/jpg"),
        (PDF, "application/pdf"),
        (ZIP, "application/zip"),
        (ZIP, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (MP4, "video/mp4"),
        (MP4, "audio/mp4"),
        (TEXT, "text/csv"),
        (b'[{"a": 1}]', "application/json"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        ("ä".encode("utf-16"), "text/plain"),
        (PROGRAM, "application/octet-stream"),
        (b"", "image/png"),
        (bytes(range(1, 90)), "application/x-of-our-own"),
    ],
)
def test_content_of_the_declared_type_is_taken(head, name):
    check_content(head, name, ())


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (PROGRAM, "image/png"),
        (PDF, "image/png"),
        (PNG, "image/jpeg"),
        (PNG, "text/csv"),
        (PROGRAM, "application/json"),
        (TEXT, "application/pdf"),
        (b"x", "video/mp4"),
        (PNG, "application/x-of-our-own"),
    ],
)
def test_content_of_another_type_is_refused(head, name):
    with pytest.raises(ContentMismatch, match="the content: expected"):
        check_content(head, name, ())


def test_content_without_a_declared_type_must_fit_the_list():
    check_content(PNG, None, ("image/*",))
    check_content(PROGRAM, None, ())
    for head in (PROGRAM, b"nothing that anybody knows"):
        with pytest.raises(ContentMismatch):
            check_content(head, None, ("image/*",))


def test_only_listed_types_may_be_declared():
    check_type("image/webp", ("image/*",))
    check_type(None, ())
    for name in ("text/html", None, "", "image", "x/image/png"):
        with pytest.raises(TypeNotAllowed):
            check_type(name, ("image/*", "application/pdf"))


@given(st.binary(max_size=200), st.sampled_from([None, "image/png", "text/plain", "application/zip", "a/b", "", ";"]))
def test_no_content_breaks_the_check(head, name):
    """It says yes or no, never anything else."""
    with suppress(ContentMismatch):
        check_content(head, name, ("image/*",))
