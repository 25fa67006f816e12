"""How the page's files are served, and that the one that is not ours is what its licence file says."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tusgate import assembly
from tusgate.settings import load_settings
from tusgate.settings.tenants import load_tenancy
from tusgate.web.page import CONTENT_TYPES, DirectDoor, add_page

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp import AiohttpClient

    Client = TestClient[web.Request, web.Application]

ASSETS = sorted(asset.name for asset in resources.files("tusgate.web.page").joinpath("assets").iterdir())
VENDORED = "tus-4.3.1.min.js"


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    """Serve the page for an endpoint that needs escaping."""
    app = web.Application()
    add_page(app, endpoint='files?"><script>')
    return await aiohttp_client(app)


def test_the_shipped_client_is_the_published_file() -> None:
    assets = resources.files("tusgate.web.page").joinpath("assets")
    note = assets.joinpath("tus-4.3.1.txt").read_text("utf-8")
    stated = re.search(r"SHA-256: +([0-9a-f]{64})", note)
    assert stated is not None
    # The digest of dist/tus.min.js in the package that npm serves.
    assert stated[1] == "8cbb1b63fccc3bba0ae73ad1deb160ce046c3750851d0c3e94921ae3ef070eb8"
    assert hashlib.sha256(assets.joinpath(VENDORED).read_bytes()).hexdigest() == stated[1]
    assert "MIT" in note


async def test_the_page_forbids_all_that_is_not_its_own(client: Client) -> None:
    answer = await client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    text = await answer.text()
    assert not re.search(r"<style|\son[a-z]+=|\sstyle=|<script(?![^>]*\ssrc=)", text)
    assert "https://" not in text


async def test_the_endpoint_is_handed_over_as_text(client: Client) -> None:
    assert 'data-endpoint="files?&quot;&gt;&lt;script&gt;"' in await (await client.get("/")).text()


async def test_an_endpoint_elsewhere_may_be_talked_to(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    add_page(app, endpoint="https://uploads.example.org:8443/files")
    answer = await (await aiohttp_client(app)).get("/")
    assert "connect-src 'self' https://uploads.example.org:8443;" in answer.headers["Content-Security-Policy"]


async def test_every_store_that_parts_may_go_to_may_be_talked_to(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    stores = ("https://s3.example.org", "https://s3.other.example")
    add_page(app, endpoint="files", direct=DirectDoor(endpoint="api/v1/uploads", stores=stores))
    answer = await (await aiohttp_client(app)).get("/")
    assert f"connect-src 'self' {' '.join(stores)};" in answer.headers["Content-Security-Policy"]


async def test_pictures_may_come_from_where_files_are_handed_out(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    add_page(app, endpoint="files", events="api/v1", pictures=("https://files.example.org", "https://s3.example.org"))
    policy = (await (await aiohttp_client(app)).get("/")).headers["Content-Security-Policy"]
    assert "; img-src 'self' data: https://files.example.org https://s3.example.org; " in policy


@pytest.mark.parametrize(
    ("settings", "origins"),
    [
        ({}, []),
        ({"download_url": "https://files.example.org/x"}, ["https://files.example.org"]),
        ({"downloads": "redirect"}, ["http://s3.example.org:9000"]),
        ({"downloads": "off", "download_url": "https://files.example.org"}, []),
    ],
)
async def test_files_are_handed_out_from_these_origins(settings: dict[str, str], origins: list[str]) -> None:
    s3 = {"s3_endpoint": "http://s3.example.org:9000", "s3_bucket": "files", "s3_access_key": "a", "s3_secret_key": "b"}
    loaded = load_settings({**s3, **settings}).settings
    stores = assembly.stores(loaded, load_tenancy(loaded))
    assert assembly.content_origins(loaded, stores) == origins
    await stores.close()


@pytest.mark.parametrize("name", ASSETS)
async def test_each_file_has_its_type_and_can_be_revalidated(client: Client, name: str) -> None:
    answer = await client.get(f"/assets/{name}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == f"{CONTENT_TYPES['.' + name.rsplit('.', 1)[1]]}; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await client.get(f"/assets/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/assets/page.js"])
async def test_head_answers_like_get_without_the_body(client: Client, path: str) -> None:
    get = await client.get(path)
    head = await client.head(path)
    assert head.status == 200
    assert head.headers["Content-Length"] == str(len(await get.read()))
    assert await head.read() == b""


@pytest.mark.parametrize("name", ["nothing.js", "..%2Findex.html", "%2e%2e%2f__init__.py", "__init__.py", "a/b"])
async def test_a_file_that_the_page_does_not_have_is_not_found(client: Client, name: str) -> None:
    assert (await client.get(f"/assets/{name}")).status == 404


async def test_the_page_refers_only_to_files_it_has(client: Client) -> None:
    texts = [await (await client.get("/")).text()]
    texts += [await (await client.get(f"/assets/{name}")).text() for name in ASSETS if name != VENDORED]
    referred = {name for text in texts for name in re.findall(r'(?:assets/|from "\./)([\w.-]+)"', text)}
    assert referred <= set(ASSETS)
    assert referred >= {"page.js", "page.css", "icon.svg", VENDORED, "queue.js"}
