"""Finishing: whatever is lost on the way, one verified object or a failure that says why."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.doubles.faults import Crashed, Faults
from tests.unit.service.rig import SCOPE, Process, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.checksum import Checksum
from tusgate.core.errors import (
    DatabaseUnavailable,
    Finishing,
    MultipartLost,
    StoreRefused,
    StoreUnavailable,
    UploadGone,
)
from tusgate.core.model import State
from tusgate.service.completion import LEASE, LONGEST_DELAY

if TYPE_CHECKING:
    from tusgate.core.model import Upload

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(45)

both_profiles = pytest.mark.parametrize(
    "completes_all_parts", [False, True], ids=["sealed with parts", "sealed with pieces"]
)


async def sealed(world: World) -> Upload:
    """Return an upload of 45 bytes whose process died after the seal.

    On a store that completes all parts, four of its five cells are there as pieces only.
    """
    faults = Faults()
    faults.add("lease_sealed", Crashed)
    process = world.process(faults, holder="dead")
    upload = await process.create(45)
    checksum = Checksum("md5", hashlib.md5(DATA, usedforsecurity=False).digest())
    await asyncio.gather(process.append(upload, Sender(DATA), checksum=checksum), return_exceptions=True)
    upload = await process.committed(upload.id)
    assert upload.state is State.SEALED
    assert len(await world.database.pieces(upload)) == (4 if world.completes_all_parts else 0)
    return upload


def slow(call: str, seconds: float) -> Faults:
    """Return faults by which every `call` is on its way for so long."""
    faults = Faults()
    faults.pauses[call] = seconds
    return faults


async def finished(process: Process, upload: Upload) -> Upload:
    """Let `process` finish the upload, as its job does; return it as committed then."""
    assert await process.jobs.finish_abandoned() == 1
    return await process.completion.wait(upload, 1000.0)


async def assert_complete(world: World, upload: Upload) -> None:
    upload = await world.database.get(SCOPE, upload.id)
    assert (upload.state, world.body_of(upload)) == (State.COMPLETE, DATA)
    await world.settle()
    assert await world.leaks() == []


@both_profiles
def test_another_process_finishes_what_a_dead_one_has_sealed(completes_all_parts: bool) -> None:
    async def finish_it() -> None:
        world = World(completes_all_parts=completes_all_parts)
        upload = await sealed(world)
        assert (await finished(world.process(), upload)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


@both_profiles
def test_completion_may_be_broken_off_at_any_call_and_begun_again(completes_all_parts: bool) -> None:
    async def finish_it(nth: int, after: bool) -> bool:
        world = World(completes_all_parts=completes_all_parts)
        upload = await sealed(world)
        faults = Faults()
        faults.add(None, Crashed, nth=nth, after=after)
        first = world.process(faults, holder="first")
        await asyncio.gather(finished(first, upload), return_exceptions=True)
        await asyncio.gather(first.completion.stop(), return_exceptions=True)
        await asyncio.sleep(LEASE + 1)
        second = world.process(holder="second")
        await second.jobs.finish_abandoned()
        await second.completion.wait(upload, 1000.0)
        await assert_complete(world, upload)
        return faults.dead

    for after in (False, True):
        nth = 1
        while run(finish_it(nth, after)):
            nth += 1
        assert nth > 6


@pytest.mark.parametrize("error", [StoreUnavailable, MultipartLost, StoreRefused])
def test_a_complete_whose_answer_was_lost_is_proved_by_the_object(error: type[Exception]) -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        faults.add("complete_multipart", error, after=True)
        assert (await finished(world.process(faults), upload)).state is State.COMPLETE
        assert faults.count("complete_multipart") == 1
        await assert_complete(world, upload)

    run(finish_it())


def test_after_a_long_outage_of_the_store_an_upload_is_finished_within_ten_seconds() -> None:
    """I20: the pauses between tries grow, but not beyond what service after a fault may take."""

    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        process = world.process(faults)
        faults.add("complete_multipart", StoreUnavailable, times=1_000_000)
        await process.jobs.finish_abandoned()
        await asyncio.sleep(300)
        faults.faults.clear()
        assert (await process.completion.wait(upload, 10.0)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


def test_a_multipart_upload_that_is_gone_with_its_object_there_is_complete() -> None:
    """The process died between Complete and its own commit."""

    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        faults.add("find", Crashed)
        await asyncio.gather(finished(world.process(faults, holder="second"), upload), return_exceptions=True)
        await asyncio.sleep(LEASE + 1)
        assert (await world.database.get(SCOPE, upload.id)).state is State.SEALED
        assert world.store.multiparts == {}
        assert (await finished(world.process(holder="third"), upload)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


def test_a_multipart_upload_that_is_gone_without_an_object_is_a_failure_after_several_looks() -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        world.store.multiparts.clear()
        faults = Faults()
        failed = await finished(world.process(faults), upload)
        assert failed.state is State.FAILED
        assert "threw the unfinished multipart upload away" in (failed.reason or "")
        assert faults.count("find") >= 3
        await world.settle()
        assert await world.leaks() == []

    run(finish_it())


def test_a_store_that_denies_a_multipart_upload_for_a_while_has_not_lost_it() -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        faults.add("complete_multipart", MultipartLost, times=10)
        assert (await finished(world.process(faults), upload)).state is State.COMPLETE
        assert faults.count("complete_multipart") == 11
        await assert_complete(world, upload)

    run(finish_it())


def test_parts_that_the_store_refuses_make_the_upload_fail_with_the_reason() -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        faults.add("complete_multipart", lambda: StoreRefused("InvalidPart"))
        failed = await finished(world.process(faults), upload)
        assert (failed.state, failed.reason) == (State.FAILED, "InvalidPart")
        with pytest.raises(UploadGone, match="InvalidPart"):
            await world.process().uploads.head(SCOPE, upload.id)
        await world.settle()
        assert await world.leaks() == []

    run(finish_it())


def test_a_part_that_was_replaced_by_other_bytes_is_never_served() -> None:
    """A fenced writer with other bytes: the upload fails, it does not become a mixture (I7)."""

    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        (multipart,) = world.store.multiparts.values()
        multipart.parts[2] = multipart.parts[1]
        failed = await finished(world.process(), upload)
        assert failed.state is State.FAILED
        assert upload.object_key not in world.store.objects

    run(finish_it())


@pytest.mark.parametrize(
    "call",
    ["complete_multipart", "find", "put_part", "lease_sealed", "get", "pieces", "absorb", "complete"],
)
def test_a_dependency_that_is_away_delays_completion_and_does_not_end_it(call: str) -> None:
    async def finish_it() -> None:
        world = World(completes_all_parts=True)
        upload = await sealed(world)
        faults = Faults()
        faults.add(call, StoreUnavailable, times=4)
        process = world.process(faults)
        for _ in range(20):
            await asyncio.gather(process.jobs.finish_abandoned(), return_exceptions=True)
            await asyncio.sleep(2 * LONGEST_DELAY)
        assert faults.count(call) > 4
        await assert_complete(world, upload)

    run(finish_it())


def test_a_finisher_that_cannot_renew_its_lease_goes_on_when_it_can() -> None:
    """I20: nobody else may begin before that lease has run out, which takes longer than ten seconds."""

    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        faults = Faults()
        faults.add("complete", DatabaseUnavailable)
        faults.add("lease_sealed", DatabaseUnavailable, nth=2, times=4)
        found = await world.process(faults).completion.wait(upload, LEASE)
        assert found.state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


@both_profiles
def test_two_finishers_make_one_object(completes_all_parts: bool) -> None:
    async def finish_it() -> None:
        world = World(disorder=1, completes_all_parts=completes_all_parts)
        upload = await sealed(world)
        processes = [world.process(holder=f"replica-{number}") for number in range(3)]
        done = await asyncio.gather(*(process.completion.wait(upload, 100.0) for process in processes))
        assert {found.state for found in done} == {State.COMPLETE}
        await assert_complete(world, upload)

    run(finish_it())


@both_profiles
@pytest.mark.parametrize("call", ["get", "pieces", "put_part", "parts", "complete_multipart", "find", "complete"])
def test_a_finisher_that_lost_its_lease_on_the_way_does_no_harm(call: str, completes_all_parts: bool) -> None:
    async def finish_it() -> None:
        world = World(completes_all_parts=completes_all_parts)
        upload = await sealed(world)
        faults = slow(call, 3 * LEASE)
        faults.add("lease_sealed", StoreUnavailable, nth=2, times=100)
        first, second = world.process(faults, holder="first"), world.process(holder="second")
        first.completion.start(upload)
        await asyncio.sleep(LEASE + 1)
        second.completion.start(upload)
        await asyncio.sleep(5000)
        assert first.completion._tasks == second.completion._tasks == {}
        await assert_complete(world, upload)

    run(finish_it())


def test_a_lease_is_kept_while_an_attempt_takes_long() -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        first = world.process(slow("complete_multipart", 10 * LEASE), holder="first")
        second = world.process(holder="second")
        first.completion.start(upload)
        looks = 0
        while (await world.database.get(SCOPE, upload.id)).state is State.SEALED:
            await asyncio.sleep(LEASE / 2)
            assert await second.jobs.finish_abandoned() == 0
            looks += 1
        assert looks >= 20
        await assert_complete(world, upload)

    run(finish_it())


def test_a_process_that_stops_gives_its_lease_back() -> None:
    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        first = world.process(slow("complete_multipart", 10 * LEASE), holder="first")
        first.completion.start(upload)
        await asyncio.sleep(1)
        await first.completion.stop()
        assert (await finished(world.process(holder="second"), upload)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


@both_profiles
@pytest.mark.parametrize("call", ["pieces", "parts", "put_part", "complete_multipart", "find", "complete"])
def test_an_upload_that_is_terminated_while_it_is_finished_leaves_nothing(call: str, completes_all_parts: bool) -> None:
    """Nor an error that nobody looks at."""

    async def finish_it() -> None:
        world = World(completes_all_parts=completes_all_parts)
        upload = await sealed(world)
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: complaints.append(found.get("exception")))
        process = world.process(slow(call, 20.0))
        process.completion.start(upload)
        await asyncio.sleep(10)
        await process.uploads.terminate(SCOPE, upload.id)
        await asyncio.sleep(1000)
        await world.settle()
        assert await world.leaks() == []
        assert (await world.database.get(SCOPE, upload.id)).state is State.TERMINATED
        assert [error for error in complaints if not isinstance(error, Crashed)] == []

    run(finish_it())


def test_an_object_that_appears_while_its_upload_is_cleaned_up_goes_too() -> None:
    """Complete is on its way when the upload is terminated, and arrives between two calls of the collector."""

    async def finish_it() -> None:
        world = World()
        upload = await sealed(world)
        finisher = world.process(slow("complete_multipart", 50.0))
        finisher.completion.start(upload)
        await asyncio.sleep(10)
        await finisher.uploads.terminate(SCOPE, upload.id)
        collector = world.process(slow("abort_multipart", 100.0))
        assert [await collector.jobs.collect_garbage() for _ in range(2)] == [1, 1]
        await world.settle()
        assert await world.leaks() == []

    run(finish_it())


def test_the_last_request_waits_for_the_object() -> None:
    async def finish_it() -> None:
        world = World()
        process = world.process(slow("complete_multipart", 20.0), finish_wait=25.0)
        upload = await process.append(await process.create(45), Sender(DATA))
        assert upload.state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


def test_a_completion_that_merely_takes_long_is_acknowledged_and_shown_by_head_when_it_is_done() -> None:
    async def finish_it() -> None:
        world = World()
        process = world.process(slow("complete_multipart", 60.0), finish_wait=25.0)
        upload = await process.append(await process.create(45), Sender(DATA))
        assert (upload.state, upload.offset) == (State.SEALED, 45)
        with pytest.raises(Finishing):
            await process.uploads.head(SCOPE, upload.id)
        assert (await process.uploads.head(SCOPE, upload.id)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())


def test_the_last_request_is_told_to_come_back_when_finishing_meets_an_obstacle() -> None:
    async def finish_it() -> None:
        world = World()
        faults = Faults()
        faults.add("complete_multipart", StoreUnavailable, times=20)
        process = world.process(faults, finish_wait=20.0)
        upload = await process.create(45)
        with pytest.raises(Finishing):
            await process.append(upload, Sender(DATA))
        with pytest.raises(Finishing):
            await process.append(upload, Sender(b""), offset=45)
        await asyncio.sleep(1000)
        assert (await process.append(upload, Sender(b""), offset=45)).state is State.COMPLETE
        await assert_complete(world, upload)

    run(finish_it())
