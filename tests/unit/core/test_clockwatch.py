"""When the database's clock is believed: outages and jumps, told apart by clocks that nobody can set."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tusgate.core.clockwatch import GO_ON, ClockReading, Verdict, Watched, judge

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PAUSE = HOUR
CALM = ClockReading(now=NOW, last_run=NOW - 20 * SECOND, waits_until=None, held=None, at_stake=True)


def verdict(
    reading: ClockReading, watched: Watched | None = None, wall: datetime | None = None, pause: timedelta = PAUSE
) -> Verdict:
    return judge(reading, watched, wall, pause)


def watched(by_database: timedelta, by_us: timedelta) -> Watched:
    return Watched(NOW - by_database, by_us)


@pytest.mark.parametrize("by_us", [20 * SECOND, 20 * SECOND - 9 * MINUTE, 3 * DAY])
def test_a_clock_that_goes_like_ours_or_slower_is_believed(by_us: timedelta) -> None:
    assert verdict(CALM, watched(20 * SECOND, by_us)) == GO_ON


def test_the_first_run_of_all_goes_on() -> None:
    assert verdict(replace(CALM, last_run=None)) == GO_ON


def test_a_clock_that_jumped_forward_under_our_eyes_stops_it() -> None:
    found = verdict(CALM, watched(3 * DAY, 20 * SECOND))
    assert found == Verdict(held="the clock of the database went 3 d forward while 20 s passed")


def test_a_clock_that_was_put_back_expires_nothing_early_and_is_believed() -> None:
    assert verdict(replace(CALM, last_run=NOW + 3 * DAY), watched(-3 * DAY, 20 * SECOND)) == GO_ON


def test_a_weekend_off_is_no_jump_and_gives_clients_time_to_come_back() -> None:
    after = replace(CALM, last_run=NOW - 2.5 * DAY)
    assert verdict(after) == Verdict(waits_until=NOW + PAUSE)


def test_a_database_that_was_away_for_hours_under_our_eyes_gives_clients_time_too() -> None:
    after = replace(CALM, last_run=NOW - 5 * HOUR)
    assert verdict(after, watched(5 * HOUR, 5 * HOUR)) == Verdict(waits_until=NOW + PAUSE)


@pytest.mark.parametrize(("later", "goes_on"), [(1 * MINUTE, False), (59 * MINUTE, False), (60 * MINUTE, True)])
def test_the_pause_ends_for_every_process_at_its_time(later: timedelta, goes_on: bool) -> None:
    during = ClockReading(now=NOW + later, last_run=NOW, waits_until=NOW + PAUSE, held=None, at_stake=True)
    assert verdict(during).goes_on is goes_on


def test_an_outage_after_the_pause_gives_another_one() -> None:
    after = replace(CALM, last_run=NOW - 2 * DAY, waits_until=NOW - DAY)
    assert verdict(after) == Verdict(waits_until=NOW + PAUSE)


def test_a_pause_set_by_a_clock_that_was_wrong_does_not_last_for_ever() -> None:
    assert verdict(replace(CALM, waits_until=NOW + 365 * DAY)) == GO_ON


def test_a_gap_that_no_outage_explains_stops_it() -> None:
    found = verdict(replace(CALM, last_run=NOW - 3650 * DAY))
    assert found.held == "nothing was expired for 3650 d: a very long outage, or a clock that jumped"


@pytest.mark.parametrize(("apart", "goes_on"), [(HOUR, True), (-HOUR, True), (3 * HOUR, False), (-3 * HOUR, False)])
def test_a_replica_whose_own_clock_is_hours_off_keeps_its_hands_off_and_stops_nobody_else(
    apart: timedelta, goes_on: bool
) -> None:
    """DF-27: one hour is nothing to worry about, as the database's clock decides."""
    found = verdict(CALM, wall=NOW + apart)
    assert found == (GO_ON if goes_on else Verdict(doubt="the clock of the database and ours are 3 h apart"))


def test_what_was_stopped_stays_so_whatever_the_clocks_say_now() -> None:
    held = replace(CALM, held="why", at_stake=False)
    assert verdict(held, watched(20 * SECOND, 20 * SECOND), NOW) == Verdict(held="why")


def test_where_nothing_can_expire_nobody_is_called() -> None:
    idle = replace(CALM, last_run=NOW - 3650 * DAY, at_stake=False)
    assert verdict(idle, watched(3650 * DAY, SECOND), NOW + DAY) == GO_ON


def test_without_a_pause_an_outage_changes_nothing() -> None:
    assert verdict(replace(CALM, last_run=NOW - DAY), pause=timedelta()) == GO_ON
