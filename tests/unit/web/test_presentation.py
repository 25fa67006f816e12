"""Types, names and codings that a browser is told, whatever the uploader says."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.content import OCTETS
from tusgate.core.grid import Grid
from tusgate.core.metadata import clean_content_type, clean_filename
from tusgate.core.model import CreatedVia, ObjectKey, Scope, State, Upload, UploadId
from tusgate.web.presentation import SHOWN_TYPES, coding_of, filename_parameters, presentation_of

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FILE = Upload(
    id=UploadId("a-file-of-somebody-0123"),
    scope=Scope(),
    created_via=CreatedVia.TUS,
    state=State.COMPLETE,
    length=1,
    offset=1,
    grid=Grid(((1, 1),)),
    epoch=1,
    metadata=None,
    filename="a.bin",
    content_type=None,
    object_key=ObjectKey("k"),
    put_attempts=0,
    multipart_id=None,
    etag="e",
    crc64=None,
    reason=None,
    created_at=NOW,
    updated_at=NOW,
    completed_at=NOW,
    expires_at=None,
)
HOSTILE_TYPES = [
    "text/html",
    "TEXT/HTML",
    "image/svg+xml",
    "application/xhtml+xml",
    "text/xml",
    "application/xml",
    "multipart/x-mixed-replace",
    "text/html; charset=utf-7",
    "image/png, text/html",
    "text/javascript",
    "application/pdf",
    "text/vtt",
    "application/x-shockwave-flash",
    "message/rfc822",
    "a" * 4096 + "/b",
    "image/png\r\nX: y",
    "",
]
QUOTED = re.compile(r'(attachment|inline); filename="([ !#-\[\]-~]*)"; filename\*=UTF-8\'\'([A-Za-z0-9!#$&+.^_`|~%-]*)')


def presented(inline: bool, **changes: Any) -> tuple[str, str]:
    found = presentation_of(replace(FILE, **changes), inline=inline, cache_control="private")
    return found.content_type, found.disposition


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("hostile", HOSTILE_TYPES)
def test_a_type_that_could_run_something_is_saved_as_octets(hostile: str, inline: bool) -> None:
    """DL-01, I18. Also where a type got into the row in another way than by our checks."""
    for told in (hostile, clean_content_type(hostile.encode())):
        content_type, disposition = presented(inline, content_type=told)
        assert content_type == OCTETS
        assert disposition.startswith("attachment;")


@pytest.mark.parametrize("media_type", sorted(SHOWN_TYPES))
def test_a_harmless_type_is_shown_only_when_that_is_wanted_and_without_its_parameters(media_type: str) -> None:
    told = f'{media_type.upper()}; charset=utf-7; x="'
    content_type, disposition = presented(True, content_type=told)
    assert content_type == (media_type if media_type != "text/plain" else "text/plain; charset=utf-8")
    assert disposition.startswith("inline;")
    assert presented(False, content_type=told) == (content_type, disposition.replace("inline", "attachment", 1))


@given(name=st.text(max_size=255))
def test_any_name_makes_a_header_that_gives_it_back(name: str) -> None:
    """I18: nothing ends the quotes or the header, and what browsers read is the name."""
    _, disposition = presented(False, filename=name or None)
    match = QUOTED.fullmatch(disposition)
    assert match is not None
    readable = (name or FILE.id).encode("utf-8", "replace").decode()
    assert unquote(match[3]) == readable
    assert not {*match[2]} & {*'"\\/%:*?<>|'}


@given(raw=st.binary(max_size=300))
def test_a_name_that_was_taken_in_comes_out_as_it_is_shown(raw: bytes) -> None:
    cleaned = clean_filename(raw)
    if cleaned is not None:
        assert unquote(filename_parameters(cleaned).rpartition("''")[2]) == cleaned


@pytest.mark.parametrize(
    ("name", "fallback"),
    [
        ("report.pdf", "report.pdf"),
        ("Müller & Söhne.txt", "Muller & Sohne.txt"),
        ('a"b.txt', "a_b.txt"),
        ("100%25.txt", "100_25.txt"),
        ("日本.txt", "__.txt"),
        ("x.html\u202egnp", "x.html_gnp"),
        ("a\r\nSet-Cookie: b", "a__Set-Cookie_ b"),
    ],
)
def test_old_clients_get_a_name_in_ascii(name: str, fallback: str) -> None:
    assert filename_parameters(name).startswith(f'filename="{fallback}"; ')


@pytest.mark.parametrize(("told", "coding"), [("gzip", "gzip"), ("br", "br"), ("x-evil", None), (None, None)])
def test_only_codings_that_clients_undo_are_told(told: str | None, coding: str | None) -> None:
    assert coding_of(replace(FILE, content_coding=told)) == coding
