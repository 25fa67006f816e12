"""What was uploaded, opened in Chromium under the address of the gateway."""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Error

from tests.servers.chromium import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page, Playwright

    from tests.gateway import Gateway

pytestmark = pytest.mark.clients

SCRIPT = "fetch('/livez?ran='+location.pathname);document.title='ran'"
HTML = f'<!doctype html><title>quiet</title><script>{SCRIPT}</script><img src=x onerror="{SCRIPT}"><p>hello'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{SCRIPT}"><script>{SCRIPT}</script></svg>'
XHTML = f'<html xmlns="http://www.w3.org/1999/xhtml"><head><script>{SCRIPT}</script></head><body>hello</body></html>'
UPLOADS = [
    ("page.html", "text/html", HTML),
    ("page.html", "text/html;charset=utf-7", HTML),
    ("page.xhtml", "application/xhtml+xml", XHTML),
    ("page.xml", "text/xml", XHTML),
    ("image.svg", "image/svg+xml", SVG),
    ("image.png", "image/png", HTML),
    ("image.png", "image/png", SVG),
    ("note.txt", "text/plain", HTML),
    ("note.txt", "text/plain;charset=utf-7", "+ADw-script+AD4-" + SCRIPT + "+ADw-/script+AD4-"),
    ("song.mp3", "audio/mpeg", HTML),
    ("film.mp4", "video/mp4", HTML),
    ("mixed", "multipart/x-mixed-replace;boundary=x", f"--x\r\nContent-Type: text/html\r\n\r\n{HTML}\r\n--x--"),
    ("nameless", "", HTML),
]


@contextmanager
def window(playwright: Playwright, chromium: Path) -> Iterator[tuple[Page, list[str]]]:
    """Give an empty page, and the addresses by which scripts have told that they ran."""
    browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=ARGUMENTS)
    try:
        page = browser.new_page(accept_downloads=False)
        told: list[str] = []
        page.context.on("request", lambda request: told.append(request.url) if "ran=" in request.url else None)
        yield page, told
    finally:
        browser.close()


def upload(gateway: Gateway, name: str, content_type: str, content: str) -> str:
    """Upload by one PUT; return the address in the API."""
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(f"{gateway.endpoint}/{name}", content.encode(), headers, method="PUT")
    with urllib.request.urlopen(request) as answer:
        url: str = answer.headers["Location"]
    return f"{gateway.url}/api/v1/files/{url.rsplit('/', 1)[1]}/content"


def visit(page: Page, url: str) -> None:
    """Go there and wait until the page, if it is one, has been loaded; a download shows as an aborted navigation."""
    try:
        page.goto(url, wait_until="load")
    except Error as error:
        assert "Download is starting" in str(error) or "ERR_ABORTED" in str(error), error  # noqa: PT017 # the reason matters


def test_nothing_that_was_uploaded_runs_in_our_origin(gateway: Gateway, playwright: Playwright, chromium: Path) -> None:
    """DL-01, I18: opened, in frames and objects, and as scripts of a page that is ours."""
    with window(playwright, chromium) as (page, told):
        page.route("**/ours", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>ours"))
        for name, content_type, content in UPLOADS:
            url = upload(gateway, name, content_type, content)
            for address in (url, f"{url}?disposition=inline"):
                visit(page, address)
                page.goto(f"{gateway.url}/ours")
                # Some kinds of elements never tell that they will not load: a bound for them, no wait for anything.
                page.evaluate(
                    """async (address) => {
                        const loaded = ["iframe", "object", "embed", "img", "script", "link"].map((kind) => {
                            const element = document.createElement(kind);
                            element[{object: "data", link: "href"}[kind] || "src"] = address;
                            if (kind === "link") element.rel = "stylesheet";
                            const settled = new Promise((done) => (element.onload = element.onerror = done));
                            document.body.append(element);
                            return Promise.race([settled, new Promise((done) => setTimeout(done, 500))]);
                        });
                        await Promise.all(loaded);
                    }""",
                    address,
                )
                assert told == [], f"{name} of type {content_type} ran"


@pytest.mark.parametrize(("content_type", "content"), [("text/html", HTML), ("image/svg+xml", SVG)])
def test_the_same_files_would_run_without_our_headers(
    gateway: Gateway, playwright: Playwright, chromium: Path, content_type: str, content: str
) -> None:
    """Shows that the test above sees a script that runs."""
    with window(playwright, chromium) as (page, told):
        page.route("**/naive", lambda route: route.fulfill(content_type=content_type, body=content))
        page.goto(f"{gateway.url}/naive")
        page.wait_for_function("document.title === 'ran' || document.documentElement.nodeName === 'svg'")
        page.wait_for_load_state("networkidle")
        assert told


def test_an_image_is_shown_where_it_is_asked_for(gateway: Gateway, playwright: Playwright, chromium: Path) -> None:
    pixel = (
        "BM\x3a\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x18\x00"
        + "\x00" * 24
        + "\x01\x02\x03\x00"
    )
    url = upload(gateway, "pixel.bmp", "image/bmp", pixel)
    with window(playwright, chromium) as (page, _):
        page.goto(f"{url}?disposition=inline")
        assert page.evaluate("document.images[0].naturalWidth") == 1
