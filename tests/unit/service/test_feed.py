"""Listeners of one process, in virtual time: EV-08, EV-10, and what they cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.database_rig import a_complete_upload, a_new_upload
from tests.doubles.database import MemoryDatabase
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable, Draining, TooManyListeners, UploadNotFound
from tusgate.core.events import USUAL_TYPES, EventId, EventType, Outbox, Watch
from tusgate.core.model import Role, Scope
from tusgate.service.feed import Feed, FeedRules

if TYPE_CHECKING:
    from collections.abc import Collection

    from tusgate.core.events import Event

ACME = Watch("acme", "alice")
CREATED, COMPLETED, DELETED = EventType.CREATED, EventType.COMPLETED, EventType.DELETED
START = 1_800_000_000.0


class Stage:
    """A database, one process that listens to it, and how often it asks."""

    def __init__(self, **changes: Any) -> None:
        loop = asyncio.get_running_loop()
        self.feeds: list[Feed] = []
        outbox = Outbox(written=self.wake, streamed=frozenset(USUAL_TYPES))
        self.database = MemoryDatabase(lambda: START + loop.time(), outbox=outbox)
        self.elsewhere = self.database.another(Outbox(streamed=frozenset(USUAL_TYPES)))
        self.looks = 0
        self.is_down = False
        self.delay = 0.0
        self.hidden: set[EventId] = set()
        self._tail = self.database.events.tail
        self.database.events.tail = self.look  # type: ignore[method-assign]  # counts, and hides what is not committed
        self.feed = Feed(self.database, self.database.events, FeedRules(**changes), loop.time)
        self.feeds.append(self.feed)

    def wake(self) -> None:
        for feed in self.feeds:
            feed.wake()

    async def look(self, tenants: Collection[str], seconds: float) -> list[EventId]:
        self.looks += 1
        await asyncio.sleep(self.delay)
        if self.is_down:
            raise DatabaseUnavailable
        return [each for each in await self._tail(tenants, seconds) if each not in self.hidden]

    def listen(self, watch: Watch = ACME, last: EventId | None = None) -> Ear:
        return Ear(self.feed, watch, last)


class Ear:
    """A listener that remembers what it was told."""

    def __init__(self, feed: Feed, watch: Watch, last: EventId | None) -> None:
        self.told: list[Event] = []
        self.quiet = 0
        self._batches = feed.follow(watch, last)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Ear:
        assert await anext(self._batches) == []
        self._task = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._batches.aclose()

    async def _hear(self) -> None:
        async for batch in self._batches:
            self.told += batch
            self.quiet += not batch

    @property
    def is_over(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def types(self) -> list[EventType]:
        return [event.type for event in self.told]

    @property
    def ids(self) -> list[EventId]:
        return [event.id for event in self.told]


def test_each_listener_is_told_what_it_may_know_and_what_it_asked_for() -> None:
    """EV-08, I13."""

    async def work() -> None:
        stage = Stage()
        early = await a_complete_upload(stage.database)
        async with (
            stage.listen() as mine,
            stage.listen(Watch("acme")) as tenant,
            stage.listen(Watch("other", "alice")) as foreign,
            stage.listen(Watch("acme", "alice", early.id)) as one,
        ):
            await a_complete_upload(stage.database)
            await a_complete_upload(stage.elsewhere, scope=Scope("acme", "bob"))
            await asyncio.sleep(2)
            await stage.database.terminate(early.scope, early.id)
            await asyncio.sleep(2)
        assert mine.types == [CREATED, COMPLETED, DELETED]
        assert sorted(tenant.types) == sorted([CREATED, COMPLETED, CREATED, COMPLETED, DELETED])
        assert foreign.told == []
        assert one.types == [CREATED, COMPLETED, DELETED]

    run(work())


def test_many_listeners_cost_one_look_and_none_cost_nothing() -> None:
    async def work() -> None:
        stage = Stage()
        ears = [stage.listen() for _ in range(200)]
        for ear in ears:
            await ear.__aenter__()
        joined = stage.looks
        await asyncio.sleep(61)
        assert joined == 1
        assert stage.looks - joined <= 61
        assert all(ear.quiet == 4 for ear in ears)
        for ear in ears:
            await ear.__aexit__()
        await asyncio.sleep(2)
        idle = stage.looks
        await asyncio.sleep(600)
        assert stage.looks == idle
        assert stage.feed.listeners == 0

    run(work())


def test_looks_that_take_long_leave_most_of_the_time_to_others() -> None:
    """I15: where thousands of events occur in a few seconds each look has to go through all of them."""

    async def work() -> None:
        stage = Stage(look_every=1.0, pause=0.05)
        stage.delay = 0.04
        async with stage.listen() as ear:
            looks = stage.looks
            for _ in range(1000):  # 10 s in which this process writes all the time
                await asyncio.sleep(0.01)
                stage.wake()
            assert stage.looks - looks <= 10 / (10 * 0.04) + 1
            await stage.database.create(a_new_upload())
            await asyncio.sleep(1.0)
            assert ear.types == [CREATED]

    run(work())


def test_what_another_process_has_committed_late_is_told_once_all_the_same() -> None:
    """A step that began early may be committed late: later events have been seen by then."""

    async def work() -> None:
        stage = Stage()
        async with stage.listen() as ear:
            late = await stage.elsewhere.create(a_new_upload())
            stage.hidden.add(EventId(late.id, 1))
            early = await stage.elsewhere.create(a_new_upload())
            await asyncio.sleep(10)
            assert ear.ids == [EventId(early.id, 1)]
            stage.hidden.clear()
            await asyncio.sleep(60)
            assert ear.ids == [EventId(early.id, 1), EventId(late.id, 1)]

    run(work())


def test_a_listener_that_comes_back_is_told_what_it_has_missed_and_what_comes() -> None:
    async def work() -> None:
        stage = Stage()
        async with stage.listen() as before:
            await a_complete_upload(stage.database)
            await asyncio.sleep(1)
        await asyncio.sleep(100)
        missed = [await a_complete_upload(stage.elsewhere) for _ in range(300)]
        async with stage.listen(last=before.ids[-1]) as ear:
            await asyncio.sleep(1)
            coming = await a_complete_upload(stage.elsewhere)
            await asyncio.sleep(2)
        expected = {EventId(upload.id, number) for upload in (*missed, coming) for number in (1, 2)}
        assert expected <= set(ear.ids) <= expected | set(before.ids[:-1])
        assert len(ear.ids) == len(set(ear.ids))

    run(work())


def test_one_who_knows_an_event_that_is_not_kept_is_told_all_that_is() -> None:
    async def work() -> None:
        stage = Stage()
        upload = await a_complete_upload(stage.database)
        await asyncio.sleep(1000)
        async with stage.listen(last=EventId(upload.id, 77)) as ear:
            await asyncio.sleep(1)
        assert ear.types == [CREATED, COMPLETED]

    run(work())


def test_one_who_follows_an_upload_is_told_its_events_from_the_one_that_is_known() -> None:
    async def work() -> None:
        stage = Stage()
        upload = await a_complete_upload(stage.database)
        watch = Watch("acme", "alice", upload.id)
        async with stage.listen(watch, EventId(upload.id, 1)) as ear, stage.listen(watch) as newcomer:
            await stage.database.terminate(upload.scope, upload.id)
            await asyncio.sleep(1)
        assert ear.types == [COMPLETED, DELETED]
        assert newcomer.types == [CREATED, COMPLETED, DELETED]

    run(work())


def test_an_outage_of_the_database_hides_no_event() -> None:
    async def work() -> None:
        stage = Stage()
        async with stage.listen() as ear:
            stage.is_down = True
            upload = await a_complete_upload(stage.elsewhere)
            await asyncio.sleep(600)
            assert ear.told == []
            stage.is_down = False
            await asyncio.sleep(5)
            assert ear.ids == [EventId(upload.id, 1), EventId(upload.id, 2)]

    run(work())


def test_a_listener_that_falls_behind_is_sent_away_and_nobody_waits_for_it() -> None:
    async def work() -> None:
        stage = Stage(backlog=3)
        slow = stage.feed.follow(ACME)
        assert await anext(slow) == []
        async with stage.listen() as ear:
            uploads = []
            for _ in range(5):
                uploads.append(await stage.database.create(a_new_upload()))
                await asyncio.sleep(1)
            assert ear.ids == [EventId(upload.id, 1) for upload in uploads]
            assert [batch async for batch in slow] == []

    run(work())


def test_one_listener_more_than_may_be_is_refused() -> None:
    async def work() -> None:
        stage = Stage(most=2)
        async with stage.listen(), stage.listen():
            with pytest.raises(TooManyListeners):
                await anext(stage.feed.follow(ACME))
        async with stage.listen():
            assert stage.feed.listeners == 1

    run(work())


def test_a_feed_that_closes_sends_all_away_and_takes_no_new_ones() -> None:
    async def work() -> None:
        stage = Stage()
        async with stage.listen() as ear:
            await stage.feed.close()
            await asyncio.sleep(0.1)
            assert ear.is_over
        with pytest.raises(Draining):
            await anext(stage.feed.follow(ACME))

    run(work())


def test_a_listener_that_the_database_cannot_let_in_leaves_its_place() -> None:
    async def work() -> None:
        stage = Stage(most=1)
        stage.is_down = True
        with pytest.raises(DatabaseUnavailable):
            await anext(stage.feed.follow(ACME))
        assert stage.feed.listeners == 0

    run(work())


def test_an_upload_is_over_when_its_last_event_is_known() -> None:
    async def work() -> None:
        stage = Stage()
        upload = await a_complete_upload(stage.database)
        assert not await stage.feed.is_over(upload.scope, upload.id, EventId(upload.id, 2))
        await stage.database.terminate(upload.scope, upload.id)
        assert not await stage.feed.is_over(upload.scope, upload.id, EventId(upload.id, 2))
        assert not await stage.feed.is_over(upload.scope, upload.id, None)
        assert await stage.feed.is_over(upload.scope, upload.id, EventId(upload.id, 3))
        with pytest.raises(UploadNotFound):
            await stage.feed.is_over(Scope("acme", "bob"), upload.id, None)

    run(work())


def test_what_clients_cannot_see_cannot_be_followed() -> None:
    """CAT-02."""

    async def work() -> None:
        stage = Stage()
        group = await stage.database.create(a_new_upload(role=Role.GROUP, length=None))
        with pytest.raises(UploadNotFound):
            await stage.feed.is_over(group.scope, group.id, None)

    run(work())
