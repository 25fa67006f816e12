"""The memory policy, with simulated clients in virtual time: bound, no deadlock, fairness."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.doubles.database import MemoryDatabase
from tests.doubles.store import MemoryStore
from tests.virtual_time import run
from tusgate.core.errors import ClientStalled
from tusgate.core.grid import MIB, PartLimits, grid_for
from tusgate.core.model import CreatedVia, NewUpload, ObjectKey, Scope, UploadId
from tusgate.service.budget import Budget
from tusgate.service.intake import Intake, IntakeTools
from tusgate.service.ledger import Expiry
from tusgate.service.warm import WarmCells

if TYPE_CHECKING:
    from collections.abc import Coroutine

CHUNK = bytes(16 * 1024)
PART_SIZE = 8 * MIB


@dataclass
class RatedClient:
    """A client that has `rate` bytes per second to send, and a socket buffer of `window` bytes."""

    rate: float
    total: int
    window: int = 256 * 1024
    size: int | None = None
    sent: int = 0
    produced: float = 0.0
    updated: float = field(default=0.0)

    async def read(self, paid: int = 0) -> bytes:
        loop = asyncio.get_running_loop()
        if not self.updated:
            self.updated = loop.time()
        if self.sent >= self.total:
            return b""
        self._produce(loop.time())
        lacking = len(CHUNK) - self.produced
        if lacking > 0:
            await asyncio.sleep(lacking / self.rate)
            self._produce(loop.time())
        self.produced -= len(CHUNK)
        self.sent += len(CHUNK)
        return CHUNK

    def _produce(self, now: float) -> None:
        # What does not fit into the socket buffer was not sent in time: the client has lost that part of its rate.
        self.produced = min(self.produced + (now - self.updated) * self.rate + 1e-6, self.window)
        self.updated = now

    @property
    def is_abandoned(self) -> bool:
        return False

    def interrupt(self, error: Exception) -> None:
        raise error


async def stalled(upload: Coroutine[None, None, float]) -> None:
    with suppress(ClientStalled):
        await upload


@dataclass
class Endless(RatedClient):
    """A client whose body, of unannounced size, does not end until it is interrupted."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def read(self, paid: int = 0) -> bytes:
        chunk = await super().read(paid)
        if not chunk:
            await self.over.wait()
            assert self.error is not None
            raise self.error
        return chunk

    def interrupt(self, error: Exception) -> None:
        self.error = self.error or error
        self.over.set()


