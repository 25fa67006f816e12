"""The database and the store compared: each way in which they may disagree, what is mended, and what never is."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import GRACE, SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.concat import GroupWish
from tusgate.core.errors import ClientGone, Fenced, StoreUnavailable, UploadGone
from tusgate.core.model import MultipartId, ObjectKey, State, UploadId
from tusgate.core.naming import PIECES
from tusgate.ports import Attributes, Body
from tusgate.service.digest import crc64_of
from tusgate.service.reconcile import Finding, Looked, Mending, Reconciler, Trouble
from tusgate.service.stores import Stores

if TYPE_CHECKING:
    from tests.unit.service.rig import Process
    from tusgate.core.model import Upload
    from tusgate.ports import SurveyedStore

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)
REPORT, REPAIR = Mending(), Mending(repair=True)
DELETE = Mending(repair=True, delete_objects=True)
HOURS = 3600.0
OLD_ENOUGH = timedelta(hours=1)


async def compared(world: World, mending: Mending = REPORT) -> tuple[list[Finding], Looked]:
    now = datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)
    reconciler = Reconciler(
        database=world.database, stores=Stores(world.store), mending=mending, now=now, grace=OLD_ENOUGH
    )
    return [finding async for finding in reconciler.run()], reconciler.looked


async def troubles(world: World, mending: Mending = REPORT) -> list[tuple[Trouble, str, bool]]:
    findings, _ = await compared(world, mending)
    return sorted((finding.trouble, finding.key, finding.mended) for finding in findings)


async def put(world: World, key: str, data: bytes = b"x", owner: str = "") -> None:
    body = Body(len(data), crc64_of([data]), buffers=[data])
    await world.store.put_object(ObjectKey(key), body, Attributes(UploadId(owner)))


async def complete(process: Process) -> Upload:
    upload = await process.append(await process.create(57), Sender(DATA))
    return await process.uploads.head(SCOPE, upload.id)


async def in_all_states(process: Process) -> dict[State, Upload]:
    """Return uploads that are in order."""
    done = await complete(process)
    partial = await process.append(await process.create(57), Sender(DATA[:38]))
    ended = await process.append(await process.create(57), Sender(DATA[:38]))
    await process.uploads.terminate(SCOPE, ended.id)
    return {State.COMPLETE: done, State.UPLOADING: partial, State.TERMINATED: ended}


async def assert_mended(world: World, *expected: tuple[Trouble, str]) -> None:
    """See that a report changes nothing, that a repair mends all of it, and that nothing is left then."""
    before = (copy.deepcopy(world.database._tables.rows), dict(world.store.objects), dict(world.store.multiparts))
    assert await troubles(world) == sorted((trouble, key, False) for trouble, key in expected)
    assert (world.database._tables.rows, world.store.objects, world.store.multiparts) == before
    assert await troubles(world, REPAIR) == sorted((trouble, key, True) for trouble, key in expected)
    assert await troubles(world) == []


def test_what_is_in_order_is_left_alone_at_every_moment_of_its_life() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        await in_all_states(process)
        for _ in range(6):
            findings, looked = await compared(world, DELETE)
            assert findings == []
            assert looked.uploads == 3
            await process.jobs.collect_garbage()
            await asyncio.sleep(GRACE)
        await asyncio.sleep(HOURS)
        assert (await compared(world, DELETE))[0] == []

    run(work())


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_nothing_while_uploads_are_on_their_way(seed: int) -> None:
    """I10: not even when nothing is too young for it."""

    async def work() -> None:
        world = World(disorder=seed)
        process = world.process()
        done: list[bytes] = []

        async def upload(size: int) -> None:
            made = await process.create(size)
            while made.offset < size:
                made = await process.append(made, Sender(DATA[made.offset : size][:13], (3,), pause=0.01))
            done.append(world.body_of(await process.uploads.head(SCOPE, made.id)))

        async with asyncio.TaskGroup() as group:
            for size in (7, 20, 38, 57):
                group.create_task(upload(size))
            while len(done) < 4:
                now = datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)
                eager = Reconciler(
                    database=world.database, stores=Stores(world.store), mending=REPAIR, now=now, grace=timedelta()
                )
                findings = [finding async for finding in eager.run()]
                assert {finding.trouble for finding in findings} <= {Trouble.NOT_RECORDED}
                await asyncio.sleep(0.03)
        assert sorted(done) == sorted(DATA[:size] for size in (7, 20, 38, 57))

    run(work())


def test_a_missing_object_is_reported_and_nothing_is_invented() -> None:
    async def work() -> None:
        world = World()
        done = await complete(world.process())
        del world.store.objects[done.object_key]
        assert await troubles(world, DELETE) == [(Trouble.OBJECT_MISSING, done.object_key, False)]
        assert (await world.process().committed(done.id)).state is State.COMPLETE

    run(work())


@pytest.mark.parametrize("data", [DATA[:-1], b"?" + DATA[1:]])
def test_an_object_with_other_bytes_is_reported(data: bytes) -> None:
    async def work() -> None:
        world = World()
        done = await complete(world.process())
        await put(world, done.object_key, data, done.id)
        assert await troubles(world, DELETE) == [(Trouble.OBJECT_DIFFERS, done.object_key, False)]
        assert world.body_of(done) == data

    run(work())


def test_an_object_that_somebody_else_has_put_there_does_not_count_and_is_not_touched() -> None:
    async def work() -> None:
        world = World()
        done = await complete(world.process())
        await put(world, done.object_key, DATA, "somebody-else")
        await asyncio.sleep(2 * HOURS)
        assert (Trouble.OBJECT_MISSING, done.object_key, False) in await troubles(world, DELETE)
        assert world.body_of(done) == DATA

    run(work())


def test_a_copied_object_whose_etag_is_another_one_is_the_same_object() -> None:
    async def work() -> None:
        world = World()
        done = await complete(world.process())
        found = world.store.objects[done.object_key]
        world.store.objects[done.object_key] = replace(found, stored=replace(found.stored, etag="of-a-copy"))
        assert await troubles(world) == []
        unknown = replace(found.stored, etag="of-a-copy", crc64=-1)
        world.store.objects[done.object_key] = replace(found, stored=unknown)
        assert await troubles(world) == [(Trouble.OBJECT_DIFFERS, done.object_key, False)]

    run(work())


def test_an_object_that_files_share_is_known_as_long_as_one_of_them_is_there() -> None:
    """GC-08: also when the upload that it was made by is long gone; and missed by the one that is left."""

    async def work() -> None:
        world = World()
        process = world.process()
        first, second = await complete(process), await complete(process)
        assert await world.database.find_twin(first, b"d" * 32, 60.0) is None
        assert await world.database.find_twin(second, b"d" * 32, 60.0) is not None
        second = await world.database.adopt(second, await world.database.get(SCOPE, first.id), 0.0)
        await process.uploads.terminate(SCOPE, first.id)
        for _ in range(3):
            await process.jobs.collect_garbage()
            await asyncio.sleep(HOURS)
        assert await world.database.forget_ended(1.0, 10) == 1
        assert (await compared(world, DELETE))[0] == []
        assert set(world.store.objects) == {second.object_key} == {first.object_key}

        await world.store.delete_objects([second.object_key])
        [missing] = (await compared(world, DELETE))[0]
        assert (missing.trouble, missing.upload_id, missing.mended) == (Trouble.OBJECT_MISSING, second.id, False)

    run(work())


def test_an_object_that_no_upload_knows_is_deleted_only_when_that_is_asked_for() -> None:
    """GC-11: a backup was restored that is older than the upload."""

    async def work() -> None:
        world = World()
        process = world.process()
        before = copy.deepcopy(world.database._tables)
        done = await complete(process)
        world.database._tables.__dict__.update(before.__dict__)
        assert await troubles(world, DELETE) == []
        await asyncio.sleep(2 * HOURS)
        await world.settle()
        for mending in (REPORT, REPAIR):
            assert await troubles(world, mending) == [(Trouble.OBJECT_UNKNOWN, done.object_key, False)]
        assert world.body_of(done) == DATA
        assert await troubles(world, DELETE) == [(Trouble.OBJECT_UNKNOWN, done.object_key, True)]
        assert world.store.objects == {}

    run(work())


@pytest.mark.parametrize("size", [7, 57])
def test_an_upload_whose_end_the_database_has_forgotten_gets_it_back(size: int) -> None:
    """GC-11: a backup was restored in which the upload is unfinished, while its object is there."""

    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(size), Sender(DATA[:6]))
        backup = copy.deepcopy(world.database._tables)
        await process.append(upload, Sender(DATA[6:size]))
        await asyncio.sleep(GRACE + 1)
        await process.jobs.collect_garbage()
        world.database._tables.__dict__.update(backup.__dict__)
        (key,) = world.store.objects
        assert await troubles(world, REPAIR) == []
        await asyncio.sleep(2 * HOURS)
        await assert_mended(world, (Trouble.NOT_RECORDED, key))
        head = await process.uploads.head(SCOPE, upload.id)
        assert (head.state, head.offset) == (State.COMPLETE, size)
        assert world.body_of(head) == DATA[:size]

    run(work())


@pytest.mark.parametrize("data", [DATA[:7], b"?" * 7])
@pytest.mark.parametrize("cut", [1, 5])
def test_an_object_whose_writer_was_replaced_is_taken_only_if_it_goes_on_from_what_was_acknowledged(
    data: bytes, cut: int
) -> None:
    """I3: the bytes of two writers are never mixed, and what was acknowledged never turns into something else."""

    async def work() -> None:
        world = World()
        replaced = world.process(Faults(pauses={"put_object": 5.0}), holder="replaced", inline_max=3)
        newer = world.process(holder="newer", inline_max=3)
        upload = await replaced.create(7)
        sending = asyncio.create_task(replaced.append(upload, Sender(data)))
        await asyncio.sleep(1)
        with pytest.raises(ClientGone):
            await newer.append(upload, Sender(DATA[:7], (1,), cut=cut))
        with pytest.raises(Fenced):
            await sending
        await asyncio.sleep(2 * HOURS)
        upload = await newer.committed(upload.id)
        assert upload.offset == cut

        found = await troubles(world, REPAIR)

        mended = await newer.committed(upload.id)
        if data == DATA[:7]:
            assert found == [(Trouble.NOT_RECORDED, upload.object_key, True)]
            assert mended.state is State.COMPLETE
        else:
            assert found == []
            assert mended == upload
            mended = await newer.append(upload, Sender(DATA[cut:7]))
        assert world.body_of(mended) == DATA[:7]

    run(work())


def test_an_upload_whose_parts_the_store_has_lost_fails() -> None:
    async def work() -> None:
        world = World()
        uploads = await in_all_states(world.process())
        partial = uploads[State.UPLOADING]
        del world.store.multiparts[partial.multipart_id or MultipartId("")]
        await assert_mended(world, (Trouble.MULTIPART_LOST, partial.object_key))
        with pytest.raises(UploadGone):
            await world.process().uploads.head(SCOPE, partial.id)

    run(work())


def test_an_upload_whose_piece_is_gone_or_damaged_fails() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        uploads = [await process.append(await process.create(57), Sender(DATA[:6])) for _ in range(3)]
        gone, damaged, _ = world.pieces
        del world.store.objects[ObjectKey(gone)]
        await put(world, damaged, b"??????", uploads[1].id)
        await assert_mended(world, (Trouble.PIECE_MISSING, gone), (Trouble.PIECE_MISSING, damaged))
        states = [(await process.committed(upload.id)).state for upload in uploads]
        assert states == [State.FAILED, State.FAILED, State.UPLOADING]

    run(work())


def test_pieces_that_no_upload_has_are_removed_when_they_are_old() -> None:
    async def work() -> None:
        world = World()
        upload = (await in_all_states(world.process()))[State.UPLOADING]
        keys = [f".tusgate/pieces/{upload.id}/77-0", f".tusgate/pieces/{'z' * 22}/1-0"]
        await put(world, keys[0], owner=upload.id)
        await put(world, keys[1], owner="z" * 22)
        _, looked = await compared(world, REPAIR)
        assert looked.young == looked.objects
        await asyncio.sleep(2 * HOURS)
        await assert_mended(world, *((Trouble.PIECE_UNKNOWN, key) for key in keys))

    run(work())


def test_multipart_uploads_of_our_keys_that_no_upload_has_are_aborted() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        uploads = await in_all_states(process)
        await asyncio.sleep(GRACE + 1)
        for _ in range(4):
            await asyncio.sleep(GRACE + 1)
            await process.jobs.collect_garbage()
        for upload in uploads.values():
            await world.store.create_multipart(upload.object_key, Attributes(upload.id))
        await world.store.create_multipart(ObjectKey("of-others"), Attributes(UploadId("")))
        await assert_mended(world, *((Trouble.MULTIPART_UNKNOWN, upload.object_key) for upload in uploads.values()))
        assert len(world.store.multiparts) == 2

    run(work())


def test_what_is_not_ours_is_counted_and_left_alone_however_much_its_key_looks_like_ours() -> None:
    """GC-07, I10."""

    async def work() -> None:
        world = World()
        done = await complete(world.process())
        keys = [f"{done.id}/other.bin", f".tusgate/pieces/{done.id}/9-9", "x", f"{'q' * 22}"]
        find = world.store.owner_of
        for key in keys:
            await put(world, key)

        async def owner_of(key: ObjectKey) -> UploadId | None:
            return None if key in keys else await find(key)

        world.store.owner_of = owner_of  # type: ignore[method-assign]  # objects without a marker
        await asyncio.sleep(2 * HOURS)
        findings, looked = await compared(world, DELETE)
        assert (findings, looked.foreign) == ([], len(keys))
        assert {*keys} < {*world.store.objects}

    run(work())


def test_an_upload_that_moves_on_while_it_is_looked_at_proves_nothing() -> None:
    async def work() -> None:
        world = World()
        process = world.process()
        upload = await process.append(await process.create(57), Sender(DATA[:6]))
        find = world.store.find

        async def find_while_it_moves(key: ObjectKey, upload_id: UploadId) -> object:
            if key.startswith(PIECES):
                await process.append(await process.committed(upload.id), Sender(DATA[6:12]))
                await process.jobs.collect_garbage()
                assert key not in world.store.objects
            return await find(key, upload_id)

        world.store.find = find_while_it_moves  # type: ignore[method-assign,assignment]  # the piece becomes a part
        assert await troubles(world, DELETE) == []

    run(work())


def test_a_store_that_is_away_is_no_loss() -> None:
    """DF-11."""

    async def work() -> None:
        for call in ("check", "find", "multipart_exists", "list_multiparts", "owner_of"):
            world = World()
            process = world.process()
            await in_all_states(process)
            await put(world, "unknown", owner="q" * 22)
            await asyncio.sleep(2 * HOURS)
            rows = copy.deepcopy(world.database._tables.rows)
            faults = Faults()
            faults.add(call, StoreUnavailable)
            now = datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)
            store = faults.store(world.store)
            reconciler = Reconciler(
                database=world.database,
                stores=Stores(cast("SurveyedStore", store)),
                mending=REPAIR,
                now=now,
                grace=OLD_ENOUGH,
            )
            with pytest.raises(StoreUnavailable):
                assert [finding async for finding in reconciler.run()]
            assert world.database._tables.rows == rows

    run(work())


def test_what_partials_share_is_left_alone_and_missed_when_it_is_lost() -> None:
    """I10: the multipart upload is named by the row of their group, under a key that is theirs, too."""

    async def work() -> None:
        world = World()
        process, group = world.process(), GroupWish("one file")
        partials = [await process.partial(DATA, group) for _ in range(2)]
        await asyncio.sleep(2 * HOURS)
        assert await troubles(world, DELETE) == []
        assert len(world.store.multiparts) == 1

        world.store.multiparts.clear()
        await assert_mended(world, (Trouble.MULTIPART_LOST, partials[0].object_key))

    run(work())
