"""Chromium with a profile that outlives its windows, and the upload page as a person uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.clients.deployment import BucketObjects, Deployment, DirectoryObjects
from tests.gateway import Gateway, minio_settings
from tests.servers.chromium import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import BrowserContext, CDPSession, ConsoleMessage, Locator, Page, Playwright, Request

    from tests.servers.s3 import S3Server


@dataclass
class Sent:
    """One request of the page to the upload endpoint."""

    method: str
    offset: int | None


@dataclass
class Browser:
    """One profile; `open` starts the browser with it, `close` ends the browser and keeps the profile.

    Attributes:
        sent: requests with the methods of tus, of all windows, in order.
        complaints: what the console said about blocked or broken scripts.
    """

    playwright: Playwright
    program: Path
    profile: Path
    sent: list[Sent] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _context: BrowserContext | None = None

    def open(self, url: str) -> UploadPage:
        """Start the browser and show a page."""
        self._context = self.playwright.chromium.launch_persistent_context(
            self.profile, executable_path=self.program, headless=True, args=ARGUMENTS
        )
        page = self._context.pages[0]
        page.on("request", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return UploadPage(page, self._context.new_cdp_session(page))

    def close(self) -> None:
        """End the browser as a person does who closes the last window. Idempotent."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def count(self, method: str) -> int:
        """Return how many requests of this method the page has made."""
        return sum(1 for request in self.sent if request.method == method)

    def last_patch_offset(self) -> int | None:
        """Return where the last PATCH of the page went on; None when there was none."""
        return next((request.offset for request in reversed(self.sent) if request.method == "PATCH"), None)

    def _note_request(self, request: Request) -> None:
        if request.method != "GET":
            offset = request.headers.get("upload-offset")
            self.sent.append(Sent(request.method, None if offset is None else int(offset)))

    def _note_message(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "MIME type" in message.text:
            self.complaints.append(message.text)


class UploadPage:
    """The page in one window, addressed by what a person (or a screen reader) finds on it."""

    def __init__(self, page: Page, devtools: CDPSession) -> None:
        self.page = page
        self._devtools = devtools

    def choose(self, files: Path | Sequence[Path]) -> None:
        """Choose files with the picker."""
        self.page.get_by_label("Choose files").set_input_files(files)

    def row(self, name: str) -> Locator:
        """Return the row of a file in either list."""
        return self.page.get_by_role("listitem").filter(has_text=name)

    def press(self, button: str) -> None:
        """Press a button by its full name, such as `Pause holiday.mp4`."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def address_of(self, name: str) -> str:
        """Return the upload URL that the page shows for a finished file."""
        return self.page.get_by_label(f"Address of {name}", exact=True).input_value()

    def limit_upload(self, bytes_per_second: int) -> None:
        """Make the network slow; -1 is no limit."""
        self._devtools.send("Network.enable")
        self._devtools.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second},
        )


@pytest.fixture
def deployment(gateway: Gateway) -> Deployment:
    """Give a gateway with the default settings."""
    return embedded(gateway)


@pytest.fixture
def production(start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str, database_url: str) -> Deployment:
    """Give a gateway on MinIO and PostgreSQL."""
    settings = minio_settings(minio, bucket) | {"TUSGATE_DATABASE_URL": database_url}
    return Deployment(start_gateway(settings), BucketObjects(minio, bucket))


def embedded(gateway: Gateway) -> Deployment:
    """Return a gateway with its directory store."""
    return Deployment(gateway, DirectoryObjects(gateway.home / "data" / "objects"))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Give playwright for one module: while it runs, its event loop occupies the thread, and no async test can run."""
    with sync_playwright() as running:
        yield running


@pytest.fixture
def browser(playwright: Playwright, chromium: Path, tmp_path: Path) -> Iterator[Browser]:
    """Give a browser with an empty profile. The test fails when a policy or a type blocked anything."""
    one = Browser(playwright, chromium, tmp_path / "profile")
    yield one
    one.close()
    assert one.complaints == []
