"""From the body of a request into the store: any chunks, any cuts, any part size give the same object."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.faults import Faults
from tests.unit.service.rig import Process, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.checksum import Checksum
from tusgate.core.errors import (
    ChecksumMismatch,
    ClientGone,
    Draining,
    Fenced,
    Interrupted,
    StoreUnavailable,
    TooLarge,
)
from tusgate.core.model import State, Upload

pytestmark = pytest.mark.usefixtures("small_scale")

PATIENT = settings(max_examples=100, deadline=None)


@dataclass(frozen=True)
class Request:
    """One PATCH: how much it means to send, in which chunks, and where it breaks off."""

    size: int
    chunks: tuple[int, ...]
    cut: int | None
    chunked: bool
    checksum: bool
    pause: float


requests = st.builds(
    Request,
    size=st.integers(1, 300),
    chunks=st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple),
    cut=st.none() | st.integers(0, 120),
    chunked=st.booleans(),
    checksum=st.sampled_from([False, False, True]),
    pause=st.sampled_from([0.0, 0.0, 0.01, 3.0]),
)
worlds = st.fixed_dictionaries(
    {
        "part_size": st.sampled_from([1, 7, 10, 64, 65, 100, 150]),
        "disorder": st.none() | st.integers(0, 9),
        "completes_all_parts": st.booleans(),
    }
)
processes = st.fixed_dictionaries(
    {
        "budget": st.sampled_from([160, 400, 1000]),
        "parts_in_flight": st.integers(1, 4),
        "inline_max": st.sampled_from([0, 3, 20]),
        "warm_ttl": st.sampled_from([0.0, 5.0]),
    }
)


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data, usedforsecurity=False).digest())


class Client:
    """Sends a file by a list of requests, and holds every answer against what it knows."""

    def __init__(self, process: Process, data: bytes) -> None:
        self.process = process
        self.data = data
        self.received = 0
        self.discarded = False

    async def send(self, upload: Upload, request: Request, *, length: int | None = None) -> Upload:
        """Send one request; return the upload as committed then, as HEAD shows it."""
        offset = upload.offset
        body = self.data[offset : offset + request.size]
        cut = request.cut if request.cut is not None and request.cut < len(body) else None
        source = Sender(body, request.chunks, cut=cut, chunked=request.chunked, pause=request.pause)
        checksum = sha1(body) if request.checksum else None
        sending = self.process.append(upload, source, length=length, checksum=checksum)
        if cut is None:
            answered = await sending
        else:
            with pytest.raises(ClientGone) as gone:
                await sending
            assert gone.value.upload is not None
            answered = gone.value.upload
        self.received += source.arrived
        keeps_nothing = cut is not None and request.checksum
        self.discarded = self.discarded or keeps_nothing
        assert answered.offset == (offset if keeps_nothing else offset + source.arrived)
        found = await self.process.committed(upload.id)
        assert (found.offset, found.length, found.state) == (answered.offset, answered.length, answered.state)
        return found


@PATIENT
@given(worlds, processes, st.integers(0, 400), st.lists(requests, min_size=1, max_size=8), st.booleans())
def test_any_chunks_cuts_and_part_sizes_give_the_same_object(
    world_settings: dict[str, Any], process_settings: dict[str, Any], size: int, script: list[Request], known: bool
) -> None:
    async def upload_it() -> None:
        world = World(**world_settings)
        process = world.process(**process_settings)
        data = some_bytes(size)
        client = Client(process, data)
        upload = await process.create(size if known else None)
        for number in range(1000):
            if upload.offset == size:
                break
            request = script[number % len(script)]
            if number >= 5 * len(script):  # enough cuts: bring it to an end
                request = Request(size, request.chunks, None, request.chunked, request.checksum, 0.0)
            last = upload.offset + request.size >= size
            upload = await client.send(upload, request, length=size if last else None)
        if upload.state is State.UPLOADING:  # deferred, and of no bytes at all, or declared too late
            upload = await process.append(upload, Sender(b""), length=size)
        assert upload.state is State.COMPLETE
        assert upload.length == upload.offset == size
        assert world.body_of(upload) == data
        # A request that ends without its digest may have made a part of older pieces in vain.
        assert client.discarded or world.store.bytes_written <= 2 * client.received
        await asyncio.sleep(10)  # the warm cell
        assert process.budget.used == process.budget.leaving == 0
        await world.settle()
        assert await world.leaks() == []
        assert world.database.all_garbage() == []

    run(upload_it())


@PATIENT
@given(worlds, st.integers(1, 300), st.lists(st.integers(1, 50), min_size=1, max_size=4), st.data())
def test_an_upload_moves_between_processes_at_any_cut(
    world_settings: dict[str, Any], size: int, chunks: list[int], data_: st.DataObject
) -> None:
    cuts = data_.draw(st.lists(st.integers(0, size), max_size=5).map(sorted))

    async def upload_it() -> None:
        world = World(**world_settings)
        data = some_bytes(size)
        upload = await world.process().create(size)
        for cut in [*cuts, None]:
            process = world.process(warm_ttl=5.0)
            rest = data[upload.offset :]
            if cut is None or cut == size:
                if upload.state is State.UPLOADING:
                    upload = await process.append(upload, Sender(rest, chunks))
                continue
            with pytest.raises(ClientGone):
                await process.append(upload, Sender(rest, chunks, cut=cut - upload.offset))
            upload = await process.committed(upload.id)
            assert upload.offset == cut
        assert world.body_of(upload) == data

    run(upload_it())


@pytest.mark.parametrize("completes_all_parts", [False, True])
@pytest.mark.parametrize("size", [3, 10, 25, 100])
def test_a_wrong_digest_keeps_nothing(size: int, completes_all_parts: bool) -> None:
    async def upload_it() -> None:
        world = World(disorder=1, completes_all_parts=completes_all_parts)
        process = world.process()
        data = some_bytes(100)
        upload = await process.append(await process.create(100), Sender(data[:4]))
        for _ in range(2):
            with pytest.raises(ChecksumMismatch) as mismatch:
                await process.append(upload, Sender(data[4 : 4 + size]), checksum=sha1(b"other"))
            assert mismatch.value.upload is not None
            assert mismatch.value.upload.offset == 4
        upload = await process.committed(upload.id)
        assert (upload.offset, upload.state) == (4, State.UPLOADING)
        assert process.budget.used == 0
        upload = await process.append(upload, Sender(data[4:]), checksum=sha1(data[4:]))
        assert world.body_of(upload) == data
        await world.settle()
        assert await world.leaks() == []

    run(upload_it())


def test_a_body_with_a_digest_is_committed_at_once_or_not_at_all() -> None:
    async def upload_it() -> None:
        world = World()
        process = world.process()
        upload = await process.create(100)
        data = some_bytes(95)
        sending = asyncio.create_task(process.append(upload, Sender(data, pause=1.0), checksum=sha1(data)))
        seen = set()
        while not sending.done():
            seen.add((await process.committed(upload.id)).offset)
            await asyncio.sleep(0.1)
        assert seen == {0} or seen == {0, 95}
        assert (await sending).offset == 95

    run(upload_it())


def test_a_store_that_must_list_every_part_gets_no_part_before_the_digest_matched() -> None:
    """And completion makes the parts of the cells that are there as pieces."""

    async def upload_it() -> None:
        world = World(completes_all_parts=True)
        process = world.process()
        data = some_bytes(45)
        upload = await process.create(45)
        with pytest.raises(ChecksumMismatch):
            await process.append(upload, Sender(data[:38]), checksum=sha1(b"other"))
        assert world.store.multiparts == {}
        upload = await process.append(upload, Sender(data[:38]), checksum=sha1(data[:38]))
        assert world.store.multiparts == {}
        assert [piece.size for piece in await world.database.pieces(upload)] == [10, 10, 10, 8]
        upload = await process.append(upload, Sender(data[38:]), checksum=sha1(data[38:]))
        assert (upload.state, world.body_of(upload)) == (State.COMPLETE, data)
        assert [part.size for part in await world.database.parts(upload)] == [10, 10, 10, 10, 5]

    run(upload_it())


@pytest.mark.parametrize("length", [5, 10, 25, 70])
@pytest.mark.parametrize("chunk", [1, 3, 10, 200])
def test_a_chunked_body_that_is_too_long_does_not_complete_the_upload(length: int, chunk: int) -> None:
    async def upload_it() -> None:
        world = World()
        process = world.process()
        data = some_bytes(length)
        upload = await process.create(length)
        with pytest.raises(TooLarge) as refused:
            await process.append(upload, Sender(data + b"!", (chunk,), chunked=True))
        upload = await process.committed(upload.id)
        assert refused.value.upload == upload
        assert upload.state is State.UPLOADING
        assert upload.offset < length
        assert process.budget.used == 0
        upload = await process.append(upload, Sender(data[upload.offset :], (chunk,)))
        assert (upload.state, world.body_of(upload)) == (State.COMPLETE, data)

    run(upload_it())


def test_a_deferred_upload_climbs_the_ladder_to_its_end_and_not_beyond() -> None:
    async def upload_it() -> None:
        world = World(part_size=8)
        process = world.process(budget=10_000)
        upload = await process.create(None)
        capacity = upload.grid.capacity
        data = some_bytes(capacity)
        upload = await process.append(upload, Sender(data[:-5], (997,), chunked=True))
        assert (upload.offset, upload.length) == (capacity - 5, None)
        with pytest.raises(TooLarge):
            await process.append(upload, Sender(data[-5:] + b"!", chunked=True))
        upload = await process.committed(upload.id)
        upload = await process.append(upload, Sender(data[upload.offset :]), length=capacity)
        assert (upload.state, world.body_of(upload)) == (State.COMPLETE, data)
        sizes = [part.size for part in await world.database.parts(upload)]
        assert sizes == [size for size in (8, 32, 128, 512, 2048) for _ in range(4)]

    run(upload_it())


@pytest.mark.parametrize("completes_all_parts", [False, True])
@pytest.mark.parametrize("size", [0, 5, 8, 30, 40])
def test_a_length_that_is_declared_at_the_end_by_an_empty_request_completes_the_upload(
    size: int, completes_all_parts: bool
) -> None:
    """Also when all of it is there as pieces only, so that completion has to begin the multipart upload."""

    async def upload_it() -> None:
        world = World(part_size=8, completes_all_parts=completes_all_parts)
        process = world.process()
        data = some_bytes(size)
        upload = await process.append(await process.create(None), Sender(data, chunked=True), checksum=sha1(data))
        assert upload.state is State.UPLOADING
        assert bool(world.store.multiparts) == (size >= 8 and not completes_all_parts)
        upload = await process.append(upload, Sender(b""), length=size)
        assert (upload.state, world.body_of(upload)) == (State.COMPLETE, data)

    run(upload_it())


@pytest.mark.parametrize("chunk", [5, 32, 33, 500])
def test_cells_larger_than_memory_are_assembled_from_pieces(chunk: int) -> None:
    async def upload_it() -> None:
        world = World(part_size=150, disorder=3)
        process = world.process(budget=100)
        data = some_bytes(400)
        upload = await process.append(await process.create(400), Sender(data, (chunk,)))
        assert world.body_of(upload) == data
        assert [part.size for part in await world.database.parts(upload)] == [150, 150, 100]
        pieces = [size for key, size in world.store.writes if key.startswith(".tusgate")]
        assert max(pieces) == 32
        assert len(pieces) >= 10
        assert process.budget.peak <= max(100, chunk + 32)

    run(upload_it())


def test_a_warm_cell_saves_reading_its_piece_back() -> None:
    async def read_back(warm_ttl: float, pause: float) -> int:
        world = World(part_size=50)
        process = world.process(warm_ttl=warm_ttl)
        data = some_bytes(120)
        upload = await process.create(120)
        for start in range(0, 120, 10):
            upload = await process.append(upload, Sender(data[start : start + 10]))
            await asyncio.sleep(pause)
        assert world.body_of(upload) == data
        assert process.budget.used == 0
        return world.store.bytes_read

    assert run(read_back(5.0, 1.0)) < run(read_back(5.0, 6.0)) == run(read_back(0.0, 0.0))


def test_a_warm_cell_gives_its_memory_to_whoever_needs_it() -> None:
    async def upload_it() -> None:
        world = World(part_size=50)
        process = world.process(budget=60, warm_ttl=1000.0)
        data = some_bytes(100)
        kept = await process.append(await process.create(100), Sender(data[:40]))
        assert process.budget.used == 40
        other = await process.append(await process.create(50), Sender(data[:50]))
        assert world.body_of(other) == data[:50]
        assert process.budget.used == 0
        kept = await process.append(kept, Sender(data[40:]))
        assert world.body_of(kept) == data

    run(upload_it())


def test_a_warm_cell_of_an_upload_that_went_on_elsewhere_is_not_used() -> None:
    async def upload_it() -> None:
        world = World(part_size=50)
        here, there = world.process(warm_ttl=1000.0), world.process(warm_ttl=1000.0)
        data = some_bytes(100)
        upload = await here.append(await here.create(100), Sender(data[:10]))
        upload = await there.append(upload, Sender(data[10:20]))
        upload = await here.append(upload, Sender(data[20:30]))
        upload = await there.append(upload, Sender(data[30:]))
        assert world.body_of(upload) == data
        await asyncio.sleep(1001)
        assert here.budget.used == there.budget.used == 0

    run(upload_it())


def test_slow_cells_are_saved_under_pressure_and_completed_later() -> None:
    async def upload_it() -> None:
        world = World(part_size=60)
        process = world.process(budget=100, inline_max=0)
        data = [some_bytes(120, seed) for seed in range(6)]
        created = [await process.create(120) for _ in data]
        done = await asyncio.gather(
            *(process.append(upload, Sender(body, (5,), pause=1.0)) for upload, body in zip(created, data, strict=True))
        )
        assert [world.body_of(upload) for upload in done] == data
        assert process.budget.peak <= 100
        assert world.store.pieces_written > 0
        assert world.store.bytes_written <= 2 * sum(map(len, data))
        assert process.budget.used == process.budget.leaving == 0

    run(upload_it())


def test_the_memory_of_a_cell_that_is_being_saved_at_the_end_of_its_request_serves_others() -> None:
    async def upload_it() -> None:
        world = World(part_size=60)
        faults = Faults()
        faults.pauses["put_object"] = 1000.0
        process = world.process(faults, budget=120, warm_ttl=5.0)
        data = some_bytes(120)
        ending = asyncio.create_task(process.append(await process.create(120), Sender(data[:50])))
        other = await process.append(await process.create(120), Sender(data, (40,)))
        assert world.body_of(other) == data
        assert not ending.done()
        assert process.budget.peak <= 120
        upload = await process.append(await ending, Sender(data[50:]))
        assert world.body_of(upload) == data

    run(upload_it())


def test_memory_stays_within_the_budget_while_parts_wait_for_a_slow_store() -> None:
    async def upload_it() -> None:
        world = World(part_size=20, bandwidth=10.0)
        process = world.process(budget=100, parts_in_flight=10)
        data = some_bytes(500)
        upload = await process.append(await process.create(500), Sender(data, (5,)))
        assert world.body_of(upload) == data
        assert process.budget.peak <= 100

    run(upload_it())


def test_at_most_the_allowed_parts_are_on_their_way_at_once() -> None:
    async def upload_it() -> None:
        world = World(part_size=10, bandwidth=10.0)
        process = world.process(parts_in_flight=2)
        upload = await process.create(200)
        sending = asyncio.create_task(process.append(upload, Sender(some_bytes(200))))
        most = 0
        while not sending.done():
            most = max(most, process.budget.leaving)
            await asyncio.sleep(0.05)
        assert most == 20
        assert (await sending).state is State.COMPLETE

    run(upload_it())


def test_a_drained_request_keeps_what_has_arrived() -> None:
    async def upload_it() -> None:
        world = World()
        process = world.process()
        data = some_bytes(100)
        upload = await process.create(100)
        source = Sender(data, (3,), pause=1.0)
        sending = asyncio.create_task(process.append(upload, source))
        await asyncio.sleep(8.5)
        await process.writers.drain()
        with pytest.raises(Draining) as drained:
            await sending
        upload = await process.committed(upload.id)
        assert drained.value.upload == upload
        assert upload.offset == source.arrived == 24
        with pytest.raises(Draining):
            await process.append(upload, Sender(data[24:]))
        upload = await world.process().append(upload, Sender(data[24:]))
        assert world.body_of(await process.committed(upload.id)) == data

    run(upload_it())


def test_a_newcomer_takes_over_and_the_older_writer_changes_nothing_more() -> None:
    async def upload_it() -> None:
        world = World()
        here, there = world.process(), world.process()
        data = some_bytes(100)
        upload = await here.create(100)
        stalled = asyncio.create_task(here.append(upload, Sender(data, (35,), pause=10.0)))
        await asyncio.sleep(15)
        upload = await here.committed(upload.id)
        assert upload.offset == 30
        upload = await there.append(upload, Sender(data[30:60]))
        with pytest.raises(Fenced) as fenced:
            await stalled
        assert fenced.value.upload == upload == await here.committed(upload.id)
        upload = await there.append(upload, Sender(data[60:]))
        assert world.body_of(upload) == data
        assert here.budget.used == 0
        await world.settle()
        assert await world.leaks() == []

    run(upload_it())


def test_a_newcomer_in_the_same_process_ends_the_older_writer_at_once() -> None:
    async def upload_it() -> None:
        world = World()
        process = world.process()
        data = some_bytes(100)
        upload = await process.create(100)
        stalled = asyncio.create_task(process.append(upload, Sender(data, (8,), pause=1000.0)))
        await asyncio.sleep(1500)
        upload = await process.append(upload, Sender(data))
        assert stalled.done()
        assert isinstance(stalled.exception(), Fenced)
        assert world.body_of(upload) == data

    run(upload_it())


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_part_that_cannot_be_stored_ends_the_request_at_the_gap_free_prefix(nth: int) -> None:
    async def upload_it() -> None:
        world = World(disorder=5)
        faults = Faults()
        faults.add("put_part", StoreUnavailable, nth=nth)
        process = world.process(faults)
        data = some_bytes(100)
        upload = await process.create(100)
        with pytest.raises(StoreUnavailable) as failed:
            await process.append(upload, Sender(data, (3,), pause=0.01))
        upload = await process.committed(upload.id)
        assert failed.value.upload is not None
        assert failed.value.upload.offset == upload.offset <= 10 * (nth - 1)
        assert upload.offset % 10 == 0
        assert process.budget.used == process.budget.leaving == 0
        upload = await process.append(upload, Sender(data[upload.offset :]))
        assert world.body_of(upload) == data

    run(upload_it())


@PATIENT
@given(worlds, st.integers(1, 60), st.sampled_from([0.0, 0.03]), st.sampled_from([160, 400]))
def test_a_cancelled_request_leaves_a_prefix_and_no_memory_behind(
    world_settings: dict[str, Any], turns: int, pause: float, budget: int
) -> None:
    """Cancelled at every await there is, because a web server may do that when a connection breaks."""

    async def upload_it() -> None:
        world = World(**world_settings)
        process = world.process(budget=budget, warm_ttl=5.0)
        data = some_bytes(300)
        upload = await process.create(300)
        sending = asyncio.create_task(process.append(upload, Sender(data, (25, 2, 40), pause=pause)))
        for _ in range(turns):
            await asyncio.sleep(pause / 2)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.sleep(10)
        assert process.budget.used == process.budget.leaving == 0
        upload = await process.committed(upload.id)
        if upload.state is State.UPLOADING:
            upload = await process.append(upload, Sender(data[upload.offset :]))
        assert world.body_of(upload) == data
        await world.settle()
        assert await world.leaks() == []

    run(upload_it())


@pytest.mark.parametrize("turns", range(12))
def test_a_process_that_ends_when_a_part_is_about_to_leave_forgets_no_coroutine(turns: int) -> None:
    """Python would complain of one that nobody awaits, which the configuration of these tests makes an error."""

    async def upload_it() -> None:
        process = World().process()
        sending = asyncio.create_task(process.append(await process.create(57), Sender(some_bytes(57), (30,))))
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    run(upload_it())


def test_an_interruption_is_one_of_the_errors_that_the_web_knows() -> None:
    assert issubclass(ClientGone, Interrupted)
