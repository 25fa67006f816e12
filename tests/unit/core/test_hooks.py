"""What a hook may have told to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tusgate.core.hooks import Reply

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("said", "told"), [(400, 400), (599, 599), (399, 400), (200, 400), (600, 400), (None, 400)])
def test_a_refusal_is_an_error_of_http(said: int | None, told: int) -> None:
    assert Reply(said).of_refusal().status == told


@pytest.mark.parametrize(("said", "told"), [(200, 200), (204, 204), (206, None), (302, None), (500, None), (0, None)])
def test_a_consent_is_a_success(said: int, told: int | None) -> None:
    assert Reply(said).of_consent().status == told


def test_a_success_without_content_has_no_body() -> None:
    assert Reply(204, "text").of_consent().body is None


@pytest.mark.parametrize("way", [Reply.of_refusal, Reply.of_consent])
def test_a_body_that_is_no_text_can_be_told_all_the_same(way: Callable[[Reply], Reply]) -> None:
    """JSON can say half of a character, which has no bytes."""
    body = way(Reply(200, "half \ud800")).body
    assert body is not None
    assert body.encode().startswith(b"half ")


@pytest.mark.parametrize(
    ("name", "value", "is_told"),
    [
        ("Link", "<https://example.com/>; rel=related", True),
        ("x-anything", "", True),
        ("Content-Type", "text/html", True),
        ("Location", "/", False),
        ("Upload-Length", "1", False),
        ("Access-Control-Allow-Origin", "*", False),
        ("Transfer-Encoding", "chunked", False),
        ("Set-Cookie", "a=b", False),
        ("X-Content-Type-Options", "none", False),
        ("X-A\r\nB", "c", False),
        ("X-A", "b\nSet-Cookie: c", False),
        ("X-A", "b\x00", False),
        ("X-A", "€", False),
        ("X-A", "a" * 4097, False),
        ("", "a", False),
    ],
)
@pytest.mark.parametrize("way", [Reply.of_refusal, Reply.of_consent])
def test_headers_are_told_that_are_allowed_and_in_one_line(name: str, value: str, is_told: bool, way: object) -> None:
    assert callable(way)
    assert way(Reply(headers={name: value})).headers == ({name: value} if is_told else {})


def test_the_later_hook_has_the_last_word() -> None:
    first = Reply(201, "first", {"X-A": "1", "X-B": "1"})
    assert first.followed_by(Reply(None, None, {"X-B": "2"})) == Reply(201, "first", {"X-A": "1", "X-B": "2"})
    assert first.followed_by(Reply(200, "second")) == Reply(200, "second", first.headers)
    assert first.followed_by(None) is first
