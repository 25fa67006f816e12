"""A server of the benchmark's own, in a thread beside it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

Server = TypeVar("Server")


@contextmanager
def in_a_thread(serving: AbstractAsyncContextManager[Server]) -> Iterator[Server]:
    """Run a server on a loop of its own for as long as this lasts."""
    ready: list[Server] = []
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving as server:
            ready.append(server)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
