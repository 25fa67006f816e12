"""Tells those who listen what happens, as it happens: many listeners cost one look at the database per process.

Rule 1: at least once, those of one upload in their order. A listener that comes back says what it has seen last, and is
        told everything behind that which is still kept; a few events maybe twice.
Rule 2: nobody is waited for. A listener that falls behind is sent away, and comes back.
Rule 3: while nobody listens, nothing is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import Draining, TooManyListeners, Unavailable, UploadNotFound
from tusgate.core.events import EventPlace
from tusgate.core.model import Role, Scope, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tusgate.core.events import Event, EventId, Watch
    from tusgate.core.model import UploadId
    from tusgate.ports import Database, Events

log = structlog.get_logger(__name__)

LATENESS: Final = 15.0
"""Seconds by which an event may become visible later than others that occurred after it: longer than any step takes."""
PAGE: Final = 200
REST: Final = 9.0
"""Times as long as a look took nobody looks again: looks take a tenth of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRules:
    """How often and how much.

    Attributes:
        most: listeners at once in this process.
        backlog: events that may wait for one listener.
        look_every: seconds between looks for what other processes have written.
        pause: least seconds between two looks; see `REST`.
        quiet: seconds after which a listener is shown that nothing has happened.
    """

    most: int = 1000
    backlog: int = 1000
    look_every: float = 1.0
    pause: float = 0.05
    quiet: float = 15.0


