"""Bodies read straight from the socket: whole, cut, silent, and no byte of what lies behind them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tusgate.s3.bulk import READ_SIZE, BulkReader
from tusgate.s3.errors import Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA = random.Random(3).randbytes(3 * READ_SIZE + 12_345)


class Former(asyncio.Protocol):
    """Has the connection first."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def reading(size: int, patience: float = 30.0) -> AsyncIterator[tuple[BulkReader, socket.socket, Former]]:
    """Give a reader of so many bytes, and the other end of its connection."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    there.setblocking(False)
    transport, former = await loop.create_connection(Former, sock=here)
    transport.pause_reading()
    try:
        yield BulkReader(transport, size, patience), there, former
    finally:
        transport.abort()
        there.close()


async def test_a_body_comes_whole_and_what_lies_behind_it_is_left_alone() -> None:
    async with reading(len(DATA)) as (reader, there, _):
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(there, DATA + b"HTTP/1.1 200"))
        got: list[bytes] = []
        await take_all(reader, got)
        assert b"".join(got) == DATA
        assert max(map(len, got)) <= READ_SIZE
        await sending
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [0, 1, len(DATA) - 1])
async def test_a_body_that_is_cut_is_no_body(sent: int) -> None:
    async with reading(len(DATA)) as (reader, there, former):
        sending = asyncio.create_task(send_and_close(there, DATA[:sent]))
        got: list[bytes] = []
        with pytest.raises(Transient):
            await take_all(reader, got)
        assert b"".join(got) == DATA[:sent]
        await sending
        with pytest.raises(Transient):
            await reader.read()
        await asyncio.wait_for(former.lost.wait(), 30)  # whoever counts connections is told


async def take_all(reader: BulkReader, got: list[bytes]) -> None:
    while chunk := await reader.read():
        got.append(chunk)


async def send_and_close(there: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(there, data)
    there.close()


async def test_a_connection_that_falls_silent_is_given_up() -> None:
    async with reading(10, patience=0.01) as (reader, there, _):
        there.send(b"abc")
        assert await reader.read() == b"abc"
        with pytest.raises(Transient):
            await reader.read()


async def test_nothing_is_read_before_somebody_asks() -> None:
    """A slow reader costs what it was given last; the rest waits in the kernel, and then at the sender."""
    async with reading(len(DATA)) as (reader, there, _):
        there.send(b"abc")
        assert await reader.read() == b"abc"
        there.send(b"def")
        for _ in range(10):
            await asyncio.sleep(0)
        assert reader._left == len(DATA) - 3
        assert await reader.read() == b"def"


async def test_a_reader_who_gives_up_loses_nothing_silently() -> None:
    async with reading(len(DATA)) as (reader, there, _):
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        waiting.cancel()
        there.send(b"abc")
        await asyncio.gather(waiting, return_exceptions=True)
        with contextlib.suppress(Transient):
            assert await reader.read() == b"abc"
