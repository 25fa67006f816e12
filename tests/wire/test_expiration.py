from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from tests.wire.client import CT, V
from tests.wire.rig import LIFETIME, START
from tusgate.web.config import WebConfig


def expires(answer):
    text = answer.headers["Upload-Expires"]
    assert text.endswith(" GMT")
    return parsedate_to_datetime(text).timestamp()


@pytest.mark.spec("EXP-02", "EXP-03", "EXP-04", "EXP-05", "HEAD-09")
async def test_unfinished_uploads_tell_when_they_expire_and_bytes_move_that_date(rig):
    created = await rig.client.post({"Upload-Length": "10"})
    assert expires(created) == START + LIFETIME
    rig.clock.now += 100
    path = created.upload_path
    assert expires(await rig.client.patch(path, 0, b"hello")) == START + 100 + LIFETIME
    assert expires(await rig.client.head(path)) == START + 100 + LIFETIME


@pytest.mark.spec("EXP-03")
async def test_refused_patches_tell_the_date_too(client):
    path = await client.create(10)
    refused = [
        await client.patch(path, 1, b"x"),
        await client.patch(path, 0, b"x" * 11),
        await client.patch(path, 0, b"x", {"Upload-Checksum": "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="}),
    ]
    assert [answer.status for answer in refused] == [409, 413, 460]
    assert all(expires(answer) for answer in refused)


@pytest.mark.spec("EXP-06", "DEL-02")
@pytest.mark.parametrize("gone_status", [410, 404])
async def test_an_expired_upload_is_gone(start, gone_status):
    rig = await start(WebConfig(gone_status=gone_status))
    path = await rig.client.create(10)
    await rig.client.patch(path, 0, b"hello")
    await rig.expire()
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = await rig.client.request(method, path, {**V, **CT, "Upload-Offset": "5"}, b"")
        assert answer.status == gone_status
        assert "Upload-Offset" not in answer.headers


@pytest.mark.spec("EXP-07")
async def test_a_finished_upload_does_not_expire(rig):
    path = await rig.client.create(5)
    answer = await rig.client.patch(path, 0, b"hello")
    assert "Upload-Expires" not in answer.headers
    await rig.expire()
    head = await rig.client.head(path)
    assert (head.status, head.offset) == (200, 5)
    assert await rig.stored(path) == b"hello"


@pytest.mark.spec("EXP-08")
async def test_a_patch_that_runs_while_the_date_passes_may_finish(rig):
    path = await rig.client.create(10)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "10"})
        connection.up.write(b"hello")
        await rig.until_taken_in(5)
        rig.clock.now += LIFETIME + 1
        connection.up.write(b"world")
        assert (await connection.answer()).status == 204
    assert await rig.stored(path) == b"helloworld"
