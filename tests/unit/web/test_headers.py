from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.errors import ChecksumUnsupported, InvalidRequest, MetadataTooLarge
from tusgate.core.metadata import Metadata, clean_content_type, clean_filename
from tusgate.web import headers

LIMIT = 16 * 1024


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.spec("NUM-01")
@pytest.mark.parametrize("number", [0, 7, 2**63 - 1])
def test_a_decimal_number_up_to_the_largest_bigint_is_taken(number):
    assert headers.parse_number("Upload-Length", str(number)) == number


@pytest.mark.spec("NUM-02")
@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "-0",
        "+1",
        "1.0",
        "1e3",
        "0x10",
        "1_000",
        "٣",
        "\uff15",
        "abc",
        "",
        "5,5",
        " 7",
        "7 ",
        str(2**63),
        "9" * 5000,
    ],
)
def test_anything_else_is_refused_and_the_field_is_named(text):
    with pytest.raises(InvalidRequest, match=r"^Upload-Length: expected a decimal number"):
        headers.parse_number("Upload-Length", text)


@given(st.text())
def test_a_number_is_read_as_written_or_refused(text):
    try:
        number = headers.parse_number("Upload-Offset", text)
    except InvalidRequest:
        return
    assert text.isascii()
    assert text.isdigit()
    assert text.lstrip("0") == (str(number) if number else "")


@pytest.mark.spec("DEF-02")
def test_a_length_is_declared_or_deferred():
    assert headers.creation_length({"Upload-Length": "9"}) == 9
    assert headers.creation_length({"Upload-Defer-Length": "1"}) is None


@pytest.mark.spec("CRE-02", "CRE-03", "CRE-04", "CRE-05")
@pytest.mark.parametrize(
    ("given_fields", "named"),
    [
        ({}, "Upload-Length"),
        ({"Upload-Length": "9", "Upload-Defer-Length": "1"}, "Upload-Defer-Length"),
        ({"Upload-Length": "-9"}, "Upload-Length"),
        ({"Upload-Defer-Length": "0"}, "Upload-Defer-Length"),
        ({"Upload-Defer-Length": "2"}, "Upload-Defer-Length"),
        ({"Upload-Defer-Length": "true"}, "Upload-Defer-Length"),
        ({"Upload-Defer-Length": ""}, "Upload-Defer-Length"),
    ],
)
def test_a_creation_without_one_clear_length_is_refused(given_fields, named):
    with pytest.raises(InvalidRequest) as refused:
        headers.creation_length(given_fields)
    assert refused.value.field == named


@pytest.mark.spec("CRE-09")
def test_metadata_is_kept_as_it_came():
    metadata = headers.parse_metadata("filename dGVzdA==,is_confidential", LIMIT)
    assert metadata.raw == b"filename dGVzdA==,is_confidential"
    assert metadata.filename == "test"


@pytest.mark.spec("CRE-11")
@pytest.mark.parametrize("text", ["k", "k ", "k ,b YQ==", "a YQ==,k", "a YQ==,k ", "__proto__ YQ=="])
def test_a_value_may_be_empty_with_or_without_its_blank(text):
    assert headers.parse_metadata(text, LIMIT).raw == text.encode()


@pytest.mark.spec("CRE-12")
@pytest.mark.parametrize("text", [None, ""])
def test_an_empty_metadata_field_counts_as_absent(text):
    assert headers.parse_metadata(text, LIMIT) == Metadata()


@pytest.mark.spec("CRE-10", "CRE-13")
@pytest.mark.parametrize(
    "text",
    [
        ",a YQ==",
        "a YQ==,",
        " a YQ==",
        "a YQ==, b YQ==",
        "a YQ== YQ==",
        "a  YQ==",
        "a !!!",
        "a YQ",
        "a Yg===",
        "a YR==",
        "a YQ==\t",
        "a YQ==,a Yg==",
        "a\tb YQ==",
        "ключ YQ==",
        "k\x7f YQ==",
        "a \uff39\uff31==",
        "\udcff YQ==",
    ],
)
def test_metadata_outside_the_grammar_is_refused(text):
    with pytest.raises(InvalidRequest, match=r"^Upload-Metadata"):
        headers.parse_metadata(text, LIMIT)


@pytest.mark.spec("CRE-14")
def test_metadata_over_the_limit_is_refused_and_at_the_limit_taken():
    text = "k" * LIMIT
    assert headers.parse_metadata(text, LIMIT).raw == text.encode()
    with pytest.raises(MetadataTooLarge):
        headers.parse_metadata(text + "k", LIMIT)


@pytest.mark.spec("CRE-13")
@pytest.mark.parametrize("value", [b"\x00", b"\r\n", b"\xff\xfe", b"\xed\xa0\x80", "🎬".encode(), b""])
def test_a_value_may_be_any_bytes(value):
    raw = f"filename {b64(value)}"
    assert headers.parse_metadata(raw, LIMIT).raw == raw.encode()


