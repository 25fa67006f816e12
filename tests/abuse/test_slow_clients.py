"""Clients that take their time: to say anything, to send a head or a body, to take an answer."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.abuse.crowd import PATIENCE, begin_patch, crowd, ended
from tests.abuse.vitals import client_connections, memory_of
from tests.fault.rig import KIB, MIB, lettered
from tests.size import FULL
from tests.wire.client import V

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.fault.rig import Rig
    from tests.wire.client import Connection

    StartVictim = Callable[..., Awaitable[Rig]]

IMPATIENT = {"TUSGATE_IDLE_TIMEOUT": "2s", "TUSGATE_KEEPALIVE_TIMEOUT": "2s", "TUSGATE_RATE_WINDOW": "3s"}


@pytest.fixture
async def victim(start_victim: StartVictim) -> Rig:
    return await start_victim(IMPATIENT)


async def drip(connections: Sequence[Connection], data: bytes, pause: float = 0.1) -> None:
    """Send one byte after the other on each connection, faster than any idle time-out, until cancelled."""
    for at in range(len(data)):
        for connection in connections:
            if not connection.up.is_closing():
                connection.up.write(data[at : at + 1])
        await asyncio.sleep(pause)  # the pace of the attack, not a wait for something


async def test_connections_that_say_nothing_are_closed_and_disturb_nobody(victim: Rig) -> None:
    """RE-01, L-1, I15: five thousand of them."""
    path = await victim.client.create(5)
    before = memory_of(victim.gateway)
    async with crowd(victim.client, 5_000) as silent:
        for _ in range(50):
            assert (await victim.client.head(path)).status == 200
        assert memory_of(victim.gateway) - before < 120 * MIB
        assert {*await ended(silent)} == {b""}
    assert await victim.client.offset(path) == 0


async def test_a_head_that_comes_byte_by_byte_is_cut_off(victim: Rig) -> None:
    """RE-02: bytes do not prolong the time for a head, on a new connection or after a request."""
    path = await victim.client.create(5)
    async with crowd(victim.client, 500) as slow:
        for connection in slow[:250]:
            connection.send_head("HEAD", path, V)
            assert (await connection.answer(to_head=True)).status == 200
        dripping = asyncio.create_task(drip(slow, b"HEAD /files HTTP/1.1\r\nX-A: " + b"a" * 10_000))
        assert {*await ended(slow)} == {b""}
        dripping.cancel()


async def test_bodies_that_trickle_are_ended_and_honest_ones_are_not(start_victim: StartVictim) -> None:
    """RE-03, I1, I15: an idle time-out alone is beaten by a byte per second; and the database has two connections."""
    pace = {} if FULL else IMPATIENT
    victim = await start_victim({"TUSGATE_DATABASE_CONNECTIONS": "2", **pace}, database="postgres")
    content = lettered("t", 64 * KIB)
    trickled = [await victim.client.create(len(content)) for _ in range(500)]
    honest = [await victim.client.create(6 * MIB) for _ in range(20)]
    async with crowd(victim.client, len(trickled)) as slow:
        for connection, path in zip(slow, trickled, strict=True):
            begin_patch(connection, path, len(content))
        dripping = asyncio.create_task(drip(slow, content, pause=1.0))
        listening = asyncio.create_task(ended(slow, patience=90.0))
        file = lettered("h", 6 * MIB)
        answers = await asyncio.gather(*(victim.client.patch(path, 0, file) for path in honest))
        assert {answer.status for answer in answers} == {204}
        words = await listening
        dripping.cancel()
    assert all(said.startswith(b"HTTP/1.1 503") for said in words)
    for path, said in zip(trickled, words, strict=True):
        kept = await victim.client.offset(path)
        assert 1 <= kept < KIB
        assert b"\r\nUpload-Offset: %d\r\n" % kept in said
    offset = await victim.client.offset(trickled[0])
    assert (await victim.client.patch(trickled[0], offset, content[offset:])).status == 204
    assert await victim.stored(trickled[0]) == content


async def test_a_client_that_never_takes_its_answers_is_disconnected(victim: Rig) -> None:
    """RE-13 for small answers, I15: it would hold its connection for ever, and no keep-alive time-out sees it."""
    before = memory_of(victim.gateway)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        reader.setblocking(False)
        await asyncio.get_running_loop().sock_connect(reader, ("127.0.0.1", victim.gateway.port))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionError):
                await _ask_for_ever(reader)
        assert memory_of(victim.gateway) - before < 64 * MIB
        await victim.until(lambda: not client_connections(victim.gateway), PATIENCE)


async def _ask_for_ever(reader: socket.socket) -> None:
    requests = b"OPTIONS /files HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
    while True:
        await asyncio.get_running_loop().sock_sendall(reader, requests)


async def test_stalled_bodies_hold_no_database_connection_and_little_memory(start_victim: StartVictim) -> None:
    """L-2, RE-07: there are two connections to the database, and five hundred requests that are not done."""
    victim = await start_victim({"TUSGATE_DATABASE_CONNECTIONS": "2"}, database="postgres")
    path = await victim.client.create(MIB)
    stalled = [await victim.client.create(MIB) for _ in range(500)]
    before = memory_of(victim.gateway)
    async with crowd(victim.client, len(stalled)) as slow:
        for connection, one in zip(slow, stalled, strict=True):
            begin_patch(connection, one, MIB)
            connection.up.write(bytes(1000))
        claimed = "SELECT id FROM uploads WHERE epoch > 0"
        await victim.until(lambda: len(victim.rows(claimed)) == len(stalled))
        assert (await victim.client.patch(path, 0, bytes(MIB))).status == 204
        heads = await asyncio.gather(*(victim.client.head(one) for one in stalled[:100]))
        assert {head.status for head in heads} == {200}
        assert memory_of(victim.gateway) - before < 100 * MIB
    await victim.until(lambda: {row["upload_offset"] for row in victim.rows("SELECT * FROM uploads")} == {1000, MIB})
