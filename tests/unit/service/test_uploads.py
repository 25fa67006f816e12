"""The use cases, where they meet errors that no wire test can provoke at will."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.access import Principal
from tusgate.core.checksum import Checksum
from tusgate.core.concat import GroupWish
from tusgate.core.errors import (
    ChecksumMismatch,
    ClientGone,
    DatabaseUnavailable,
    Draining,
    Fenced,
    MultipartLost,
    OffsetMismatch,
    StoreUnavailable,
    TooLarge,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.lifecycle import Append
from tusgate.core.model import Role, Scope, State
from tusgate.service.uploads import CLAIM_TRIES, PATIENCE_DELAYS, STORE_CHECK_EVERY

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)


@pytest.mark.parametrize("error", [TooLarge, ChecksumMismatch])
def test_a_creation_whose_body_is_refused_leaves_no_upload(error: type[Exception]) -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        source = Sender(DATA[:30], chunked=True)
        checksum = Checksum("crc32", bytes(4)) if error is ChecksumMismatch else None
        with pytest.raises(error):
            await process.create(30 if checksum else 25, source, checksum)
        assert await world.database.count_by_state() == {**dict.fromkeys(State, 0), State.TERMINATED: 1}
        await world.settle()
        assert await world.leaks() == []

    run(work())


def test_a_size_that_is_announced_too_large_creates_nothing() -> None:
    async def work() -> None:
        world = World()
        process = world.process(max_size=50)
        with pytest.raises(TooLarge):
            await process.create(51)
        with pytest.raises(TooLarge):
            await process.create(10, Sender(DATA[:11]))
        upload = await process.create(None)
        with pytest.raises(TooLarge):
            await process.append(upload, Sender(DATA))
        assert sum((await world.database.count_by_state()).values()) == 1

    run(work())


def test_a_chunked_upload_of_unknown_length_ends_at_the_largest_size() -> None:
    async def work() -> None:
        world = World()
        process = world.process(max_size=50)
        upload = await process.create(None)
        with pytest.raises(TooLarge):
            await process.append(upload, Sender(DATA, chunked=True))
        assert (await process.committed(upload.id)).offset <= 50
        assert process.budget.used == 0

    run(work())


@pytest.mark.parametrize("away", [1, len(PATIENCE_DELAYS)])
def test_a_look_waits_for_a_database_that_comes_back(away: int) -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        faults.add("get", DatabaseUnavailable, times=away)
        process = world.process(faults)
        upload = await process.create(57)
        assert await process.uploads.head(SCOPE, upload.id) == upload

    run(work())


def test_a_look_at_a_silent_database_does_not_wait_for_it_again_and_again() -> None:
    """DF-24: where each try is a long wait of its own, two are enough."""

    async def work() -> None:
        world = World()
        faults = Faults()
        faults.add("get", DatabaseUnavailable, times=1_000, after=True)
        process = world.process(faults)
        upload = await process.create(57)
        for silence, looks in ((4.0, 2), (8.0, 1)):
            faults.pauses["get"] = silence
            faults.calls.clear()
            with pytest.raises(DatabaseUnavailable):
                await process.uploads.head(SCOPE, upload.id)
            assert faults.count("get") == looks

    run(work())


def test_a_look_gives_up_on_a_database_that_stays_away() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        faults.add("get", DatabaseUnavailable, times=100)
        process = world.process(faults)
        upload = await process.create(57)
        with pytest.raises(DatabaseUnavailable):
            await process.uploads.head(SCOPE, upload.id)

    run(work())


def test_a_claim_that_others_win_again_and_again_is_given_up() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        faults.add("claim", Fenced, times=100)
        process = world.process(faults)
        upload = await process.create(57)
        with pytest.raises(Fenced):
            await process.append(upload, Sender(DATA))
        assert faults.count("claim") == CLAIM_TRIES

    run(work())


def test_a_claim_that_is_lost_to_a_writer_who_moved_on_is_told_the_new_offset() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        faults.pauses["claim"] = 10.0
        slow, quick = world.process(faults), world.process()
        upload = await quick.create(57)
        late = asyncio.create_task(slow.append(upload, Sender(DATA)))
        await asyncio.sleep(5)
        upload = await quick.append(upload, Sender(DATA[:20]))
        with pytest.raises(OffsetMismatch) as mismatch:
            await late
        assert mismatch.value.upload == await quick.committed(upload.id)
        assert mismatch.value.expected == 20

    run(work())


def test_a_request_whose_client_has_gone_takes_nothing_over() -> None:
    """I6: all that it could end is the next request of the same client."""

    async def work() -> None:
        world = World()
        process, other = world.process(), world.process()
        upload = await process.create(57)
        rest = Sender(DATA, stop=0)
        successor = asyncio.create_task(other.append(upload, rest))
        await asyncio.sleep(1)
        abandoned = Sender(DATA)
        abandoned.is_abandoned = True
        with pytest.raises(ClientGone):
            await process.append(upload, abandoned)
        rest.go_on()
        assert (await successor).state is State.COMPLETE

    run(work())


def test_a_claim_whose_answer_comes_late_does_not_end_the_writer_that_came_after_it() -> None:
    """I6, I20: the later claim is the one that counts."""

    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.create(57)
        claim = process.tools.database.claim

        async def answered_late(*arguments: Any) -> Any:
            process.tools.database.claim = claim  # type: ignore[method-assign]  # this one call only
            claimed = await claim(*arguments)
            await asyncio.sleep(1)
            return claimed

        process.tools.database.claim = answered_late  # type: ignore[method-assign,assignment]  # the network is slow once
        early = asyncio.create_task(process.append(upload, Sender(DATA)))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(process.append(upload, Sender(DATA, pause=0.5)))
        with pytest.raises(Fenced):
            await early
        assert (await late).state is State.COMPLETE

    run(work())


def test_an_upload_that_this_process_saw_last_is_not_read_again_before_its_next_bytes() -> None:
    async def work() -> None:
        faults = Faults()
        process = World().process(faults)
        upload = await process.create(57)
        upload = await process.append(upload, Sender(DATA[:10]))
        upload = await process.append(upload, Sender(DATA[10:]))
        assert upload.state is State.COMPLETE
        until_sealed = faults.calls[: faults.calls.index("lease_sealed")]
        assert "get" not in until_sealed

    run(work())


def test_what_this_process_saw_last_is_never_taken_for_the_truth() -> None:
    """I1, I6: another process has moved the upload on; a tenant that is not its owner learns nothing."""

    async def work() -> None:
        world = World()
        here, elsewhere = world.process(), world.process(holder="elsewhere")
        upload = await here.create(57)
        moved = await elsewhere.append(upload, Sender(DATA[:10]))
        with pytest.raises(OffsetMismatch) as refused:
            await here.append(upload, Sender(DATA))
        assert refused.value.upload == moved
        await here.uploads.head(SCOPE, upload.id)
        await elsewhere.append(moved, Sender(DATA[10:30]))
        done = await here.append(upload, Sender(DATA[30:]), offset=30)
        assert world.body_of(done) == DATA

        other = await here.create(57)
        with pytest.raises(UploadNotFound):
            await here.uploads.append(
                Principal(scope=Scope("another", "")), other.id, Append(offset=0, size=57, length=None), Sender(DATA)
            )
        await elsewhere.uploads.terminate(SCOPE, other.id)
        with pytest.raises(UploadGone):
            await here.append(other, Sender(DATA))

    run(work())


def test_parts_that_the_store_threw_away_make_the_upload_fail_at_once() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(57), Sender(DATA[:30]))
        world.store.multiparts.clear()
        with pytest.raises(UploadGone, match="threw"):
            await process.append(upload, Sender(DATA[30:]))
        found = await process.committed(upload.id)
        assert (found.state, found.offset) == (State.FAILED, 30)
        await world.settle()
        assert await world.leaks() == []

    run(work())


def test_a_bucket_that_is_away_as_a_whole_is_no_lost_upload() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        process = world.process(faults)
        upload = await process.append(await process.create(57), Sender(DATA[:30]))
        faults.add("put_part", MultipartLost, times=3)
        faults.add("check", StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await process.append(upload, Sender(DATA[30:]))
        assert (await process.committed(upload.id)).state is State.UPLOADING
        faults.faults.clear()
        upload = await process.append(upload, Sender(DATA[30:]))
        assert world.body_of(upload) == DATA

    run(work())


def test_a_multipart_upload_that_the_store_denies_once_and_shows_when_asked_is_no_lost_upload() -> None:
    """I1, DF-11: to believe the loss removes the parts. What one answer says may come from a node that lags behind."""

    async def work() -> None:
        world = World()
        faults = Faults()
        process = world.process(faults)
        upload = await process.append(await process.create(57), Sender(DATA[:30]))
        faults.add("put_part", MultipartLost, times=3)
        with pytest.raises(StoreUnavailable) as failed:
            await process.append(upload, Sender(DATA[30:]))
        assert failed.value.upload is not None
        assert failed.value.upload.offset == 30
        assert (await process.committed(upload.id)).state is State.UPLOADING
        faults.faults.clear()
        upload = await process.append(upload, Sender(DATA[30:]))
        assert world.body_of(upload) == DATA

    run(work())


def test_a_partial_whose_group_the_store_denies_once_and_shows_when_asked_is_no_lost_upload() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        process = world.process(faults)
        partial = await process.create(57, role=Role.PARTIAL, group=GroupWish("g"))
        assert partial.group is not None
        partial = await process.append(partial, Sender(DATA[:30]))
        faults.add("put_part", MultipartLost, times=3)
        with pytest.raises(StoreUnavailable):
            await process.append(partial, Sender(DATA[30:]))
        faults.faults.clear()
        partial = await process.append(partial, Sender(DATA[30:]))
        final = await process.concatenate(partial)
        assert world.body_of(final) == DATA

    run(work())


def test_a_multipart_upload_whose_creation_was_answered_to_nobody_is_created_again_and_the_first_collected() -> None:
    async def work() -> None:
        world = World()
        faults = Faults()
        faults.add("create_multipart", StoreUnavailable, times=2, after=True)
        process = world.process(faults)
        upload = await process.append(await process.create(57), Sender(DATA[:30]))
        assert (await process.committed(upload.id)).offset == 30
        assert len(world.store.multiparts) == 3
        upload = await process.append(upload, Sender(DATA[30:]))
        assert world.body_of(upload) == DATA
        await world.settle()
        assert await world.leaks() == []
        assert world.database.all_garbage() == []

    run(work())


@pytest.mark.parametrize("committed", [False, True])
def test_a_multipart_upload_that_could_not_be_recorded_is_not_forgotten_when_the_next_part_makes_another(
    committed: bool,
) -> None:
    """I11: parts are on their way side by side, and the announcement of the first attempt is not that of the second."""

    async def work() -> None:
        world = World()
        faults = Faults(pauses={"create_multipart": 1.0})  # the second part is there, and waits
        faults.add("record_multipart", DatabaseUnavailable, after=committed)
        process = world.process(faults)
        upload = await process.create(57)
        with pytest.raises((DatabaseUnavailable, Fenced)):
            await process.append(upload, Sender(DATA[:30]))
        upload = await process.committed(upload.id)
        upload = await process.append(upload, Sender(DATA[upload.offset :]))
        assert world.body_of(upload) == DATA
        await world.settle()
        assert await world.leaks() == []
        assert world.database.all_garbage() == []

    run(work())


def test_bytes_after_the_end_are_refused_and_an_empty_request_asks_for_the_object() -> None:
    async def work() -> None:
        process = World().process()
        upload = await process.append(await process.create(20), Sender(DATA[:20]))
        with pytest.raises(TooLarge):
            await process.append(upload, Sender(b"!", chunked=True))
        assert await process.append(upload, Sender(b"")) == upload

    run(work())


def test_an_empty_request_at_the_end_whose_checksum_is_wrong_is_no_success() -> None:
    """I9."""

    async def work() -> None:
        process = World().process()
        upload = await process.append(await process.create(57), Sender(DATA))
        with pytest.raises(ChecksumMismatch):
            await process.append(upload, Sender(b""), checksum=Checksum("crc32", b"1234"))
        assert await process.append(upload, Sender(b""), checksum=Checksum("crc32", bytes(4))) == upload

    run(work())


def test_an_empty_request_in_the_middle_changes_nothing_and_takes_nothing_over() -> None:
    async def work() -> None:
        process = World().process()
        upload = await process.append(await process.create(57), Sender(DATA[:20]))
        assert await process.append(upload, Sender(b"")) == upload

    run(work())


def test_a_terminated_upload_ends_its_writer_and_leaves_nothing() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.create(57)
        sending = asyncio.create_task(process.append(upload, Sender(DATA, pause=1.0)))
        await asyncio.sleep(4)
        await process.uploads.terminate(SCOPE, upload.id)
        with pytest.raises(UploadGone):
            await sending
        await world.settle()
        assert await world.leaks() == []
        assert process.budget.used == 0

    run(work())


def test_a_look_waits_for_the_last_bytes_of_a_body_that_has_ended() -> None:
    """tus-java-client gives up when the offset that it was told moves on."""

    async def work() -> None:
        world = World()
        faults = Faults()
        faults.pauses["put_object"] = 3.0
        process = world.process(faults)
        upload = await process.create(57)
        cut = asyncio.create_task(process.append(upload, Sender(DATA, cut=8)))
        await asyncio.sleep(1)
        assert (await process.uploads.head(SCOPE, upload.id)).offset == 8
        await asyncio.gather(cut, return_exceptions=True)

    run(work())


def test_a_process_is_not_ready_while_it_drains_or_lacks_its_store() -> None:
    async def work() -> None:
        faults = Faults()
        process = World().process(faults)
        await process.uploads.check_ready()
        await process.uploads.check_ready()
        assert faults.count("check") == 3  # the database twice, the store once
        faults.add("check", StoreUnavailable, times=2)
        with pytest.raises(StoreUnavailable):
            await process.uploads.check_ready()
        await asyncio.sleep(STORE_CHECK_EVERY)
        faults.faults.clear()
        await process.uploads.check_ready()
        process.writers.draining = True
        with pytest.raises(Draining):
            await process.uploads.check_ready()
        with pytest.raises(Draining):
            await process.create(5)

    run(work())
