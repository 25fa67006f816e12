"""What is read for those who watch, how often, and what they are told while the database is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.contract.database_rig import a_new_upload
from tests.doubles.database import MemoryDatabase
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable
from tusgate.core.model import State
from tusgate.service.observation import BACKLOG_KEPT, PATIENCE, RETRY, SHARE, SURVEY_KEPT, Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import pytest


class Moody:
    """The double, which answers after `slowness` seconds, or not at all; counts what it is asked."""

    def __init__(self) -> None:
        self.real = MemoryDatabase(clock=lambda: asyncio.get_running_loop().time())
        self.slowness = 0.0
        self.is_away = False
        self.asked: dict[str, int] = {"backlog": 0, "survey": 0}

    @property
    def jobs(self) -> Any:
        return self.real.jobs

    @property
    def deliveries(self) -> Any:
        return self

    async def backlog(self) -> object:
        await self._pass("backlog")
        return await self.real.deliveries.backlog()

    async def count_by_state(self) -> dict[State, int]:
        await self._pass("survey")
        return await self.real.count_by_state()

    async def _pass(self, name: str) -> None:
        self.asked[name] += 1
        await asyncio.sleep(self.slowness)
        if self.is_away:
            raise DatabaseUnavailable


def observing(scenario: Callable[[Moody, Observer], Coroutine[Any, Any, None]]) -> None:
    async def observed() -> None:
        moody = Moody()
        observer = Observer(moody)  # type: ignore[arg-type] # as much of the port as observers use
        try:
            await scenario(moody, observer)
        finally:
            await observer.stop()

    run(observed())


def test_however_many_ask_it_is_read_once_and_kept_for_a_while() -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        await moody.real.create(a_new_upload())
        every = [*await asyncio.gather(*(observer.observe() for _ in range(20))), await observer.observe()]
        assert {each.database_answers for each in every} == {True}
        assert moody.asked == {"backlog": 1, "survey": 1}
        assert every[0].survey is not None
        assert every[0].survey.uploads[State.UPLOADING] == 1
        await asyncio.sleep(BACKLOG_KEPT)
        await observer.observe()
        assert moody.asked == {"backlog": 2, "survey": 1}
        await asyncio.sleep(SURVEY_KEPT)
        await observer.observe()
        assert moody.asked == {"backlog": 3, "survey": 2}

    observing(scenario)


def test_nothing_is_read_while_nobody_asks() -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        await observer.observe()
        before = dict(moody.asked)
        await asyncio.sleep(100 * SURVEY_KEPT)
        assert moody.asked == before

    observing(scenario)


def test_a_database_that_is_away_is_told_at_once_and_found_again() -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        await observer.observe()
        moody.is_away = True
        await asyncio.sleep(SURVEY_KEPT)
        gone = await observer.observe()
        assert (gone.database_answers, gone.backlog, gone.survey) == (False, None, None)
        moody.is_away = False
        await asyncio.sleep(RETRY)
        back = await observer.observe()
        assert back.database_answers
        assert back.backlog is not None
        assert back.survey is not None

    observing(scenario)


def test_a_database_that_hangs_delays_no_answer_and_is_asked_once() -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        clock = asyncio.get_running_loop().time
        moody.slowness = 1000.0
        for _ in range(5):
            began = clock()
            hung = await observer.observe()
            assert (hung.database_answers, hung.backlog, hung.survey) == (False, None, None)
            assert clock() - began <= 2 * PATIENCE + 0.001
        assert moody.asked == {"backlog": 1, "survey": 1}

    observing(scenario)


def test_what_takes_long_is_read_seldom_and_shown_meanwhile() -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        moody.slowness = 2 * PATIENCE
        await observer.observe()
        await asyncio.sleep(moody.slowness)
        known = await observer.observe()
        assert known.database_answers
        assert known.survey is not None
        kept = SHARE * moody.slowness
        assert kept > SURVEY_KEPT
        await asyncio.sleep(kept - 3 * moody.slowness)
        await observer.observe()
        assert moody.asked == {"backlog": 1, "survey": 1}
        await asyncio.sleep(3 * moody.slowness)
        again = await observer.observe()
        assert moody.asked == {"backlog": 2, "survey": 2}
        assert not again.database_answers
        assert again.survey is not None, "what was read before is shown while it is being read"

    observing(scenario)


def test_a_mistake_in_one_reading_ends_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(moody: Moody, observer: Observer) -> None:
        async def broken() -> dict[State, int]:
            raise RuntimeError("a mistake")

        moody.count_by_state = broken  # type: ignore[method-assign] # what no database should do
        observation = await observer.observe()
        assert observation.database_answers
        assert observation.survey is None

    observing(scenario)
    assert "a mistake" in capsys.readouterr().out
