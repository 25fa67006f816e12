"""The relay on the double of the database and on SQLite: EV-01, EV-02, EV-03, EV-05, EV-06, EV-10."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.contract.database_rig import MemoryRig, a_complete_upload, a_new_upload
from tusgate.core.errors import DatabaseUnavailable, DeliveryFailed, SinkGone
from tusgate.core.events import DeliveryState, EventType, Outbox, RetryPlan, Search, Subscription
from tusgate.service.relay import Line, Relay, RelayRules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tusgate.core.events import Delivery, Event
    from tusgate.ports import Deliveries, SurveyedDatabase

DEADLINE = 20.0
RULES = RelayRules(pause=0.0, look_every=0.02, farewell=0.0)
AT_ONCE = RetryPlan(first=1e-9, longest=1e-9)


class Recorder:
    """A sink that takes every event, unless the test says otherwise."""

    def __init__(self, name: str = "hook", behave: Callable[[Event], Awaitable[None]] | None = None) -> None:
        self.name = name
        self.told: list[Event] = []
        self.tried: list[Event] = []
        self.closed = False
        self.in_flight = 0
        self.most_in_flight = 0
        self.behave = behave

    async def deliver(self, event: Event) -> None:
        self.tried.append(event)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.behave is not None:
                await self.behave(event)
        finally:
            self.in_flight -= 1
        self.told.append(event)

    async def close(self) -> None:
        self.closed = True

    @property
    def types(self) -> list[EventType]:
        return [event.type for event in self.told]


async def refuse(_event: Event) -> None:
    raise DeliveryFailed("status 500")


async def never(_event: Event) -> None:
    await asyncio.Event().wait()


class Stage:
    """One database, relays, and what they have told."""

    def __init__(self, *sinks: str) -> None:
        self.rig = MemoryRig()
        self.relays: list[Relay] = []
        outbox = Outbox(tuple(Subscription(sink) for sink in sinks or ("hook",)), self.wake)
        self.database: SurveyedDatabase = self.rig.telling(outbox)

    def wake(self) -> None:
        for relay in self.relays:
            relay.wake()

    def relay(self, *lines: Line, deliveries: Deliveries | None = None, **changes: Any) -> Relay:
        holder = f"relay-{len(self.relays)}"
        relay = Relay(deliveries or self.database.deliveries, lines, holder, replace(RULES, **changes))
        self.relays.append(relay)
        relay.start()
        return relay

    async def states(self, sink: str = "hook") -> Counter[DeliveryState]:
        return Counter(each.state for each in await self.found(sink))

    async def found(self, sink: str = "hook") -> list[Delivery]:
        return await self.database.deliveries.find(Search(sink=sink), 100_000)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 - the database tells nobody
                await asyncio.sleep(0.005)

    async def until_settled(self, sink: str = "hook") -> None:
        async def is_settled() -> bool:
            return (await self.states(sink))[DeliveryState.WAITING] == 0

        await self.until(is_settled)

    async def close(self) -> None:
        for relay in self.relays:
            await relay.stop()


@asynccontextmanager
async def staged(*sinks: str) -> AsyncIterator[Stage]:
    stage = Stage(*sinks)
    try:
        yield stage
    finally:
        await stage.close()


async def test_each_event_is_told_and_marked_delivered() -> None:
    async with staged() as stage:
        sink = Recorder()
        stage.relay(Line(sink))
        upload = await a_complete_upload(stage.database)
        await stage.until_settled()
        assert sink.types == [EventType.CREATED, EventType.COMPLETED]
        assert {event.upload.id for event in sink.told} == {upload.id}
        assert await stage.states() == {DeliveryState.DELIVERED: 2}


async def test_a_new_event_is_told_without_waiting_for_the_next_look() -> None:
    async with staged() as stage:
        sink = Recorder()
        stage.relay(Line(sink), look_every=3600.0)
        await asyncio.sleep(0)
        for number in range(1, 4):
            await stage.database.create(a_new_upload())

            async def has_come(number: int = number) -> bool:
                return len(sink.told) == number

            await stage.until(has_come)


async def test_order_is_kept_for_each_upload_by_two_relays() -> None:
    """EV-10."""
    async with staged() as stage:
        sink = Recorder()
        for _ in range(2):
            stage.relay(Line(sink), at_once=4)
        for _ in range(20):
            upload = await a_complete_upload(stage.database)
            await stage.database.terminate(upload.scope, upload.id)
        await stage.until_settled()
        numbers: dict[str, list[int]] = {}
        for event in sink.told:
            numbers.setdefault(event.upload.id, []).append(event.number)
        assert len(numbers) == 20
        assert all(found == sorted(found) and len(found) == 3 for found in numbers.values())


async def test_two_relays_never_have_the_same_event_on_its_way() -> None:
    """EV-03."""
    async with staged() as stage:
        under_way: set[str] = set()

        async def check(event: Event) -> None:
            assert str(event.id) not in under_way
            under_way.add(str(event.id))
            await asyncio.sleep(0.005)
            under_way.discard(str(event.id))

        sink = Recorder(behave=check)
        for _ in range(2):
            stage.relay(Line(sink), at_once=8)
        for _ in range(50):
            await stage.database.create(a_new_upload())
        await stage.until_settled()
        assert len(sink.tried) == 50


async def test_a_slow_sink_delays_no_other_and_holds_a_bounded_number() -> None:
    """EV-03, I15."""
    async with staged("slow", "fast") as stage:
        slow, fast = Recorder("slow", never), Recorder("fast")
        stage.relay(Line(slow), Line(fast), at_once=5)
        for _ in range(50):
            await stage.database.create(a_new_upload())
        await stage.until_settled("fast")
        assert len(fast.told) == 50
        assert slow.most_in_flight == 5


async def test_a_try_ends_before_its_lease_whatever_the_sink_does() -> None:
    """EV-03."""
    async with staged() as stage:
        stage.relay(Line(Recorder(behave=never), AT_ONCE, longest=0.01))
        await stage.database.create(a_new_upload())
        await stage.until_settled()
        found = (await stage.found())[0]
        assert (found.state, found.tries, found.error) == (DeliveryState.DEAD, 4, "not taken within 0.01 s")


async def test_three_retries_by_default_and_then_it_is_dead_and_says_why() -> None:
    """EV-01, EV-05: the upload and its data stay."""
    async with staged() as stage:
        sink = Recorder(behave=refuse)
        stage.relay(Line(sink, AT_ONCE))
        created = await stage.database.create(a_new_upload())
        await stage.until_settled()
        found = (await stage.found())[0]
        assert (found.state, found.tries, found.error) == (DeliveryState.DEAD, 4, "status 500")
        assert len({event.id for event in sink.tried}) == 1
        assert await stage.database.get(created.scope, created.id) == created


async def test_a_sink_that_recovers_gets_all_in_order() -> None:
    """EV-01, EV-06."""
    async with staged() as stage:
        failures = iter(range(30))

        async def fail_at_first(_event: Event) -> None:
            if next(failures, None) is not None:
                raise DeliveryFailed("status 500")

        sink = Recorder(behave=fail_at_first)
        stage.relay(Line(sink, replace(AT_ONCE, retries=1000)), at_once=3)
        uploads = [await a_complete_upload(stage.database) for _ in range(5)]
        await stage.until_settled()
        for upload in uploads:
            told = [event.type for event in sink.told if event.upload.id == upload.id]
            assert told == [EventType.CREATED, EventType.COMPLETED]


async def test_a_try_that_nobody_settled_is_made_again_by_another_relay_under_the_same_id() -> None:
    """EV-02: the process died after the sink had taken the event."""
    async with staged() as stage:
        await stage.database.create(a_new_upload())
        dead = await stage.database.deliveries.claim("hook", "dead process", 60.0, 10)
        sink = Recorder()
        stage.relay(Line(sink))
        await stage.rig.pass_time(61.0)
        await stage.until_settled()
        assert [event.id for event in sink.told] == [dead[0].event.id]


async def test_an_event_that_was_committed_by_a_dead_process_is_told() -> None:
    """EV-02: the process died after the commit and before anything else."""
    async with staged() as stage:
        await stage.database.create(a_new_upload())
        sink = Recorder()
        stage.relay(Line(sink))
        await stage.until_settled()
        assert sink.types == [EventType.CREATED]


async def test_410_disables_the_sink_for_all_relays_and_no_other_sink() -> None:
    """EV-05."""

    async def go_away(_event: Event) -> None:
        raise SinkGone("the receiver answered 410")

    async with staged("gone", "hook") as stage:
        gone, hook = Recorder("gone", go_away), Recorder()
        for _ in range(2):
            stage.relay(Line(gone, AT_ONCE), Line(hook), at_once=1)
        await stage.database.create(a_new_upload())
        await stage.until_settled("gone")
        for _ in range(10):
            await stage.database.create(a_new_upload())
        await stage.until_settled("hook")
        assert len(gone.tried) <= 2
        assert len(hook.told) == 11
        assert await stage.database.deliveries.disabled() == {"gone": "the receiver answered 410"}
        assert (await stage.states("gone"))[DeliveryState.WAITING] >= 9


async def test_a_bug_of_a_sink_ends_neither_the_relay_nor_the_event() -> None:
    async with staged() as stage:
        broken = iter([True])

        async def break_once(_event: Event) -> None:
            if next(broken, False):
                raise KeyError("secret text of a bug")

        sink = Recorder(behave=break_once)
        stage.relay(Line(sink, AT_ONCE))
        await stage.database.create(a_new_upload())
        with structlog.testing.capture_logs() as logs:
            await stage.until_settled()
        assert len(sink.told) == 1
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["delivery.crashed"]


async def test_whatever_a_broker_says_of_a_failure_can_be_stored_and_shown() -> None:
    """A NUL or half a character is no text for PostgreSQL: the lane could settle nothing ever again."""

    async def say_much(_event: Event) -> None:
        raise DeliveryFailed("no\x00\ud800\x1b[31m " + "x" * 100_000)

    async with staged() as stage:
        stage.relay(Line(Recorder(behave=say_much), replace(AT_ONCE, retries=0)))
        await stage.database.create(a_new_upload())
        await stage.until_settled()
        (dead,) = await stage.found()
        assert dead.error is not None
        assert dead.error.startswith("no\ufffd\ufffd\ufffd[31m xxx")
        assert len(dead.error) <= 1000


class Flaky:
    """Deliveries whose database is away now and then, before or after a step was committed."""

    def __init__(self, real: Deliveries, fails: Callable[[str], bool], *, committed: bool) -> None:
        self._real = real
        self._fails = fails
        self._committed = committed

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._real, name)

        async def call(*arguments: Any) -> Any:
            fails = self._fails(name)
            if fails and not self._committed:
                raise DatabaseUnavailable
            result = await step(*arguments)
            if fails:
                raise DatabaseUnavailable
            return result

        return call


@pytest.mark.parametrize("committed", [False, True], ids=["not committed", "committed, answer lost"])
@pytest.mark.parametrize("step", ["claim", "settle"])
async def test_a_database_that_comes_and_goes_loses_no_event(step: str, *, committed: bool) -> None:
    """I12, I20."""
    async with staged() as stage:
        calls = Counter[str]()

        def fails(name: str) -> bool:
            calls[name] += 1
            return name == step and calls[name] % 3 == 1

        sink = Recorder()
        stage.relay(Line(sink), deliveries=Flaky(stage.database.deliveries, fails, committed=committed))
        for _ in range(5):
            await a_complete_upload(stage.database)

        async def is_settled() -> bool:
            await stage.rig.pass_time(1.0)  # a claim whose answer was lost is found again when its lease ends
            return (await stage.states())[DeliveryState.WAITING] == 0

        await stage.until(is_settled)
        assert len({event.id for event in sink.told}) == 10


async def test_stopping_gives_back_what_is_on_its_way_and_closes_the_sinks() -> None:
    async with staged() as stage:
        stuck, sink = Recorder(behave=never), Recorder()
        first = stage.relay(Line(stuck))
        await stage.database.create(a_new_upload())

        async def is_on_its_way() -> bool:
            return stuck.in_flight == 1

        await stage.until(is_on_its_way)
        await first.stop()
        stage.relay(Line(sink))
        await stage.until_settled()
        assert stuck.closed
        assert [each.tries for each in await stage.found()] == [1]


async def test_tidying_forgets_what_is_old_whatever_there_is() -> None:
    async with staged() as stage:
        sink = Recorder()
        relay = stage.relay(Line(sink), retention=100.0, dead_retention=100.0)
        for _ in range(3):
            await stage.database.create(a_new_upload())
        await stage.until_settled()
        await stage.rig.pass_time(101.0)
        await relay.tidy()
        assert await stage.found() == []


class TestPlans:
    PLAN = RetryPlan(retries=3, first=10.0, factor=4.0, longest=86_400.0)

    def test_waits_grow_and_end(self) -> None:
        assert [self.PLAN.after(tries, None, 0.5) for tries in (1, 2, 3, 4)] == [10.0, 40.0, 160.0, None]

    def test_waits_differ_by_half(self) -> None:
        assert (self.PLAN.after(1, None, 0.0), self.PLAN.after(1, None, 1.0)) == (7.5, 12.5)

    def test_a_wish_for_rest_is_respected_up_to_a_day(self) -> None:
        assert self.PLAN.after(1, 90.0, 0.5) == 90.0
        assert self.PLAN.after(1, 1e9, 0.5) == 86_400.0
        assert self.PLAN.after(1, 1.0, 0.5) == 10.0

    def test_any_number_of_tries_is_a_number(self) -> None:
        assert replace(self.PLAN, retries=10_000).after(9_999, None, 1.0) == 86_400.0
