"""By which names an open gateway on a loopback address answers: no page comes in by DNS rebinding."""

from __future__ import annotations

import json

import pytest

from tests.wire.client import V
from tests.wire.rig import running
from tests.wire.test_files_api import FILES, uploaded
from tusgate.web.config import WebConfig

OURS = [
    *("localhost", "localhost:8080", "LOCALHOST", "localhost.", "files.localhost", "127.0.0.1", "127.0.0.1:8080"),
    *("[::1]:8080", "192.0.2.7", "public.example", "PUBLIC.example:443", "alias.example", "dl.example"),
]
NOT_OURS = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"),
    *("public.example.evil.example", "evil.example#localhost", "[::1", "1.2.3", "", "gateway.test"),
]
CONFIG = WebConfig(
    guards_names=True,
    public_url="https://public.example/prefix",
    public_aliases=("https://alias.example",),
    download_url="https://dl.example",
)


@pytest.fixture
async def client(tmp_path):
    async with running(tmp_path, CONFIG) as rig:
        yield rig.client


async def ask(client, method, path, host, **fields):
    async with client.connect() as connection:
        connection.send_head(method, path, {"Host": host, **fields})
        return await connection.answer(to_head=method == "HEAD")


@pytest.mark.parametrize("host", OURS)
async def test_the_api_answers_to_its_own_names_and_to_addresses(client, host):
    assert (await ask(client, "GET", FILES, host)).status == 200


@pytest.mark.parametrize("host", NOT_OURS)
async def test_the_api_answers_to_no_other_name_by_any_method(client, host):
    """Nor does it let a page of that name think that it may: the page is of one origin with us, as its browser sees."""
    for method, path in (("GET", FILES), ("HEAD", FILES), ("DELETE", f"{FILES}/{'A' * 24}"), ("OPTIONS", FILES)):
        answer = await ask(client, method, path, host, Origin=f"http://{host}")
        assert answer.status in (400, 421), (method, answer)
        assert "Access-Control-Allow-Origin" not in answer.headers
        if method == "GET" and answer.status == 421:
            assert json.loads(answer.body)["code"] == "unknown_host"


async def test_a_forwarded_name_does_not_count(client):
    fields = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
    assert (await ask(client, "GET", FILES, "evil.example", **fields)).status == 421


async def test_uploads_are_open_to_pages_of_any_name(client):
    answer = await ask(client, "OPTIONS", "/files", "page.example", **V)
    assert answer.status == 204 or answer.status == 200


async def test_behind_a_proxy_or_with_credentials_names_are_not_asked_for(tmp_path):
    async with running(tmp_path) as rig:
        assert (await ask(rig.client, "GET", await uploaded(rig.client), "evil.example")).status == 200
