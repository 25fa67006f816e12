"""Events in streams of NATS JetStream. The id of an event is `Nats-Msg-Id`: the stream drops what it has already.

The binding is https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.broker import CLIENT_NAME, Access, Link, Message, end
from tusgate.sinks.document import CONTENT_TYPE

if TYPE_CHECKING:
    from pathlib import Path

FOREVER: Final = 3600.0
"""Seconds; whoever publishes has a time-out of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsConfig:
    """Where the stream is.

    Attributes:
        servers: URLs of one cluster.
        subject: a template, see `Message.filled_in`.
        stream: that has to take it; None: whichever listens to the subject.
        token: instead of a user.
        credentials_file: a user's JWT and seed, instead of a user.
    """

    servers: tuple[str, ...]
    access: Access
    subject: str
    stream: str | None = None
    token: str = field(default="", repr=False)
    credentials_file: Path | None = None


class NatsLink:
    """The port `Link` on one connection. It knows when that is lost, and whoever waits is told at once."""

    def __init__(self, config: NatsConfig) -> None:
        self._config = config
        self._client = Client()
        self._stream = self._client.jetstream(timeout=FOREVER)
        self._waiting: dict[asyncio.Timeout, str] = {}
        self._complaint = ""

    @classmethod
    async def open(cls, config: NatsConfig) -> Link:
        """Connect to one of the servers."""
        link = cls(config)
        try:
            await link._connect()
        except BaseException:
            await end(link)
            raise
        return link

    async def _connect(self) -> None:
        config, access = self._config, self._config.access
        options: dict[str, Any] = {"user": access.user, "password": access.password} if access.user else {}
        if config.token:
            options["token"] = config.token
        if config.credentials_file is not None:
            options["user_credentials"] = str(config.credentials_file)
        if access.encrypted:
            options["tls"] = access.tls()
        try:
            await self._client.connect(
                servers=list(config.servers),
                name=CLIENT_NAME,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # else it asks servers that are away 60 times before it says so
                reconnect_time_wait=0,
                error_cb=self._complained,
                closed_cb=self._closed,
                **options,
            )
        except nats.errors.NoServersError:
            raise ConnectionError(f"no server can be used: {self._complaint}") from None

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return self._client.is_connected

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        subject = message.filled_in(self._config.subject)
        headers = {"Nats-Msg-Id": message.event_id, "Content-Type": CONTENT_TYPE, **message.headers("ce-")}
        until = asyncio.timeout(None)
        try:
            async with until:
                self._waiting[until] = subject
                await self._stream.publish(subject, message.body, FOREVER, self._config.stream, headers)
        except nats.js.errors.NoStreamResponseError:
            raise DeliveryFailed(f"no stream takes {subject}") from None
        except nats.js.errors.APIError as error:
            raise DeliveryFailed(f"the stream answered {error.code}: {error.description}") from None
        except nats.errors.MaxPayloadError:
            raise DeliveryFailed("larger than the server takes") from None
        except TimeoutError:
            if self._client.is_connected:
                raise DeliveryFailed(f"may not be published: {self._complaint}") from None
            raise ConnectionError("the connection was lost") from None
        finally:
            self._waiting.pop(until, None)

    async def _complained(self, error: Exception) -> None:
        """Hear of what belongs to no request: which the server answers to what may not be published."""
        self._complaint = str(error)
        for until, subject in self._waiting.items():
            if f'"{subject.lower()}"' in self._complaint.lower():
                until.reschedule(0.0)

    async def _closed(self) -> None:
        for until in self._waiting:
            until.reschedule(0.0)

    async def close(self) -> None:
        """See `Link.close`."""
        await self._client.close()
