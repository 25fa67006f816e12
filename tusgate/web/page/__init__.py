"""The upload page: plain HTML, CSS and modules, served from the package's own files.

Delete this package and one line of `app.py` and the gateway is without a page. The page refers to its files
by relative addresses, so that it also works below a path prefix that a proxy strips.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""By suffix. Not the machine's own table: that differs, and a browser runs no module of another type."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: its bytes, UTF-8.
        content_type: without charset.
        etag: digest of `content`, without quotes.
    """

    content: bytes
    content_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class DirectDoor:
    """How the page sends parts to the store itself.

    Attributes:
        endpoint: where direct uploads begin, as `endpoint` of `add_page`.
        stores: origins of the URLs of all stores that a part may go to.
    """

    endpoint: str
    stores: tuple[str, ...]


class Page:
    """The handlers of the page's routes.

    Args:
        endpoint, direct, events, pictures: as for `add_page`.
    """

    def __init__(
        self,
        endpoint: str,
        direct: DirectDoor | None = None,
        events: str | None = None,
        pictures: Sequence[str] = (),
    ) -> None:
        package = resources.files(__name__)
        template = Template(package.joinpath("index.html").read_text("utf-8"))
        page = template.substitute(
            endpoint=html.escape(endpoint),
            direct="" if direct is None else html.escape(direct.endpoint),
            events=html.escape(events or ""),
        )
        self._index = _page_file("index.html", page.encode())
        self._assets = {
            asset.name: _page_file(asset.name, asset.read_bytes()) for asset in package.joinpath("assets").iterdir()
        }
        self._headers = {
            "Cache-Control": "no-cache",  # stored, but asked for every time: an update shows at once
            "Content-Security-Policy": _content_security_policy(
                endpoint, () if direct is None else direct.stores, pictures
            ),
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def show(self, request: web.Request) -> web.Response:
        """Answer with the page itself."""
        return self._render(self._index, request)

    async def asset(self, request: web.Request) -> web.Response:
        """Answer with one of the page's files, or 404. Names are looked up, never made into paths."""
        asset = self._assets.get(request.match_info["name"])
        if asset is None:
            return web.Response(status=404, headers=self._headers, text="not_found: the page has no such file\n")
        return self._render(asset, request)

    def _render(self, file: PageFile, request: web.Request) -> web.Response:
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            answer = web.Response(status=304, headers=self._headers)
        else:
            answer = web.Response(
                body=file.content, content_type=file.content_type, charset="utf-8", headers=self._headers
            )
        answer.etag = file.etag
        return answer


def add_page(
    app: web.Application,
    *,
    endpoint: str,
    direct: DirectDoor | None = None,
    events: str | None = None,
    pictures: Sequence[str] = (),
) -> None:
    """Serve the upload page at `/` and its files below `/assets/`.

    Args:
        app: gets the routes. All files are read here, once.
        endpoint: where uploads are created, as the browser sees it: an absolute URL, or a reference that is
            resolved against the address of the page (`files` follows a stripped path prefix, `/files` does
            not).
        direct: where parts may go to the store itself; None: nowhere.
        events: address of the API, as `endpoint`, when it tells what happens to files; else None.
        pictures: origins, beside our own, that pictures come from which were made of files.
    """
    page = Page(endpoint, direct, events, pictures)
    app.router.add_get("/", page.show)
    app.router.add_get("/assets/{name}", page.asset)


def _page_file(name: str, content: bytes) -> PageFile:
    return PageFile(content, CONTENT_TYPES[PurePath(name).suffix], hashlib.sha256(content).hexdigest()[:32])


def _content_security_policy(endpoint: str, stores: Sequence[str], pictures: Sequence[str]) -> str:
    """Allow what the page has itself, pictures, and talking to `endpoint` (if another origin) and to the stores."""
    address = urlsplit(endpoint)
    own = [f"{address.scheme}://{address.netloc}"] if address.netloc else []
    elsewhere = "".join(f" {origin}" for origin in (*own, *stores))
    shown = "".join(f" {origin}" for origin in pictures)
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"img-src 'self' data:{shown}; "
        f"connect-src 'self'{elsewhere}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
