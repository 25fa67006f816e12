"""Events of S3 by a queue of SQS, itself or behind a topic of SNS: what is done is dropped, all else comes again."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.contract.test_object_store import s3_store
from tests.doubles.s3.server import S3Double
from tests.gateway import minio_settings
from tests.servers.s3 import REGION
from tests.wire.client import Client
from tests.wire.direct import DirectClient
from tests.wire.rig import PART_SIZE, Rig, running
from tusgate.core.errors import StoreUnavailable
from tusgate.s3.queue import QueueConfig, SqsReports
from tusgate.service.evidence import Evidence, QueueWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gateway import Gateway
    from tests.servers.aws import Aws
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

DATA = bytes(range(256)) * (PART_SIZE // 256) + b"the end"


@dataclass(frozen=True)
class EventQueue:
    """A queue at moto, as a bucket would write to it; what was received comes again at once if it is not dropped."""

    server: Aws
    url: str

    @property
    def config(self) -> QueueConfig:
        return QueueConfig(url=self.url, region=REGION, access_key="test", secret_key="test")

    async def send(self, *documents: object) -> None:
        async with self.server.client("sqs") as sqs:
            for document in documents:
                text = document if isinstance(document, str) else json.dumps(document)
                await sqs.send_message(QueueUrl=self.url, MessageBody=text)

    async def left(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        async with self.server.client("sqs") as sqs:
            answer = await sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[Callable[[object], Any]]:
        """Give what publishes to a topic that this queue has subscribed to, in the envelope of SNS."""
        async with self.server.client("sqs") as sqs, self.server.client("sns") as sns:
            asked = await sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
            topic = (await sns.create_topic(Name=uuid.uuid4().hex))["TopicArn"]
            await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=asked["Attributes"]["QueueArn"])
            yield lambda document: sns.publish(TopicArn=topic, Message=json.dumps(document))


@pytest.fixture
async def queue(aws_server: Aws) -> EventQueue:
    async with aws_server.client("sqs") as sqs:
        made = await sqs.create_queue(QueueName=uuid.uuid4().hex, Attributes={"VisibilityTimeout": "0"})
    return EventQueue(aws_server, str(made["QueueUrl"]))


@dataclass(frozen=True)
class Here:
    """A gateway on a double, its clients, and a watch of the queue that takes one look when it is told to."""

    rig: Rig
    store: S3Double
    client: DirectClient
    watches: list[QueueWatch]

    async def sent(self) -> str:
        """Return the id of an upload whose parts are all there."""
        upload_id, urls = await self.client.begin(len(DATA))
        await self.client.send(urls, DATA)
        return upload_id

    async def until_complete(self, upload_id: str) -> None:
        async with asyncio.timeout(20):
            while (await self.rig.row(f"/{upload_id}")).state != "complete":  # noqa: ASYNC110 - a task of the server
                await asyncio.sleep(0.01)
        assert await self.rig.stored(f"/{upload_id}") == DATA


@pytest.fixture
async def here(tmp_path: Any, queue: EventQueue) -> AsyncIterator[Here]:
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(S3Double())
        double.make_bucket("bucket")
        store = s3_store(double.as_server(), "bucket", "aws")
        rig = await stack.enter_async_context(running(tmp_path, store=store))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        watches = [QueueWatch(SqsReports(queue.config), Evidence(rig.database, rig.direct), pause=0.0) for _ in "ab"]
        for watch in watches:
            stack.push_async_callback(watch.stop)
        yield Here(rig, double, DirectClient(rig.client, http), watches)


def event(*keys: str) -> dict[str, object]:
    """Return an event as Amazon S3 sends it."""
    records = [
        {"eventSource": "aws:s3", "eventName": "ObjectCreated:CompleteMultipartUpload", "s3": {"object": {"key": key}}}
        for key in keys
    ]
    return {"Records": records}


async def test_a_report_finishes_the_upload_and_is_dropped(here: Here, queue: EventQueue) -> None:
    upload_id = await here.sent()
    await queue.send(event(upload_id))
    assert await here.watches[0].take() == 1
    await here.until_complete(upload_id)
    assert await queue.left() == 0


async def test_a_report_may_come_in_the_envelope_of_sns(here: Here, queue: EventQueue) -> None:
    upload_id = await here.sent()
    async with queue.subscribed() as publish:
        await publish(event(f"a/prefix/{upload_id}"))
    assert await here.watches[0].take() == 1
    await here.until_complete(upload_id)
    assert await queue.left() == 0


async def test_what_s3_sends_at_first_and_what_is_about_nothing_of_ours_is_dropped(
    here: Here, queue: EventQueue
) -> None:
    await queue.send({"Service": "Amazon S3", "Event": "s3:TestEvent"}, event("a/foreign/object", "../x"), event())
    while await queue.left():
        await here.watches[0].take()


async def test_what_is_no_report_of_s3_is_left_to_whoever_it_is_for(here: Here, queue: EventQueue) -> None:
    await queue.send("no JSON", {"order": 7}, [1], {"Records": [{"dynamodb": {}}]}, "[" * 100_000)
    await here.watches[0].take()
    assert await queue.left() == 5


async def test_doubled_and_reordered_reports_at_two_replicas_make_one_file(here: Here, queue: EventQueue) -> None:
    """I4, I9."""
    early, _ = await here.client.begin(len(DATA))
    whole = await here.sent()
    await queue.send(*[event(whole), event(early, whole), event(early)] * 10)
    while await queue.left():
        await asyncio.gather(*(watch.take() for watch in here.watches))
    await here.until_complete(whole)
    assert (await here.rig.row(f"/{early}")).state == "uploading"


async def test_a_report_that_could_not_be_acted_on_comes_again(here: Here, queue: EventQueue) -> None:
    """I20: the store is away when it comes."""
    upload_id = await here.sent()
    await queue.send(event(upload_id))
    await here.store.stop()
    with pytest.raises(StoreUnavailable):
        await here.watches[0].take()
    assert await queue.left() == 1
    await here.store.start()
    assert await here.watches[1].take() == 1
    await here.until_complete(upload_id)
    assert await queue.left() == 0


async def test_a_queue_that_is_not_there_or_away_is_unavailable(queue: EventQueue, aws_server: Aws) -> None:
    for url in (f"{queue.url}-missing", "http://127.0.0.1:1/123456789012/queue"):
        reports = SqsReports(QueueConfig(url=url, region=REGION, access_key="test", secret_key="test"))
        with pytest.raises(StoreUnavailable, match="queue of S3 events"):
            await reports.receive()
        await reports.close()


def test_an_address_of_aws_tells_the_region() -> None:
    for url, region in (
        ("https://sqs.eu-central-1.amazonaws.com/1/q", "eu-central-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("http://127.0.0.1:5000/1/q", REGION),
    ):
        config = QueueConfig(url=url, region=REGION, access_key="a", secret_key="not-to-be-seen")
        assert config.signing_region == region
        assert "not-to-be-seen" not in repr(config)


async def test_a_gateway_watches_its_queue(
    start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str, queue: EventQueue
) -> None:
    """The whole way: a real gateway on MinIO, and a client that is never heard of again."""
    own = {"TUSGATE_DIRECT": "on", "TUSGATE_S3_EVENTS_QUEUE": queue.url, "TUSGATE_PART_SIZE": "5MiB"}
    own["TUSGATE_PUBLIC_ALIASES"] = "http://gateway.test"  # what `Client` says for Host
    gateway = await asyncio.to_thread(start_gateway, minio_settings(minio, bucket) | own)
    async with aiohttp.ClientSession() as http:
        client = DirectClient(Client(gateway.port), http)
        upload_id, urls = await client.begin(len(DATA))
        await client.send(urls, DATA)
        await queue.send(event(upload_id))
        async with asyncio.timeout(60):
            while (await client.ask("GET", f"/{upload_id}"))[1]["state"] != "complete":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert minio.read(bucket, upload_id) == DATA
