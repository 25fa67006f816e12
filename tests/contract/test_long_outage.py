"""A broker is away for an hour while thousands of files arrive, by the clock of the database."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import structlog

from tests.contract.database_rig import a_new_upload, a_step, an_object
from tests.size import FULL
from tests.unit.service.test_relay import Recorder
from tusgate.core.errors import DeliveryFailed
from tusgate.core.events import DeliveryState, EventType, Outbox, Outcome, RetryPlan, Search, Subscription
from tusgate.core.grid import MIB
from tusgate.core.model import State
from tusgate.database.postgres_deliveries import _queries
from tusgate.database.rows import PUTTING_OFF
from tusgate.service.relay import Line, Relay, RelayRules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.contract.database_rig import PostgresRig, SqlRig
    from tusgate.core.events import Event
    from tusgate.ports import SurveyedDatabase

CREATED, COMPLETED = EventType.CREATED, EventType.COMPLETED
ALL = 10_000
UNFINISHED = 100
BATCHES = 4
AT_ONCE = 50
PLAN = RetryPlan(retries=100, first=2400.0, factor=1.0, longest=2400.0)
RULES = RelayRules(pause=0.0, look_every=0.05, farewell=0.0)
DEADLINE = 300.0
WANTED = Outbox((Subscription("hook", frozenset({CREATED, COMPLETED})), Subscription("books", frozenset({COMPLETED}))))


async def at_most(limit: int, count: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` so many times, so many at once."""
    room = asyncio.Semaphore(limit)

    async def one() -> None:
        async with room:
            await work()

    await asyncio.gather(*[one() for _ in range(count)])


async def complete_one(database: SurveyedDatabase) -> None:
    upload = await database.create(a_new_upload(epoch=1))
    await database.commit(upload, a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload)))


async def end_one(database: SurveyedDatabase) -> None:
    """Leave an upload that never becomes a file: no sink is told that it has."""
    upload = await database.create(a_new_upload(epoch=1))
    await database.terminate(upload.scope, upload.id)


async def until_nothing_is_due(rig: SqlRig) -> None:
    """Wait until each delivery was made, or waits for its next try, or for the one before it."""
    first_ones = (
        "SELECT count(*) FROM deliveries AS delivery WHERE state = 'waiting'"
        " AND (tries = 0 OR holder IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM deliveries AS earlier"
        " WHERE earlier.upload_id = delivery.upload_id AND earlier.number < delivery.number"
        " AND earlier.sink = delivery.sink AND earlier.settled_at IS NULL)"
    )
    async with asyncio.timeout(DEADLINE):
        while (await rig.query(first_ones))[0][0]:  # noqa: ASYNC110 - it happens in the database
            await asyncio.sleep(0.1)


@pytest.fixture
def _few_words() -> Iterator[None]:
    """Keep the lines about tries that failed, one each, from being formatted: it takes longer than all else."""
    with structlog.testing.capture_logs():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_few_words")
@pytest.mark.parametrize(
    ("rig", "uploads"),
    [("sqlite", ALL), pytest.param("postgres", ALL if FULL else 2000, marks=pytest.mark.servers)],
    indirect=["rig"],
)
async def test_all_files_are_told_in_order_once_a_broker_is_back(rig: SqlRig, uploads: int) -> None:
    """EV-06, EV-10, I12: uploads do not notice; then each sink hears of each file once, in order, and nothing else."""
    is_away = True

    async def answer(_event: Event) -> None:
        if is_away:
            raise DeliveryFailed("the broker cannot be reached")

    hook, books = Recorder("hook", answer), Recorder("books", answer)
    relays: list[Relay] = []

    def wake() -> None:
        for each in relays:
            each.wake()

    database = rig.telling(Outbox(WANTED.subscriptions, wake))
    lines = [Line(hook, PLAN), Line(books, PLAN)]
    relays += [Relay(database.deliveries, lines, f"relay-{number}", RULES) for number in range(2)]
    for relay in relays:
        relay.start()
    for _ in range(BATCHES):
        await at_most(AT_ONCE, uploads // BATCHES, lambda: complete_one(database))
        await at_most(AT_ONCE, UNFINISHED // BATCHES, lambda: end_one(database))
        await until_nothing_is_due(rig)
        await rig.pass_time(3600 / BATCHES)
    assert (hook.told, books.told) == ([], [])
    is_away = False
    await rig.pass_time(PLAN.longest)
    waiting = Search(state=DeliveryState.WAITING)
    async with asyncio.timeout(DEADLINE):
        while await database.deliveries.find(waiting, 1):  # noqa: ASYNC110 - it happens in the database
            await asyncio.sleep(0.2)
    for relay in relays:
        await relay.stop()

    files = {row[0] for row in await rig.query("SELECT id FROM uploads WHERE state = 'complete'")}
    others = {row[0] for row in await rig.query("SELECT id FROM uploads WHERE state <> 'complete'")}
    assert (len(files), len(others)) == (uploads, UNFINISHED)
    assert Counter((event.upload.id, event.type) for event in books.told) == Counter(
        (upload_id, COMPLETED) for upload_id in files
    )
    types: dict[str, list[EventType]] = {}
    for event in hook.told:
        types.setdefault(event.upload.id, []).append(event.type)
    assert types == {key: [CREATED, COMPLETED] for key in files} | {key: [CREATED] for key in others}
    assert await rig.query("SELECT count(*) FROM deliveries WHERE state <> 'delivered'") == [(0,)]


@pytest.mark.servers
async def test_claims_read_a_few_rows_however_many_wait(postgres_rig: PostgresRig) -> None:
    """EV-06: also when the statistics are still those of an empty table, as they are when an outage begins."""
    backlog = 2000
    database = postgres_rig.telling(Outbox(WANTED.subscriptions))
    deliveries = database.deliveries
    await at_most(5, backlog, lambda: complete_one(database))
    while tried := await deliveries.claim("hook", "relay", 60.0, 500):
        outcomes = [Outcome(each.event.id, DeliveryState.WAITING, 600.0, "no") for each in tried]
        await deliveries.settle("hook", "relay", outcomes)
    for _ in range(backlog // int(PUTTING_OFF["looked_at"]) + 1):
        assert await deliveries.claim("hook", "relay", 60.0, 64) == []
    assert await rows_read(postgres_rig) == 0
    await postgres_rig.pass_time(600)
    for _ in range(backlog // int(PUTTING_OFF["looked_at"]) + 1):
        told = await deliveries.claim("hook", "relay", 60.0, 64)
        assert len(told) == 64
        await deliveries.settle("hook", "relay", [Outcome(each.event.id, DeliveryState.DELIVERED) for each in told])
    assert await rows_read(postgres_rig) < backlog


async def rows_read(rig: PostgresRig) -> int:
    """Claim, and return how many rows were looked at for that."""
    given = {"sink": "hook", "holder": "another", "lease": 60.0, "limit": 64, **PUTTING_OFF}
    values = _queries.driver_adapter.maybe_order_params("claim", given)
    connection = await asyncpg.connect(rig.dsn)
    try:
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {_queries.claim.sql}", *values)
    finally:
        await connection.close()
    return sum(rows_of(each["Plan"]) for each in json.loads(plan))


def rows_of(node: dict[str, Any]) -> int:
    """Return how many rows this node of a plan, and those below it, have got out of tables."""
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    is_of_a_table = "Relation Name" in node and node["Node Type"].endswith("Scan")
    below = sum(rows_of(each) for each in node.get("Plans", []))
    return below + (int(own * node["Actual Loops"]) if is_of_a_table else 0)
