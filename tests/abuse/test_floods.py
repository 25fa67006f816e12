"""Too much at once: connections, requests, chunks, headers."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from tests.abuse.crowd import PATIENCE, begin_patch, crowd, ended
from tests.abuse.vitals import complaints, memory_of, most_memory_of, open_files_of, processor_seconds_of
from tests.fault.rig import KIB, MIB, lettered
from tests.fault.tcp import TcpFaultProxy
from tests.gateway import Gateway
from tests.servers.process import wait_until
from tests.size import FULL
from tests.wire.client import CT, Client, V
from tusgate.web.connections import SPARE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from tests.fault.rig import Rig
    from tests.servers.s3 import S3Server
    from tests.wire.client import Connection

    StartVictim = Callable[..., Awaitable[Rig]]

FILES = 256
CONNECTIONS = 64
"""Most of them to the store, for parts and objects that are on their way (`S3Config`)."""


class CrampedGateway(Gateway):
    """A gateway that may open `FILES` files."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._command = ["prlimit", f"--nofile={FILES}:{FILES}", *self._command]


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[CrampedGateway]:
    with CrampedGateway(tmp_path / "cramped") as gateway:
        yield gateway


async def test_connections_beyond_the_limit_are_told_so_and_those_within_go_on(start_victim: StartVictim) -> None:
    """I15: 503, but 423 to a HEAD, after anything else tus-js-client starts a new upload; health tells both."""
    victim = await start_victim({"TUSGATE_MAX_CONNECTIONS": "10"})
    content = lettered("a", 6 * MIB)
    path = await victim.client.create(len(content))
    async with crowd(victim.client, 10) as within:
        begin_patch(within[0], path, len(content))
        within[0].up.write(content[:MIB])
        within[1].send_head("HEAD", path, V)
        assert (await within[1].answer(to_head=True)).status == 200
        refused = await victim.client.post({"Upload-Length": "5", "Origin": "https://page.test"})
        assert refused.status == 503
        assert refused.headers["Connection"] == "close"
        assert refused.headers["Access-Control-Allow-Origin"] == "*"
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.body.startswith(b"overloaded: ")
        assert (await victim.client.head(path)).status == 423
        assert (await victim.client.request("OPTIONS", "/files")).status == 200
        assert (await victim.client.request("GET", "/livez")).status == 200
        assert (await victim.client.request("GET", "/readyz")).status == 503
        within[0].up.write(content[MIB:])
        assert (await within[0].answer()).offset == len(content)
    await victim.until(victim.gateway.answers_ready)
    assert await victim.client.offset(path) == len(content)
    assert await victim.stored(path) == content
    assert len(victim.rows("SELECT 1 FROM uploads")) == 1
    assert victim.gateway.log().count("server.full") == 1


async def test_connections_far_beyond_the_limit_are_closed_at_once(start_victim: StartVictim) -> None:
    """I15: what is not even told needs no patience of anybody."""
    victim = await start_victim({"TUSGATE_MAX_CONNECTIONS": "10"})
    path = await victim.client.create(5)
    async with crowd(victim.client, 10 + SPARE) as full, crowd(victim.client, 50) as beyond:
        assert {*await ended(beyond)} == {b""}
        full[0].send_head("HEAD", path, V)
        assert (await full[0].answer(to_head=True)).status == 200
    await victim.until(victim.gateway.answers_ready)


async def test_a_thousand_connections_where_few_files_may_be_open(cramped: CrampedGateway) -> None:
    """RE-06, I20: files are left for uploads, no processor time is burnt, and service goes on afterwards."""
    client = Client(cramped.port)
    path = await client.create(2 * MIB)
    async with crowd(client, 1) as (early,):
        begin_patch(early, path, 2 * MIB)
        early.up.write(bytes(MIB))
        async with crowd(client, 1_000) as flood:
            await ended(flood[FILES:])
            assert open_files_of(cramped) < FILES - 32
            used = processor_seconds_of(cramped)
            early.up.write(bytes(MIB))
            assert (await early.answer()).offset == 2 * MIB
            assert processor_seconds_of(cramped) - used < 2
    await asyncio.to_thread(wait_until, cramped.answers_ready, "the gateway serves again")
    assert await client.offset(await client.create(5)) == 0
    assert complaints(cramped.log_path.read_text()) == []


