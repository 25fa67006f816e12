"""The body reader against a real aiohttp server and raw sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tusgate.core.errors import ClientGone, ClientStalled, Draining
from tusgate.web.body import BodyWatch, RequestBody, leave_expect_to_the_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handle = Callable[[RequestBody], Awaitable[None]]

PLAIN = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Reader:
    """A server that reads bodies to their end and notes what it saw."""

    watch: BodyWatch = field(default_factory=lambda: BodyWatch(30.0, 1024, 60.0))
    port: int = 0
    chunks: list[bytes] = field(default_factory=list)
    error: BaseException | None = None
    body: RequestBody | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        with RequestBody(request, self.watch) as body:
            self.body = body
            self.opened.set()
            await self.may_read.wait()
            try:
                while chunk := await body.read():
                    async with self.arrived:
                        self.chunks.append(chunk)
                        self.arrived.notify_all()
            except Exception as error:  # noqa: BLE001 # noted for the test
                self.error = error
        self.done.set()
        return web.Response(text="answer")

    async def has(self, expected: bytes) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: b"".join(self.chunks) == expected)

    async def is_waiting(self) -> None:
        while self.body is None or not self.body.is_waiting:  # noqa: ASYNC110 # it is one turn of the loop away
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(reader: Reader) -> AsyncIterator[Reader]:
    app = web.Application()
    app.router.add_route("*", "/", reader.handle, expect_handler=leave_expect_to_the_body)
    runner = web.AppRunner(app, auto_decompress=False, read_bufsize=65536, lingering_time=2.0, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader.port = site.port
    try:
        yield reader
    finally:
        reader.may_read.set()
        reader.watch.close()
        await runner.cleanup()


@pytest.fixture
async def reader():
    async with serving(Reader()) as running:
        running.may_read.set()
        yield running


@pytest.fixture
async def held():
    """A server that opens bodies but reads nothing until `may_read` is set."""
    async with serving(Reader()) as running:
        yield running


@asynccontextmanager
async def connected(reader: Reader) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    down, up = await asyncio.open_connection("127.0.0.1", reader.port)
    try:
        yield down, up
    finally:
        up.close()


async def test_a_body_is_read_to_its_end(reader):
    payload = bytes(range(256)) * 20_000
    async with connected(reader) as (down, up):
        up.write(PLAIN % len(payload) + payload)
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
    assert b"".join(reader.chunks) == payload
    assert reader.body.size == len(payload)


async def test_a_chunked_body_is_read_to_its_end_and_has_no_announced_size(reader):
    async with connected(reader) as (down, up):
        up.write(CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n")
        await down.readuntil(b"answer")
    assert b"".join(reader.chunks) == b"hello world"
    assert reader.body.size is None


async def test_a_request_without_a_body_is_empty(reader):
    async with connected(reader) as (down, up):
        up.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        await down.readuntil(b"answer")
    assert reader.chunks == []
    assert reader.body.size == 0


async def test_the_connection_serves_the_next_request_after_a_body(reader):
    async with connected(reader) as (down, up):
        for _ in range(3):
            up.write(PLAIN % 300_000 + bytes(300_000))
            await down.readuntil(b"answer")
    assert sum(map(len, reader.chunks)) == 900_000


@pytest.mark.parametrize("sent", [0, 5, 30_000])
async def test_a_client_that_has_left_is_noticed_before_its_body_is_read(held, sent):
    """I6: nobody reads from a paused socket, so only the kernel knows."""
    async with connected(held) as (_, up):
        up.write(PLAIN % 300_001 + bytes(sent))
        await held.opened.wait()
        assert not held.body.is_abandoned
        up.write_eof()
        while not held.body.is_abandoned:  # noqa: ASYNC110 # the kernel tells nobody
            await asyncio.sleep(0)
    held.may_read.set()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_breaks_is_client_gone_after_what_arrived(reader, reset):
    async with connected(reader) as (_, up):
        up.write(PLAIN % 100 + b"first bytes")
        await reader.has(b"first bytes")
        if reset:
            up.transport.abort()
    await reader.done.wait()
    assert type(reader.error) is ClientGone


async def test_bytes_that_arrived_before_the_first_read_survive_a_connection_that_broke_meanwhile(held):
    async with connected(held) as (_, up):
        up.write(PLAIN % 100 + b"early bytes")
        await held.opened.wait()
    held.may_read.set()
    await held.done.wait()
    assert b"".join(held.chunks) == b"early bytes"
    assert type(held.error) is ClientGone


async def test_a_client_that_is_not_read_is_held_back_by_tcp(held):
    async with connected(held) as (_, up):
        up.write(PLAIN % 200_000_000)
        await held.opened.wait()
        up.write(bytes(32_000_000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await up.drain()
        assert held.body.received < 300_000
        up.transport.abort()


@pytest.mark.spec("PATCH-19")
async def test_100_continue_goes_out_with_the_first_read_and_not_before(held):
    async with connected(held) as (down, up):
        up.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await held.opened.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await down.read(1)
        held.may_read.set()
        assert await down.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        up.write(b"hello")
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
    assert held.chunks == [b"hello"]


async def test_100_continue_is_left_out_when_the_client_did_not_wait_for_it(reader):
    async with connected(reader) as (down, up):
        up.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")


async def test_an_interrupt_wakes_a_pending_read_and_the_client_still_gets_its_answer(reader):
    async with connected(reader) as (down, up):
        up.write(PLAIN % 100 + b"some")
        await reader.has(b"some")
        await reader.is_waiting()
        first = Draining()
        reader.body.interrupt(first)
        reader.body.interrupt(ClientStalled())
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
        assert reader.error is first
        with pytest.raises(Draining):
            await reader.body.read()


async def test_whatever_it_is_interrupted_with_is_what_the_read_raises(reader):
    async with connected(reader) as (down, up):
        up.write(PLAIN % 100 + b"some")
        await reader.has(b"some")
        await reader.is_waiting()
        failure = OSError("of a store")
        reader.body.interrupt(failure)
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
        assert reader.error is failure


async def test_an_interrupt_between_reads_stops_the_next_one(held):
    async with connected(held) as (down, up):
        up.write(PLAIN % 100 + b"some")
        await held.opened.wait()
        held.body.interrupt(Draining())
        held.may_read.set()
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
        assert type(held.error) is Draining


async def test_malformed_framing_in_the_middle_of_a_body_ends_it(reader):
    async with connected(reader) as (_, up):
        up.write(CHUNKED + b"5\r\nhello\r\n")
        await reader.has(b"hello")
        up.write(b"XX\r\nnot a size")
        async with asyncio.timeout(10):
            await reader.done.wait()
    assert type(reader.error) is ClientGone


@pytest.mark.spec("PATCH-14")
async def test_a_body_that_brings_no_byte_for_the_idle_time_is_stalled(reader):
    async with connected(reader) as (_, up):
        up.write(PLAIN % 100 + b"some")
        await reader.has(b"some")
        await reader.is_waiting()
        for _ in range(30):
            reader.watch.look(1.0)
        assert not reader.done.is_set()
        reader.watch.look(1.0)
        await reader.done.wait()
    assert type(reader.error) is ClientStalled


async def test_a_trickle_below_the_minimum_rate_is_stalled(reader):
    async with connected(reader) as (_, up):
        up.write(PLAIN % 10_000)
        sent = b""
        while reader.error is None and len(sent) < 100:
            up.write(b"x")
            sent += b"x"
            await reader.has(sent)
            await reader.is_waiting()
            reader.watch.look(1.0)
            await asyncio.sleep(0)
        await reader.done.wait()
    assert type(reader.error) is ClientStalled
    assert len(sent) == 60


async def test_a_slow_body_above_the_minimum_rate_goes_on(reader):
    async with connected(reader) as (down, up):
        up.write(PLAIN % (150 * 1100))
        sent = b""
        for _ in range(150):
            up.write(b"x" * 1100)
            sent += b"x" * 1100
            await reader.has(sent)
            reader.watch.look(1.0)
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
    assert reader.error is None


async def test_time_in_which_the_client_waits_for_us_does_not_count_against_it(held):
    async with connected(held) as (down, up):
        up.write(PLAIN % 5)
        await held.opened.wait()
        for _ in range(500):
            held.watch.look(1.0)
        held.may_read.set()
        up.write(b"hello")
        assert (await down.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
    assert held.error is None
