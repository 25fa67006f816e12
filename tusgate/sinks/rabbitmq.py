"""Events in exchanges of RabbitMQ, with publisher confirms. What no queue wants comes back, and is a failure.

CloudEvents has a binding for AMQP 1.0; RabbitMQ gives our headers to readers of that as the properties it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aio_pika
import aio_pika.exceptions
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.broker import CLIENT_NAME, Access, Link, Message, end
from tusgate.sinks.document import CONTENT_TYPE

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitConfig:
    """Where the exchange is.

    Attributes:
        url: of which host and port count.
        virtual_host: `/` as a rule.
        exchange: must be there; empty: the routing key is the name of a queue.
        routing_key: a template, see `Message.filled_in`.
    """

    url: str
    virtual_host: str
    access: Access
    exchange: str
    routing_key: str


class RabbitLink:
    """The port `Link` on one channel of one connection: that keeps the order."""

    def __init__(self, config: RabbitConfig, connection: AbstractConnection) -> None:
        self._config = config
        self._connection = connection
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None

    @classmethod
    async def open(cls, config: RabbitConfig) -> Link:
        """Connect, and look whether the exchange is there."""
        parts = urlsplit(config.url)
        access = config.access
        connection = await aio_pika.connect(
            host=parts.hostname or "",
            port=parts.port or (5671 if access.encrypted else 5672),
            login=access.user or "guest",
            password=access.password or "guest",
            virtualhost=config.virtual_host,
            ssl=access.encrypted,
            ssl_context=access.tls(),
            client_properties={"connection_name": CLIENT_NAME},
        )
        link = cls(config, connection)
        try:
            await link._prepare()
        except BaseException:
            await end(link)
            raise
        return link

    async def _prepare(self) -> None:
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        if not self._config.exchange:
            self._exchange = self._channel.default_exchange
            return
        try:
            self._exchange = await self._channel.get_exchange(self._config.exchange, ensure=True)
        except ChannelNotFoundEntity:
            raise DeliveryFailed(f"there is no exchange {self._config.exchange}") from None

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return not self._connection.is_closed and self._channel is not None and not self._channel.is_closed

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        assert self._exchange is not None
        routing_key = message.filled_in(self._config.routing_key)
        told = aio_pika.Message(
            message.body,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message.event_id,
            type=message.attributes["type"],
            app_id=CLIENT_NAME,
            headers={**message.headers("cloudEvents_")},
        )
        try:
            await self._exchange.publish(told, routing_key, mandatory=True)
        except PublishError:
            raise DeliveryFailed(f"no queue takes the routing key {routing_key}") from None
        except DeliveryError:
            raise DeliveryFailed("the broker has refused it") from None

    async def close(self) -> None:
        """See `Link.close`."""
        await self._connection.close()
