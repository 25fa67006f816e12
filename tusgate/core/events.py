"""Facts about uploads that others are told: which there are, who wants them, and what becomes of a delivery.

Rule 1: an event is written by the commit that makes it true, and by no other: never too early, never twice.
Rule 2: it is told at least once, under the same id each time; the events of one upload in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tusgate.core.model import UPLOAD_ID, Role, State, UploadId

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tusgate.core.model import Upload


class EventType(StrEnum):
    """What may happen to an upload. Names are public.

    CREATED: it has an address. A final of tus concatenation, too.
    PROGRESS: some bytes of it were committed; at most one every few seconds, and only for sinks that name it.
    COMPLETED: its object is in the store and verified. Partials never are: they are no files.
    FAILED: the store refused it for good, or lost what it had.
    EXPIRED: nobody went on in time, or the time of a finished file was over.
    TERMINATED: deleted by the client before it was complete.
    DELETED: somebody deleted the finished file.
    PROCESSING: the finished file has jobs.
    READY: all of them are done.
    PROCESSING_FAILED: they have ended, and not all well: one was given up, or says that nobody should have the file.
    """

    CREATED = "upload.created"
    PROGRESS = "upload.progress"
    COMPLETED = "upload.completed"
    FAILED = "upload.failed"
    EXPIRED = "upload.expired"
    TERMINATED = "upload.terminated"
    DELETED = "file.deleted"
    PROCESSING = "file.processing"
    READY = "file.ready"
    PROCESSING_FAILED = "file.failed"


LONGEST_NUMBER: Final = 9
"""Digits of the number of an event: databases keep 32 bits."""
USUAL_TYPES: Final = tuple(each for each in EventType if each is not EventType.PROGRESS)
"""What a sink gets that names no types."""


@dataclass(frozen=True, slots=True)
class EventId:
    """Names one event for ever, over all tries, replays and sinks.

    Attributes:
        number: rises with each event of the upload.
    """

    upload_id: UploadId
    number: int

    def __str__(self) -> str:
        return f"{self.upload_id}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Return the id that was written so. Raises ValueError."""
        upload_id, dash, number = text.rpartition("-")
        is_number = number.isascii() and number.isdecimal() and len(number) <= LONGEST_NUMBER
        if not (dash and is_number and UPLOAD_ID.fullmatch(upload_id)):
            msg = f"{text} is no id of an event"
            raise ValueError(msg)
        return cls(UploadId(upload_id), int(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact.

    Attributes:
        upload: as it was by then; of a deletion, as it was before.
        occurred_at: by the clock of the database.
    """

    number: int
    type: EventType
    upload: Upload
    occurred_at: datetime

    @property
    def id(self) -> EventId:
        """Return what names it."""
        return EventId(self.upload.id, self.number)


@dataclass(frozen=True, slots=True, order=True)
class EventPlace:
    """Where an event stands among all others: by its time, those of one upload in their order."""

    occurred_at: datetime
    upload_id: str = ""
    number: int = 0

    @classmethod
    def of(cls, event: Event) -> EventPlace:
        """Return the place of `event`."""
        return cls(event.occurred_at, event.upload.id, event.number)


@dataclass(frozen=True, slots=True)
class Watch:
    """Which events somebody listens to.

    Attributes:
        tenant: theirs only.
        owner: of the uploads; None: of any.
        upload_id: of this upload only; None: of all.
    """

    tenant: str
    owner: str | None = None
    upload_id: UploadId | None = None

    def covers(self, event: Event) -> bool:
        """Return whether `event` is one of them."""
        scope = event.upload.scope
        return (
            scope.tenant == self.tenant
            and self.owner in {None, scope.owner}
            and self.upload_id in {None, event.upload.id}
        )


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one sink wants to be told.

    Attributes:
        sink: its name.
        types: of events.
        tenants: only theirs; empty: those of all.
    """

    sink: str
    types: frozenset[EventType] = frozenset(USUAL_TYPES)
    tenants: frozenset[str] = frozenset()


def _nobody() -> None:
    return


@dataclass(frozen=True, slots=True)
class Outbox:
    """Who is told, as the steps of a database need it; without subscriptions they write no events.

    Attributes:
        written: called after a commit that may have written events; must return at once.
        progress_every: seconds between two PROGRESS events of an upload.
        streamed: types that are written whether or not a sink wants them, for those who listen.
    """

    subscriptions: tuple[Subscription, ...] = ()
    written: Callable[[], None] = _nobody
    progress_every: float = 5.0
    streamed: frozenset[EventType] = frozenset()

    def sinks_for(self, event_type: EventType, tenant: str) -> list[str] | None:
        """Return the sinks that want an event of this type and tenant; None when nobody does, and it is not written."""
        found = [
            each.sink
            for each in self.subscriptions
            if event_type in each.types and (not each.tenants or tenant in each.tenants)
        ]
        return found if found or event_type in self.streamed else None

    def tell(self, event_type: EventType, tenant: str) -> None:
        """Say that such an event was committed, if anybody wants it."""
        if self.sinks_for(event_type, tenant) is not None:
            self.written()


LAST_TYPES: Final = frozenset({EventType.EXPIRED, EventType.TERMINATED, EventType.DELETED})
"""After one of these an upload has no more events."""
NO_OUTBOX: Final = Outbox()
"""Nobody is told anything."""


def deletion_of(upload: Upload) -> EventType:
    """Return which event it is that a client deletes `upload`, which is not deleted yet."""
    is_file = upload.state is State.COMPLETE and upload.role is not Role.PARTIAL
    return EventType.DELETED if is_file else EventType.TERMINATED


class DeliveryState(StrEnum):
    """What has become of the delivery of an event to a sink.

    WAITING: it will be tried, again maybe. DELIVERED: the sink has confirmed it. DEAD: given up; an operator may
    have it delivered after all.
    """

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one sink.

    Attributes:
        tries: begun so far.
        due_at: when it is tried next, or its lease ends.
        error: of the last try that failed.
        settled_at: when it was delivered or given up.
    """

    event: Event
    sink: str
    state: DeliveryState
    tries: int
    due_at: datetime
    error: str | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try has ended.

    Attributes:
        event_id: what was delivered, or not.
        state: from now on.
        delay: seconds until the next try, when it is WAITING.
        error: why it failed; never a secret.
    """

    event_id: EventId
    state: DeliveryState
    delay: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SinkBacklog:
    """Deliveries to one sink that are in one state, as long as there are any.

    Attributes:
        deliveries: how many.
        seconds: since the oldest of their events occurred; None where that is not asked for.
    """

    sink: str
    state: DeliveryState
    deliveries: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which deliveries an operator means; None does not restrict.

    Attributes:
        since, until: occurred from then on, and before then.
    """

    event_id: EventId | None = None
    upload_id: UploadId | None = None
    tenant: str | None = None
    type: EventType | None = None
    sink: str | None = None
    state: DeliveryState | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlan:
    """When a delivery that failed is tried again.

    Attributes:
        retries: after the first try; when all have failed, the delivery is DEAD.
        first: seconds until the first of them.
        factor: by which each wait is longer than the one before.
        longest: most seconds between two tries, whatever the sink asks for.
    """

    retries: int = 3
    first: float = 10.0
    factor: float = 4.0
    longest: float = 86_400.0

    def after(self, tries: int, asked: float | None, spread: float) -> float | None:
        """Return the seconds until the next try, or None when the delivery is to be given up.

        Args:
            tries: that have failed.
            asked: least seconds that the sink wants to be left alone (Retry-After).
            spread: random number from 0 to 1. Waits differ by half of their length, so that what has failed together
                is not tried together.
        """
        if tries > self.retries:
            return None
        # A power of a large number of tries is no float any more.
        planned = self.first * self.factor ** min(tries - 1, 64)
        return min(max(planned * (0.75 + 0.5 * spread), asked or 0.0), self.longest)
