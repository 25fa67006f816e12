"""What the database says to whoever watches over the gateway, read as seldom as that allows.

Rule 1: nothing is read unless somebody asks, and then by one reader at a time, however many ask.
Rule 2: what was read is kept for a while, and for longer the longer it took: watching must not become the load.
Rule 3: an answer comes soon, whatever the database does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from tusgate.core.errors import Unavailable
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tusgate.core.events import SinkBacklog
    from tusgate.core.model import State
    from tusgate.core.processing import ProcessorBacklog
    from tusgate.ports import SurveyedDatabase

log = structlog.get_logger(__name__)

T = TypeVar("T")

BACKLOG_KEPT: Final = 5.0
"""Seconds for which the backlog is kept: indexes answer it."""
SURVEY_KEPT: Final = 60.0
"""Seconds for which a survey is kept: it reads whole tables."""
SHARE: Final = 20.0
"""A reading is kept for at least as many times as long as it took."""
RETRY: Final = 5.0
"""Seconds after which a reading that failed is tried again."""
PATIENCE: Final = 3.0
"""Seconds that an answer waits for one reading; scrapes have 10 s as a rule, and there are two."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not settled."""

    deliveries: Sequence[SinkBacklog]
    jobs: Sequence[ProcessorBacklog]


@dataclass(frozen=True, slots=True)
class Survey:
    """What only whole tables tell.

    Attributes:
        uploads: by state; those that have ended, too, as long as they are remembered.
        dead_jobs: by processor, where there are any.
    """

    uploads: Mapping[State, int]
    dead_jobs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known now.

    Attributes:
        database_answers: it has, within `PATIENCE` or less than a few seconds ago.
        backlog, survey: None when the last attempt to read them failed, or none has ended yet.
    """

    database_answers: bool
    backlog: Backlog | None
    survey: Survey | None


class Observer:
    """Knows the state of the database within the rules above."""

    def __init__(self, database: SurveyedDatabase) -> None:
        self._database = database
        self._backlog = _Reading(self._read_backlog, BACKLOG_KEPT)
        self._survey = _Reading(self._read_survey, SURVEY_KEPT)

    async def observe(self) -> Observation:
        """Return what is known, within twice `PATIENCE`. Cancelled: readings go on for whoever asks next."""
        # Not both at once: the embedded database has one thread for reading, and the survey may be long.
        backlog = await self._backlog.latest()
        answers = self._backlog.is_current
        return Observation(answers, backlog, await self._survey.latest())

    async def stop(self) -> None:
        """End what is being read. Idempotent."""
        await self._backlog.stop()
        await self._survey.stop()

    async def _read_backlog(self) -> Backlog:
        return Backlog(await self._database.deliveries.backlog(), await self._database.jobs.backlog())

    async def _read_survey(self) -> Survey:
        return Survey(await self._database.count_by_state(), await self._database.jobs.count_dead())


class _Reading(Generic[T]):
    """Something that is read when it is asked for and kept for `kept` seconds."""

    def __init__(self, read: Callable[[], Awaitable[T]], kept: float) -> None:
        self._read = read
        self._kept = kept
        self._value: T | None = None
        self._due = float("-inf")
        self._running: asyncio.Task[None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether the last attempt has succeeded, and no other one is under way."""
        return self._value is not None and self._running is None

    async def latest(self) -> T | None:
        """Return what was read last: also while it is being read again, for longer than anybody waits."""
        if self._running is None and asyncio.get_running_loop().time() >= self._due:
            self._running = asyncio.create_task(self._renew())
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=PATIENCE)
        return self._value

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        began, value, kept = loop.time(), None, RETRY
        try:
            value = await self._read()
            kept = max(self._kept, SHARE * (loop.time() - began))
        except Unavailable as error:
            log.debug(LogEvent.METRICS_UNREAD, error=str(error))  # the metrics say it themselves
        except Exception:  # the guard of a task that nobody awaits: the next one may succeed
            log.exception(LogEvent.METRICS_UNREAD)
        finally:
            self._value, self._due, self._running = value, loop.time() + kept, None

    async def stop(self) -> None:
        """End what is being read. Idempotent."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