@given(st.dictionaries(st.from_regex(r"[!-+\--~]{1,9}", fullmatch=True), st.binary(max_size=40), min_size=1))
def test_whatever_clients_encode_is_taken_byte_for_byte(pairs):
    text = ",".join(f"{key} {b64(value)}" if value else key for key, value in pairs.items())
    assert headers.parse_metadata(text, LIMIT).raw == text.encode()


@given(st.binary(max_size=600))
def test_a_cleaned_file_name_can_be_shown_and_stored_anywhere(value):
    name = clean_filename(value)
    if name is not None:
        assert name.isprintable() or all(
            c.isprintable() or c in "\u200b\u200c\u200d\ufeff\xad" or not c.isascii() for c in name
        )
        assert not set(name) & set("\x00\r\n\x1b/\\\u202e\u2028")
        assert 0 < len(name) <= 255
        name.encode()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"holiday.mp4", "holiday.mp4"),
        ("отпуск 🏖.mp4".encode(), "отпуск 🏖.mp4"),
        (b"/etc/passwd", "passwd"),
        (b"..\\..\\boot.ini", "boot.ini"),
        (b"a\r\nSet-Cookie: x", "aSet-Cookie: x"),
        ("gpj.\u202eexe".encode(), "gpj.exe"),
        (b"nul\x00.txt", "nul.txt"),
        ("müll.txt".encode("latin-1"), "m\ufffdll.txt"),
        (b"..", None),
        (b" ", None),
        (b"dir/", None),
    ],
)
def test_a_file_name_loses_what_could_do_harm(value, name):
    assert clean_filename(value) == name


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"video/mp4", "video/mp4"),
        (b"text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        (b"image/svg+xml", "image/svg+xml"),
        (b"text/html\r\nX: y", None),
        (b"text", None),
        (b"null", None),
        (b"text/pl\xc3\xa4in", None),
        (b"text/" + b"x" * 200, None),
    ],
)
def test_only_a_clean_media_type_is_kept(value, content_type):
    assert clean_content_type(value) == content_type


@pytest.mark.spec("SUM-02")
@pytest.mark.parametrize("algorithm", DIGEST_SIZES)
def test_a_checksum_is_an_algorithm_and_a_digest_of_its_size(algorithm):
    digest = bytes(range(DIGEST_SIZES[algorithm]))
    assert headers.parse_checksum(f"{algorithm} {b64(digest)}") == Checksum(algorithm, digest)


@pytest.mark.spec("SUM-07")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha1",
        "sha1 ",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "sha1 Kq5sNclPz7QV2-lfQIuc6R7oRu0=",
        "sha1 YWJj",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0= x",
        "sha1:Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    ],
)
def test_a_malformed_checksum_is_refused(text):
    with pytest.raises(InvalidRequest, match=r"^Upload-Checksum"):
        headers.parse_checksum(text)


@pytest.mark.spec("SUM-05", "SUM-06")
@pytest.mark.parametrize("algorithm", ["SHA1", "sha3", "crc64"])
def test_an_algorithm_that_we_do_not_offer_is_refused_by_its_own_error(algorithm):
    with pytest.raises(ChecksumUnsupported):
        headers.parse_checksum(f"{algorithm} Kq5sNclPz7QV2+lfQIuc6R7oRu0=")


@pytest.mark.parametrize(
    "name", ["Upload-Offset", "upload-anything", "Tus-Resumable", "Authorization", "X-HTTP-Method-Override"]
)
def test_a_doubled_field_is_refused_even_with_equal_values(name):
    fields = CIMultiDictProxy(CIMultiDict([(name, "1"), (name.upper(), "1")]))
    with pytest.raises(InvalidRequest, match="the field once"):
        headers.refuse_duplicates(fields)


def test_fields_that_may_be_repeated_are_left_alone():
    headers.refuse_duplicates(CIMultiDictProxy(CIMultiDict([("Accept", "a"), ("Accept", "b"), ("Upload-Offset", "1")])))


def test_a_header_block_over_the_limit_is_refused():
    with pytest.raises(MetadataTooLarge):
        headers.refuse_oversize({f"X-{n}": "x" * 8000 for n in range(9)})


@pytest.mark.spec("EXP-04")
def test_a_date_is_written_in_english_and_gmt():
    eastern = timezone(timedelta(hours=-5))
    assert headers.format_date(datetime(2014, 6, 25, 16, tzinfo=UTC)) == "Wed, 25 Jun 2014 16:00:00 GMT"
    assert headers.format_date(datetime(2014, 6, 25, 11, tzinfo=eastern)) == "Wed, 25 Jun 2014 16:00:00 GMT"
