from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tusgate.core.model import State


@pytest.mark.spec("DEL-01", "DEL-02", "DEL-05")
async def test_a_terminated_upload_is_gone(client):
    path = await client.create(10)
    await client.patch(path, 0, b"hello")
    answer = await client.delete(path)
    assert (answer.status, answer.body) == (204, b"")
    for gone in (await client.head(path), await client.patch(path, 5, b"x"), await client.delete(path)):
        assert gone.status == 410
        assert "Upload-Offset" not in gone.headers


@pytest.mark.spec("DEL-03")
async def test_a_complete_upload_can_be_terminated(rig):
    path = await rig.client.create(5)
    await rig.client.patch(path, 0, b"hello")
    assert (await rig.client.delete(path)).status == 204
    assert (await rig.client.head(path)).status == 410


@pytest.mark.spec("DEL-04")
async def test_an_unknown_upload_is_404(client):
    assert (await client.delete("/files/unknown-upload-0123456789")).status == 404


async def test_the_creation_url_cannot_be_deleted(client):
    answer = await client.delete("/files")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST, OPTIONS"


@pytest.mark.spec("DEL-06", "DEL-07")
async def test_termination_cuts_a_running_patch_off_and_nothing_comes_back(rig):
    path = await rig.client.create(100)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "100"})
        connection.up.write(b"hello")
        await rig.until_taken_in(5)
        assert (await rig.client.delete(path)).status == 204
        answer = await connection.answer()
        assert answer.status in (409, 410)
        assert "Upload-Offset" not in answer.headers
    assert (await rig.row(path)).state is State.TERMINATED
