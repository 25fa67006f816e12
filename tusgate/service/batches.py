"""Work of many that is done together, without anybody waiting for company."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")


class Batches(Generic[T]):
    """Writes one batch at a time: what comes while it is on its way is the next one.

    So the first to come waits for nobody, and of many at once each waits for two writes at most.

    Args:
        write: writes all items of a batch or none.
        most: items in one batch.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], most: int) -> None:
        self._write = write
        self._most = most
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, item: T) -> None:
        """Return when `item` is written. Raises what its batch met; cancelled, it may be written or not."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        await done

    async def close(self) -> None:
        """Give up what waits. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write_all(self) -> None:
        try:
            while batch := self._next_batch():
                await self._write_batch(batch)
        finally:
            self._writer = None
            for _, done in self._waiting:
                done.cancel()
            self._waiting.clear()

    def _next_batch(self) -> list[tuple[T, asyncio.Future[None]]]:
        """Return the next ones that somebody waits for still."""
        wanted = [each for each in self._waiting if not each[1].done()]
        batch, self._waiting = wanted[: self._most], wanted[self._most :]
        return batch

    async def _write_batch(self, batch: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        waiting = [done for _, done in batch]
        try:
            await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 # those who wait are told, whatever it is
            for done in waiting:
                if not done.done():
                    done.set_exception(error)
        else:
            for done in waiting:
                if not done.done():
                    done.set_result(None)
        finally:
            for done in waiting:
                done.cancel()  # does nothing unless this was given up