class Simulation:
    """Many intakes on one budget, over a store of a given speed."""

    def __init__(self, budget: int, bandwidth: float) -> None:
        loop = asyncio.get_running_loop()
        self.database = MemoryDatabase(loop.time)
        self.store = MemoryStore(PartLimits(), bandwidth, keep_bytes=False)
        self.budget = Budget(budget)
        self.tools = IntakeTools(
            database=self.database,
            store=self.store,
            budget=self.budget,
            warm=WarmCells(self.budget, 5.0),
            parts_in_flight=4,
            piece_inline_max=64 * 1024,
            max_size=None,
            expiry=Expiry(lifetime=None, max_age=None),
        )

    async def upload(self, client: RatedClient, number: int) -> float:
        """Upload everything that `client` has; return the seconds that it took."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        upload_id = UploadId(f"upload-{number:020d}")
        new = NewUpload(
            id=upload_id,
            scope=Scope(),
            created_via=CreatedVia.TUS,
            length=client.total,
            grid=grid_for(client.total, PART_SIZE, self.store.limits),
            metadata=None,
            filename=None,
            content_type=None,
            object_key=ObjectKey(upload_id),
            epoch=1,
            lifetime=None,
        )
        upload = await self.database.create(new)
        done = await Intake(self.tools, upload, [], [], client, client.total, None, max_size=None).run()
        assert done.offset == client.total
        return loop.time() - begin


@pytest.mark.slow
def test_a_thousand_slow_clients_keep_their_rate_and_a_fast_one_is_not_starved() -> None:
    async def simulate() -> None:
        simulation = Simulation(budget=256 * MIB, bandwidth=400e6)
        slow = [RatedClient(rate=100e3, total=3 * MIB) for _ in range(1000)]
        fast = RatedClient(rate=50e6, total=800 * MIB)
        *slow_times, fast_time = await asyncio.gather(
            *(simulation.upload(client, number) for number, client in enumerate([*slow, fast]))
        )
        assert simulation.budget.peak <= 256 * MIB
        rates = sorted(client.total / seconds for client, seconds in zip(slow, slow_times, strict=True))
        assert rates[0] >= 0.8 * 100e3
        assert fast.total / fast_time >= 0.5 * 50e6
        assert simulation.store.bytes_written <= 2 * sum(client.total for client in [*slow, fast])
        assert simulation.store.pieces_written > 0  # memory was short: else this shows nothing
        assert simulation.budget.used == 0

    run(simulate())


def test_half_filled_cells_of_fast_clients_do_not_wait_for_each_other_for_ever() -> None:
    """Every byte of the budget sits in cells that lack the rest of their part."""

    async def simulate() -> None:
        simulation = Simulation(budget=16 * MIB, bandwidth=400e6)
        clients = [RatedClient(rate=1e9, total=2 * PART_SIZE, window=64 * MIB) for _ in range(12)]
        await asyncio.gather(*(simulation.upload(client, number) for number, client in enumerate(clients)))
        assert simulation.budget.peak <= 16 * MIB
        assert simulation.budget.used == simulation.budget.leaving == 0

    run(simulate())


def test_a_cell_that_lacks_only_the_end_of_the_body_does_not_wait_for_memory_to_see_it() -> None:
    """I15: it cannot become a piece, so that nobody would ever give the memory that it waits for."""

    async def simulate() -> None:
        simulation = Simulation(budget=4 * len(CHUNK) + 1, bandwidth=400e6)
        await simulation.upload(RatedClient(rate=1e6, total=4 * len(CHUNK)), 0)
        assert simulation.budget.used == simulation.budget.leaving == 0

    run(simulate())


def test_clients_that_keep_the_end_of_their_bodies_back_hold_nobody_up() -> None:
    """I15: their cells are full and wait only for the end, before which nothing may complete the upload."""

    async def simulate() -> None:
        simulation = Simulation(budget=4 * PART_SIZE, bandwidth=400e6)
        endless = [Endless(rate=100e6, total=PART_SIZE) for _ in range(12)]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(endless):
                group.create_task(stalled(simulation.upload(client, number)))
                await asyncio.sleep(0.3)
            try:
                async with asyncio.timeout(10):
                    await simulation.upload(RatedClient(rate=10e6, total=PART_SIZE), len(endless))
            finally:
                for client in endless:
                    client.interrupt(ClientStalled())
        assert simulation.budget.used == simulation.budget.leaving == 0
        assert {row.upload.offset for row in simulation.database._rows.values()} == {PART_SIZE}

    run(simulate())


@pytest.mark.parametrize("clients", [1, 8, 200])
def test_memory_stays_within_the_budget_when_the_store_is_slow(clients: int) -> None:
    async def simulate() -> None:
        simulation = Simulation(budget=64 * MIB, bandwidth=20e6)
        senders = [RatedClient(rate=10e6, total=PART_SIZE + MIB, window=64 * MIB) for _ in range(clients)]
        await asyncio.gather(*(simulation.upload(client, number) for number, client in enumerate(senders)))
        assert simulation.budget.peak <= 64 * MIB
        assert simulation.budget.used == simulation.budget.leaving == 0

    run(simulate())


def test_a_slow_store_is_not_burdened_with_pieces_while_fast_clients_wait_for_it() -> None:
    """Writing pieces to a store that is the bottleneck would only make it slower."""

    async def simulate() -> None:
        simulation = Simulation(budget=256 * MIB, bandwidth=50e6)
        clients = [RatedClient(rate=50e6, total=12 * PART_SIZE, window=64 * MIB) for _ in range(8)]
        await asyncio.gather(*(simulation.upload(client, number) for number, client in enumerate(clients)))
        received = sum(client.total for client in clients)
        assert simulation.store.bytes_written <= 1.1 * received

    run(simulate())
