"""The service wired over the doubles, as the application wires it over the real ports, in virtual time.

On a small scale a few hundred bytes do what gigabytes do in production.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.doubles.database import MemoryDatabase
from tests.doubles.faults import Faults
from tests.doubles.store import MemoryStore
from tusgate.core import grid
from tusgate.core.access import Principal
from tusgate.core.errors import ClientGone, ClientStalled
from tusgate.core.lifecycle import Append
from tusgate.core.model import CreatedVia, Role, Scope, State, Upload
from tusgate.core.naming import PIECES
from tusgate.service import cell, intake
from tusgate.service.budget import Budget
from tusgate.service.completion import Completion
from tusgate.service.expirer import OwnClocks
from tusgate.service.intake import IntakeTools
from tusgate.service.jobs import JobRules, Jobs
from tusgate.service.ledger import Expiry
from tusgate.service.stores import Stores
from tusgate.service.uploads import Creation, UploadRules, Uploads
from tusgate.service.warm import WarmCells
from tusgate.service.writers import Writers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tusgate.core.checksum import Checksum
    from tusgate.core.concat import GroupWish
    from tusgate.core.grid import PartLimits
    from tusgate.core.model import UploadId
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.hooks import Hooks
    from tusgate.service.ledger import Progress
    from tusgate.service.tenants import Tenants

SCOPE = Scope()
PRINCIPAL = Principal(scope=SCOPE)
LIFETIME = 3600.0
GRACE = 600.0
IDLE = 30.0
"""Seconds after which a body that stands still is given up."""


@contextmanager
def small_scale() -> Iterator[None]:
    """Parts of any size, cells above 64 bytes assembled from pieces of 32, chunks below 4 bytes gathered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIB", 1)
        patch.setattr(grid, "LADDER_CELLS", 4)
        patch.setattr(grid, "LADDER_SIZES", (8, 32, 128, 512, 2048))
        patch.setattr(grid, "EQUAL_DEFERRED_SIZE", 64)
        patch.setattr(grid, "ASSEMBLE_ABOVE", 64)
        patch.setattr(grid, "PIECE_SIZE", 32)
        patch.setattr(cell, "SMALL_CHUNK", 4)
        patch.setattr(cell, "SMALL_BUFFER", 9)
        patch.setattr(intake, "FIRST_CHUNK", 16)
        yield


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Sender:
    """The body of one request.

    Args:
        data: what is to be sent.
        chunks: sizes of the chunks that it arrives in, over and over.
        cut: bytes after which the connection breaks; None: it does not.
        chunked: the size is not announced.
        pause: seconds before each chunk.
        stop: bytes after which nothing comes until `go_on` or `break_off`; after `IDLE` seconds it counts as stalled.
    """

    def __init__(
        self,
        data: bytes,
        chunks: Sequence[int] = (7,),
        *,
        cut: int | None = None,
        chunked: bool = False,
        pause: float = 0.0,
        stop: int | None = None,
    ) -> None:
        self.size = None if chunked else len(data)
        self.arrived = 0
        self.is_abandoned = False
        self._rest = data if cut is None else data[:cut]
        self.is_cut = cut is not None
        self._sizes = cycle(chunks)
        self._pause = pause
        self._before_stop = stop
        self._going = asyncio.Event()
        self._error: Exception | None = None
        self._awake = asyncio.Event()

    async def read(self, paid: int = 0) -> bytes:
        if self._before_stop == 0:
            await self._stand_still()
        asyncio.get_running_loop().call_later(self._pause, self._awake.set)
        await self._awake.wait()
        self._awake.clear()
        if self._error is not None:
            raise self._error
        if not self._rest and self.is_cut:
            raise ClientGone
        size = next(self._sizes)
        if self._before_stop is not None:
            size = min(size, self._before_stop)
            self._before_stop -= size
        chunk, self._rest = self._rest[:size], self._rest[size:]
        self.arrived += len(chunk)
        return chunk

    def interrupt(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._awake.set()
            self._going.set()

    def go_on(self) -> None:
        """Send the rest after a stop."""
        self._going.set()

    def break_off(self) -> None:
        """Break the connection."""
        self.interrupt(ClientGone())

    async def _stand_still(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE):
                await self._going.wait()
        self._before_stop = None
        if not self._going.is_set():
            raise ClientStalled


class Ground(Protocol):
    """What a process stands on."""

    @property
    def part_size(self) -> int: ...

    @property
    def database(self) -> Database: ...

    @property
    def store(self) -> ObjectStore: ...

    @property
    def others(self) -> Mapping[str, ObjectStore]: ...


@dataclass
class World:
    """What outlives a process: the database, the store and the time. Made inside the virtual loop.

    Attributes:
        disorder: seed of the delays by which writes overtake each other; None: they do not.
    """

    part_size: int = 10
    disorder: int | None = None
    completes_all_parts: bool = False
    bandwidth: float | None = None
    limits: PartLimits | None = None
    copies_parts: bool = True
    database: MemoryDatabase = field(init=False)
    store: MemoryStore = field(init=False)
    others: dict[str, ObjectStore] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = MemoryDatabase(asyncio.get_running_loop().time)
        chance = random.Random(self.disorder)
        self.store = MemoryStore(
            bandwidth=self.bandwidth,
            delay=None if self.disorder is None else lambda: chance.uniform(0, 0.1),
            completes_all_parts=self.completes_all_parts,
            limits=self.limits,
            copies_parts=self.copies_parts,
        )

    def process(self, faults: Faults | None = None, **settings: Any) -> Process:
        return Process(self, faults or Faults(), **settings)

    def body_of(self, upload: Upload) -> bytes:
        """Return the finished object."""
        return self.store.objects[upload.object_key].data

    @property
    def pieces(self) -> list[str]:
        """Keys of the piece objects that are in the store."""
        return [key for key in self.store.objects if key.startswith(PIECES)]

    async def settle(self) -> None:
        """Let a fresh process finish, expire and clean up everything there is to, for as long as it may take."""
        process = self.process(holder="janitor")
        for _ in range(4):
            await process.jobs.finish_abandoned()
            await asyncio.sleep(60)
        await asyncio.sleep(LIFETIME + 1)
        await process.jobs.expire()
        for _ in range(4):
            await asyncio.sleep(GRACE + 1)
            await process.jobs.collect_garbage()
        await process.completion.stop()

    async def leaks(self) -> list[str]:
        """Return what is in the store and belongs to no complete upload."""
        kept = {row.upload.object_key for row in self.database._rows.values() if row.upload.state is State.COMPLETE}
        return [key for key in self.store.objects if key not in kept] + list(self.store.multiparts)


class Process:
    """One process of the gateway."""

    def __init__(
        self,
        world: Ground,
        faults: Faults,
        *,
        budget: int = 1000,
        parts_in_flight: int = 3,
        inline_max: int = 3,
        warm_ttl: float = 0.0,
        max_size: int | None = None,
        finish_wait: float = 25.0,
        holder: str = "process",
        tenants: Tenants | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.world = world
        self.faults = faults
        self.budget = Budget(budget)
        database, store = faults.database(world.database), faults.store(world.store)
        self.tools = IntakeTools(
            database=database,
            store=store,
            budget=self.budget,
            warm=WarmCells(self.budget, warm_ttl),
            parts_in_flight=parts_in_flight,
            piece_inline_max=inline_max,
            max_size=max_size,
            expiry=Expiry(lifetime=LIFETIME, max_age=None),
        )
        self.writers = Writers()
        self.stores = Stores(store, {name: faults.store(other) for name, other in world.others.items()})
        self.completion = Completion(database, self.stores, holder, tenants, hooks)
        rules = UploadRules(
            part_size=world.part_size, key_template="{id}/{filename}", finish_wait=finish_wait, holder=holder
        )
        self.uploads = Uploads(
            self.tools,
            self.writers,
            self.completion,
            rules,
            lambda: datetime(2026, 1, 2, tzinfo=UTC),
            stores=self.stores,
            tenants=tenants,
            hooks=hooks,
        )
        clocks = OwnClocks(steady=asyncio.get_running_loop().time)
        self.jobs = Jobs(database, self.stores, self.completion, JobRules(intent_grace=GRACE, resume_pause=0.0), clocks)

    async def create(
        self,
        length: int | None,
        source: Sender | None = None,
        checksum: Checksum | None = None,
        *,
        via: CreatedVia = CreatedVia.TUS,
        ends: bool = False,
        progress: Progress | None = None,
        role: Role | None = None,
        group: GroupWish | None = None,
    ) -> Upload:
        creation = Creation(
            created_via=via,
            length=length,
            metadata=None,
            filename="a.bin",
            content_type=None,
            checksum=checksum,
            ends=ends,
            role=role,
            group=group,
        )
        return await self.uploads.create(PRINCIPAL, creation, source, progress)

    async def partial(self, data: bytes, group: GroupWish | None = None) -> Upload:
        """Return a finished partial."""
        partial = await self.create(len(data), role=Role.PARTIAL, group=group)
        return await self.append(partial, Sender(data)) if data else partial

    async def concatenate(self, *partials: Upload, metadata: bytes | None = None) -> Upload:
        creation = Creation(
            created_via=CreatedVia.TUS, length=None, metadata=metadata, filename="b.bin", content_type=None
        )
        ids = [partial.id for partial in partials]
        return await self.uploads.concatenate(PRINCIPAL, creation, "final;" + " ".join(ids), ids)

    async def append(
        self,
        upload: Upload,
        source: Sender,
        *,
        offset: int | None = None,
        length: int | None = None,
        checksum: Checksum | None = None,
        ends: bool = False,
        progress: Progress | None = None,
    ) -> Upload:
        """Send `source` at `offset`, by default where the upload stands as `upload` shows it."""
        at = upload.offset if offset is None else offset
        append = Append(offset=at, size=source.size, length=length, ends=ends, via=upload.created_via)
        return await self.uploads.append(PRINCIPAL, upload.id, append, source, checksum, progress)

    async def committed(self, upload_id: UploadId) -> Upload:
        """Return what the database holds, without anybody's help."""
        return await self.world.database.get(SCOPE, upload_id)
