"""Queues and topics as Amazon has them, by moto's server: it keeps them in memory, and asks nobody who they are."""

from __future__ import annotations

import json
import os
import sys
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiobotocore.session import get_session

from tests.servers.inbox import Arrived
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import REGION, scratch_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SECRET_KEY = "not-to-be-seen-anywhere"


@dataclass(frozen=True)
class Queue:
    """A FIFO queue, and in front of it a FIFO topic if asked for; implements `Inbox`."""

    server: Aws
    queue_url: str
    topic_arn: str | None = None
    seen: list[Arrived] = field(default_factory=list)

    @property
    def password(self) -> str:
        return SECRET_KEY

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        (folder / "aws.secret").write_text(SECRET_KEY)
        own = {"endpoint": f"http://127.0.0.1:{self.server.port}", "region": REGION}
        own |= {"access_key": "test", "secret_key_file": str(folder / "aws.secret")}
        if self.topic_arn is not None:
            return {"name": "sns", "type": "sns", "topic_arn": self.topic_arn, **own, **changes}
        return {"name": "sqs", "type": "sqs", "queue_url": self.queue_url, **own, **changes}

    @property
    def elsewhere(self) -> dict[str, Any]:
        if self.topic_arn is not None:
            return {"topic_arn": self.topic_arn.replace(".fifo", "-missing.fifo")}
        return {"queue_url": self.queue_url.replace(".fifo", "-missing.fifo")}

    async def arrived(self) -> list[Arrived]:
        async with self.server.client("sqs") as sqs:
            while True:
                answer = await sqs.receive_message(
                    QueueUrl=self.queue_url,
                    MaxNumberOfMessages=10,
                    MessageAttributeNames=["All"],
                    AttributeNames=["MessageGroupId", "MessageDeduplicationId"],
                )
                if not answer.get("Messages"):
                    return self.seen
                for message in answer["Messages"]:
                    attributes = message["Attributes"]
                    headers = {name: each["StringValue"] for name, each in message.get("MessageAttributes", {}).items()}
                    headers["deduplication"] = attributes["MessageDeduplicationId"]
                    self.seen.append(Arrived(message["Body"].encode(), attributes["MessageGroupId"], headers))
                    await sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])


@dataclass(frozen=True)
class Aws:
    """A running server; implements `Broker` for queues. A restart empties it."""

    port: int
    control: ServerProcess

    def client(self, service: str) -> Any:
        session: Any = get_session()  # its types want a literal
        return session.create_client(
            service,
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Queue]:
        """Give a queue."""
        yield Queue(self, await self._new_queue())

    @asynccontextmanager
    async def topic(self) -> AsyncIterator[Queue]:
        """Give a topic, and a queue that has subscribed to it."""
        queue_url = await self._new_queue()
        async with self.client("sqs") as sqs, self.client("sns") as sns:
            asked = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
            topic = await sns.create_topic(Name=f"{uuid.uuid4().hex}.fifo", Attributes={"FifoTopic": "true"})
            await sns.subscribe(
                TopicArn=topic["TopicArn"],
                Protocol="sqs",
                Endpoint=asked["Attributes"]["QueueArn"],
                Attributes={
                    "RawMessageDelivery": "true",
                    "FilterPolicy": json.dumps({"tenant": [{"anything-but": "nobody"}]}),
                },
            )
        yield Queue(self, queue_url, topic["TopicArn"])

    async def _new_queue(self) -> str:
        async with self.client("sqs") as sqs:
            made = await sqs.create_queue(QueueName=f"{uuid.uuid4().hex}.fifo", Attributes={"FifoQueue": "true"})
        return str(made["QueueUrl"])


@contextmanager
def running() -> Iterator[Aws]:
    """Run the server, which `make setup` has installed."""
    with scratch_directory("aws", in_memory=False) as directory:
        port = free_port()
        program = "from moto.server import main; import sys; main(sys.argv[1:])"
        process = ServerProcess(
            "moto",
            [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port)],
            lambda: accepts_connections(port),
            directory / "moto.log",
            environment={"PATH": os.environ["PATH"], "HOME": str(directory)},
        )
        try:
            process.start()
            yield Aws(port, process)
        finally:
            process.kill()
