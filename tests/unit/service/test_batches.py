"""Work of many that is done together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable
from tusgate.service.batches import Batches

if TYPE_CHECKING:
    from collections.abc import Sequence


class Slow:
    """Takes a second for a batch, and notes what came together."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.error: Exception | None = None

    async def write(self, items: Sequence[int]) -> None:
        await asyncio.sleep(1.0)
        if self.error is not None:
            raise self.error
        self.written.append(list(items))


def test_the_first_waits_for_nobody_and_what_comes_meanwhile_goes_together() -> None:
    async def work() -> None:
        slow = Slow()
        batches = Batches(slow.write, 3)
        begin = asyncio.get_running_loop().time()
        took = await asyncio.gather(*[timed(batches, item, begin) for item in range(6)])
        assert [len(batch) for batch in slow.written] == [1, 3, 2]
        assert sorted(item for batch in slow.written for item in batch) == [*range(6)]
        assert (took[0], sorted(took)) == (1.0, [1.0, 2.0, 2.0, 2.0, 3.0, 3.0])
        await batches.write(7)
        assert slow.written[-1] == [7]

    async def timed(batches: Batches[int], item: int, begin: float) -> float:
        if item:
            await asyncio.sleep(0.5)
        await batches.write(item)
        return round(asyncio.get_running_loop().time() - begin, 3)

    run(work())


def test_whoever_is_in_a_batch_that_fails_is_told_and_the_next_one_is_tried() -> None:
    async def work() -> None:
        slow = Slow()
        slow.error = DatabaseUnavailable("away")
        batches = Batches(slow.write, 10)
        first = asyncio.create_task(batches.write(1))
        await asyncio.sleep(0.5)
        others = [asyncio.create_task(batches.write(item)) for item in (2, 3)]
        with pytest.raises(DatabaseUnavailable):
            await first
        slow.error = None
        await asyncio.gather(*others)
        assert slow.written == [[2, 3]]

    run(work())


def test_who_gives_up_before_its_batch_is_not_in_it_and_harms_nobody() -> None:
    async def work() -> None:
        slow = Slow()
        batches = Batches(slow.write, 10)
        first = asyncio.create_task(batches.write(1))
        await asyncio.sleep(0.5)
        second, third = [asyncio.create_task(batches.write(item)) for item in (2, 3)]
        await asyncio.sleep(0.1)
        for task in (first, second):
            task.cancel()
        await third
        with pytest.raises(asyncio.CancelledError):
            await first
        assert slow.written == [[1], [3]], "the first one was on its way"
        await batches.write(4)
        assert slow.written[-1] == [4]

    run(work())


def test_nobody_hangs_when_it_is_closed() -> None:
    async def work() -> None:
        slow = Slow()
        batches = Batches(slow.write, 1)
        waiting = [asyncio.create_task(batches.write(item)) for item in range(3)]
        await asyncio.sleep(0.5)
        await batches.close()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        await batches.close()

    run(work())