async def test_a_storm_of_heads_leaves_uploads_alone(victim: Rig) -> None:
    """I15: 4,000 HEADs on 40 connections, of the very upload that is being written."""
    content = lettered("s", 8 * MIB)
    path = await victim.client.create(len(content))
    async with crowd(victim.client, 40) as stormy:

        async def ask(number: int) -> set[int]:
            statuses = set()
            for _ in range(100):
                stormy[number].send_head("HEAD", path, V)
                statuses.add((await stormy[number].answer(to_head=True)).status)
            return statuses

        asking = [asyncio.create_task(ask(number)) for number in range(40)]
        for offset in range(0, len(content), MIB):
            assert (await victim.client.patch(path, offset, content[offset : offset + MIB])).status == 204
        assert {status for statuses in await asyncio.gather(*asking) for status in statuses} == {200}
    assert await victim.stored(path) == content


async def test_ten_thousand_pipelined_requests_are_answered_in_order(victim: Rig) -> None:
    """RE-15: each alternates with another upload, so that an answer out of order shows."""
    paths = [await victim.client.create(size) for size in (5, 6)]
    before = memory_of(victim.gateway)
    async with crowd(victim.client, 1) as (connection,), asyncio.timeout(2 * PATIENCE):
        for path, _ in zip(itertools.cycle(paths), range(10_000), strict=False):
            connection.send_head("HEAD", path, V)
        lengths = [(await connection.answer(to_head=True)).headers["Upload-Length"] for _ in range(10_000)]
    assert lengths == ["5", "6"] * 5_000
    assert memory_of(victim.gateway) - before < 64 * MIB


