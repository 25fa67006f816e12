"""What is done about reading behind everybody's back: ends that are written down, rows that are forgotten, digests."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.contract.database_rig import a_writer
from tests.contract.test_access_log import an_access
from tests.contract.test_keeping import completed
from tests.contract.test_share_store import a_new_share
from tests.doubles.database import MemoryDatabase
from tests.doubles.store import MemoryStore
from tests.unit.service.rig import Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.audit import Ending, How
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable, UploadNotFound
from tusgate.core.model import Keeping
from tusgate.ports import ObjectStore
from tusgate.service.audit import RETRY_AFTER, Audit
from tusgate.service.completion import Completion
from tusgate.service.digests import LEASE, Digester
from tusgate.service.jobs import HASTE, JobRules, Jobs
from tusgate.service.stores import Stores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Any

    from tusgate.core.audit import Access, EndedAccess, NewAccess
    from tusgate.core.model import Upload


class AwayFor(MemoryDatabase):
    """A database that writes down no end until so many tries have failed."""

    failing = 0

    async def end_accesses(self, ended: Sequence[EndedAccess]) -> None:
        if self.failing:
            self.failing -= 1
            raise DatabaseUnavailable("away")
        await super().end_accesses(ended)


def a_database() -> AwayFor:
    return AwayFor(asyncio.get_running_loop().time)


async def begun(audit: Audit, file: Upload) -> NewAccess:
    access = await audit.begin(file, reader="a", proof="open", how=How.CONTENT, client=None, part=(0, 10))
    assert access is not None
    return access


async def only(database: MemoryDatabase, file: Upload) -> Access:
    (row,) = await database.list_accesses(file.scope, file.id, None, 10)
    return row


@pytest.mark.parametrize("failing", range(len(RETRY_AFTER) + 1))
def test_an_end_is_written_down_when_the_database_is_back(failing: int) -> None:
    async def work() -> None:
        database = a_database()
        audit, file = Audit(database, is_kept=True), await completed(database, Keeping())
        access = await begun(audit, file)
        database.failing = failing
        audit.end(access, 7)
        await asyncio.sleep(sum(RETRY_AFTER) + 1)
        row = await only(database, file)
        assert (row.ending, row.sent) == (Ending.BROKEN, 7)

    run(work())


def test_an_end_that_cannot_be_written_down_is_told_and_the_access_stays() -> None:
    async def work() -> None:
        database = a_database()
        audit, file = Audit(database, is_kept=True), await completed(database, Keeping())
        access = await begun(audit, file)
        database.failing = 100
        with structlog.testing.capture_logs() as logs:
            audit.end(access, 10)
            await asyncio.sleep(sum(RETRY_AFTER) + 1)
        assert [entry["event"] for entry in logs] == ["access.unfinished"]
        assert (await only(database, file)).ending is Ending.STARTED

    run(work())


def test_a_process_that_ends_waits_a_moment_for_what_is_being_written_down() -> None:
    async def work() -> None:
        database = a_database()
        audit, file = Audit(database, is_kept=True), await completed(database, Keeping())
        access = await begun(audit, file)
        database.failing = 1
        audit.end(access, 10)
        await audit.close()
        assert (await only(database, file)).ending is Ending.DONE

        database.failing = 100
        audit.end(await begun(audit, file), 10)
        before = asyncio.get_running_loop().time()
        await audit.close()
        assert asyncio.get_running_loop().time() - before < 3
        await audit.close()

    run(work())


def test_old_rows_are_forgotten_many_of_them_in_small_steps() -> None:
    async def work() -> None:
        database = a_database()
        file = await completed(database, Keeping())
        for _ in range(25):
            await database.begin_accesses([an_access(file)])
        share = await database.create_share(a_new_share(file))
        await database.revoke_share(file.scope, file.id, share.id)
        stores = Stores[ObjectStore](MemoryStore())
        rules = JobRules(batch=10, share_memory=100.0, access_memory=50.0)
        jobs = Jobs(database, stores, Completion(database, stores, "x"), rules, reading=database)
        assert await jobs.forget() == 0
        await asyncio.sleep(60)
        assert await jobs.forget() == 25
        assert await database.list_shares(file.scope, file.id)
        await asyncio.sleep(60)
        assert await jobs.forget() == 1
        assert await database.list_shares(file.scope, file.id) == []
        assert HASTE * rules.batch > 25

    run(work())


def test_uploads_that_have_ended_are_forgotten_where_that_is_wanted() -> None:
    async def work() -> None:
        database = a_database()
        upload = await database.fail(await a_writer(database), "broken")
        stores = Stores[ObjectStore](MemoryStore())
        await asyncio.sleep(60)
        for rules, forgotten in ((JobRules(), 0), (JobRules(ended_memory=100.0), 0), (JobRules(ended_memory=50.0), 1)):
            assert await Jobs(database, stores, Completion(database, stores, "x"), rules).forget() == forgotten
        with pytest.raises(UploadNotFound):
            await database.get(upload.scope, upload.id)

    run(work())


def test_a_log_that_is_no_longer_wanted_is_forgotten_whole() -> None:
    async def work() -> None:
        database = a_database()
        file = await completed(database, Keeping())
        await database.begin_accesses([an_access(file)])
        stores = Stores[ObjectStore](MemoryStore())
        jobs = Jobs(database, stores, Completion(database, stores, "x"), JobRules(), reading=database)
        assert await jobs.forget() == 1
        assert await database.list_accesses(file.scope, file.id, None, 10) == []

    run(work())


def test_a_file_that_is_read_for_long_is_not_taken_by_another_meanwhile() -> None:
    """Each chunk takes half a minute; together they take several leases."""

    async def work() -> None:
        world = World()
        process = world.process()
        data = some_bytes(57)
        upload = await process.create(57)
        finished = await process.append(upload, Sender(data))
        row = world.database._rows[finished.id]
        row.digest_due = 0.0
        slow = SlowStore(world.store)
        reading = asyncio.create_task(Digester(world.database, Stores[ObjectStore](slow)).run())
        for _ in range(20):
            await asyncio.sleep(LEASE / 5)
            assert reading.done() or await world.database.claim_undigested(LEASE, 1) == []
        assert await reading == 1
        found = await world.database.get(finished.scope, finished.id)
        assert found.sha256 == hashlib.sha256(data).digest()

    run(work())


class SlowStore:
    """Gives a few bytes at a time, each time after half a minute."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, *arguments: Any, **named: Any) -> AsyncGenerator[bytes]:
        whole = b"".join([chunk async for chunk in self._store.read(*arguments, **named)])
        for start in range(0, len(whole), 6):
            await asyncio.sleep(30)
            yield whole[start : start + 6]


def test_a_store_that_fails_leaves_the_file_to_be_read_later() -> None:
    async def work() -> None:
        database = a_database()
        file = await completed(database, Keeping(digests=True))

        class Failing(SlowStore):
            async def read(self, *arguments: Any, **named: Any) -> AsyncGenerator[bytes]:
                yield b"x"
                raise StoreUnavailable("away")

        assert await Digester(database, Stores[ObjectStore](Failing(None))).run() == 1
        assert await Digester(database, Stores[ObjectStore](Failing(None))).run() == 0
        assert (await database.get(file.scope, file.id)).sha256 is None
        await asyncio.sleep(61)
        assert [each.id for each in await database.claim_undigested(LEASE, 1)] == [file.id]

    run(work())
