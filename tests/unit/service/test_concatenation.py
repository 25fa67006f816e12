"""Finals in the three ways, with everything that may happen to them and to their partials."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.doubles.faults import Crashed, Fault, Faults
from tests.unit.service.rig import GRACE, LIFETIME, SCOPE, Process, Sender, World, small_scale, some_bytes
from tests.virtual_time import run
from tusgate.core.concat import GroupWish
from tusgate.core.errors import (
    ClientGone,
    Fenced,
    FinalIsFixed,
    Finishing,
    InvalidRequest,
    StillNeeded,
    StoreUnavailable,
    TooLarge,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.grid import PartLimits
from tusgate.core.model import Role, State, UploadId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tusgate.core.model import Upload

LIMITS = PartLimits(min_part_size=5, max_part_size=1000, max_parts=100)
A, B, C, D = (some_bytes(size, seed) for seed, size in enumerate((23, 31, 17, 42)))
GROUP = GroupWish("one file")


@pytest.fixture(autouse=True)
def _scale() -> Iterator[None]:
    with small_scale():
        yield


class Case:
    """One way for finals to come about."""

    def __init__(self, **settings: object) -> None:
        self.world = World(**{"limits": LIMITS, **settings})  # type: ignore[arg-type]  # named by callers
        self.process = self.world.process()

    async def partials(self, *files: bytes, group: GroupWish | None = None) -> list[Upload]:
        return [await self.process.partial(data, group) for data in files]

    def holds(self, final: Upload, data: bytes) -> None:
        assert final.state is State.COMPLETE
        assert (final.offset, final.length) == (len(data), len(data))
        assert self.world.body_of(final) == data

    def moved(self) -> tuple[int, int, int]:
        """Return how many bytes have been sent, read back and copied."""
        store = self.world.store
        return store.bytes_written, store.bytes_read, store.bytes_copied


def test_partials_of_a_group_are_sent_once_and_nothing_else_is_moved() -> None:
    async def work() -> None:
        case = Case()
        partials = await case.partials(A, B, C, D, group=GROUP)
        assert {partial.state for partial in partials} == {State.UPLOADING}
        final = await case.process.concatenate(*partials)
        case.holds(final, A + B + C + D)
        assert case.moved() == (len(A + B + C + D), 0, 0)
        assert [key for key, _ in case.world.store.writes if key != final.object_key] == []

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
@pytest.mark.parametrize("chunk", [1, 3, 9, 100])
def test_a_final_is_the_bytes_of_its_partials_whatever_the_requests_were(group: GroupWish | None, chunk: int) -> None:
    async def work() -> None:
        case = Case()
        partials = []
        for data in (A, B, C):
            partial = await case.process.create(len(data), role=Role.PARTIAL, group=group)
            for start in range(0, len(data), chunk):
                partial = await case.process.append(partial, Sender(data[start : start + chunk]))
            partials.append(partial)
        case.holds(await case.process.concatenate(*partials), A + B + C)

    run(work())


def test_partials_are_written_side_by_side_into_one_multipart_upload() -> None:
    async def work() -> None:
        case = Case(disorder=1)
        partials = [await case.process.create(len(data), role=Role.PARTIAL, group=GROUP) for data in (A, B, C, D)]
        partials = await asyncio.gather(
            *[
                case.process.append(partial, Sender(data, pause=0.01))
                for partial, data in zip(partials, (A, B, C, D), strict=True)
            ]
        )
        assert len(case.world.store.multiparts) == 1
        case.holds(await case.process.concatenate(*partials), A + B + C + D)

    run(work())


def test_lengths_tell_the_order_whatever_the_order_of_arrival_is() -> None:
    async def work() -> None:
        case = Case()
        group = GroupWish("one file", (len(A), len(B), len(C), len(D)))
        d, b, a, c = await case.partials(D, B, A, C, group=group)
        case.holds(await case.process.concatenate(a, b, c, d), A + B + C + D)
        assert case.moved() == (len(A + B + C + D), 0, 0)

    run(work())


def test_large_pieces_are_copied_and_only_small_ones_are_read_back() -> None:
    async def work() -> None:
        case = Case()
        small = b"abc"
        partials = await case.partials(A, small, B, C)
        before = case.moved()
        case.holds(await case.process.concatenate(*partials), A + small + B + C)
        sent, read, copied = (now - then for now, then in zip(case.moved(), before, strict=True))
        assert sent == read < 2 * case.world.part_size
        assert copied == len(A + small + B + C) - sent

    run(work())


@pytest.mark.parametrize("limits", [LIMITS, PartLimits(5, 1000, 100, equal_parts=True)])
def test_where_the_store_cannot_copy_all_bytes_are_sent_again(limits: PartLimits) -> None:
    async def work() -> None:
        case = Case(copies_parts=False, limits=limits)
        partials = await case.partials(A, b"abc", B, b"", C)
        case.holds(await case.process.concatenate(*partials), A + b"abc" + B + C)
        assert case.world.store.bytes_copied == 0

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_a_partial_may_occur_twice_and_in_two_finals_and_in_any_order(group: GroupWish | None) -> None:
    """CAT-10."""

    async def work() -> None:
        case = Case()
        a, b, c = await case.partials(A, B, C, group=group)
        case.holds(await case.process.concatenate(b, a, b), B + A + B)
        case.holds(await case.process.concatenate(a, b, c), A + B + C)
        case.holds(await case.process.concatenate(c, c), C + C)
        case.holds(await case.process.concatenate(a), A)

    run(work())


def test_a_final_of_some_of_a_group_leaves_the_finished_others_usable() -> None:
    async def work() -> None:
        case = Case()
        a, b, c, d = await case.partials(A, B, C, D, group=GROUP)
        case.holds(await case.process.concatenate(a, b), A + B)
        case.holds(await case.process.concatenate(c, d), C + D)

    run(work())


def test_a_partial_that_nobody_names_because_its_creation_was_answered_in_vain_does_no_harm() -> None:
    async def work() -> None:
        case = Case()
        lost = await case.process.create(len(A), role=Role.PARTIAL, group=GROUP)
        a, b = await case.partials(A, B, group=GROUP)
        case.holds(await case.process.concatenate(a, b), A + B)
        assert case.moved() == (len(A + B), 0, 0)
        left_out = await case.process.committed(lost.id)
        assert (left_out.state, left_out.reason) == (State.TERMINATED, "its group was concatenated without it")
        with pytest.raises(UploadGone):
            await case.process.append(lost, Sender(A))

    run(work())


@pytest.mark.parametrize("in_order", [True, False])
def test_a_final_is_refused_as_long_as_it_would_throw_away_bytes_of_another_file_with_the_same_group(
    in_order: bool,
) -> None:
    """I1: two files that name one group by mistake."""

    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B, group=GROUP)
        other = await case.process.create(len(C), role=Role.PARTIAL, group=GROUP)
        with pytest.raises(ClientGone):
            await case.process.append(other, Sender(C, cut=6))
        order = (a, b) if in_order else (b, a)
        with pytest.raises(InvalidRequest, match="concat-group"):
            await case.process.concatenate(*order)
        other = await case.process.append(await case.process.uploads.head(SCOPE, other.id), Sender(C[6:]))
        case.holds(await case.process.concatenate(*order), A + B if in_order else B + A)
        case.holds(await case.process.concatenate(other), C)

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_files_without_bytes(group: GroupWish | None) -> None:
    """CAT-16, CAT-17."""

    async def work() -> None:
        case = Case()
        empty, a, nothing = await case.partials(b"", A, b"", group=group)
        case.holds(await case.process.concatenate(empty, a, nothing), A)
        case.holds(await case.process.concatenate(empty, nothing), b"")

    run(work())


@pytest.mark.slow
def test_a_thousand_partials() -> None:
    async def work() -> None:
        case = Case(limits=PartLimits(min_part_size=5, max_part_size=1000, max_parts=10_000))
        files = [some_bytes(1 + seed % 19, seed) for seed in range(1000)]
        partials = await case.partials(*files)
        case.holds(await case.process.concatenate(*partials), b"".join(files))

    run(work())


def test_asking_again_gives_the_same_final() -> None:
    async def work() -> None:
        case = Case()
        for group in (None, GROUP):
            a, b = await case.partials(A, B, group=group)
            first = await case.process.concatenate(a, b)
            assert (await case.process.concatenate(a, b)).id == first.id
            other = await case.process.concatenate(a, b, metadata=b"filename YQ==")
            assert other.id != first.id
            case.holds(other, A + B)

    run(work())


def test_what_cannot_be_concatenated_is_refused_and_nothing_is_left() -> None:
    """CAT-07, CAT-08, CAT-09, CAT-14."""

    async def work() -> None:
        case = Case()
        process = case.world.process(max_size=50)
        (a,) = await case.partials(A)
        ordinary = await process.append(await process.create(len(B)), Sender(B))
        final = await process.concatenate(a)
        unfinished = await process.create(5, role=Role.PARTIAL)
        grouped = await process.create(7, role=Role.PARTIAL, group=GROUP)
        gone = await process.create(5, role=Role.PARTIAL)
        await process.uploads.terminate(SCOPE, gone.id)
        rows = len(case.world.database._rows)
        for other, error in (
            (ordinary, InvalidRequest),
            (final, InvalidRequest),
            (unfinished, InvalidRequest),
            (grouped, InvalidRequest),
            (gone, UploadGone),
            (await process.committed(a.id), TooLarge),
        ):
            with pytest.raises(error):
                await process.concatenate(a, a, other)
        with pytest.raises(UploadNotFound):
            await process.concatenate(replace(a, id=UploadId("unknown")))
        assert len(case.world.database._rows) == rows

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_a_final_takes_no_bytes(group: GroupWish | None) -> None:
    """CAT-06."""

    async def work() -> None:
        case = Case()
        partials = await case.partials(A, B, group=group)
        final = await case.process.concatenate(*partials)
        with pytest.raises(FinalIsFixed):
            await case.process.append(final, Sender(b"more"))
        case.holds(await case.process.committed(final.id), A + B)

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_partials_expire_by_themselves_and_the_final_stays(group: GroupWish | None) -> None:
    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B, group=group)
        final = await case.process.concatenate(a, b)
        assert final.expires_at is None
        await case.world.settle()
        for partial in (a, b):
            assert (await case.process.committed(partial.id)).state is State.EXPIRED
        case.holds(await case.process.committed(final.id), A + B)
        assert await case.world.leaks() == []
        assert list(case.world.store.objects) == [final.object_key]

    run(work())


@pytest.mark.parametrize("files", [(A, B), (A,)])
@pytest.mark.parametrize("group", [None, GROUP])
def test_partials_that_no_final_names_expire_and_leave_nothing(
    group: GroupWish | None, files: tuple[bytes, ...]
) -> None:
    """I11."""

    async def work() -> None:
        case = Case()
        partials = await case.partials(*files, group=group)
        unfinished = await case.process.create(len(C), role=Role.PARTIAL, group=group)
        with pytest.raises(ClientGone):
            await case.process.append(unfinished, Sender(C, cut=13))
        assert (await case.process.uploads.head(SCOPE, partials[0].id)).expires_at is not None
        await case.world.settle()
        await case.world.settle()
        assert {row.upload.state for row in case.world.database._rows.values()} == {State.EXPIRED}
        assert not case.world.store.objects
        assert not case.world.store.multiparts

    run(work())


def test_a_group_lives_as_long_as_one_of_its_partials() -> None:
    async def work() -> None:
        case = Case()
        a = await case.process.create(len(A), role=Role.PARTIAL, group=GROUP)
        b = await case.process.create(len(B), role=Role.PARTIAL, group=GROUP)
        b = await case.process.append(b, Sender(B))
        for start in range(0, len(A), 4):
            await asyncio.sleep(LIFETIME - 60)
            a = await case.process.append(a, Sender(A[start : start + 4]))
            await case.process.jobs.expire()
            await case.process.jobs.collect_garbage()
        assert (await case.process.committed(b.id)).state is State.EXPIRED
        case.holds(await case.process.concatenate(a), A)

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_ending_a_final_or_its_partials_leaves_nothing(group: GroupWish | None) -> None:
    """I10, I11, DEL-08: and does not take the others along."""

    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B, group=group)
        final = await case.process.concatenate(a, b)
        await case.process.uploads.terminate(SCOPE, a.id)
        case.holds(await case.process.committed(final.id), A + B)
        await case.process.uploads.terminate(SCOPE, final.id)
        with pytest.raises(UploadGone):
            await case.process.uploads.head(SCOPE, final.id)
        case.holds(await case.process.concatenate(b, b), B + B)
        await case.process.uploads.terminate(SCOPE, b.id)
        (last,) = [
            row.upload
            for row in case.world.database._rows.values()
            if row.upload.role is Role.FINAL and row.upload.state is State.COMPLETE
        ]
        await case.process.uploads.terminate(SCOPE, last.id)
        await case.world.settle()
        await case.world.settle()
        assert not case.world.store.objects
        assert not case.world.store.multiparts

    run(work())


@pytest.mark.parametrize("group", [None, GROUP])
def test_what_an_unfinished_final_needs_can_neither_be_ended_nor_expire(group: GroupWish | None) -> None:
    async def work() -> None:
        case = Case()
        process = case.world.process(
            Faults([Fault(("put_part", "copy_part", "put_object"), StoreUnavailable, times=10_000)]), finish_wait=1.0
        )
        a, b = await case.partials(A, B, group=group)
        if group is not None:  # an order that makes copies necessary
            case.holds(await case.process.concatenate(a, b), A + B)
            a, b = b, a
        with pytest.raises(Finishing):
            await process.concatenate(a, b)
        for partial in (a, b):
            with pytest.raises(StillNeeded):
                await process.uploads.terminate(SCOPE, partial.id)
        (sealed,) = [
            row.upload
            for row in case.world.database._rows.values()
            if row.upload.role is Role.FINAL and row.upload.state is State.SEALED
        ]
        assert (await process.uploads.head(SCOPE, sealed.id)).state is State.SEALED
        with pytest.raises(Finishing):  # other protocols have no way to say that there is no offset yet
            await process.uploads.settle(SCOPE, sealed.id)
        await process.completion.stop()
        await asyncio.sleep(2 * LIFETIME)
        await process.jobs.expire()
        await case.process.jobs.finish_abandoned()
        case.holds(await case.process.completion.wait(sealed, 60), (B + A) if group else (A + B))

    run(work())


CALLS = [
    *("create_multipart", "put_part", "copy_part", "complete_multipart", "find", "concatenate", "gather", "absorb"),
    *("complete", "sources", "create_partial", "parts"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("way", ["in place", "gathered", "copied", "streamed"])
def test_a_process_that_dies_at_any_call_leaves_a_final_that_another_one_finishes(
    way: str, call: str, after: bool
) -> None:
    """I5, CAT-20: or none at all, and then asking again gives it."""

    async def work() -> None:
        case = Case(copies_parts=way != "streamed")
        group = GROUP if way in ("in place", "gathered") else None
        a, b, c = await case.partials(A, B, C, group=group)
        order, data = ((c, a, b), C + A + B) if way == "gathered" else ((a, b, c), A + B + C)
        for nth in range(1, 12):
            faults = Faults([Fault(call, Crashed, nth=nth, after=after)])
            victim = case.world.process(faults, holder=f"victim-{nth}")
            task = asyncio.create_task(victim.concatenate(*order, metadata=b"n %d" % nth))
            await asyncio.wait([task], timeout=5)
            faults.dead = True
            await _bury(victim, task)
            await asyncio.sleep(60)
            case.holds(await case.process.concatenate(*order, metadata=b"n %d" % nth), data)
        await case.world.settle()
        await case.world.settle()
        assert await case.world.leaks() == []

    run(work())


async def _bury(victim: Process, task: asyncio.Task[Upload]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for each in list(victim.completion._tasks.values()):
        each.cancel()
        await asyncio.gather(each, return_exceptions=True)


def test_two_that_ask_at_once_get_one_final() -> None:
    async def work() -> None:
        case = Case(disorder=3)
        other = case.world.process(holder="other")
        for group in (None, GROUP):
            a, b = await case.partials(A, B, group=group)
            finals = await asyncio.gather(
                case.process.concatenate(a, b), other.concatenate(a, b), return_exceptions=True
            )
            for final in finals:
                assert not isinstance(final, BaseException), final
                case.holds(final, A + B)

    run(work())


def test_a_partial_that_is_deleted_while_its_group_is_gathered_is_missed_in_the_final() -> None:
    """I20: the request has seen it whole, and the object of the group is made without it."""

    async def work() -> None:
        faults = Faults(pauses={"find_final": 5.0})
        case = Case()
        a, b, _ = await case.partials(A, B, C, group=GROUP)
        asking = asyncio.create_task(case.world.process(faults).concatenate(b, a))
        await asyncio.sleep(1)
        await case.process.uploads.terminate(SCOPE, a.id)
        with pytest.raises(UploadGone):
            await asking

    run(work())


def test_a_finisher_of_a_final_that_has_lost_its_lease_comes_late_and_does_no_harm() -> None:
    """I20: it reads the row before another one has begun the multipart upload, and the parts after it."""

    async def work() -> None:
        case = Case()
        partials = await case.partials(A, B)
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: complaints.append(found.get("exception")))
        late = case.world.process(Faults(pauses={"sources": 8.0}), holder="late")
        asking = asyncio.create_task(late.concatenate(*partials))
        await asyncio.sleep(1)
        (row,) = [row for row in case.world.database._tables.rows.values() if row.upload.role is Role.FINAL]
        await case.world.database.release_sealed(row.upload, "late", 0.0)
        other = case.world.process(Faults(pauses={"complete_multipart": 20.0}), holder="other")
        other.completion.start(row.upload)
        case.holds(await asking, A + B)
        await asyncio.sleep(100)
        gc.collect()
        assert complaints == []

    run(work())


def test_a_group_all_of_whose_partials_have_ended_meanwhile_is_not_made_into_anything() -> None:
    """I1: an object of nothing could only fail, in the name of all of them."""

    async def work() -> None:
        faults = Faults(pauses={"find_final": 5.0})
        case = Case()
        a, b = await case.partials(A, B, group=GROUP)
        asking = asyncio.create_task(case.world.process(faults).concatenate(b, a))
        await asyncio.sleep(1)
        for partial in (a, b):
            await case.process.uploads.terminate(SCOPE, partial.id)
        with pytest.raises(UploadGone):
            await asking
        assert a.group is not None
        assert (await case.world.database.get(SCOPE, a.group)).state is not State.FAILED

    run(work())


def test_a_group_whose_multipart_upload_is_lost_fails_with_all_its_partials() -> None:
    """I4: bytes that are gone are not shown as there."""

    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B, group=GROUP)
        c = await case.process.create(len(C), role=Role.PARTIAL, group=GROUP)
        case.world.store.multiparts.clear()
        with pytest.raises(UploadGone):
            await case.process.append(c, Sender(C))
        for partial in (a, b, c):
            with pytest.raises(UploadGone):
                await case.process.uploads.head(SCOPE, partial.id)

    run(work())


def test_a_final_whose_multipart_upload_is_lost_fails_with_its_partials() -> None:
    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B, group=GROUP)
        case.world.store.multiparts.clear()
        with pytest.raises((UploadGone, Finishing)):
            await case.process.concatenate(a, b)
        await asyncio.sleep(120)
        for partial in (a, b):
            with pytest.raises(UploadGone):
                await case.process.uploads.head(SCOPE, partial.id)

    run(work())


def test_a_partial_that_is_lost_while_it_is_copied_fails_the_final_only() -> None:
    async def work() -> None:
        case = Case()
        a, b = await case.partials(A, B)
        del case.world.store.objects[(await case.process.committed(b.id)).object_key]
        with pytest.raises((UploadGone, Finishing)):
            await case.process.concatenate(a, b)
        await asyncio.sleep(120)
        assert (await case.process.committed(a.id)).state is State.COMPLETE
        finals = [row.upload for row in case.world.database._rows.values() if row.upload.role is Role.FINAL]
        assert [final.state for final in finals] == [State.FAILED]

    run(work())


def test_intents_of_many_that_begin_the_multipart_upload_at_once_leave_nothing() -> None:
    """I11: several partials may each begin one; one is kept."""

    async def work() -> None:
        case = Case(disorder=5)
        files = [some_bytes(20, seed) for seed in range(6)]
        empty = [await case.process.create(20, role=Role.PARTIAL, group=GROUP) for _ in files]
        processes = [case.world.process(holder=f"p{n}") for n in range(6)]
        partials = await asyncio.gather(
            *[
                process.append(partial, Sender(data))
                for process, partial, data in zip(processes, empty, files, strict=True)
            ]
        )
        case.holds(await case.process.concatenate(*partials), b"".join(files))
        await asyncio.sleep(2 * GRACE)
        await case.world.settle()
        assert await case.world.leaks() == []

    run(work())


def test_a_writer_of_a_partial_that_was_taken_over_changes_nothing() -> None:
    """I6, in a group: its late parts have numbers that are nobody else's."""

    async def work() -> None:
        case = Case()
        a = await case.process.create(len(A), role=Role.PARTIAL, group=GROUP)
        (b,) = await case.partials(B, group=GROUP)
        stale = asyncio.create_task(case.process.append(a, Sender(bytes(len(A)), stop=8)))
        await asyncio.sleep(1)
        other = case.world.process(holder="other")
        a = await other.append(await other.uploads.head(SCOPE, a.id), Sender(A))
        with pytest.raises(Fenced):
            await stale
        case.holds(await case.process.concatenate(a, b), A + B)

    run(work())