class _Listener:
    """What waits for one listener."""

    def __init__(self, watch: Watch, backlog: int) -> None:
        self.watch = watch
        self.is_over = False
        self._backlog = backlog
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()

    def tell(self, event: Event) -> None:
        if len(self._waiting) >= self._backlog:
            self.end()
        else:
            self._waiting.append(event)
            self._news.set()

    def end(self) -> None:
        self.is_over = True
        self._news.set()

    async def take(self, patience: float) -> list[Event]:
        """Return what waits; nothing when that stays so for `patience` seconds, or when it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._news.wait()
        self._news.clear()
        taken = [] if self.is_over else list(self._waiting)
        self._waiting.clear()
        return taken


class Feed:
    """All listeners of one process.

    Args:
        database: whose uploads are listened to.
        events: what its steps have written.
        rules: how much at once.
        clock: steady seconds.
    """

    def __init__(self, database: Database, events: Events, rules: FeedRules, clock: Callable[[], float]) -> None:
        self._database = database
        self._events = events
        self._rules = rules
        self._clock = clock
        self._listeners: set[_Listener] = set()
        self._places = 0
        self._covered: frozenset[str] = frozenset()
        self._looked_at = 0.0
        self._seen: dict[EventId, float] = {}
        self._looking = asyncio.Lock()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def listeners(self) -> int:
        """Return how many there are."""
        return self._places

    def wake(self) -> None:
        """Look at once: this process has written events."""
        self._woken.set()

    async def close(self) -> None:
        """Send all listeners away, and take no new ones. Idempotent."""
        self._is_closed = True
        for listener in self._listeners:
            listener.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def is_over(self, scope: Scope, upload_id: UploadId, last: EventId | None) -> bool:
        """Return whether nothing will happen any more to an upload beyond what a listener has been told.

        Raises:
            UploadNotFound: unknown, somebody else's, or nothing that clients know of.
        """
        upload = await self._database.get(scope, upload_id)
        is_hidden = upload.role is Role.GROUP
        if not is_hidden and upload.state not in {State.EXPIRED, State.TERMINATED}:
            return False
        if is_hidden and not await self._events.of_upload(scope, upload_id, 0, 1):
            raise UploadNotFound
        return not await self._events.of_upload(scope, upload_id, _number_of(last, upload_id), 1)

    async def follow(self, watch: Watch, last: EventId | None = None) -> AsyncGenerator[list[Event]]:
        """Tell what happens, in batches; an empty one first, and whenever it has been quiet. Ends when it is over.

        Args:
            watch: which events. Of one upload all are told that are kept; of more than one, those from now on.
            last: the last one that the listener knows: all behind it are told, some before it maybe again. When it is
                not kept any more, everything is told that is.

        Raises:
            TooManyListeners: before the first batch.
            Draining: the same.
            DatabaseUnavailable: also later, while what was missed is looked up.
        """
        if self._is_closed:
            raise Draining
        if self._places >= self._rules.most:
            raise TooManyListeners
        self._places += 1
        listener = _Listener(watch, self._rules.backlog)
        try:
            await self._join(listener)
            yield []
            told: dict[UploadId, int] = {}
            missed = self._all_of(watch, last) if watch.upload_id is not None else self._missed(watch, last)
            async for batch in missed:
                told.update((event.upload.id, event.number) for event in batch)
                yield batch
            while True:
                taken = await listener.take(self._rules.quiet)
                if listener.is_over:
                    return
                yield [event for event in taken if event.number > told.get(event.upload.id, 0)]
        finally:
            self._places -= 1
            self._listeners.discard(listener)

    async def _join(self, listener: _Listener) -> None:
        """Let `listener` be told what is committed from now on."""
        async with self._looking:
            if not self._listeners:
                self._covered, self._seen = frozenset(), {}
            if listener.watch.tenant not in self._covered:
                await self._look(listener.watch.tenant)
            self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_for_ever())

    async def _all_of(self, watch: Watch, last: EventId | None) -> AsyncGenerator[list[Event]]:
        assert watch.upload_id is not None
        assert watch.owner is not None
        number = _number_of(last, watch.upload_id)
        scope = Scope(watch.tenant, watch.owner)
        while batch := await self._events.of_upload(scope, watch.upload_id, number, PAGE):
            number = batch[-1].number
            yield batch

    async def _missed(self, watch: Watch, last: EventId | None) -> AsyncGenerator[list[Event]]:
        if last is None:
            return
        known = await self._events.when_was(watch.tenant, watch.owner, last)
        place = None if known is None else EventPlace(known - timedelta(seconds=LATENESS))
        while batch := await self._events.page(watch.tenant, watch.owner, place, PAGE):
            place = EventPlace.of(batch[-1])
            yield [event for event in batch if event.id != last]

    async def _look_for_ever(self) -> None:
        while self._listeners:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rules.look_every):
                    await self._woken.wait()
            self._woken.clear()
            began = self._clock()
            try:
                async with self._looking:
                    await self._look()
            except Unavailable as error:  # the next look goes back further
                log.warning("events.unseen", error=str(error))
                await asyncio.sleep(self._rules.look_every)
            except Exception:  # the guard of a loop: the next round may succeed
                log.exception("job.failed", job="feed")
                await asyncio.sleep(self._rules.look_every)
            await asyncio.sleep(self._rest_after(self._clock() - began))

    def _rest_after(self, took: float) -> float:
        """Return the seconds until the next look: where much happens each one goes through thousands of events."""
        return max(self._rules.pause, min(REST * took, self._rules.look_every))

    async def _look(self, newcomer: str | None = None) -> None:
        """Tell the listeners what has come to light since the last look. What was before is not for a `newcomer`."""
        tenants = {listener.watch.tenant for listener in self._listeners} | ({newcomer} if newcomer else set())
        now = self._clock()
        since = now - self._looked_at if self._covered else 0.0
        ids = await self._events.tail(tenants, LATENESS + since)
        new = [event_id for event_id in ids if event_id not in self._seen]
        events = await self._events.fetch(new) if new else []
        self._covered, self._looked_at = frozenset(tenants), now
        # What was seen so long ago occurred before the time that the next look goes back to.
        kept = {event_id: seen for event_id, seen in self._seen.items() if seen >= now - LATENESS - since}
        self._seen = kept | dict.fromkeys(new, now)
        for event in events:
            for listener in self._listeners:
                if listener.watch.covers(event):
                    listener.tell(event)


def _number_of(last: EventId | None, upload_id: UploadId) -> int:
    return last.number if last is not None and last.upload_id == upload_id else 0
