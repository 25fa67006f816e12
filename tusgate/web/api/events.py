"""Events as they happen, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

A stream ends after a while, so that who listens has to show credentials again; clients come back by themselves, with
the id of the last event that they have seen in Last-Event-ID.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from tusgate.core.access import Route
from tusgate.core.errors import InvalidRequest, Unavailable
from tusgate.core.events import LAST_TYPES, EventId, Watch
from tusgate.web.api.door import Operation
from tusgate.web.errors import add_shared_headers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tusgate.core.events import Event
    from tusgate.service.feed import Feed
    from tusgate.web.api.door import ApiCall

LONGEST_STREAM: Final = 600.0
"""Seconds after which a listener has to come back: a revoked token goes unnoticed for no longer."""
WRITE_PATIENCE: Final = 30.0
"""Seconds that a client may take to make room for a batch."""
COME_BACK_AFTER: Final = 2000
"""Milliseconds."""
_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events back
}
_RESUMES: Final = (
    "Server-sent events: `id`, `event` (the type) and `data` (the CloudEvent). At least once, those of one upload in"
    " their order. `Last-Event-ID` goes on behind an event."
)

log = structlog.get_logger(__name__)


class EventsApi:
    """The operations of those who listen.

    Args:
        feed: tells what happens.
        document_of: an event as receivers see it, in one line.
    """

    def __init__(self, feed: Feed, document_of: Callable[[Event], bytes]) -> None:
        self._feed = feed
        self._document_of = document_of

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="GET",
                path="/events",
                route=Route.EVENTS,
                name="followEvents",
                summary="Follow what happens to your uploads",
                description=_RESUMES + " Without it, from now on.",
                answer=self.follow,
                produces="text/event-stream",
                problems=(400,),
            ),
            Operation(
                method="GET",
                path="/tenant/events",
                route=Route.TENANT_EVENTS,
                name="followTenantEvents",
                summary="Follow what happens to all uploads of the tenant",
                description=_RESUMES + " Without it, from now on.",
                answer=self.follow_tenant,
                produces="text/event-stream",
                problems=(400,),
            ),
            Operation(
                method="GET",
                path="/uploads/{id}/events",
                route=Route.UPLOAD_EVENTS,
                name="followUpload",
                summary="Follow what happens to an upload",
                description=_RESUMES
                + " Without it, from the first one that is kept. 204 when nothing is left to tell.",
                answer=self.follow_upload,
                produces="text/event-stream",
                problems=(204, 400, 404),
            ),
        )

    async def follow(self, call: ApiCall) -> web.StreamResponse:
        """Tell what happens to the uploads of whoever asks."""
        return await self._answer(call, Watch(call.scope.tenant, call.scope.owner))

    async def follow_tenant(self, call: ApiCall) -> web.StreamResponse:
        """Tell what happens to the uploads of the tenant."""
        return await self._answer(call, Watch(call.scope.tenant))

    async def follow_upload(self, call: ApiCall) -> web.StreamResponse:
        """Tell what happens to one upload, to its end."""
        if await self._feed.is_over(call.scope, call.file_id, _last_of(call.request)):
            return web.Response(status=204)  # so that an EventSource does not come back
        return await self._answer(call, Watch(call.scope.tenant, call.scope.owner, call.file_id))

    async def _answer(self, call: ApiCall, watch: Watch) -> web.StreamResponse:
        batches = self._feed.follow(watch, _last_of(call.request))
        async with aclosing(batches):
            await anext(batches)
            response = web.StreamResponse(headers=_HEADERS)
            add_shared_headers(call.request, response)
            await response.prepare(call.request)
            if call.request.method != "HEAD":
                await self._send(call, watch, response, batches)
        return response

    async def _send(
        self, call: ApiCall, watch: Watch, response: web.StreamResponse, batches: AsyncGenerator[list[Event]]
    ) -> None:
        """Send until the client has gone, the stream is long enough, or nothing is left to be told."""
        seconds = (
            LONGEST_STREAM if call.principal.until is None else min(LONGEST_STREAM, call.principal.until - time.time())
        )
        try:
            async with asyncio.timeout(seconds):
                await _write(call.request, response, b"retry: %d\n\n" % COME_BACK_AFTER)
                async for batch in batches:
                    await _write(call.request, response, b"".join(map(self._told, batch)) or b":\n\n")
                    if watch.upload_id is not None and any(event.type in LAST_TYPES for event in batch):
                        break
        except TimeoutError:
            pass  # its time is over: it will be back
        except Unavailable as error:
            log.warning("events.unseen", error=str(error))
        except ConnectionError:
            return

    def _told(self, event: Event) -> bytes:
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (
            str(event.id).encode(),
            event.type.encode(),
            self._document_of(event),
        )


def _last_of(request: web.Request) -> EventId | None:
    """Return the event that the client has seen last. Raises InvalidRequest."""
    text = request.headers.get("Last-Event-ID", "").strip()
    try:
        return EventId.parse(text) if text else None
    except ValueError:
        raise InvalidRequest("Last-Event-ID", "the id of an event") from None


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send. Raises ConnectionError when the client has gone, or takes nothing: that connection is broken off."""
    try:
        async with asyncio.timeout(WRITE_PATIENCE):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client takes nothing") from None
