"""Commits in the order of offsets, whatever the order of the store."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.faults import Faults
from tests.unit.service.rig import World
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable, Fenced
from tusgate.core.model import ObjectKey, Part, Piece, State, StoredObject, Upload
from tusgate.service.ledger import RECHECK_DELAYS, Expiry, Ledger, Stored

pytestmark = pytest.mark.usefixtures("small_scale")

NEVER = Expiry(lifetime=None, max_age=None)


def stored(number: int) -> Stored:
    """Return the `number`-th part of ten bytes."""
    start = 10 * (number - 1)
    part = Part(number, start, 10, f"etag-{number}", number)
    return Stored(start=start, end=start + 10, part=part, absorb=(start, start + 10))


def inline(start: int, data: bytes) -> Stored:
    return Stored(start=start, end=start + len(data), piece=Piece(start, len(data), 0, data=data))


async def a_writer(world: World, length: int | None = 100) -> Upload:
    upload = await world.process().create(length)
    upload, _ = await world.database.claim(upload, "writer")
    return upload


@given(st.permutations(range(1, 11)))
def test_only_the_gap_free_prefix_is_committed(order: list[int]) -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        ledger = Ledger(world.database, upload, 100, NEVER)
        done: set[int] = set()
        for number in order:
            await ledger.add(stored(number))
            done.add(number)
            prefix = next(n for n in range(1, 12) if n not in done) - 1
            found = await world.database.get(upload.scope, upload.id)
            assert found == ledger.upload
            assert found.offset == 10 * prefix
            assert len(await world.database.parts(found)) == prefix
            assert (found.state is State.SEALED) == (prefix == 10)

    run(work())


@given(st.permutations(range(1, 11)))
def test_parts_that_end_at_once_are_committed_once_each_and_one_after_the_other(order: list[int]) -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        faults.pauses["commit"] = 1.0
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        await asyncio.gather(*(ledger.add(stored(number)) for number in order))
        assert ledger.upload.state is State.SEALED
        assert [part.number for part in await world.database.parts(upload)] == list(range(1, 11))

    run(work())


def test_nothing_is_committed_while_a_digest_is_outstanding_and_then_all_at_once() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        ledger.on_hold = True
        for number in (2, 1, 3):
            await ledger.add(stored(number))
        assert faults.calls == []
        await ledger.release()
        assert faults.calls == ["commit"]
        assert ledger.upload.offset == 30

    run(work())


def test_a_piece_that_a_part_of_the_same_commit_covers_is_not_recorded() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        ledger = Ledger(world.database, upload, 100, NEVER)
        ledger.on_hold = True
        key = ObjectKey("piece")
        await ledger.add(Stored(start=0, end=4, piece=Piece(0, 4, 0, key), absorb=(0, 4)))
        await ledger.add(Stored(start=4, end=10, part=Part(1, 0, 10, "etag", 0), absorb=(0, 10)))
        await ledger.release()
        assert ledger.upload.offset == 10
        assert await world.database.pieces(upload) == []

    run(work())


def test_a_whole_object_completes_the_upload() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world, 7)
        ledger = Ledger(world.database, upload, 7, NEVER)
        await ledger.add(Stored(start=0, end=7, whole=StoredObject(upload.object_key, 7, "etag", 1)))
        assert (ledger.upload.state, ledger.upload.etag) == (State.COMPLETE, "etag")

    run(work())


def test_a_length_is_declared_without_bytes() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world, None)
        ledger = Ledger(world.database, upload, 20, NEVER)
        await ledger.declare()
        assert (ledger.upload.length, ledger.upload.offset) == (20, 0)

    run(work())


@pytest.mark.parametrize("away", range(len(RECHECK_DELAYS)))
def test_a_commit_whose_answer_was_lost_is_looked_up(away: int) -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        faults.add("commit", DatabaseUnavailable, after=True)
        if away:
            faults.add("get", DatabaseUnavailable, times=away)
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        await ledger.add(stored(1))
        assert ledger.upload.offset == 10
        await ledger.add(stored(2))
        assert (await world.database.get(upload.scope, upload.id)).offset == 20

    run(work())


def test_a_commit_that_did_not_happen_ends_the_ledger_for_good() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        faults.add("commit", DatabaseUnavailable)
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        with pytest.raises(DatabaseUnavailable):
            await ledger.add(stored(1))
        with pytest.raises(DatabaseUnavailable):
            await ledger.declare()
        await ledger.add(stored(2))  # nothing follows a gap
        assert faults.count("commit") == 1
        assert (await world.database.get(upload.scope, upload.id)).offset == 0

    run(work())


def test_a_database_that_stays_away_ends_the_ledger_at_what_is_sure() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        faults.add("commit", DatabaseUnavailable, nth=2, after=True)
        faults.add("get", DatabaseUnavailable, times=100)
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        await ledger.add(stored(1))
        with pytest.raises(DatabaseUnavailable):
            await ledger.add(stored(2))
        assert ledger.upload.offset == 10
        assert faults.count("get") == len(RECHECK_DELAYS)

    run(work())


def test_a_silent_database_is_asked_once_what_became_of_a_commit() -> None:
    """DF-24: the client has waited for the commit already."""

    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults(pauses={"get": 4.0})
        faults.add("commit", DatabaseUnavailable)
        faults.add("get", DatabaseUnavailable, times=1_000, after=True)
        with pytest.raises(DatabaseUnavailable):
            await Ledger(faults.database(world.database), upload, 100, NEVER).add(stored(1))
        assert faults.count("get") == 1

    run(work())


def test_a_lost_answer_of_a_writer_that_was_taken_over_meanwhile_is_fenced() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        faults = Faults()
        faults.add("commit", DatabaseUnavailable, after=True)
        ledger = Ledger(faults.database(world.database), upload, 100, NEVER)
        adding = asyncio.create_task(ledger.add(stored(1)))
        await asyncio.sleep(RECHECK_DELAYS[0] / 2)
        moved = await world.database.get(upload.scope, upload.id)
        assert moved.offset == 10
        await world.database.claim(moved, "another")
        with pytest.raises(Fenced):
            await adding

    run(work())


def test_a_fenced_ledger_commits_nothing_more() -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        ledger = Ledger(world.database, upload, 100, NEVER)
        await world.database.claim(upload, "another")
        for _ in range(2):
            with pytest.raises(Fenced):
                await ledger.declare()
        assert (await world.database.get(upload.scope, upload.id)).offset == 0

    run(work())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.randoms())
def test_crumbs_in_the_row_are_kept_in_order(sizes: list[int], chance: object) -> None:
    async def work() -> None:
        world = World()
        upload = await a_writer(world)
        ledger = Ledger(world.database, upload, 100, NEVER)
        ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
        crumbs = [inline(start, bytes(range(start, end))) for start, end in pairwise(ends)]
        chance.shuffle(crumbs)  # type: ignore[attr-defined]  # a random.Random of Hypothesis
        for crumb in crumbs:
            await ledger.add(crumb)
        pieces = await world.database.pieces(upload)
        assert b"".join(piece.data or b"" for piece in pieces) == bytes(range(ends[-1]))
        assert ledger.upload.offset == ends[-1]

    run(work())
