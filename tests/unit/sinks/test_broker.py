"""What all brokers have in common, on links that do as the test says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.sinks.facts import a_fact
from tusgate.core.errors import DeliveryFailed, SettingsError
from tusgate.settings.sinks import _declared
from tusgate.sinks.broker import BrokerSink
from tusgate.sinks.choosing import sink_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.sinks.broker import Link, Message


async def _take(_message: Message) -> None:
    return


class Wire:
    """A link that behaves as it is told."""

    def __init__(self, behave: Callable[[Message], Awaitable[None]] = _take) -> None:
        self.usable = True
        self.behave = behave
        self.taken: list[str] = []
        self.closed = 0

    async def publish(self, message: Message) -> None:
        await self.behave(message)
        self.taken.append(message.event_id)

    async def close(self) -> None:
        self.closed += 1


class Maker:
    """Hands out links one by one, and counts."""

    def __init__(self, *wires: Wire) -> None:
        self.wires = [*wires]
        self.made = 0

    async def __call__(self) -> Link:
        await asyncio.sleep(0)
        self.made += 1
        return self.wires[self.made - 1]


async def test_all_that_begin_at_once_share_one_connection() -> None:
    maker = Maker(Wire())
    sink = BrokerSink("broker", maker)
    event = await a_fact()
    await asyncio.gather(*[sink.deliver(event) for _ in range(20)])
    await sink.close()
    await sink.close()
    assert (maker.made, len(maker.wires[0].taken), maker.wires[0].closed) == (1, 20, 1)


async def test_what_a_broker_refuses_leaves_the_connection_alone() -> None:
    async def refuse(_message: Message) -> None:
        raise DeliveryFailed("no queue")

    maker = Maker(Wire(refuse))
    sink = BrokerSink("broker", maker)
    for _ in range(2):
        with pytest.raises(DeliveryFailed, match="no queue"):
            await sink.deliver(await a_fact())
    await sink.close()
    assert maker.made == 1


async def test_anything_else_ends_it_and_the_next_event_has_a_new_one() -> None:
    async def break_down(_message: Message) -> None:
        raise OSError("reset")

    maker = Maker(Wire(break_down), Wire())
    sink = BrokerSink("broker", maker)
    with pytest.raises(DeliveryFailed, match="OSError: reset"):
        await sink.deliver(await a_fact())
    await sink.deliver(await a_fact())
    maker.wires.append(Wire())
    maker.wires[1].usable = False
    await sink.deliver(await a_fact())
    await sink.close()
    assert [wire.closed for wire in maker.wires] == [1, 1, 1]


async def test_a_broker_that_says_nothing_is_given_up() -> None:
    async def never(_message: Message) -> None:
        await asyncio.Event().wait()

    maker = Maker(Wire(never), Wire())
    sink = BrokerSink("broker", maker, timeout=0.05)
    with pytest.raises(DeliveryFailed, match=r"not confirmed within 0\.05 s"):
        await sink.deliver(await a_fact())
    await sink.deliver(await a_fact())
    await sink.close()
    assert maker.made == 2


async def test_no_error_shows_a_secret_in_any_form() -> None:
    async def connect() -> Link:
        raise OSError("amqp://me:p%2Fw@host and p/w")

    sink = BrokerSink("broker", connect, secrets=("p/w", ""))
    with pytest.raises(DeliveryFailed) as failed:
        await sink.deliver(await a_fact())
    assert str(failed.value) == "OSError: amqp://me:***@host and ***"
    await sink.close()


@pytest.mark.parametrize(
    ("library", "declared"),
    [
        ("nats", {"type": "nats", "servers": ["nats://localhost"]}),
        ("aio_pika", {"type": "rabbitmq", "url": "amqp://localhost", "exchange": "e"}),
        ("redis", {"type": "redis", "url": "redis://localhost"}),
        ("aiokafka", {"type": "kafka", "servers": ["localhost:9092"], "topic": "t"}),
    ],
)
def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, declared: dict[str, object]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (sink,) = _declared([{"name": "app", **declared}])
    with pytest.raises(SettingsError) as refused:
        sink_of(sink, "/files", frozenset())
    assert str(refused.value).startswith("TUSGATE_SINKS: app: type: ")
    assert f"pip install 'tusgate[{declared['type']}]'" in str(refused.value)


def test_libraries_of_brokers_are_imported_only_when_used() -> None:
    code = "import sys, tusgate.app; print({'nats', 'aio_pika', 'redis', 'aiokafka'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
