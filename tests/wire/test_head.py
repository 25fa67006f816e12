from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tests.wire.rig import MIB, until

UNKNOWN = "/files/unknown-upload-0123456789"


@pytest.mark.spec("HEAD-01", "HEAD-04", "HEAD-05", "HEAD-09", "HEAD-08")
async def test_head_tells_where_the_upload_stands(client):
    path = await client.create(10)
    await client.patch(path, 0, b"hello")
    head = await client.head(path)
    assert head.status == 200
    assert head.headers["Upload-Offset"] == "5"
    assert head.headers["Upload-Length"] == "10"
    assert head.headers["Cache-Control"] == "no-store"
    assert "Upload-Expires" in head.headers
    assert "Upload-Defer-Length" not in head.headers
    assert "Upload-Metadata" not in head.headers
    assert "Upload-Concat" not in head.headers


@pytest.mark.spec("HEAD-03", "HEAD-05", "EXP-07", "CRE-07")
async def test_head_of_a_complete_upload_shows_offset_and_length_equal(client):
    path = await client.create(5)
    await client.patch(path, 0, b"hello")
    head = await client.head(path)
    assert head.status == 200
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == "5"
    assert head.headers["Cache-Control"] == "no-store"
    assert "Upload-Expires" not in head.headers


@pytest.mark.spec("HEAD-04", "DEF-02")
async def test_head_of_a_deferred_upload_shows_no_length(client):
    head = await client.head(await client.create(None))
    assert head.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in head.headers


@pytest.mark.spec("HEAD-06")
async def test_head_of_an_unknown_upload_is_404_without_offset(client):
    head = await client.head(UNKNOWN)
    assert head.status == 404
    assert "Upload-Offset" not in head.headers


async def test_only_a_head_of_what_is_there_tells_an_offset(rig):
    """PA-17, I9: complete, deleted, expired, unknown."""
    complete, deleted, expired = [await rig.client.create(5) for _ in range(3)]
    await rig.client.patch(complete, 0, b"hello")
    await rig.client.patch(deleted, 0, b"hel")
    await rig.client.delete(deleted)
    await rig.client.patch(expired, 0, b"hel")
    await rig.expire()
    found = await rig.client.head(complete)
    assert (found.status, found.offset, found.headers["Upload-Length"]) == (200, 5, "5")
    assert found.headers["Cache-Control"] == "no-store"
    missing = [await rig.client.head(path) for path in (deleted, expired, UNKNOWN)]
    assert [answer.status for answer in missing] == [410, 410, 404]
    assert not any("Upload-Offset" in answer.headers for answer in missing)


@pytest.mark.parametrize("path", ["known", UNKNOWN, "/files", "/nope"])
async def test_no_answer_to_a_head_has_a_body(client, path):
    target = await client.create(5) if path == "known" else path
    async with client.connect() as connection:
        connection.send_head("HEAD", target, V | {"Connection": "close"})
        await connection.answer(to_head=True)
        assert await connection.rest() == b""


@pytest.mark.spec("HEAD-10", "HEAD-11")
async def test_head_during_a_running_patch_answers_at_once_and_the_offset_is_usable(rig):
    client = rig.client
    payload = bytes(range(256)) * (12 * MIB // 256)
    path = await client.create(len(payload))
    async with client.connect() as stalled:
        stalled.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": str(len(payload))})
        stalled.up.write(payload[: 11 * MIB])

        async def two_parts_are_stored() -> bool:
            offset: int = await client.offset(path)
            return offset == 10 * MIB

        await until(two_parts_are_stored)
        offset = 10 * MIB
        resumed = await client.patch(path, offset, payload[offset:])
        assert (resumed.status, resumed.offset) == (204, len(payload))
        late = await stalled.answer()
        assert late.status == 409
        assert late.headers["Connection"] == "close"
    assert await rig.stored(path) == payload


@pytest.mark.slow
@pytest.mark.spec("HEAD-11")
async def test_head_without_a_database_is_423_and_never_a_5xx(rig):
    path = await rig.client.create(5)
    await rig.database.close()
    head = await rig.client.head(path)
    assert head.status == 423
    assert int(head.headers["Retry-After"]) > 0
    assert "Upload-Offset" not in head.headers


@pytest.mark.spec("PATCH-18")
async def test_upload_concat_on_head_is_ignored(client):
    path = await client.create(5)
    assert (await client.request("HEAD", path, V | {"Upload-Concat": "partial"})).status == 200
