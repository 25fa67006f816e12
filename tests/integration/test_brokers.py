"""Events in real brokers, brought there by the real relay. What stands for SQS and SNS is moto's server.

moto asks nobody for a password, and forgets all when it ends: it is paused where others are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.contract.database_rig import a_complete_upload
from tests.servers.nats import LIMITED_USER
from tests.unit.service.test_relay import AT_ONCE, Recorder, staged
from tests.unit.sinks.facts import a_fact
from tusgate.core.errors import DeliveryFailed
from tusgate.core.events import DeliveryState, EventId, RetryPlan
from tusgate.service.relay import Line
from tusgate.settings.sinks import _declared
from tusgate.sinks.choosing import sink_of
from tusgate.sinks.document import document_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.inbox import Arrived, Broker, Inbox
    from tests.servers.nats import Nats
    from tests.servers.rabbitmq import RabbitMq
    from tests.servers.redis import RedisServer
    from tests.unit.service.test_relay import Stage
    from tusgate.ports import Sink

pytestmark = pytest.mark.servers

SERVERS = {
    "nats": "nats_server",
    "rabbitmq": "rabbitmq_server",
    "redis": "redis_server",
    "kafka": "kafka_server",
    "sqs": "aws_server",
    "sns": "aws_server",
}
WITH_PASSWORDS = ("nats", "rabbitmq", "redis", "kafka")
DROP_REPETITIONS = ("nats", "sqs", "sns")
PAUSED = ("sqs",)
SOURCE = "https://up.example.com/files"
DEADLINE = 60.0
PATIENT = RetryPlan(retries=1000, first=0.1, longest=0.5)


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def broker(request: pytest.FixtureRequest, kind: str) -> Iterator[Broker]:
    server: Broker = request.getfixturevalue(SERVERS[kind])
    yield server
    server.control.resume()
    server.control.start()


@pytest.fixture
async def inbox(broker: Any, kind: str) -> AsyncIterator[Inbox]:
    async with broker.topic() if kind == "sns" else broker.inbox() as inbox:
        yield inbox


def made(declared: dict[str, Any]) -> Sink:
    (sink,) = _declared([declared])
    sink.check()
    return sink_of(sink, SOURCE, frozenset())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.02)


async def until_settled(stage: Stage, sink: str) -> None:
    async def is_settled() -> bool:
        await stage.rig.pass_time(0.02)  # its clock stands still otherwise
        return (await stage.states(sink))[DeliveryState.WAITING] == 0

    await until(is_settled)


async def live_through(stage: Stage, uploads: int) -> None:
    for _ in range(uploads):
        upload = await a_complete_upload(stage.database)
        await stage.database.terminate(upload.scope, upload.id)


def first_of_each(ids: list[str]) -> dict[str, list[int]]:
    """Return the numbers of each upload's events, in the order in which each was there for the first time."""
    numbers: dict[str, list[int]] = {}
    for each in dict.fromkeys(ids):
        event_id = EventId.parse(each)
        numbers.setdefault(event_id.upload_id, []).append(event_id.number)
    return numbers


def ids_of(arrived: list[Arrived]) -> list[str]:
    return [each.event["id"] for each in arrived]


async def test_each_event_arrives_once_and_those_of_an_upload_in_their_order(
    kind: str, inbox: Inbox, tmp_path: Path
) -> None:
    """EV-10, I12."""
    async with staged(kind) as stage:
        stage.relay(Line(made(inbox.declared(tmp_path))))
        await live_through(stage, 30)
        await until_settled(stage, kind)
        events = {str(each.event.id): each.event for each in await stage.found(kind)}
        assert await stage.states(kind) == {DeliveryState.DELIVERED: 90}
    arrived = await inbox.arrived()
    assert Counter(ids_of(arrived)) == Counter(list(events))
    assert all(each.body == document_of(events[each.event["id"]], SOURCE) for each in arrived)
    assert set(map(tuple, first_of_each(ids_of(arrived)).values())) == {(1, 2, 3)}


