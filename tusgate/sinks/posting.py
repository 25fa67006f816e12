"""HTTP POST to receivers outside: signed as Standard Webhooks says, and never into the own network by accident.

Rule: what a receiver answers cannot hurt. Nothing is unpacked or followed, no cookie and no proxy of the environment
is used, and of a body only as much is read as the caller asks for.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

import tusgate
from tusgate.sinks.addresses import AddressGuard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

MOST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read."""
CONNECTIONS: Final = 64
NO_ANSWER: Final = (aiohttp.ClientError, OSError, ValueError)
"""What a request may end with, beside a time-out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where requests go.

    Attributes:
        url: http or https.
        secrets: `whsec_...`, each of which signs; several while they are being changed; none: unsigned.
        allowed: see `AddressGuard`.
    """

    url: str
    secrets: tuple[str, ...] = field(repr=False)
    allowed: frozenset[tuple[str, int]] = frozenset()


def now_in_utc() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Posting:
    """Requests to one receiver. Connects with the first one."""

    def __init__(self, receiver: Receiver, now: Callable[[], datetime] = now_in_utc) -> None:
        self._url = URL(receiver.url)
        self._signers = [Webhook(secret) for secret in receiver.secrets]
        self._guard = AddressGuard(receiver.allowed)
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def posted(
        self, message_id: str, content_type: str, body: bytes, more: Iterable[tuple[str, str]] = ()
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Give the answer to `body`. Each call has a timestamp and signatures of its own.

        Args:
            message_id: the same for each try of one message.
            content_type: of the body.
            body: UTF-8.
            more: headers beside ours, which win.

        Raises:
            aiohttp.ClientError, OSError, ValueError: there is no answer, or the address is not allowed.
        """
        self._guard.check_literal(self._url.raw_host or "", self._url.port or 0)
        headers = self._headers(message_id, content_type, body)
        taken = {name.lower() for name in headers}
        beside = [(name, value) for name, value in more if name.lower() not in taken]
        async with self._opened().post(
            self._url, data=body, headers=[*headers.items(), *beside], allow_redirects=False
        ) as answer:
            yield answer

    def _headers(self, message_id: str, content_type: str, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": content_type,
            "Accept-Encoding": "identity",  # nothing is unpacked here
            "User-Agent": f"tusgate/{tusgate.__version__}",
            "webhook-id": message_id,
        }
        if self._signers:
            now = self._now()
            signatures = [signer.sign(message_id, now, body.decode()) for signer in self._signers]
            headers["webhook-timestamp"] = str(math.floor(now.timestamp()))
            headers["webhook-signature"] = " ".join(signatures)
        return headers

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._guard, use_dns_cache=False, limit=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=MOST_ANSWER,
            )
        return self._session

    async def close(self) -> None:
        """Release all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._guard.close()


async def read_rest(answer: aiohttp.ClientResponse) -> None:
    """Read a short answer, so that the connection can be used again; else give that up. The event was taken."""
    if answer.content_length is None or answer.content_length > MOST_ANSWER:
        answer.close()
        return
    with suppress(aiohttp.ClientError, TimeoutError):
        await asyncio.wait_for(answer.read(), 1.0)


async def read_all(answer: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, None when it is longer than `MOST_ANSWER`: the connection is given up then."""
    received = bytearray()
    async for chunk in answer.content.iter_any():
        received += chunk
        if len(received) > MOST_ANSWER:
            answer.close()
            return None
    return bytes(received)


def said(error: Exception) -> str:
    """Return what went wrong, without the URL: its query may be a secret."""
    cause = error.__cause__ or error
    text = str(cause) if isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
