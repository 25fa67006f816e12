"""Credentials that a browser sends by itself (a proxy's cookies) help no page that is not ours (AT-07)."""

from __future__ import annotations

import ipaddress

import pytest

from tests.wire.rig import running
from tests.wire.test_files_api import FILES
from tests.wire.test_permissions import API
from tusgate.core.access import REQUIRED
from tusgate.identity.authority import CombinedAuthority
from tusgate.identity.config import ProxyConfig
from tusgate.identity.proxies import VouchedUsers
from tusgate.web.config import WebConfig

USER = {"X-Forwarded-User": "alice"}
"""What the proxy adds to whatever a browser with its cookie sends."""
EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain")
"""What a form of any page can send without asking first."""


@pytest.fixture
async def rig(tmp_path):
    config = WebConfig(
        is_open=False,
        cors_origins=("https://app.example",),
        trusted_proxies=(ipaddress.ip_network("127.0.0.1"),),
        share_keys=("k" * 32,),
    )

    def identity(_database):
        return CombinedAuthority([VouchedUsers(ProxyConfig())], takes_bearers=False, open_to_all=False)

    async with running(tmp_path, config, identity=identity) as started:
        yield started


async def a_file(client):
    path = await client.create(3, **USER)
    await client.patch(path, 0, b"abc", USER)
    return path.rpartition("/")[2]


async def test_no_page_but_ours_changes_or_reads_anything(rig):
    """By each operation of the API, with each type that needs no preflight."""
    file_id = await a_file(rig.client)
    for (_, method), (path, body) in API.items():
        target, sent = path.replace("%s", file_id), body.replace(b"%s", file_id.encode())
        for content_type in (*FORMS, "application/json"):
            fields = {**USER, **EVIL, "Content-Type": content_type}
            answer = await rig.client.request(method, target, fields, sent or None)
            assert answer.status == 403, (method, target, answer)
            assert "Access-Control-Allow-Origin" not in answer.headers
    shown = await rig.client.request("GET", f"{FILES}/{file_id}", USER)
    assert b'"filename":null' in shown.body


async def test_a_form_without_an_origin_is_no_request_of_the_api_either(rig):
    """Browsers that do not send Origin with forms: the type gives them away."""
    file_id = await a_file(rig.client)
    for (_, method), (path, body) in API.items():
        if method != "POST":
            continue
        for content_type in FORMS:
            fields = {**USER, "Content-Type": content_type}
            sent = body.replace(b"%s", file_id.encode())
            answer = await rig.client.request(method, path.replace("%s", file_id), fields, sent)
            assert answer.status == 415
    assert (await rig.client.request("GET", f"{FILES}/{file_id}", USER)).status == 200


async def test_nothing_is_changed_by_a_get(rig):
    """What a link, an image or a prefetch can send."""
    file_id = await a_file(rig.client)
    before = await rig.client.request("GET", f"{FILES}/{file_id}", USER)
    for (_, method), (path, _) in API.items():
        if method == "GET":
            await rig.client.request("GET", path.replace("%s", file_id), USER)
        await rig.client.request("GET", path.replace("%s", file_id), {**USER, "X-HTTP-Method-Override": "DELETE"})
    assert (await rig.client.request("GET", f"{FILES}/{file_id}", USER)).body == before.body
    assert {method for _, method in REQUIRED} >= {"GET"}


async def test_none_of_our_pages_can_be_framed(rig):
    """Clickjacking."""
    path = f"{FILES}/{await a_file(rig.client)}/shares"
    made = await rig.client.request("POST", path, {**USER, "Content-Type": "application/json"}, b'{"password":"x"}')
    link = made.body.decode().partition('"url":"http://gateway.test')[2].partition('"')[0]
    for page in ("/api/v1/reference", link):
        answer = await rig.client.request("GET", page, {"Accept": "text/html"})
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], page
