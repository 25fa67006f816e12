"""Events in queues of Amazon SQS and topics of Amazon SNS, and what speaks as they do.

In those that end in `.fifo` the upload is the group, which keeps its order, and the id of the event names its
repetitions, which are dropped for five minutes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

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
_UNREADABLE: Final = (BotoCoreError, ResponseParserError)
"""What the library raises when no answer came that it can read."""


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
                proxies={},  # of the environment: no sink goes by one
            ),
        }

    def order_of(self, message: Message) -> dict[str, Any]:
        """Return what keeps the order."""
        if not self.is_fifo:
            return {}
        return {"MessageGroupId": message.upload_id, "MessageDeduplicationId": message.event_id}


class AwsLink(ABC):
    """The port `Link` on a client of one service; a subclass knows what sends there."""

    service: ClassVar[str]

    def __init__(self, config: AwsConfig, stack: AsyncExitStack, client: Any) -> None:
        self._config = config
        self._stack = stack
        self._client = client

    @classmethod
    async def open(cls, config: AwsConfig) -> Link:
        """Make a client; it connects with the first event."""
        stack = AsyncExitStack()
        # Its type depends on the service: each subclass says which one it is.
        made: Any = get_session().create_client(cls.service, **config.client_options())  # type: ignore[call-overload]
        return cls(config, stack, await stack.enter_async_context(made))

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return True

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.labels.items()}
        try:
            await self._send(message.body.decode(), MessageAttributes=attributes, **self._config.order_of(message))
        except (ClientError, *_UNREADABLE) as error:
            raise _failure(error) from None

    @abstractmethod
    async def _send(self, body: str, **options: Any) -> None:
        """Send to the target. Raises ClientError, BotoCoreError."""

    async def close(self) -> None:
        """See `Link.close`."""
        await self._stack.aclose()


class SqsLink(AwsLink):
    """A queue."""

    service = "sqs"
    _client: SQSClient

    async def _send(self, body: str, **options: Any) -> None:
        await self._client.send_message(QueueUrl=self._config.target, MessageBody=body, **options)


class SnsLink(AwsLink):
    """A topic. Its subscribers filter by the attributes `type` and `tenant`."""

    service = "sns"
    _client: SNSClient

    async def _send(self, body: str, **options: Any) -> None:
        await self._client.publish(TopicArn=self._config.target, Message=body, **options)


def _failure(error: ClientError | BotoCoreError | ResponseParserError) -> DeliveryFailed:
    """Return what it means; never that the client is given up: it has no state, and to make one costs CPU."""
    if not isinstance(error, ClientError):
        return DeliveryFailed(f"{type(error).__name__}: {error}")
    told = error.response.get("Error", {})
    return DeliveryFailed(f"AWS answered {told.get('Code', 'an error')}: {told.get('Message', '')}")
