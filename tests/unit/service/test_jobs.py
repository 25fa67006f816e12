"""What runs beside the requests: expiry, garbage, and loops that survive errors."""

from __future__ import annotations

import asyncio

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import GRACE, LIFETIME, SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable, UploadGone
from tusgate.core.model import State

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)


def test_an_upload_that_nobody_continues_expires_and_leaves_nothing() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(57), Sender(DATA[:38]))
        await asyncio.sleep(LIFETIME - 1)
        assert await process.jobs.expire() == 0
        await asyncio.sleep(2)
        assert await process.jobs.expire() == 1
        with pytest.raises(UploadGone):
            await process.uploads.head(SCOPE, upload.id)
        await world.settle()
        assert await world.leaks() == []
        assert world.database.all_garbage() == []

    run(work())


def test_a_writer_whose_upload_expires_under_it_is_gone_and_leaves_nothing() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.create(57)
        sending = asyncio.create_task(process.append(upload, Sender(DATA, (2,), pause=LIFETIME / 4)))
        await asyncio.sleep(LIFETIME + 1)
        assert await process.jobs.expire() == 1
        with pytest.raises(UploadGone):
            await sending
        await world.settle()
        assert await world.leaks() == []

    run(work())


@pytest.mark.parametrize("call", ["delete_objects", "abort_multipart", "drop_garbage"])
def test_what_cannot_be_removed_now_is_removed_later(call: str) -> None:
    async def work() -> None:
        world = World()
        upload = await world.process().append(await world.process().create(57), Sender(DATA[:38]))
        await world.process().uploads.terminate(SCOPE, upload.id)
        faults = Faults()
        faults.add(call, StoreUnavailable)
        process = world.process(faults)
        await asyncio.gather(process.jobs.collect_garbage(), return_exceptions=True)
        assert world.database.all_garbage() != []
        await asyncio.sleep(61)
        await process.jobs.collect_garbage()
        assert await world.leaks() == []
        await world.settle()
        assert world.database.all_garbage() == []

    run(work())


def test_an_object_is_not_deleted_before_the_multipart_upload_that_could_make_it_again() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(57), Sender(DATA[:30]))
        await process.uploads.terminate(SCOPE, upload.id)
        faults = Faults()
        faults.add("abort_multipart", StoreUnavailable, times=3)
        collector = world.process(faults)
        for _ in range(3):
            await collector.jobs.collect_garbage()
            assert upload.object_key in {
                garbage.key for garbage in world.database.all_garbage() if not garbage.multipart
            }
            await asyncio.sleep(120)
        assert await collector.jobs.collect_garbage() == 2
        assert world.store.multiparts == {}

    run(work())


def test_many_collectors_at_once_do_not_get_into_each_others_way() -> None:
    async def work() -> None:
        world = World()
        processes = [world.process() for _ in range(3)]
        for _ in range(4):
            upload = await processes[0].append(await processes[0].create(57), Sender(DATA[:38]))
            await processes[0].uploads.terminate(SCOPE, upload.id)
        await asyncio.gather(*(process.jobs.collect_garbage() for process in processes))
        await asyncio.sleep(GRACE + 61)
        await asyncio.gather(*(process.jobs.collect_garbage() for process in processes))
        assert await world.leaks() == []
        assert world.database.all_garbage() == []

    run(work())


def test_the_jobs_of_a_process_run_by_themselves_and_survive_any_error() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        for call in ("expire", "due_garbage", "claim_sealed"):
            faults.add(call, DatabaseUnavailable, nth=1)
            faults.add(call, lambda: ValueError("a bug"), nth=3)
        process = world.process(faults)
        upload = await process.append(await process.create(57), Sender(DATA[:38]))
        process.jobs.start()
        await asyncio.sleep(LIFETIME + GRACE + 300)
        await process.jobs.stop()
        assert (await process.committed(upload.id)).state is State.EXPIRED
        assert await world.leaks() == []
        before = len(faults.calls)
        await asyncio.sleep(1000)
        assert len(faults.calls) == before

    run(work())
