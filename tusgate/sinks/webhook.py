"""Events by HTTP POST, signed as Standard Webhooks says (https://www.standardwebhooks.com).

Rule 1: any 2xx is taken, 410 means never again, everything else is a failure; a redirect, too.
Rule 2: each try has the id and the bytes of the one before, and a timestamp and signatures of its own.
Rule 3: what a receiver answers cannot hurt: of the body at most 64 KiB are read, nothing is unpacked or followed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import DeliveryFailed, SinkGone
from tusgate.sinks.document import CONTENT_TYPE, document_of
from tusgate.sinks.posting import NO_ANSWER, Posting, Receiver, now_in_utc, read_rest, said

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import aiohttp

    from tusgate.core.events import Event
    from tusgate.ports import Sink

GONE: Final = 410


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


class WebhookSink:
    """The port `Sink` on an HTTP client."""

    def __init__(self, config: WebhookConfig, now: Callable[[], datetime] = now_in_utc) -> None:
        self._config = config
        receiver = Receiver(url=config.url, secrets=config.secrets, allowed=config.allowed)
        self._posting = Posting(receiver, now)
        self._now = now

    @property
    def name(self) -> str:
        """See `ports.Sink.name`."""
        return self._config.name

    async def deliver(self, event: Event) -> None:
        """See `ports.Sink.deliver`."""
        body = document_of(event, self._config.source)
        try:
            async with (
                asyncio.timeout(self._config.timeout),
                self._posting.posted(str(event.id), CONTENT_TYPE, body) as answer,
            ):
                self._judge(answer)
                await read_rest(answer)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._config.timeout:g} s") from None
        except NO_ANSWER as error:
            raise DeliveryFailed(said(error)) from error

    def _judge(self, answer: aiohttp.ClientResponse) -> None:
        if 200 <= answer.status < 300:
            return
        answer.close()
        if answer.status == GONE:
            raise SinkGone("the receiver answered 410")
        raise DeliveryFailed(
            f"the receiver answered {answer.status}", seconds_in(answer.headers.get("Retry-After"), self._now())
        )

    async def close(self) -> None:
        """See `ports.Sink.close`."""
        await self._posting.close()


def seconds_in(retry_after: str | None, now: datetime) -> float | None:
    """Return what a Retry-After header asks for, None when it says nothing that can be understood."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds(), 0.0)


if TYPE_CHECKING:
    _: type[Sink] = WebhookSink
