"""Ends uploads that nobody continued in time, unless the clock that says so has jumped."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.clockwatch import GO_ON, ClockReading, Verdict, Watched, judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tusgate.core.clockwatch import Judge
    from tusgate.core.model import Upload
    from tusgate.ports import Database

log = structlog.get_logger(__name__)

REMIND_EVERY: Final = 3600.0
"""Seconds after which a process says again that nothing is expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnClocks:
    """The clocks of this process, which bear witness against the database's. They are read in any thread.

    Attributes:
        steady: seconds that passed, by a clock that nobody can set; best one that goes on while the machine sleeps.
        wall: the date and time; None: it says nothing that the database's does not.
    """

    steady: Callable[[], float] = time.monotonic
    wall: Callable[[], datetime] | None = None


class Expirer:
    """Expires uploads, one batch per run.

    Attributes:
        verdict: on the last run.
    """

    def __init__(self, database: Database, batch: int, pause: float, clocks: OwnClocks) -> None:
        """Take `pause` seconds as what clients get to come back after an outage."""
        self.verdict = GO_ON
        self._database = database
        self._batch = batch
        self._pause = timedelta(seconds=pause)
        self._clocks = clocks
        self._watched: tuple[datetime, float] | None = None
        self._seen: tuple[datetime, float] | None = None
        self._remind_at = -math.inf

    async def run(self) -> list[Upload]:
        """Expire what is due, at most one batch; return it. Raises DatabaseUnavailable."""
        expired = await self._database.expire(self._batch, self.judging())
        self._watched = self._seen  # only now: a verdict that was not written down must be reached again
        self._tell()
        for upload in expired:
            log.info("upload.expired", upload_id=upload.id, offset=upload.offset)
        return expired

    def judging(self) -> Judge:
        """Return what compares the database's clock with ours. It may be called in any thread.

        The call that it goes with takes time, and all of that is counted as watched: from before the database read its
        clock until after it did so again. A call that is late, or a process that was frozen in it, is no jump.
        """
        began = self._clocks.steady()

        def compare(reading: ClockReading) -> Verdict:
            watched = None
            if self._watched is not None:
                moment, then = self._watched
                watched = Watched(moment, timedelta(seconds=self._clocks.steady() - then))
            self._seen = (reading.now, began)
            wall = None if self._clocks.wall is None else self._clocks.wall()
            self.verdict = judge(reading, watched, wall, self._pause)
            return self.verdict

        return compare

    def _tell(self) -> None:
        """Log that nothing is expired, at once and every hour."""
        if self.verdict.goes_on:
            self._remind_at = -math.inf
            return
        now = self._clocks.steady()
        if now < self._remind_at:
            return
        self._remind_at = now + REMIND_EVERY
        if self.verdict.waits_until is not None:
            log.warning("expiry.delayed", until=self.verdict.waits_until.isoformat())
        else:
            hint = "check the clocks, then run: tusgate gc --release"
            log.error("expiry.held", reason=self.verdict.held or self.verdict.doubt, hint=hint)
