from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tusgate.core.model import State


@pytest.mark.spec("DEF-02", "DEF-03", "DEF-04")
async def test_a_length_may_come_with_any_later_bytes(rig):
    client = rig.client
    path = await client.create(None)
    assert (await client.patch(path, 0, b"hello")).status == 204
    assert (await client.head(path)).headers["Upload-Defer-Length"] == "1"
    assert (await client.patch(path, 5, b"wor", {"Upload-Length": "10"})).status == 204
    head = await client.head(path)
    assert head.headers["Upload-Length"] == "10"
    assert "Upload-Defer-Length" not in head.headers
    assert (await client.patch(path, 8, b"ld")).status == 204
    assert await rig.stored(path) == b"helloworld"


@pytest.mark.spec("DEF-05")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("payload", [b"hello", b""])
async def test_an_empty_patch_with_the_length_ends_a_stream(rig, payload, chunked):
    client = rig.client
    path = await client.create(None)
    if payload:
        await client.patch(path, 0, payload)
    length = {"Upload-Length": str(len(payload))}
    answer = await client.patch(path, len(payload), b"", length, chunked=chunked)
    assert (answer.status, answer.offset) == (204, len(payload))
    assert (await rig.row(path)).state is State.COMPLETE
    assert await rig.stored(path) == payload


@pytest.mark.spec("DEF-06", "DEF-08")
@pytest.mark.parametrize(("length", "status"), [(3, 400), (6, 413), (1001, 413)])
async def test_a_length_that_cannot_be_is_refused_and_not_recorded(start, length, status):
    """PA-07."""
    rig = await start(max_size=1000)
    client = rig.client
    path = await client.create(None)
    await client.patch(path, 0, b"hello")
    assert (await client.patch(path, 5, b"xx", {"Upload-Length": str(length)})).status == status
    head = await client.head(path)
    assert head.headers["Upload-Defer-Length"] == "1"
    assert head.offset == 5
    assert (await client.patch(path, 5, b"xx", {"Upload-Length": "7"})).status == 204


@pytest.mark.spec("DEF-06")
async def test_a_chunked_body_that_passes_its_own_length_leaves_it_unrecorded(client):
    path = await client.create(None)
    assert (await client.patch(path, 0, b"hello", {"Upload-Length": "4"}, chunked=True)).status == 413
    head = await client.head(path)
    assert (head.offset, head.headers["Upload-Defer-Length"]) == (0, "1")


@pytest.mark.spec("DEF-07")
async def test_a_second_length_is_400_and_the_first_stays(client):
    """PA-07."""
    path = await client.create(None)
    await client.patch(path, 0, b"hello", {"Upload-Length": "10"})
    assert (await client.patch(path, 5, b"x", {"Upload-Length": "11"})).status == 400
    assert (await client.patch(path, 5, b"x", {"Upload-Length": "10"})).status == 204
    assert (await client.head(path)).headers["Upload-Length"] == "10"


@pytest.mark.spec("DEF-08")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_deferred_upload_may_not_pass_the_maximum_size(start, chunked):
    rig = await start(max_size=8)
    path = await rig.client.create(None)
    assert (await rig.client.patch(path, 0, b"hello")).status == 204
    assert (await rig.client.patch(path, 5, b"world", chunked=chunked)).status == 413
    assert await rig.client.offset(path) == 5


@pytest.mark.spec("DEF-09")
async def test_a_length_whose_request_was_cut_may_be_sent_again(rig):
    client = rig.client
    path = await client.create(None)
    async with client.connect() as connection:
        fields = {**V, **CT, "Upload-Offset": "0", "Upload-Length": "10", "Content-Length": "10"}
        connection.send_head("PATCH", path, fields)
        connection.up.write(b"hello")
        connection.up.write_eof()
        await connection.rest()
    await rig.writers.drain()
    upload = await rig.row(path)
    assert (upload.offset, upload.length) in ((0, None), (5, 10))


@pytest.mark.spec("DEF-09")
async def test_the_same_length_again_is_fine(client):
    path = await client.create(None)
    await client.patch(path, 0, b"hello", {"Upload-Length": "10"})
    answer = await client.patch(path, 5, b"world", {"Upload-Length": "10"})
    assert (answer.status, answer.offset) == (204, 10)
