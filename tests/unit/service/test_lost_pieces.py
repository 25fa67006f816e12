"""A store that loses or damages bytes that wait for their part: the upload fails for good, and only then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import SCOPE, Sender, World, some_bytes
from tests.unit.service.test_completion import finished, sealed
from tests.virtual_time import run
from tusgate.core.errors import Fenced, PieceLost, StoreUnavailable, UploadGone
from tusgate.core.model import State
from tusgate.service.completion import LOST_CONFIRMATIONS

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(25)


async def with_a_lost_piece(world: World) -> str:
    """Return the id of an upload that stands at 15, its last 5 bytes in a piece that is gone."""
    process = world.process()
    upload = await process.create(25)
    upload = await process.append(upload, Sender(DATA[:15]))
    (piece,) = world.pieces
    del world.store.objects[piece]  # type: ignore[arg-type]  # a key as text
    return upload.id


@pytest.mark.parametrize("end", [20, 25])
def test_an_append_that_needs_a_lost_piece_fails_the_upload(end: int) -> None:
    """I4, I9: it can never be whole again, so the client has to know."""

    async def work() -> None:
        world = World()
        upload_id = await with_a_lost_piece(world)
        process = world.process()
        upload = await process.committed(upload_id)  # type: ignore[arg-type]  # likewise

        with pytest.raises(UploadGone, match="waited for their part"):
            await process.append(upload, Sender(DATA[15:end]))

        assert (await process.committed(upload.id)).state is State.FAILED
        with pytest.raises(UploadGone):
            await process.uploads.head(SCOPE, upload.id)
        await world.settle()
        assert await world.leaks() == []

    run(work())


def test_a_bucket_that_is_away_as_a_whole_is_no_loss() -> None:
    async def work() -> None:
        world = World()
        upload_id = await with_a_lost_piece(world)
        faults = Faults()
        faults.add("check", StoreUnavailable)
        process = world.process(faults)
        upload = await process.committed(upload_id)  # type: ignore[arg-type]  # likewise

        with pytest.raises(StoreUnavailable):
            await process.append(upload, Sender(DATA[15:]))

        assert (await process.committed(upload.id)).state is State.UPLOADING

    run(work())


@pytest.mark.parametrize("end", [20, 25])
def test_a_piece_that_the_store_denies_once_and_gives_back_when_asked_is_not_lost(end: int) -> None:
    """I1: to believe the loss removes what was acknowledged."""

    async def work() -> None:
        world = World()
        faults = Faults()
        process = world.process(faults)
        upload = await process.append(await process.create(25), Sender(DATA[:15]))
        faults.add("put_part", PieceLost)

        with pytest.raises(StoreUnavailable) as failed:
            await process.append(upload, Sender(DATA[15:end]))

        assert failed.value.upload is not None
        assert failed.value.upload.offset == 15
        upload = await process.append(upload, Sender(DATA[15:]))
        assert world.body_of(upload) == DATA

    run(work())


def test_a_piece_that_is_damaged_when_it_is_read_once_more_is_lost() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(25), Sender(DATA[:15]))
        (piece,) = world.pieces
        kept = world.store.objects[piece]  # type: ignore[index]  # a key as text
        world.store.objects[piece] = replace(kept, data=b"?" + kept.data[1:])  # type: ignore[index]  # likewise

        with pytest.raises(UploadGone, match="waited for their part"):
            await process.append(upload, Sender(DATA[15:]))

    run(work())


@pytest.mark.parametrize("end", [20, 25])
def test_a_stale_writer_that_misses_a_piece_which_the_next_one_used_up_changes_nothing(end: int) -> None:
    """I6, I9: the piece is gone because its bytes are in a part by now."""

    async def work() -> None:
        world = World()
        stale, process = world.process(holder="stale"), world.process()
        upload = await process.append(await process.create(25), Sender(DATA[:15]))
        sender = Sender(DATA[15:], stop=3)
        writing = asyncio.create_task(stale.append(upload, sender))
        await asyncio.sleep(1)

        current = await process.committed(upload.id)
        current = await process.append(current, Sender(DATA[15:end]))
        await process.jobs.collect_garbage()
        assert world.pieces == []
        sender.go_on()
        (outcome,) = await asyncio.gather(writing, return_exceptions=True)

        assert isinstance(outcome, Fenced), outcome
        current = await process.committed(upload.id)
        assert current.offset == end
        if end < 25:
            current = await process.append(current, Sender(DATA[end:]))
        assert current.state is State.COMPLETE
        assert world.body_of(current) == DATA

    run(work())


def test_a_sealed_upload_whose_piece_is_lost_fails_instead_of_trying_for_ever() -> None:
    """I5: where all parts must be listed, an upload can be sealed while its cells are pieces."""

    async def work() -> None:
        world = World(completes_all_parts=True)
        upload = await sealed(world)
        del world.store.objects[world.pieces[1]]  # type: ignore[arg-type]  # a key as text
        process = world.process()

        upload = await finished(process, upload)

        assert upload.state is State.FAILED
        assert upload.reason is not None
        assert "waited for their part" in upload.reason
        await world.settle()
        assert await world.leaks() == []

    run(work())


@pytest.mark.parametrize("times", [1, LOST_CONFIRMATIONS - 1])
def test_a_sealed_upload_whose_piece_comes_back_after_all_is_finished(times: int) -> None:
    async def work() -> None:
        world = World(completes_all_parts=True)
        upload = await sealed(world)
        faults = Faults()
        faults.add("put_part", PieceLost, times=times)

        upload = await finished(world.process(faults), upload)

        assert upload.state is State.COMPLETE

    run(work())
