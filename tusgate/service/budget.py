"""The budget: the process-wide allowance of upload bytes that may sit in memory.

Every byte between the socket and the store is counted here, so memory is bounded by
`limit + connections x (one small read)`, whatever clients do.

Memory is handed out in arrival order. When it runs short, in this order: cells that are durable already and only
kept warm are dropped; open cells that fill slowly are saved as pieces; else the requests wait, which stops reading
from their sockets, so that TCP pushes back. What is on its way to the store frees itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from tusgate.core import pressure

if TYPE_CHECKING:
    from tusgate.core.pressure import Holding


class Holder(Protocol):
    """A request with an open cell in memory."""

    def holding(self, now: float) -> Holding:
        """Return what saving the open cell would free. `now` is the event loop's clock."""

    def spill(self) -> None:
        """Begin to save the open cell as a piece; its memory counts as leaving from now on."""


class Droppable(Protocol):
    """Memory that may be dropped at any time because its bytes are durable."""

    def drop(self) -> None:
        """Forget the bytes; the budget has counted them as free already."""


class Budget:
    """Bytes that may be held, in `limit`.

    A single request for more than `limit` bytes at once is granted when nothing else is held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.leaving = 0
        """Bytes on their way to the store: they will be given back without anybody's help."""
        self.peak = 0
        self._holders: set[Holder] = set()
        self._warm: OrderedDict[Droppable, int] = OrderedDict()
        self._waiting: deque[tuple[float, int, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_short(self) -> bool:
        """Whether memory is so scarce that it should be asked for before a socket is read."""
        return bool(self._waiting) or self.used > pressure.EAGER_LEVEL * self.limit

    def try_take(self, size: int) -> bool:
        """Take `size` bytes now if that keeps the order of arrival; the fast path of every chunk."""
        if self._waiting or not self._fits(size):
            return False
        self._grant(size)
        return True

    async def take(self, size: int) -> None:
        """Take `size` bytes, waiting in line when they are not free. Cancelled: nothing is taken."""
        if self.try_take(size):
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        entry = (loop.time(), size, turn)
        self._waiting.append(entry)
        if self._timer is None:
            self._relieve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                with suppress(ValueError):  # `_admit` may have met it already
                    self._waiting.remove(entry)
                self._admit()
            raise

    def force(self, size: int) -> None:
        """Take `size` bytes that are in memory already; the limit may be passed by that much."""
        self.used += size
        self.peak = max(self.peak, self.used)

    def give(self, size: int, *, left: bool = False) -> None:
        """Give `size` bytes back; `left` when they had been announced by `leave`."""
        self.used -= size
        if left:
            self.leaving -= size
        self._admit()

    def leave(self, size: int) -> None:
        """Announce that `size` held bytes are on their way to the store."""
        self.leaving += size

    def enter(self, holder: Holder) -> None:
        """Register an open cell as one that can be asked to save what it has."""
        self._holders.add(holder)

    def exit(self, holder: Holder) -> None:
        """Take an open cell off the list. Idempotent."""
        self._holders.discard(holder)

    def keep_warm(self, cell: Droppable, size: int) -> None:
        """Register `size` held bytes that may be dropped at any time."""
        self._warm[cell] = size

    def chill(self, cell: Droppable) -> None:
        """Take warm bytes off the list; they stay held. Idempotent."""
        self._warm.pop(cell, None)

    def _fits(self, size: int) -> bool:
        if self.used + size <= self.limit or self.used == 0:
            return True
        self._drop_warm(self.used + size - self.limit)
        return self.used + size <= self.limit or self.used == 0

    def _grant(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)
        if self.used > pressure.EAGER_LEVEL * self.limit and self._timer is None:
            self._relieve()

    def _drop_warm(self, wanted: int) -> None:
        while wanted > 0 and self._warm:
            cell, size = self._warm.popitem(last=False)
            self.used -= size
            wanted -= size
            cell.drop()

    def _admit(self) -> None:
        """Serve the line from its head as far as the memory goes."""
        while self._waiting:
            _, size, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if not self._fits(size):
                return
            self._waiting.popleft()
            self.used += size
            self.peak = max(self.peak, self.used)
            turn.set_result(None)

    def _relieve(self) -> None:
        """Ask slow cells to save what they have, now and again while memory is short."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        waited = now - self._waiting[0][0] if self._waiting else 0.0
        warm = sum(self._warm.values())
        wanted = pressure.excess(self.limit, self.used - self.leaving - warm, waited)
        if wanted:
            holders = list(self._holders)
            holdings = [holder.holding(now) for holder in holders]
            for index in pressure.choose(holdings, wanted, only_slow=self.leaving > 0):
                holders[index].spill()
        if self._waiting or self.used > pressure.EAGER_LEVEL * self.limit:
            self._timer = loop.call_later(pressure.PATIENCE / 4, self._relieve)
