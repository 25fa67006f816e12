"""How fast the relay tells each kind of sink, and how soon, by real brokers and PostgreSQL.

The relay and whoever completes uploads run in one process here, the database, broker and receiver share its cores. SQS
and SNS are left out: what stands for them in tests would measure itself.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from pydantic import TypeAdapter
from rich.table import Table

from bench.aside import in_a_thread
from tests.contract.database_rig import a_new_upload, a_step, an_object
from tests.receiver import receiving
from tests.servers import acquire, kafka, nats, postgres, rabbitmq, redis
from tusgate.core.events import EventType, Outbox, Subscription
from tusgate.core.model import State
from tusgate.database.postgres import PostgresDatabase
from tusgate.service.relay import Line, Relay, RelayRules
from tusgate.settings.sinks import Sinks
from tusgate.sinks.choosing import sink_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rich.console import Console

    from tests.receiver import Receiver
    from tests.servers.inbox import Broker

MIB = 1 << 20
LENGTH = 20 * MIB
RATE = 500
"""Uploads per second while it is measured how soon each is told."""
AT_ONCE = 25
BROKERS: dict[str, Callable[[], AbstractContextManager[Broker]]] = {
    "nats": nats.running,
    "rabbitmq": rabbitmq.running,
    "redis": redis.running,
    "kafka": kafka.running,
}
LONGEST = 120.0


@dataclass(frozen=True)
class Told:
    """What was measured of one sink.

    Attributes:
        rate: events per second, of those that had waited.
        made: uploads per second that were completed while lags were measured; below `RATE` when the machine is full.
        lags: seconds from the commit of an event to that of its delivery.
    """

    rate: float
    made: float
    lags: list[float]


def show_sinks(console: Console, home: Path, *, waiting: int, seconds: float) -> None:
    """Measure and print.

    Args:
        waiting: events that wait when the relay starts.
        seconds: for which uploads are completed at `RATE`.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    table = Table(title=f"relay, PostgreSQL: {waiting} events, then {RATE} uploads/s", title_justify="left")
    for heading in ("sink", "events/s", "uploads/s", "lag p50 ms", "lag p99 ms"):
        table.add_column(heading, justify="left" if heading == "sink" else "right")
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running())
        for name, told in _measured(home, server, waiting, seconds):
            cuts = statistics.quantiles(told.lags, n=100)
            lag = (f"{1000 * cuts[49]:.0f}", f"{1000 * cuts[98]:.0f}")
            table.add_row(name, f"{told.rate:.0f}", f"{told.made:.0f}", *lag)
    console.print(table)


def _measured(home: Path, server: postgres.Postgres, waiting: int, seconds: float) -> Iterator[tuple[str, Told]]:
    lines = {"name": "lines", "type": "file", "path": str(home / "events.jsonl")}
    yield "file", asyncio.run(_tell(server.new_database(), lines, waiting, seconds))
    with in_a_thread(receiving()) as receiver:
        yield "webhook", asyncio.run(_tell(server.new_database(), _webhook(home, receiver), waiting, seconds))
    for name, run in BROKERS.items():
        try:
            with run() as broker:
                yield name, asyncio.run(_tell_broker(server.new_database(), broker, home, waiting, seconds))
        except acquire.MissingError:
            continue


async def _tell_broker(dsn: str, broker: Broker, home: Path, waiting: int, seconds: float) -> Told:
    async with broker.inbox() as inbox:
        return await _tell(dsn, inbox.declared(home), waiting, seconds)


async def _tell(dsn: str, declared: dict[str, Any], waiting: int, seconds: float) -> Told:
    async with AsyncExitStack() as stack:
        relays: list[Relay] = []

        def wake() -> None:
            for each in relays:
                each.wake()

        subscription = Subscription(declared["name"], frozenset({EventType.COMPLETED}))
        outbox = Outbox((subscription,), wake)
        database = PostgresDatabase(dsn, pool_size=10, command_timeout=30.0, outbox=outbox)
        stack.push_async_callback(database.close)
        await database.migrate()
        looking = await asyncpg.connect(dsn)
        stack.push_async_callback(looking.close)
        await _complete(database, waiting)
        relay = Relay(database.deliveries, [Line(_sink(declared))], "bench", RelayRules())
        relays.append(relay)
        stack.push_async_callback(relay.stop)
        begun = time.monotonic()
        relay.start()
        await _until_told(looking, waiting)
        rate = waiting / (time.monotonic() - begun)
        begun = time.monotonic()
        made = await _complete_at_a_rate(database, seconds)
        reached = made / (time.monotonic() - begun)
        await _until_told(looking, waiting + made)
        return Told(rate, reached, await _lags(looking, made))


def _sink(declared: dict[str, Any]) -> Any:
    (sink,) = TypeAdapter(Sinks).validate_python([declared])
    allowed = {("127.0.0.1", int(declared["url"].rpartition(":")[2].partition("/")[0]))} if "url" in declared else set()
    return sink_of(sink, "https://up.example.com/files", frozenset(allowed))


async def _complete(database: PostgresDatabase, count: int) -> None:
    """Complete so many uploads, as fast as it goes."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            await _complete_one(database)

    await asyncio.gather(*(one() for _ in range(count)))


async def _complete_at_a_rate(database: PostgresDatabase, seconds: float) -> int:
    """Complete `RATE` uploads per second; return how many."""
    begun, made = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while (passed := time.monotonic() - begun) < seconds:
            while made < passed * RATE:
                group.create_task(_complete_one(database))
                made += 1
            await asyncio.sleep(1 / RATE)
    return made


async def _complete_one(database: PostgresDatabase) -> None:
    """Do to the database what a small upload does that comes with its creation."""
    upload = await database.create(a_new_upload(epoch=1))
    await database.commit(upload, a_step(LENGTH, state=State.COMPLETE, stored=an_object(upload)))


async def _until_told(looking: asyncpg.Connection[Any], count: int) -> None:
    async with asyncio.timeout(LONGEST):
        while await looking.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _lags(looking: asyncpg.Connection[Any], last: int) -> list[float]:
    rows = await looking.fetch(
        "SELECT extract(epoch FROM settled_at - occurred_at)::float AS lag FROM deliveries JOIN events"
        " USING (upload_id, number) ORDER BY occurred_at DESC LIMIT $1",
        last,
    )
    return [row["lag"] for row in rows]


def _webhook(home: Path, receiver: Receiver) -> dict[str, Any]:
    secret = home / "webhook.secret"
    secret.write_text("whsec_" + "A" * 32)
    url = f"http://127.0.0.1:{receiver.port}/hook"
    return {"name": "webhook", "type": "webhook", "url": url, "secret_files": [str(secret)]}