async def test_bodies_in_chunks_of_one_byte_are_taken_whole_and_hold_up_nobody(victim: Rig) -> None:
    """RE-16: twenty clients, five million chunks; in full 64 MiB each, which are 1.3 billion."""
    content = lettered("c", 64 * MIB if FULL else 256 * KIB)
    held = 320 * MIB if FULL else 64 * MIB  # what is in chunks of one byte may fill the budget, and no more
    paths = [await victim.client.create(len(content)) for _ in range(20)]
    before = memory_of(victim.gateway)
    async with crowd(victim.client, len(paths)) as chopped, asyncio.timeout(7_200 if FULL else 2 * PATIENCE):
        for connection, path in zip(chopped, paths, strict=True):
            fields = [*V.items(), *CT.items(), ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")]
            connection.send_head("PATCH", path, fields)
        sending = asyncio.create_task(_send_chopped(chopped, content))
        for _ in range(20):
            assert (await victim.client.request("GET", "/livez")).status == 200
        answers = await asyncio.gather(*(connection.answer() for connection in chopped))
        await sending
    assert {answer.offset for answer in answers} == {len(content)}
    assert most_memory_of(victim.gateway) - before < held
    for path in paths:
        assert await victim.stored(path) == content


async def _send_chopped(connections: Sequence[Connection], content: bytes) -> None:
    """Send `content` on each connection in chunks of one byte, as fast as the slowest of them takes it."""
    for start in range(0, len(content), 64 * KIB):
        chunks = b"".join(b"1\r\n%b\r\n" % bytes((byte,)) for byte in content[start : start + 64 * KIB])
        for connection in connections:
            connection.up.write(chunks)
        await asyncio.gather(*(connection.up.drain() for connection in connections))
    for connection in connections:
        connection.up.write(b"0\r\n\r\n")


async def test_a_storm_of_options_needs_neither_database_nor_store(start_victim: StartVictim) -> None:
    """PA-22: 10,000, of known and unknown uploads, with junk for credentials."""
    victim = await start_victim(database="postgres")
    path = await victim.client.create(5)
    victim.proxy.history.clear()
    link = victim.replicas[0].database_link
    assert link is not None
    await link.down()
    async with crowd(victim.client, 20) as stormy:

        async def ask(number: int) -> set[int]:
            statuses = set()
            for at in range(500):
                target = (path, "/files", "/files/unknown-upload-0123456789", "/files/%00")[at % 4]
                stormy[number].send_head("OPTIONS", target, {"Authorization": f"Bearer {'x' * 100}"})
                statuses.add((await stormy[number].answer()).status)
            return statuses

        found = await asyncio.gather(*map(ask, range(20)))
    assert {status for statuses in found for status in statuses} == {200}
    assert victim.proxy.history.calls == []


async def test_heads_that_are_too_large_are_refused_cheaply(victim: Rig) -> None:
    """RE-08."""
    length = {"Upload-Length": "5"}
    oversize = {
        "200 fields": ("/files", V | length | {f"X-{number}": "x" for number in range(200)}),
        "20 KB of metadata": ("/files", V | length | {"Upload-Metadata": f"a {'YWFh' * 5_000}"}),
        "a field of 200 KB": ("/files", V | length | {"X-A": "x" * 200 * KIB}),
        "a field of 10 MB": ("/files", V | length | {"X-A": "x" * 10 * MIB}),
        "80 KB of fields": ("/files", V | length | {f"X-{number}": "x" * 8 * KIB for number in range(10)}),
        "a name of 200 KB": ("/files", V | length | {"X" * 200 * KIB: "x"}),
        "a target of 8 KB": (f"/files/{'a' * 8 * KIB}", V | length),
        "a target of 100 KB": (f"/files/{'a' * 100 * KIB}", V | length),
        "a query of 100 KB": (f"/files?{'a' * 100 * KIB}", V | length),
    }
    used = processor_seconds_of(victim.gateway)
    before = memory_of(victim.gateway)
    statuses = {}
    for name, (target, fields) in oversize.items():
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            connection.send_head("POST", target, fields | {"Connection": "close"})
            statuses[name] = await _status(connection.rest())
    assert {*statuses.values()} <= {400, 404, 405, 413, 414, 431, None}, statuses
    assert statuses["20 KB of metadata"] == 431
    assert processor_seconds_of(victim.gateway) - used < 2
    assert memory_of(victim.gateway) - before < 64 * MIB
    assert victim.rows("SELECT 1 FROM uploads") == []


async def _status(reply: Awaitable[bytes]) -> int | None:
    """Return the status of an answer; None when it was lost, because the server closed with input unread."""
    try:
        said = await reply
    except ConnectionResetError:
        return None
    return int(said.split(b" ", 2)[1]) if said else None


async def test_few_database_connections_serve_many_requests_without_deadlock(start_victim: StartVictim) -> None:
    """RE-07: 200 uploads and 200 HEADs share five connections."""
    victim = await start_victim({"TUSGATE_DATABASE_CONNECTIONS": "5"}, database="postgres")
    paths = [await victim.client.create(3) for _ in range(200)]
    async with asyncio.timeout(2 * PATIENCE):
        answers = await asyncio.gather(
            *(victim.client.patch(path, 0, b"abc") for path in paths), *(victim.client.head(path) for path in paths)
        )
    assert {answer.status for answer in answers} <= {200, 204}
    assert {row["state"] for row in victim.rows("SELECT state FROM uploads")} == {"complete"}


@pytest.fixture
async def store_link(minio: S3Server) -> AsyncIterator[TcpFaultProxy]:
    """The network between the gateway and its store; it outlives the gateway."""
    host, port = minio.endpoint.removeprefix("http://").split(":")
    async with TcpFaultProxy(host, int(port)) as link:
        yield link


@pytest.mark.slow
async def test_five_hundred_clients_at_full_speed_wait_for_a_slow_store(
    store_link: TcpFaultProxy, start_victim: StartVictim
) -> None:
    """RE-04, CR-13, I15: all of them finish, and the process never had more than is documented.

    In full it has all of its budget, and 512 MiB, for 2 GB on their way into a store at 10 MB/s.
    """
    own = {} if FULL else {"TUSGATE_BUDGET": "24MiB"}
    victim = await start_victim(own | {"TUSGATE_S3_ENDPOINT": f"http://127.0.0.1:{store_link.port}"})
    content = lettered("f", 4 * MIB if FULL else 512 * KIB)
    paths = [await victim.client.create(len(content)) for _ in range(500)]
    store_link.bandwidth = 10_000_000 // CONNECTIONS if FULL else 256 * KIB  # of each connection
    async with crowd(victim.client, len(paths)) as pushing, asyncio.timeout((20 if FULL else 4) * PATIENCE):
        for connection, path in zip(pushing, paths, strict=True):
            begin_patch(connection, path, len(content))
            connection.up.write(content)
        answering = asyncio.gather(*(connection.answer() for connection in pushing))
        while not answering.done():
            async with asyncio.timeout(PATIENCE):
                assert (await victim.client.head(paths[-1])).status == 200
            await asyncio.sleep(0.5)  # the pace of somebody who watches, not a wait for something
        answers = await answering
    assert {(answer.status, answer.offset) for answer in answers} == {(204, len(content))}
    assert most_memory_of(victim.gateway) < (512 * MIB if FULL else 24 * MIB + len(paths) * 160 * KIB + 107 * MIB)
    store_link.bandwidth = None
    for path in paths[::50]:
        assert await victim.stored(path) == content
