"""The budget: memory in the order of arrival, never more than there is, never lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual_time import run
from tusgate.core.pressure import PATIENCE, Holding
from tusgate.service.budget import Budget


class Holder:
    """An open cell that gives back what it holds when it is asked to."""

    def __init__(self, budget: Budget, held: int) -> None:
        self.held = held
        self._budget = budget

    def holding(self, now: float) -> Holding:
        return Holding(self.held, 100, 1.0)

    def spill(self) -> None:
        freed, self.held = self.held, 0
        self._budget.give(freed)


class Warm:
    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_memory_is_handed_out_in_the_order_of_arrival() -> None:
    async def work() -> None:
        budget = Budget(100)
        await budget.take(90)
        served: list[int] = []

        async def take(size: int) -> None:
            await budget.take(size)
            served.append(size)

        waiting = [asyncio.create_task(take(size)) for size in (50, 5, 6)]
        await asyncio.sleep(0)
        assert budget.is_short
        assert not budget.try_take(1)  # it would fit, but others were here before
        budget.give(45)
        await asyncio.sleep(0)
        assert served == [50, 5]
        budget.give(45)
        await asyncio.gather(*waiting)
        assert served == [50, 5, 6]
        assert budget.used == 61

    run(work())


def test_one_request_for_more_than_there_is_is_granted_when_nothing_else_is_held() -> None:
    async def work() -> None:
        budget = Budget(100)
        await budget.take(1)
        waiting = asyncio.create_task(budget.take(150))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.give(1)
        await waiting
        assert budget.used == budget.peak == 150

    run(work())


@pytest.mark.parametrize("granted", [False, True])
def test_who_stops_waiting_takes_nothing_and_holds_nobody_up(granted: bool) -> None:
    """Also when the grant and the cancellation cross."""

    async def work() -> None:
        budget = Budget(100)
        await budget.take(100)
        first, second = asyncio.create_task(budget.take(100)), asyncio.create_task(budget.take(30))
        await asyncio.sleep(0)
        if granted:
            budget.give(100)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        if not granted:
            budget.give(100)
        await second
        assert budget.used == 30
        budget.give(30)
        assert budget.used == 0
        assert not budget.is_short

    run(work())


def test_who_stops_waiting_in_the_moment_that_memory_is_given_back_is_merely_cancelled() -> None:
    async def work() -> None:
        budget = Budget(100)
        await budget.take(100)
        leaving = asyncio.create_task(budget.take(50))
        await asyncio.sleep(0)
        leaving.cancel()
        budget.give(100)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert budget.used == 0
        assert budget.try_take(100)

    run(work())


def test_warm_bytes_are_dropped_oldest_first_before_anybody_waits() -> None:
    async def work() -> None:
        budget = Budget(100)
        old, new, cold = Warm(), Warm(), Warm()
        for cell in (cold, old, new):
            await budget.take(30)
            budget.keep_warm(cell, 30)
        budget.chill(cold)
        await budget.take(40)
        assert (old.dropped, new.dropped, cold.dropped) == (True, False, False)
        await budget.take(30)
        assert (new.dropped, cold.dropped) == (True, False)
        assert budget.used == 100

    run(work())


def test_cells_are_asked_to_save_when_somebody_has_waited_too_long() -> None:
    async def work() -> None:
        budget = Budget(100)
        await budget.take(60)
        slow = Holder(budget, 60)
        budget.enter(slow)
        begin = asyncio.get_running_loop().time()
        await budget.take(50)
        assert asyncio.get_running_loop().time() - begin <= 1.5 * PATIENCE
        assert (slow.held, budget.used) == (0, 50)

    run(work())


def test_a_cell_that_has_left_the_list_is_not_asked() -> None:
    async def work() -> None:
        budget = Budget(100)
        await budget.take(80)
        gone, there = Holder(budget, 80), Holder(budget, 0)
        for holder in (gone, there):
            budget.enter(holder)
        budget.exit(gone)
        budget.exit(gone)
        waiting = asyncio.create_task(budget.take(50))
        await asyncio.sleep(10 * PATIENCE)
        assert (gone.held, waiting.done()) == (80, False)
        budget.give(80)
        await waiting

    run(work())
