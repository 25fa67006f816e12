"""Many connections at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.wire.client import CT, Connection, V

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.wire.client import Client

PATIENCE = 30.0
"""Seconds after which what has to happen in a few is not expected any more."""


@asynccontextmanager
async def crowd(client: Client, size: int) -> AsyncIterator[list[Connection]]:
    """Open `size` connections; they are closed when the block ends."""
    _allow_open_files(2 * size + 500)
    writers: list[asyncio.StreamWriter] = []
    try:
        connections = []
        for _ in range(size):
            down, up = await asyncio.open_connection("127.0.0.1", client.port)
            writers.append(up)
            connections.append(Connection(down, up))
        yield connections
    finally:
        for up in writers:
            up.close()


def _allow_open_files(wanted: int) -> None:
    """Raise what this process may open, as far as it is let: often that is 1,024 at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def ended(connections: Sequence[Connection], patience: float = PATIENCE) -> list[bytes]:
    """Wait until the server has closed all of them; return what it still said on each."""
    async with asyncio.timeout(patience):
        return await asyncio.gather(*map(_last_words, connections))


async def _last_words(connection: Connection) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):  # it takes nothing back
        while heard := await connection.more():
            said += heard
    return said


def begin_patch(connection: Connection, path: str, size: int, offset: int = 0) -> None:
    """Send the head of a PATCH that announces `size` bytes."""
    fields = {**V, **CT, "Upload-Offset": str(offset), "Content-Length": str(size)}
    connection.send_head("PATCH", path, fields)
