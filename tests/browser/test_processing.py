"""The page shows what is done with a file, live, in Chromium."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.processing import install_plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Browser
    from tests.gateway import Gateway

pytestmark = pytest.mark.clients

PATIENCE = 60_000.0  # ms


@pytest.fixture
def processing_gateway(tmp_path: Path, start_gateway: Callable[..., Gateway]) -> Gateway:
    path = [str(install_plugin(tmp_path)), *filter(None, [os.environ.get("PYTHONPATH")])]
    return start_gateway(
        {
            "PYTHONPATH": os.pathsep.join(path),
            "TUSGATE_PROCESSORS": "preview",
            "TUSGATE_EVENT_STREAM": "on",
        }
    )


def test_the_page_shows_processing_and_then_the_picture_without_asking(
    browser: Browser, processing_gateway: Gateway, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    picture = tmp_path / "picture.png"
    picture.write_text(f"wait for {go_on}")
    page = browser.open(processing_gateway.url)
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    page.choose(picture)
    row = page.row("picture.png")
    expect(row).to_contain_text("Processing", timeout=PATIENCE)
    preview = row.get_by_role("img", name="Preview of picture.png")
    expect(preview).to_be_hidden()
    go_on.touch()
    expect(preview).to_be_visible(timeout=PATIENCE)
    expect(row).to_contain_text("Uploaded")
    assert preview.evaluate("image => image.naturalWidth") == 8
    of_the_api = [url.partition("/api/v1/")[2] for url in asked if "/api/v1/" in url]
    (content,) = [url for url in of_the_api if url != "events"]
    assert content.endswith("/content?disposition=inline")
    assert of_the_api.count("events") <= 1  # none where the stream was open before we looked


def test_without_processors_the_page_listens_to_nothing(browser: Browser, gateway: Gateway, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_text("plain")
    page = browser.open(gateway.url)
    page.choose(picture)
    expect(page.row("picture.png")).to_contain_text("Uploaded", timeout=PATIENCE)
    assert page.page.evaluate("document.body.dataset.events") == ""