async def test_what_stands_beside_the_document_is_what_brokers_and_readers_go_by(
    kind: str, inbox: Inbox, tmp_path: Path
) -> None:
    sink = made(inbox.declared(tmp_path))
    event = await a_fact()
    await sink.deliver(event)
    await sink.close()
    await sink.close()
    (arrived,) = await inbox.arrived()
    headers = {name.lower(): value for name, value in arrived.headers.items()}
    assert headers["content-type"] == "application/cloudevents+json"
    prefix = {"nats": "ce-", "rabbitmq": "cloudevents_", "kafka": "ce_"}.get(kind, "")
    expected = {"id": str(event.id), "type": "upload.completed", "tenant": "acme"}
    if prefix:
        expected |= {"source": SOURCE, "specversion": "1.0", "subject": event.upload.id, "time": "2027-01-15T12:00:00Z"}
    assert {name: headers[prefix + name] for name in expected} == expected
    own = {"nats": "nats-msg-id", "rabbitmq": "message-id", "sqs": "deduplication", "sns": "deduplication"}
    assert headers[own.get(kind, prefix + "id")] == str(event.id)
    upload = event.upload.id
    assert arrived.key == {"kafka": upload, "sqs": upload, "sns": upload, "rabbitmq": "upload.completed"}.get(kind)


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "sns"])  # which is a client like that of sqs
async def test_a_broker_that_is_killed_and_comes_back_has_lost_nothing(
    kind: str, broker: Broker, inbox: Inbox, tmp_path: Path
) -> None:
    """EV-06, I12: at least once, under the same ids, the first of each in order."""
    down, up = broker.control.kill, broker.control.start
    if kind in PAUSED:
        down, up = broker.control.pause, broker.control.resume
    async with staged(kind) as stage:

        async def has_begun() -> bool:
            return (await stage.states(kind))[DeliveryState.DELIVERED] >= 10

        async def has_failed() -> bool:
            return any(each.error for each in await stage.found(kind))

        stage.relay(Line(made(inbox.declared(tmp_path, timeout="2s")), PATIENT), at_once=8)
        before = asyncio.create_task(live_through(stage, 30))
        await until(has_begun)
        await asyncio.to_thread(down)
        await before
        await live_through(stage, 10)
        await until(has_failed)
        await asyncio.to_thread(up)
        await until_settled(stage, kind)
        expected = {str(each.event.id) for each in await stage.found(kind)}
        assert await stage.states(kind) == {DeliveryState.DELIVERED: 120}
    arrived = ids_of(await inbox.arrived())
    assert set(arrived) == expected
    assert set(map(tuple, first_of_each(arrived).values())) == {(1, 2, 3)}
    if kind in DROP_REPETITIONS:
        assert len(arrived) == 120


