"""Events in queues of Amazon SQS and topics of Amazon SNS, and what speaks as they do.

In those that end in `.fifo` the upload is the group, which keeps its order, and the id of the event names its
repetitions, which are dropped for five minutes.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from tusgate.core.errors import DeliveryFailed

if TYPE_CHECKING:
    from pathlib import Path

    from types_aiobotocore_sns import SNSClient
    from types_aiobotocore_sqs import SQSClient

    from tusgate.sinks.broker import Link, Message

FIFO: Final = ".fifo"
CONNECTIONS: Final = 16
SHARE: Final = 0.8
"""Of the time for a try, after which the library itself gives a request up, and its client stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConfig:
    """Where the queue or the topic is.

    Attributes:
        target: URL of a queue, or ARN of a topic.
        endpoint: None: AWS's own.
        access_key, secret_key: None: found as AWS's own tools find them.
        ca_file: whose certificates are believed; None: those of the library.
        timeout: seconds for an answer.
    """

    target: str
    region: str
    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout: float = 15.0

    @property
    def is_fifo(self) -> bool:
        """Tell whether order is kept."""
        return self.target.endswith(FIFO)

    def client_options(self) -> dict[str, Any]:
        """Return what makes a client."""
        return {
            "region_name": self.region,
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "verify": None if self.ca_file is None else str(self.ca_file),
            "config": AioConfig(
                connect_timeout=self.timeout * SHARE,
                read_timeout=self.timeout * SHARE,
                max_pool_connections=CONNECTIONS,
                retries={"total_max_attempts": 1},
            ),
        }

    def order_of(self, message: Message) -> dict[str, Any]:
        """Return what keeps the order."""
        if not self.is_fifo:
            return {}
        return {"MessageGroupId": message.upload_id, "MessageDeduplicationId": message.event_id}


class SqsLink:
    """The port `Link` on a queue."""

    def __init__(self, config: AwsConfig, stack: AsyncExitStack, client: SQSClient) -> None:
        self._config = config
        self._stack = stack
        self._client = client

    @classmethod
    async def open(cls, config: AwsConfig) -> Link:
        """Make a client; it connects with the first event."""
        stack = AsyncExitStack()
        client = await stack.enter_async_context(get_session().create_client("sqs", **config.client_options()))
        return cls(config, stack, client)

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return True

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        try:
            await self._client.send_message(
                QueueUrl=self._config.target,
                MessageBody=message.body.decode(),
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in message.labels.items()
                },
                **self._config.order_of(message),
            )
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from None

    async def close(self) -> None:
        """See `Link.close`."""
        await self._stack.aclose()


class SnsLink:
    """The port `Link` on a topic. Its subscribers filter by the attributes `type` and `tenant`."""

    def __init__(self, config: AwsConfig, stack: AsyncExitStack, client: SNSClient) -> None:
        self._config = config
        self._stack = stack
        self._client = client

    @classmethod
    async def open(cls, config: AwsConfig) -> Link:
        """Make a client; it connects with the first event."""
        stack = AsyncExitStack()
        client = await stack.enter_async_context(get_session().create_client("sns", **config.client_options()))
        return cls(config, stack, client)

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return True

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        try:
            await self._client.publish(
                TopicArn=self._config.target,
                Message=message.body.decode(),
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in message.labels.items()
                },
                **self._config.order_of(message),
            )
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from None

    async def close(self) -> None:
        """See `Link.close`."""
        await self._stack.aclose()


def _failure(error: ClientError | BotoCoreError) -> DeliveryFailed:
    """Return what it means; never that the client is given up: it has no state, and to make one costs CPU."""
    if isinstance(error, BotoCoreError):
        return DeliveryFailed(f"{type(error).__name__}: {error}")
    told = error.response.get("Error", {})
    return DeliveryFailed(f"AWS answered {told.get('Code', 'an error')}: {told.get('Message', '')}")
