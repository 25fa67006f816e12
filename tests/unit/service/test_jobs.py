"""What runs beside the requests: expiry, garbage, and loops that survive errors."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.contract.database_rig import a_step, a_writer, an_object
from tests.doubles.database import MemoryDatabase
from tests.doubles.faults import Crashed, Faults
from tests.doubles.store import MemoryStore
from tests.unit.service.rig import GRACE, LIFETIME, SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable, UploadGone
from tusgate.core.grid import MIB
from tusgate.core.model import Keeping, ObjectKey, State
from tusgate.core.processing import Chosen, Declared, Processing
from tusgate.ports import ObjectStore
from tusgate.service.completion import Completion
from tusgate.service.jobs import JobRules, Jobs
from tusgate.service.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        assert await collector.jobs.collect_garbage() == 1
        assert world.store.multiparts == {}
        assert await collector.jobs.collect_garbage() == 1
        assert world.store.objects == {}

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
        await world.settle()
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


def test_an_upload_that_goes_on_slowly_for_longer_than_its_expiry_is_never_collected() -> None:
    """GC-02, I10: expiry counts from the last byte, and 18 lifetimes pass while bytes come."""

    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.create(57)
        process.jobs.start()
        while upload.state is State.UPLOADING:
            upload = await process.append(upload, Sender(DATA[upload.offset : upload.offset + 3]))
            await asyncio.sleep(LIFETIME - 60)
        assert (await process.uploads.head(SCOPE, upload.id)).state is State.COMPLETE
        assert world.body_of(upload) == DATA
        await process.jobs.stop()

    run(work())


def test_bytes_that_come_at_the_moment_of_expiry_are_refused_or_kept_for_another_lifetime() -> None:
    """CC-11, I9, I10: the database decides, in one order for all."""

    async def meet(seconds_before: float) -> str:
        world = World(disorder=3)
        process, sweeper = world.process(), world.process(holder="sweeper")
        upload = await process.append(await process.create(57), Sender(DATA[:12]))
        await asyncio.sleep(LIFETIME - seconds_before)
        sending = asyncio.create_task(process.append(upload, Sender(DATA[12:30], (3,), pause=0.01)))
        while not sending.done():
            await asyncio.sleep(0.007)
            await sweeper.jobs.expire()
        if isinstance(sending.exception(), UploadGone):
            assert (await process.committed(upload.id)).state is State.EXPIRED
            await world.settle()
            assert await world.leaks() == []
            return "gone"
        for _ in range(10):
            await asyncio.sleep((LIFETIME - 1) / 10)
            await sweeper.jobs.expire()
        assert (await process.uploads.head(SCOPE, upload.id)).offset == sending.result().offset == 30
        return "kept"

    outcomes = {run(meet(milliseconds / 1000)) for milliseconds in range(-50, 200, 5)}
    assert outcomes == {"gone", "kept"}


def test_an_expired_upload_leaves_the_object_at_its_key_alone_that_no_request_of_its_can_have_made() -> None:
    """GC-11, I10: the database was restored from a backup that is older than the end of the upload."""

    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(57), Sender(DATA[:38]))
        backup = copy.deepcopy(world.database._tables)
        upload = await process.append(upload, Sender(DATA[38:]))
        await asyncio.sleep(60)
        world.database._tables.__dict__.update(backup.__dict__)
        await world.settle()
        assert (await process.committed(upload.id)).state is State.EXPIRED
        assert world.body_of(upload) == DATA

    run(work())


class TestRemovingTwice:
    """I11: what comes back after it was removed, because a request took its time, is removed again."""

    @pytest.mark.parametrize("seconds_late", [1.0, 70.0, GRACE - 5])
    def test_a_piece_that_arrives_again_after_it_was_removed(self, seconds_late: float) -> None:
        async def work() -> None:
            world = World()
            process = world.process()
            upload = await process.append(await process.create(57), Sender(DATA[:6]))
            (key,) = world.pieces
            late = world.store.objects[ObjectKey(key)]
            await process.append(upload, Sender(DATA[6:]))
            await process.jobs.collect_garbage()
            assert world.pieces == []
            await asyncio.sleep(seconds_late)
            world.store.objects[ObjectKey(key)] = late
            await world.settle()
            assert world.pieces == []
            assert world.database.all_garbage() == []

        run(work())

    def test_an_object_that_a_late_complete_makes_after_its_deletion(self) -> None:
        async def work() -> None:
            world = World()
            faults = Faults(pauses={"complete_multipart": 300.0})
            process = world.process(faults)
            upload = await process.create(57)
            sending = asyncio.create_task(process.append(upload, Sender(DATA)))
            await asyncio.sleep(1)
            await process.uploads.terminate(SCOPE, upload.id)
            made = world.store.multiparts.copy()
            for _ in range(3):
                await world.process().jobs.collect_garbage()
            assert world.store.multiparts == {}
            world.store.multiparts.update(made)  # the Complete had begun before the abort
            with pytest.raises(UploadGone):
                await sending
            await asyncio.sleep(300)
            assert upload.object_key in world.store.objects
            await world.settle()
            assert await world.leaks() == []
            assert world.database.all_garbage() == []

        run(work())

    def test_two_collectors_that_meet_do_not_count_as_two_looks(self) -> None:
        async def work() -> None:
            world = World()
            process = world.process()
            upload = await process.append(await process.create(57), Sender(DATA[:6]))
            await process.uploads.terminate(SCOPE, upload.id)
            faults = Faults(pauses={"delete_objects": 61.0})
            slow, quick = world.process(faults), world.process()
            first = asyncio.create_task(slow.jobs.collect_garbage())
            await asyncio.sleep(60.5)
            await quick.jobs.collect_garbage()
            await first
            assert world.database.all_garbage() != []
            await world.settle()
            assert world.database.all_garbage() == []

        run(work())


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("after", [False, True])
def test_of_two_collectors_one_dies_at_any_step_and_the_other_does_it_all_again(nth: int, after: bool) -> None:
    """GC-04: I10, I11."""

    async def work() -> None:
        world = World()
        process = world.process()
        kept = await process.append(await process.create(57), Sender(DATA))
        for size in (6, 38):
            upload = await process.append(await process.create(57), Sender(DATA[:size]))
            await process.uploads.terminate(SCOPE, upload.id)
        abandoned = await process.append(await process.create(57), Sender(DATA[:38]))
        await asyncio.sleep(LIFETIME + 1)
        faults = Faults()
        faults.add(None, Crashed, nth=nth, after=after)
        mortal, other = world.process(faults), world.process()

        async def dying() -> None:
            with suppress(Crashed):
                while True:
                    await mortal.jobs.expire()
                    await mortal.jobs.collect_garbage()

        await asyncio.gather(dying(), other.jobs.collect_garbage())
        assert faults.dead
        await world.settle()
        assert (await process.committed(abandoned.id)).state is State.EXPIRED
        assert await world.leaks() == []
        assert world.database.all_garbage() == []
        assert world.body_of(await process.committed(kept.id)) == DATA

    run(work())


def test_an_object_that_the_store_never_lets_go_does_not_keep_the_others() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        for _ in range(5):
            upload = await process.append(await process.create(57), Sender(DATA[:6]))
            await process.uploads.terminate(SCOPE, upload.id)
        locked = world.pieces[2]
        delete = world.store.delete_objects

        async def delete_unless_locked(keys: Sequence[ObjectKey]) -> None:
            if locked in keys:
                raise StoreUnavailable("AccessDenied: the object is locked")
            await delete(keys)

        world.store.delete_objects = delete_unless_locked  # type: ignore[method-assign]  # a bucket with retention
        for _ in range(100):  # a run whose probe happens to be the locked one removes nothing
            await asyncio.sleep(61)
            await process.jobs.collect_garbage()
        assert world.pieces == [locked]
        assert {garbage.key for garbage in world.database.all_garbage()} == {locked}

    run(work())


def test_a_run_takes_one_batch_and_the_next_comes_soon_while_there_is_more() -> None:
    """GC-10, I15: many expired uploads are ended bit by bit, in minutes and not in days."""

    async def work() -> None:
        world = World()
        process = world.process()
        for _ in range(1_200):
            await process.create(57)
        faults = Faults()
        janitor = world.process(faults)
        janitor.jobs.start()
        await asyncio.sleep(LIFETIME + 60)
        await janitor.jobs.stop()
        assert (await world.database.count_by_state())[State.EXPIRED] == 1_200
        assert await world.database.expire(1) == []

    run(work())


def test_jobs_that_no_worker_takes_are_told_when_they_are_late() -> None:
    words, gone = Declared("words", 1, ("*/*",)), Declared("gone", 1, ("*/*",))
    processing = Processing((words, gone), Chosen(("words", "gone")))

    async def work() -> None:
        database = MemoryDatabase(asyncio.get_running_loop().time)
        upload = await a_writer(database)
        step = a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload), keeping=Keeping(processing=processing))
        await database.commit(upload, step)
        stores = Stores[ObjectStore](MemoryStore())
        rules = JobRules(job_patience=600.0, processors=frozenset({"words"}))
        jobs = Jobs(database, stores, Completion(database, stores, "x"), rules, reading=database)
        with structlog.testing.capture_logs() as logged:
            await asyncio.sleep(599)
            await jobs.watch_processing()
            assert logged == []
            await asyncio.sleep(2)
            jobs.start()
            await asyncio.sleep(1.2 * rules.watch_every + 1)
            await jobs.stop()
        told = [(each["processor"], each["in_settings"], each["jobs"]) for each in logged]
        assert told == [("gone", False, 1), ("words", True, 1)]
        assert {each["event"] for each in logged} == {"processing.waiting"}

    run(work())
