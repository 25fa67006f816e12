"""Events by HTTP POST, signed as Standard Webhooks says (https://www.standardwebhooks.com).

Rule 1: any 2xx is taken, 410 means never again, everything else is a failure; a redirect, too.
Rule 2: each try has the id and the bytes of the one before, and a timestamp and signatures of its own.
Rule 3: what a receiver answers cannot hurt: of the body at most 64 KiB are read, nothing is unpacked or followed.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

import tusgate
from tusgate.core.errors import DeliveryFailed, SinkGone
from tusgate.sinks.addresses import AddressGuard
from tusgate.sinks.document import CONTENT_TYPE, document_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.events import Event
    from tusgate.ports import Sink

MOST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read so that its connection can be used again."""
GONE: Final = 410
CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """One receiver.

    Attributes:
        name: of the sink.
        url: http or https.
        secrets: `whsec_...`, each of which signs; several while they are being changed.
        timeout: seconds for one try, from the look-up of the name to the status.
        source: see `document_of`.
        allowed: see `AddressGuard`.
    """

    name: str
    url: str
    secrets: tuple[str, ...] = field(repr=False)
    timeout: float = 15.0
    source: str = "/files"
    allowed: frozenset[tuple[str, int]] = frozenset()


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookSink:
    """The port `Sink` on an HTTP client. Connects with the first event."""

    def __init__(self, config: WebhookConfig, now: Callable[[], datetime] = _now) -> None:
        self._config = config
        self._url = URL(config.url)
        self._signers = [Webhook(secret) for secret in config.secrets]
        self._guard = AddressGuard(config.allowed)
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """See `ports.Sink.name`."""
        return self._config.name

    async def deliver(self, event: Event) -> None:
        """See `ports.Sink.deliver`."""
        body = document_of(event, self._config.source)
        try:
            self._guard.check_literal(self._url.raw_host or "", self._url.port or 0)
            async with (
                asyncio.timeout(self._config.timeout),
                self._opened().post(
                    self._url, data=body, headers=self._headers(str(event.id), body), allow_redirects=False
                ) as answer,
            ):
                self._judge(answer)
                await _read_rest(answer)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._config.timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryFailed(_said(error)) from error

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        now = self._now()
        signatures = [signer.sign(event_id, now, body.decode()) for signer in self._signers]
        return {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": f"tusgate/{tusgate.__version__}",
            "webhook-id": event_id,
            "webhook-timestamp": str(math.floor(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    def _judge(self, answer: aiohttp.ClientResponse) -> None:
        if 200 <= answer.status < 300:
            return
        answer.close()
        if answer.status == GONE:
            raise SinkGone("the receiver answered 410")
        raise DeliveryFailed(
            f"the receiver answered {answer.status}", seconds_in(answer.headers.get("Retry-After"), self._now())
        )

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
        """See `ports.Sink.close`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._guard.close()


async def _read_rest(answer: aiohttp.ClientResponse) -> None:
    """Read a short answer, so that the connection can be used again; else give that up. The event was taken."""
    if answer.content_length is None or answer.content_length > MOST_ANSWER:
        answer.close()
        return
    with suppress(aiohttp.ClientError, TimeoutError):
        await asyncio.wait_for(answer.read(), 1.0)


def seconds_in(retry_after: str | None, now: datetime) -> float | None:
    """Return what a Retry-After header asks for, None when it says nothing that can be understood."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds(), 0.0)


def _said(error: Exception) -> str:
    """Return what went wrong, without the URL: its query may be a secret."""
    cause = error.__cause__ or error
    text = str(cause) if isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if TYPE_CHECKING:
    _: type[Sink] = WebhookSink
