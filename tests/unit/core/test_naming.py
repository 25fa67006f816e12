"""Object keys: whatever a client calls its file, the key is safe, ours and unique."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tusgate.core.errors import SettingsError
from tusgate.core.model import ObjectKey, Scope, UploadId
from tusgate.core.naming import PIECES, attempt_key, check_template, clean_segment, object_key, piece_key

ID = UploadId("abcdefghijklmnopqrstuvwx")
DATE = "2026-02-03"
TEMPLATES = ["{id}", "{tenant}/{date}/{id}/{filename}", "{tenant}/{id}-{filename}", "files/{id}.bin", "{id}/{filename}"]
HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "..\\..\\windows",
    "/etc/passwd",
    "a/../b",
    "...",
    " . ",
    "a\x00b\r\nc",
    "\x7f\x1b[31m",
    "‮gpj.exe",
    "日本語.txt",
    "🎈" * 400,
    "a" * 5000,
    "x." + "é" * 3000,
    "é" * 3000 + ".tar.gz",
    "lone \udc80 surrogate",
    "{id}{tenant}",
    "%2e%2e%2f",
    ".tusgate",
]
names = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text(alphabet="./\\ ~\x00é🎈a", max_size=600))


def assert_safe_segment(segment: str) -> None:
    assert segment not in {"", ".", ".."}
    assert not set(segment) & set("/\\")
    assert segment == segment.strip(". ") or len(segment.encode()) > 100  # a cut may end in a dot or space
    assert 1 <= len(segment.encode()) <= 200
    assert not [character for character in segment if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@given(names)
def test_every_name_becomes_one_harmless_path_segment(name: str) -> None:
    assert_safe_segment(clean_segment(name))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("template", TEMPLATES)
def test_hostile_names_do_not_leave_their_place_in_the_key(name: str, template: str) -> None:
    assert_safe_key(object_key(template, ID, Scope(name, name), DATE, name))


@given(names, names, st.sampled_from(TEMPLATES))
@example("..", "..", "{tenant}/{id}/{filename}")
def test_no_name_makes_an_unsafe_key(tenant: str, filename: str, template: str) -> None:
    check_template(template)
    assert_safe_key(object_key(template, ID, Scope(tenant), DATE, filename))


def assert_safe_key(key: str) -> None:
    assert ID in key
    assert len(key.encode()) <= 1024
    assert not key.startswith(("/", PIECES))
    for segment in key.split("/"):
        assert segment not in {"", ".", ".."}
        assert len(segment.encode()) <= 255
        assert not [character for character in segment if unicodedata.category(character) in {"Cc", "Cf", "Cs"}]


def test_a_harmless_name_is_kept_as_it_is() -> None:
    for name in ("report (final) v2.pdf", "日本語.txt", "a+b@c=d,e.tar.gz", "naïve.TXT"):
        assert clean_segment(name) == name


def test_a_name_that_is_cut_keeps_its_extension_and_whole_characters() -> None:
    cleaned = clean_segment("é" * 3000 + ".jpeg")
    assert cleaned.endswith("é.jpeg")
    assert 198 <= len(cleaned.encode()) <= 200


def test_the_key_of_an_upload_follows_the_template() -> None:
    template = "{tenant}/{date}/{id}/{filename}"
    assert object_key(template, ID, Scope("acme"), DATE, "a.txt") == f"acme/2026/02/03/{ID}/a.txt"
    assert object_key(template, ID, Scope("acme"), DATE, None) == f"acme/2026/02/03/{ID}/file"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_names_the_upload_is_accepted(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    "template",
    ["", "{filename}", "{id}/{owner}", "/{id}", "./{id}", ".tusgate/{id}", "a//{id}", "a/../{id}", "{id}/..", "{}{id}"],
)
def test_a_template_without_a_unique_safe_key_is_refused(template: str) -> None:
    with pytest.raises(SettingsError, match="OBJECT_KEY"):
        check_template(template)


def test_every_attempt_at_the_whole_object_has_a_key_of_its_own() -> None:
    key = ObjectKey("a/b.txt")
    assert attempt_key(key, 1) == key
    assert len({attempt_key(key, attempt) for attempt in range(1, 50)}) == 49


@given(st.integers(1, 99), st.integers(0, 99), st.integers(1, 99), st.integers(0, 99))
def test_no_two_pieces_share_a_key(epoch: int, number: int, other_epoch: int, other_number: int) -> None:
    same = (epoch, number) == (other_epoch, other_number)
    assert (piece_key(ID, epoch, number) == piece_key(ID, other_epoch, other_number)) == same
