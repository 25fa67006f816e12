"""Events in topics of Kafka: by an idempotent producer, confirmed by all replicas, under the id of the upload as key.

The binding is https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, ProducerClosed, TopicAuthorizationFailedError

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.broker import CLIENT_NAME, Access, Link, Message, end
from tusgate.sinks.document import CONTENT_TYPE

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """Where the topic is.

    Attributes:
        servers: some brokers of one cluster, as host:port.
        topic: must be there; with a number of partitions that never changes, if order matters.
        sasl: how user and password are shown.
        timeout: seconds for an answer.
    """

    servers: tuple[str, ...]
    access: Access
    topic: str
    sasl: str
    timeout: float = 15.0


class KafkaLink:
    """The port `Link` on one producer, which keeps a connection to each broker, and finds out who leads."""

    def __init__(self, config: KafkaConfig) -> None:
        self._topic = config.topic
        access = config.access
        milliseconds = round(config.timeout * 1000)
        options: dict[str, Any] = {"ssl_context": access.tls()} if access.encrypted else {}
        if access.user:
            options |= {
                "sasl_mechanism": config.sasl,
                "sasl_plain_username": access.user,
                "sasl_plain_password": access.password,
            }
        self._producer = AIOKafkaProducer(
            bootstrap_servers=list(config.servers),
            client_id=CLIENT_NAME,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=milliseconds,
            security_protocol=("SASL_" if access.user else "") + ("SSL" if access.encrypted else "PLAINTEXT"),
            **options,
        )

    @classmethod
    async def open(cls, config: KafkaConfig) -> Link:
        """Connect, and look whether the topic is there."""
        link = cls(config)
        try:
            await link._producer.start()
            await link._find_topic()
        except BaseException:
            await end(link)
            raise
        return link

    async def _find_topic(self) -> None:
        """Ask what there is: about a topic that is missing the library would ask until it is there."""
        if self._topic not in (await self._producer.client.fetch_all_metadata()).topics():
            raise DeliveryFailed(f"there is no topic {self._topic}, or it may not be seen")

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return True

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        headers = {"content-type": CONTENT_TYPE, **message.headers("ce_")}
        try:
            await self._producer.send_and_wait(
                self._topic,
                message.body,
                key=message.upload_id.encode(),
                headers=[(name, value.encode()) for name, value in headers.items()],
            )
        except MessageSizeTooLargeError:
            raise DeliveryFailed("larger than Kafka takes") from None
        except TopicAuthorizationFailedError:
            raise DeliveryFailed(f"may not write to the topic {self._topic}") from None

    async def close(self) -> None:
        """See `Link.close`. What waits is told again by others: here it would be tried until Kafka is back."""
        self._producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - it has no public way
        await self._producer.stop()