@pytest.mark.parametrize("kind", WITH_PASSWORDS)
async def test_a_wrong_password_is_tried_again_then_dead_and_delays_nobody(
    kind: str, broker: Broker, inbox: Inbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """EV-05."""
    wrong = "hunter2/hunter2@"
    declared = inbox.declared(tmp_path)
    (tmp_path / "wrong").write_text(wrong)
    await fails_alone(kind, made(declared | {"password_file": str(tmp_path / "wrong")}), wrong)
    said = capfd.readouterr()
    assert wrong not in said.out + said.err


async def test_a_broker_that_nobody_reaches_is_tried_again_then_given_up_and_delays_nobody(
    kind: str, broker: Broker, inbox: Inbox, tmp_path: Path
) -> None:
    """EV-05."""
    declared = inbox.declared(tmp_path, timeout="2s")
    declared = json.loads(json.dumps(declared).replace(f"127.0.0.1:{broker.port}", "127.0.0.1:1"))
    await fails_alone(kind, made(declared), inbox.password)


async def fails_alone(kind: str, sink: Sink, secret: str) -> None:
    async with staged(kind, "other") as stage:
        other = Recorder("other")
        stage.relay(Line(sink, AT_ONCE), Line(other))
        await live_through(stage, 3)
        await until_settled(stage, "other")
        assert len(other.told) == 9
        await until_settled(stage, kind)
        found = await stage.found(kind)
        assert {(each.state, each.tries) for each in found} == {(DeliveryState.DEAD, 4)}
        assert all(each.error and secret not in each.error for each in found)


REASONS = {
    "nats": "no stream takes nobody.listens",
    "rabbitmq": "there is no exchange not-there",
    "redis": "out of range",
    "kafka": "there is no topic not-there",
    "sqs": "AWS answered .*NonExistentQueue",
    "sns": "AWS answered NotFound",
}


async def test_what_is_not_there_is_told_by_its_name(kind: str, inbox: Inbox, tmp_path: Path) -> None:
    sink = made(inbox.declared(tmp_path) | inbox.elsewhere)
    try:
        for _ in range(2):
            with pytest.raises(DeliveryFailed, match=REASONS[kind]):
                await sink.deliver(await a_fact())
    finally:
        await sink.close()


@pytest.mark.parametrize("kind", WITH_PASSWORDS)
async def test_the_certificate_of_a_broker_is_checked(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    server: Any = request.getfixturevalue("encrypted_nats" if kind == "nats" else SERVERS[kind])
    async with server.inbox() as inbox:
        plain = inbox.declared(tmp_path)
        if kind != "nats":
            written = json.dumps(plain).replace(f":{server.port}", f":{server.tls_port}")
            declared = json.loads(written.replace("amqp:", "amqps:").replace("redis:", "rediss:"))
            declared |= {"tls": True} if kind == "kafka" else {}
        else:
            declared = plain
        good = made(declared | {"ca_file": server.ca_file})
        bad = made(declared | {"timeout": "5s"})
        try:
            await good.deliver(await a_fact())
            assert len(await inbox.arrived()) == 1
            with pytest.raises(DeliveryFailed):
                await bad.deliver(await a_fact())
            assert len(await inbox.arrived()) == 1
        finally:
            await good.close()
            await bad.close()


async def test_a_subject_that_may_not_be_used_fails_at_once_and_says_why(nats_server: Nats, tmp_path: Path) -> None:
    async with nats_server.inbox() as inbox:
        sink = made(inbox.declared(tmp_path, user=LIMITED_USER, timeout="30s"))
        try:
            with pytest.raises(DeliveryFailed, match=r"(?i)may not be published.*permissions violation"):
                await sink.deliver(await a_fact())
        finally:
            await sink.close()


async def test_an_event_that_no_queue_wants_is_not_taken(rabbitmq_server: RabbitMq, tmp_path: Path) -> None:
    """Mandatory, and the connection goes on."""
    async with rabbitmq_server.inbox() as inbox:
        sink = made(inbox.declared(tmp_path, exchange="", routing_key="{tenant}"))
        by_name = made(inbox.declared(tmp_path, exchange="", routing_key=inbox.name))
        try:
            for _ in range(3):
                with pytest.raises(DeliveryFailed, match="no queue takes the routing key acme"):
                    await sink.deliver(await a_fact())
            await by_name.deliver(await a_fact())
            assert len(await inbox.arrived()) == 1
        finally:
            await sink.close()
            await by_name.close()


async def test_a_stream_of_redis_keeps_about_as_many_as_asked_for(redis_server: RedisServer, tmp_path: Path) -> None:
    async with redis_server.inbox() as inbox:
        sink = made(inbox.declared(tmp_path, maxlen=1, stream=inbox.name + ":{tenant}"))
        for _ in range(300):
            await sink.deliver(await a_fact())
        await sink.close()
        async with redis_server.client() as client:
            assert 1 <= await client.xlen(f"{inbox.name}:acme") <= 200
            await client.delete(f"{inbox.name}:acme")


async def test_a_key_of_redis_that_is_no_stream_is_said_to_be_none(redis_server: RedisServer, tmp_path: Path) -> None:
    async with redis_server.inbox() as inbox:
        async with redis_server.client() as client:
            await client.set(inbox.name, "a text")
        sink = made(inbox.declared(tmp_path))
        with pytest.raises(DeliveryFailed, match="WRONGTYPE"):
            await sink.deliver(await a_fact())
        await sink.close()


async def test_a_gateway_tells_all_kinds_of_brokers_at_once(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        inboxes: dict[str, Inbox] = {}
        for kind, fixture in SERVERS.items():
            server: Any = request.getfixturevalue(fixture)
            inboxes[kind] = await stack.enter_async_context(server.topic() if kind == "sns" else server.inbox())
        sinks = [inbox.declared(tmp_path) for inbox in inboxes.values()]
        gateway = start_gateway({"TUSGATE_SINKS": json.dumps(sinks)})
        async with (
            aiohttp.ClientSession() as session,
            session.put(f"{gateway.endpoint}/a.txt", data=b"hello") as answer,
        ):
            assert answer.status == 201
        for inbox in inboxes.values():
            await until(partial(has_come, inbox))
            assert [each.event["type"] for each in await inbox.arrived()] == ["upload.created", "upload.completed"]
            assert inbox.password not in gateway.log_path.read_text()


async def has_come(inbox: Inbox) -> bool:
    return len(await inbox.arrived()) == 2
