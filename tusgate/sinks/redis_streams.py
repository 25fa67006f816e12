"""Events in streams of Redis: one entry each, with the document in the field `event`.

Redis confirms what it has in memory: how much of that a crash takes is a matter of its own settings (`appendfsync`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.broker import CLIENT_NAME, Access, Link, Message, end

if TYPE_CHECKING:
    from redis.typing import EncodableT, FieldT

CONNECTIONS: Final = 4
DEFAULT_PORT: Final = 6379


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Where the stream is.

    Attributes:
        url: of which host and port count.
        database: its number.
        stream: a template, see `Message.filled_in`.
        maxlen: entries that are kept, somewhat more in fact; None: all.
        timeout: seconds for an answer.
    """

    url: str
    database: int
    access: Access
    stream: str
    maxlen: int | None = None
    timeout: float = 15.0


class RedisLink:
    """The port `Link` on a few connections: there is at most one event of an upload on its way."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        parts, access = urlsplit(config.url), config.access
        pool = BlockingConnectionPool(
            max_connections=CONNECTIONS,
            timeout=None,
            connection_class=SSLConnection if access.encrypted else Connection,
            host=parts.hostname,
            port=parts.port or DEFAULT_PORT,
            db=config.database,
            username=(access.user or None) if access.password else None,
            password=access.password or None,
            client_name=CLIENT_NAME,
            socket_timeout=config.timeout,
            socket_connect_timeout=config.timeout,
            retry=Retry(NoBackoff(), 0),
            **_tls_options(access),
        )
        self._client = Redis.from_pool(pool)

    @classmethod
    async def open(cls, config: RedisConfig) -> Link:
        """Connect, and show who we are."""
        link = cls(config)
        try:
            await link._client.ping()
        except BaseException:
            await end(link)
            raise
        return link

    @property
    def usable(self) -> bool:
        """See `Link.usable`."""
        return True

    async def publish(self, message: Message) -> None:
        """See `Link.publish`."""
        stream = message.filled_in(self._config.stream)
        fields: dict[FieldT, EncodableT] = {"event": message.body}
        fields |= message.labels.items()
        try:
            await self._client.xadd(stream, fields, maxlen=self._config.maxlen, approximate=True)
        except ReadOnlyError:  # a master that is none any more: its name may lead to another by now
            raise
        except ResponseError as error:
            raise DeliveryFailed(f"Redis answered for {stream}: {error}") from None

    async def close(self) -> None:
        """See `Link.close`."""
        await self._client.aclose()


def _tls_options(access: Access) -> dict[str, Any]:
    if not access.encrypted:
        return {}
    files = {"ssl_ca_certs": access.ca_file, "ssl_certfile": access.cert_file, "ssl_keyfile": access.key_file}
    return {name: None if path is None else str(path) for name, path in files.items()}
