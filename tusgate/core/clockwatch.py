"""Whether the database's clock may be believed when uploads are about to be expired, which cannot be undone.

A clock that jumps forward makes every unfinished upload look abandoned. So does a gateway that was switched off, and
that is no fault. What tells them apart is how much time passed by clocks that cannot be set:

Rule 1: a process that has watched all along knows by its own steady clock how much time passed. The database's clock
        went further: it jumped. Nothing is expired until an operator says so; this is written into the database, so
        that all replicas stop.
Rule 2: nobody has watched for a while (all gateways were off, or the database was away): uploads could not be
        continued either, so clients get a pause to come back before anything is expired. A jump that happened
        meanwhile shows as such a gap too; the pause is the time to notice it.
Rule 3: nobody has watched for longer than any outage lasts: as rule 1.
Rule 4: this process's wall clock is far from the database's: one of the two is wrong. This process expires nothing,
        and says so; others may. It ends by itself when the clocks agree.
Rule 5: where no upload can expire nothing is at stake, and a jump is nobody's business.

How many uploads would end at once proves nothing: a gateway whose uploads live for a day has every right to end all of
them after a weekend.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

GAP: Final = timedelta(minutes=10)
"""Longest time between two runs that is ordinary, and longest step of a clock: what an upload may lose at most."""
LONGEST_OUTAGE: Final = timedelta(days=30)
"""A longer gap is taken for a jump."""
WALL_TOLERANCE: Final = timedelta(hours=2)
"""Difference of two wall clocks at which one of them is wrong: more than a time zone mixed up by summer time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """What the database knows when uploads are about to be expired.

    Attributes:
        now: its clock.
        last_run: when any process was last here; None: never.
        waits_until: nothing is expired before; None: no such limit.
        held: why an operator is needed before anything is expired; None: nobody is.
        at_stake: there are unfinished uploads that can expire.
    """

    now: datetime
    last_run: datetime | None
    waits_until: datetime | None
    held: str | None
    at_stake: bool


@dataclass(frozen=True, slots=True)
class Watched:
    """Time that this process has watched pass: since `moment` of the database's clock, `elapsed` by its own."""

    moment: datetime
    elapsed: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done. All None: expire. The first two are written into the database.

    Attributes:
        waits_until: expire nothing before.
        held: expire nothing until an operator says so, for this reason.
        doubt: expire nothing now, for this reason, and write nothing.
    """

    waits_until: datetime | None = None
    held: str | None = None
    doubt: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether uploads are to be expired."""
        return self == GO_ON


GO_ON: Final = Verdict()

if TYPE_CHECKING:
    Judge = Callable[[ClockReading], Verdict]


def go_on(_reading: ClockReading) -> Verdict:
    """Believe the database's clock, whatever it says."""
    return GO_ON


def judge(reading: ClockReading, watched: Watched | None, wall: datetime | None, pause: timedelta) -> Verdict:
    """Return what is to be done.

    Args:
        reading: of the database.
        watched: what this process has seen before; None: it has just started.
        wall: its wall clock; None: it has none that could be trusted more than the database's.
        pause: what clients get to come back after an outage.
    """
    if reading.held is not None:
        return Verdict(held=reading.held)
    if not reading.at_stake:
        return GO_ON
    if watched is not None and reading.now - watched.moment - watched.elapsed > GAP:
        passed = f"{_spoken(reading.now - watched.moment)} forward while {_spoken(watched.elapsed)} passed"
        return Verdict(held=f"the clock of the database went {passed}")
    if wall is not None and abs(reading.now - wall) > WALL_TOLERANCE:
        return Verdict(doubt=f"the clock of the database and ours are {_spoken(abs(reading.now - wall))} apart")
    return _after_gap(reading, pause)


def _after_gap(reading: ClockReading, pause: timedelta) -> Verdict:
    if reading.last_run is None:
        return GO_ON
    # A pause that would last longer than one can was set by a clock that has been put back since.
    until = reading.waits_until if reading.waits_until and reading.waits_until <= reading.now + pause else None
    if until is not None and reading.now < until:
        return Verdict(waits_until=until)
    gap = reading.now - max(reading.last_run, until or reading.last_run)
    if gap > LONGEST_OUTAGE:
        return Verdict(held=f"nothing was expired for {_spoken(gap)}: a very long outage, or a clock that jumped")
    if gap > GAP and pause:
        return Verdict(waits_until=reading.now + pause)
    return GO_ON


def _spoken(duration: timedelta) -> str:
    """Return `duration` in the largest two of days, hours, minutes and seconds."""
    seconds = int(duration.total_seconds())
    amounts = {"d": seconds // 86_400, "h": seconds // 3600 % 24, "min": seconds // 60 % 60, "s": seconds % 60}
    told = [f"{amount} {unit}" for unit, amount in amounts.items() if amount]
    return " ".join(told[:2]) or "0 s"
