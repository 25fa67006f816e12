from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tusgate.web.config import WebConfig

PAGE = "https://page.test"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x"}
LISTED = WebConfig(cors_origins=(PAGE,), cors_headers=("X-Team",))


@pytest.mark.spec("COR-01", "COR-02")
@pytest.mark.parametrize("path", ["/files", "/files/unknown-upload-0123456789"])
async def test_a_preflight_is_answered_without_credentials(start, path):
    answer = await (await start(LISTED)).client.request("OPTIONS", path, PREFLIGHT)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Methods"] == "POST, PUT, HEAD, PATCH, DELETE, OPTIONS, GET"
    assert answer.headers["Access-Control-Max-Age"] == "86400"
    allowed = set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert allowed >= {
        "Authorization",
        "Content-Type",
        "Tus-Resumable",
        "Upload-Length",
        "Upload-Offset",
        "Upload-Metadata",
        "Upload-Defer-Length",
        "Upload-Concat",
        "Upload-Checksum",
        "X-HTTP-Method-Override",
        "X-Request-ID",
        "X-Requested-With",
        "X-Team",
    }


@pytest.mark.spec("COR-03", "Z-02")
async def test_every_answer_can_be_read_by_the_page(client):
    path = await client.create(5)
    from_page = {**V, **CT, "Origin": PAGE, "Upload-Offset": "0", "Upload-Length": "5"}
    answers = [
        await client.request("POST", "/files", from_page, b""),
        await client.request("POST", "/files", {**from_page, "Upload-Length": "x"}),
        await client.request("POST", "/files", {"Origin": PAGE}),
        await client.request("HEAD", path, from_page),
        await client.request("HEAD", "/files/unknown-upload-0123456789", from_page),
        await client.request("PATCH", path, {**from_page, "Upload-Offset": "1"}, b"x"),
        await client.request("PATCH", path, {**from_page, "Content-Type": "x"}, b"x"),
        await client.request("PATCH", path, from_page, b"hello"),
        await client.request("GET", path, from_page),
        await client.request("DELETE", path, from_page),
        await client.request("POST", path, [*from_page.items(), *[("X-HTTP-Method-Override", "HEAD")] * 2]),
    ]
    assert [answer.status for answer in answers] == [201, 400, 412, 200, 404, 409, 415, 204, 405, 204, 400]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert exposed >= {"Location", "Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires"}
        assert exposed >= {"Upload-Defer-Length", "Upload-Concat", "Tus-Version", "Tus-Resumable", "Tus-Max-Size"}
        assert exposed >= {"Tus-Extension", "Tus-Checksum-Algorithm"}


@pytest.mark.spec("COR-04")
async def test_a_listed_origin_may_send_credentials(start):
    client = (await start(LISTED)).client
    for answer in (
        await client.request("OPTIONS", "/files", PREFLIGHT),
        await client.request("POST", "/files", {**V, "Origin": PAGE, "Upload-Length": "5"}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.spec("COR-05")
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_another_origin_is_403_without_permission_and_without_effect(start, method):
    rig = await start(LISTED)
    fields = {**V, **PREFLIGHT, "Origin": "https://evil.test", "Upload-Length": "5"}
    answer = await rig.client.request(method, "/files", fields)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("Access-Control-Allow")]
    assert await rig.count() == 0


async def test_a_client_that_is_no_browser_needs_no_origin(start):
    rig = await start(LISTED)
    answer = await rig.client.post({"Upload-Length": "5"})
    assert answer.status == 201
    assert answer.headers["Vary"] == "Origin"
