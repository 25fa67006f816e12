"""A share link with a password, opened in Chromium by somebody who was given it."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.browser.test_downloads import upload
from tests.servers.chromium import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page, Playwright

    from tests.gateway import Gateway

pytestmark = pytest.mark.clients

CONTENT = "what was shared"


@pytest.fixture
def page(playwright: Playwright, chromium: Path) -> Iterator[Page]:
    browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=ARGUMENTS)
    try:
        yield browser.new_page(accept_downloads=True)
    finally:
        browser.close()


def shared(gateway: Gateway, **allowed: object) -> str:
    """Upload a file and return a link to it."""
    file = upload(gateway, "quarterly%20report.txt", "text/plain", CONTENT).removesuffix("/content")
    request = urllib.request.Request(
        f"{file}/shares", json.dumps(allowed).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        url: str = json.load(answer)["url"]
    return url


def test_a_guest_is_asked_for_the_password_and_gets_the_file(
    start_gateway: Callable[..., Gateway], page: Page, tmp_path: Path
) -> None:
    """One download is allowed, and the page itself uses none of it up."""
    link = shared(start_gateway({"TUSGATE_SHARE_KEYS": "k" * 32}), password="open sesame", max_downloads=1)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if "Security Policy" in message.text else None)
    page.goto(link)
    assert "quarterly" not in page.content()
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("alert").get_by_text("not the password").wait_for()
    page.get_by_label("Password").fill("open sesame")
    with page.expect_download() as awaited:
        page.get_by_role("button", name="Download").click()
    assert awaited.value.suggested_filename == "quarterly report.txt"
    awaited.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == CONTENT
    with page.expect_download() as again:
        page.get_by_text("Begin it again").click()
    again.value.save_as(tmp_path / "again")
    assert (tmp_path / "again").read_text() == CONTENT
    assert problems == []
