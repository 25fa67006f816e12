"""Events told as tusd tells its post-hooks, so that servers written for those go on working.

What tusd does not have: each is told at least once, those of an upload in their order, and 2xx alone is taken.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tusgate.core.errors import DeliveryFailed, HookFailed
from tusgate.core.events import EventType
from tusgate.sinks.posting import NO_ANSWER, Posting, Receiver, now_in_utc, read_all, said
from tusgate.sinks.tusd import AFTER, CONTENT_TYPE, notice_of, wants_to_stop
from tusgate.sinks.webhook import seconds_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.core.events import Event
    from tusgate.core.model import Upload
    from tusgate.ports import Sink
    from tusgate.sinks.tusd import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class TusdConfig:
    """One hook server.

    Attributes:
        name: of the sink.
        receiver: where it is, and how it knows us.
        timeout: seconds for one try.
    """

    name: str
    receiver: Receiver
    timeout: float = 15.0


class TusdSink:
    """The port `Sink` on an HTTP client.

    Args:
        config: of the sink.
        place: see `tusd.Place`.
        stop: ends an upload whose `post-receive` is answered so; it may be over by then.
    """

    def __init__(
        self,
        config: TusdConfig,
        place: Place | None = None,
        stop: Callable[[Upload, str], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._place = place
        self._stop = stop
        self._posting = Posting(config.receiver)

    @property
    def name(self) -> str:
        """See `ports.Sink.name`."""
        return self._config.name

    async def deliver(self, event: Event) -> None:
        """See `ports.Sink.deliver`."""
        if event.type not in AFTER or event.upload.derived_from is not None:
            return  # tusd knows of no file that nobody has sent
        try:
            async with asyncio.timeout(self._config.timeout):
                stops = await self._post(event)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._config.timeout:g} s") from None
        except NO_ANSWER as error:
            raise DeliveryFailed(said(error)) from error
        if stops and self._stop is not None:
            await self._stop(event.upload, f"the hook {self.name} has stopped it")

    async def _post(self, event: Event) -> bool:
        """Deliver `event`; return whether the upload is to be stopped."""
        body = notice_of(event, self._place)
        async with self._posting.posted(str(event.id), CONTENT_TYPE, body) as answer:
            if not 200 <= answer.status < 300:
                answer.close()
                retry_after = seconds_in(answer.headers.get("Retry-After"), now_in_utc())
                raise DeliveryFailed(f"the receiver answered {answer.status}", retry_after)
            received = await read_all(answer)
        if event.type is not EventType.PROGRESS or not received:
            return False
        try:
            return wants_to_stop(received)
        except HookFailed:
            return False  # it was taken; whatever else it says, it does not say that

    async def close(self) -> None:
        """See `ports.Sink.close`."""
        await self._posting.close()


if TYPE_CHECKING:
    _: type[Sink] = TusdSink
