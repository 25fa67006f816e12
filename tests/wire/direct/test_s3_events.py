"""Events of the store: a reason to ask it, whoever sends them and however often."""

from __future__ import annotations

import asyncio
import base64
import json
from urllib.parse import quote

import pytest

from tests.wire.rig import EVENTS_SECRET, PART_SIZE
from tusgate.core.direct import Plan
from tusgate.core.model import Part

PATH = "/api/v1/s3-events"
DATA = bytes(range(256)) * (2 * PART_SIZE // 256) + b"the end"
SENDER = {"Authorization": f"Bearer {EVENTS_SECRET}"}


def event(*keys):
    """Return an event as MinIO sends it: keys are encoded as in forms."""
    records = [
        {"eventName": "s3:ObjectCreated:CompleteMultipartUpload", "s3": {"object": {"key": quote(key), "size": 1}}}
        for key in keys
    ]
    return {"EventName": "s3:ObjectCreated:CompleteMultipartUpload", "Key": "bucket/x", "Records": records}


async def send(rig, body, fields=None, media_type="application/json"):
    fields = {"Content-Type": media_type, **(SENDER if fields is None else fields)}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (await rig.client.request("POST", PATH, fields, raw)).status


async def until_complete(rig, upload_id):
    async with asyncio.timeout(10):
        while (await rig.row(f"/{upload_id}")).state != "complete":  # noqa: ASYNC110 # a task of the server does it
            await asyncio.sleep(0.01)


async def completed_past_the_gateway(rig, upload_id, urls, etags):
    row = await rig.row(f"/{upload_id}")
    parts = [Part(url["number"], url["start"], url["size"], etags[url["number"]].strip('"'), -1) for url in urls]
    await rig.store.complete_multipart(row.object_key, row.multipart_id, parts, -1, plan=Plan())


async def test_an_event_finishes_what_is_all_there_without_the_clients_word(rig, client):
    """The client has sent its last part, and is never heard of again."""
    upload_id, urls = await client.begin(len(DATA))
    await client.send(urls, DATA)
    assert await send(rig, event(f"some/prefix/{upload_id}")) == 204
    await until_complete(rig, upload_id)
    assert await rig.stored(f"/{upload_id}") == DATA


async def test_an_object_that_somebody_else_has_completed_is_taken_for_what_it_is(rig, client):
    upload_id, urls = await client.begin(len(DATA))
    await completed_past_the_gateway(rig, upload_id, urls, await client.send(urls, DATA))
    assert await send(rig, event(upload_id)) == 204
    await until_complete(rig, upload_id)
    assert await rig.stored(f"/{upload_id}") == DATA


async def test_an_object_of_another_size_is_not_the_file(rig, client):
    """I3: the multipart upload is used up, and what was declared is not there."""
    upload_id, urls = await client.begin(len(DATA))
    await completed_past_the_gateway(rig, upload_id, urls[:2], await client.send(urls[:2], DATA))
    assert await send(rig, event(upload_id)) == 204
    assert (await rig.row(f"/{upload_id}")).state == "failed"


async def test_forged_doubled_and_early_events_change_nothing(rig, client):
    """I4, I9: a hundred of them at once, about uploads of all kinds, known and unknown."""
    begun, urls = await client.begin(len(DATA))
    await client.send(urls[:1], DATA)
    tus = (await rig.client.create(10)).rpartition("/")[2]
    open_ended, _ = await client.begin(None)
    ids = (begun, tus, open_ended, "unknown-upload-0123456789", "short")
    before = [await rig.row(f"/{each}") for each in ids[:3]]
    every = event(*ids, f"../{begun}/..", "", f"{begun}/another-object")
    assert {*await asyncio.gather(*(send(rig, every) for _ in range(100)))} == {204}
    assert [await rig.row(f"/{each}") for each in ids[:3]] == before
    await client.send(urls[1:], DATA)
    await asyncio.gather(*(send(rig, every) for _ in range(20)))
    await until_complete(rig, begun)
    assert await send(rig, every) == 204
    assert await rig.stored(f"/{begun}") == DATA


async def test_an_event_may_come_by_sns_and_with_other_credentials(rig, client):
    upload_id, urls = await client.begin(5)
    await client.put(urls[0], b"12345")
    basic = {"Authorization": "Basic " + base64.b64encode(f"sns:{EVENTS_SECRET}".encode()).decode()}
    notice = {"Type": "Notification", "MessageId": "1", "Message": json.dumps(event(upload_id))}
    assert await send(rig, notice, basic, "text/plain; charset=UTF-8") == 204
    await until_complete(rig, upload_id)


@pytest.mark.parametrize("fields", [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic !"}])
async def test_nobody_else_is_listened_to(rig, client, fields):
    upload_id, urls = await client.begin(5)
    await client.put(urls[0], b"12345")
    assert await send(rig, event(upload_id), fields) == 401
    assert (await rig.row(f"/{upload_id}")).state == "uploading"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        ({"Records": [{}]}, 400),
        ({"Records": [{"s3": {"object": {"key": "x" * 4000}}}]}, 400),
        ({"Type": "Notification", "Message": "{"}, 400),
        ({"Event": "s3:TestEvent"}, 204),
        ({"Type": "SubscriptionConfirmation", "Message": "You have chosen"}, 204),
        ({"Records": [{"s3": {"object": {"key": "x"}}}] * 1001}, 400),
        (b" " * (1024 * 1024 + 1), 413),
    ],
    ids=range(9),
)
async def test_what_is_no_event_is_told_so(rig, body, status):
    assert await send(rig, body) == status
