"""MinIO posts its events to the gateway, and an upload is complete without a word of its client."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from minio.datatypes import Part
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig

from tests.gateway import Gateway, minio_settings
from tests.servers import minio as minio_server
from tests.wire.client import Client
from tests.wire.direct import DirectClient

SECRET = "what-MinIO-shows-to-the-gateway"  # with blanks in it MinIO would show nothing
DATA = bytes(range(256)) * 40_000  # two parts


@pytest.mark.servers
@pytest.mark.slow
async def test_minio_itself_tells_that_an_object_is_there(tmp_path):
    """By a real bucket notification; the multipart upload is completed past the gateway."""
    settings = {
        "TUSGATE_DIRECT": "on",
        "TUSGATE_S3_EVENTS_SECRET": SECRET,
        "TUSGATE_PART_SIZE": "5MiB",
        "TUSGATE_PUBLIC_ALIASES": "http://gateway.test",  # what `Client` says for Host
    }
    gateway = Gateway(tmp_path / "gateway", settings)
    with minio_server.running_with_webhook(f"{gateway.url}/api/v1/s3-events", SECRET) as minio:
        client = minio.client()
        client.make_bucket(bucket_name="events")
        queue = QueueConfig(queue="arn:minio:sqs::GATEWAY:webhook", events=["s3:ObjectCreated:*"])
        await _until_known(client, NotificationConfig(queue_config_list=[queue]))
        gateway.environment |= minio_settings(minio, "events")
        with gateway:
            async with aiohttp.ClientSession() as http:
                await _upload_without_a_word(DirectClient(Client(gateway.port), http), minio)


async def _until_known(client, config):
    """Set the notification; MinIO may serve requests before it knows its own targets."""
    async with asyncio.timeout(20):
        while True:
            try:
                return client.set_bucket_notification(bucket_name="events", config=config)
            except S3Error as error:
                if error.code != "InvalidArgument":
                    raise
                await asyncio.sleep(0.1)


async def _upload_without_a_word(direct, minio):
    upload_id, urls = await direct.begin(len(DATA))
    etags = await direct.send(urls, DATA)
    _, before = await direct.ask("GET", f"/{upload_id}")
    assert before["state"] == "uploading"
    parts = [Part(number, etag.strip('"')) for number, etag in sorted(etags.items())]
    multiparts = minio.client()._list_multipart_uploads(bucket_name="events", prefix=upload_id).uploads
    complete = minio.client()._complete_multipart_upload
    await asyncio.to_thread(complete, "events", upload_id, multiparts[0].upload_id, parts)
    async with asyncio.timeout(30):
        while (await direct.ask("GET", f"/{upload_id}"))[1]["state"] != "complete":  # noqa: ASYNC110 # MinIO tells the gateway, not us
            await asyncio.sleep(0.05)
    assert minio.read("events", upload_id) == DATA
