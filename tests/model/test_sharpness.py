"""The model catches bugs: each is planted, and a fixed small search must find it.

A search is derandomised, so that each of these tests does the same every time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.doubles import database as double
from tests.doubles.database import MemoryDatabase
from tests.model.machine import Uploading
from tests.unit.service.rig import Sender
from tusgate.core import concat, naming, placement
from tusgate.core.errors import Fenced
from tusgate.core.lifecycle import check_present
from tusgate.core.model import State
from tusgate.service import concatenation, intake
from tusgate.service.concatenation import Concatenation
from tusgate.service.intake import Intake
from tusgate.service.ledger import Ledger, Stored
from tusgate.service.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tusgate.core.access import Principal
    from tusgate.core.errors import DatabaseUnavailable
    from tusgate.core.lifecycle import Append
    from tusgate.core.model import Intent, Part, Piece, Step, Upload, UploadId

pytestmark = pytest.mark.slow

SEARCH = settings(
    max_examples=1000,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def stale_epochs_commit(patch: pytest.MonkeyPatch) -> None:
    """The fence is gone: a commit looks at the offset alone."""
    commit = MemoryDatabase.commit

    async def careless(self: MemoryDatabase, upload: Upload, step: Step) -> Upload:
        return await commit(self, replace(upload, epoch=self._rows[upload.id].upload.epoch), step)

    patch.setattr(MemoryDatabase, "commit", careless)


def offsets_are_told_before_they_are_committed(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer is taken for done."""

    async def hope(self: Ledger, step: Step, error: DatabaseUnavailable) -> Upload:
        return replace(self.upload, offset=step.end, length=step.length, state=step.state)

    patch.setattr(Ledger, "_look_again", hope)


def a_piece_is_dropped_with_the_one_before(patch: pytest.MonkeyPatch) -> None:
    """Saving a piece absorbs all of its cell, pieces that are objects too."""
    put = Intake._put_piece

    async def greedy(self: Intake, entry: Stored, piece: Piece, *rest: Any) -> None:
        cell = self._claimed.grid.cell_at(piece.start, self._length)
        await put(self, replace(entry, absorb=(cell.start, entry.end)), piece, *rest)

    patch.setattr(Intake, "_put_piece", greedy)


def activity_does_not_keep_an_upload_alive(patch: pytest.MonkeyPatch) -> None:
    """Expiry counts from the creation."""
    patch.setattr(MemoryDatabase, "_next_expiry", lambda self, row, step: row.upload.expires_at)


def pieces_are_stored_without_an_intent(patch: pytest.MonkeyPatch) -> None:
    async def forget(self: Intake, intent: Intent) -> None:
        return

    patch.setattr(Intake, "_intend", forget)
    patch.setattr(placement, "_tail_intent", lambda *_: [])


def intents_are_garbage_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(double, "_is_decided", lambda row, waste, before: True)


def what_is_in_use_is_collected(patch: pytest.MonkeyPatch) -> None:
    """An object whose commit was answered late is deleted."""
    patch.setattr(double, "_is_decided", lambda row, waste, before: True)
    patch.setattr(double, "_is_referred_to", lambda row, garbage: False)


def memory_of_failed_parts_is_not_given_back(patch: pytest.MonkeyPatch) -> None:
    async def leaky(self: Intake, put: Any, cell: Any, start: int) -> None:
        held = cell.held
        entry = await put(cell, start)
        cell.buffers.clear()
        self._tools.budget.give(held, left=True)
        await self._ledger.add(entry)

    patch.setattr(Intake, "_store_and_free", leaky)


def a_sealed_upload_is_shown_as_done(patch: pytest.MonkeyPatch) -> None:
    async def hasty(self: Uploads, scope: Any, upload_id: UploadId) -> Upload:
        found = await self._get_patiently(scope, upload_id)
        check_present(found)
        return found

    patch.setattr(Uploads, "head", hasty)


def checksums_are_looked_at_too_late(patch: pytest.MonkeyPatch) -> None:
    add = Ledger.add

    async def at_once(self: Ledger, stored: Stored) -> None:
        self.on_hold = False
        await add(self, stored)

    patch.setattr(Ledger, "add", at_once)


def pieces_of_all_writers_share_their_keys(patch: pytest.MonkeyPatch) -> None:
    key = naming.piece_key
    patch.setattr(intake, "piece_key", lambda upload_id, epoch, number: key(upload_id, 0, number))
    patch.setattr(placement, "piece_key", lambda upload_id, epoch, number: key(upload_id, 0, number))


def commits_jump_over_gaps(patch: pytest.MonkeyPatch) -> None:
    """Parts are committed in the order in which they are stored."""

    def any_order(self: Ledger) -> list[Stored]:
        run = [self._waiting[start] for start in sorted(self._waiting)]
        self._waiting.clear()
        return run

    patch.setattr(Ledger, "_contiguous", any_order)


def terminated_uploads_keep_their_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDatabase, "_discard_multipart", lambda self, row, multipart_id: None)


def a_stale_offset_is_no_conflict(patch: pytest.MonkeyPatch) -> None:
    """A request at a wrong offset is taken in where the upload stands."""
    check = Uploads._check

    async def lenient(self: Uploads, principal: Principal, upload_id: UploadId, append: Append) -> Any:
        upload = await self._database.get(principal.scope, upload_id)
        return await check(self, principal, upload_id, replace(append, offset=upload.offset))

    patch.setattr(Uploads, "_check", lenient)


def what_has_ended_can_fail(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(double, "sources_of", lambda state: tuple(State))


def a_cut_body_is_thrown_away(patch: pytest.MonkeyPatch) -> None:
    """Only whole parts survive a broken connection."""
    close = Intake._close_cell

    async def lazy(self: Intake) -> None:
        if not (isinstance(self._source, Sender) and self._source.is_cut):
            await close(self)

    patch.setattr(Intake, "_close_cell", lazy)


def a_fenced_writer_tries_again(patch: pytest.MonkeyPatch) -> None:
    """It claims the upload anew and goes on with what it has."""
    commit = Ledger._commit

    async def stubborn(self: Ledger, run: list[Stored]) -> None:
        try:
            await commit(self, run)
        except Fenced:
            found = await self._database.get(self.upload.scope, self.upload.id)
            self._broken = None
            self.upload, _ = await self._database.claim(found, "stubborn")
            await commit(self, run)

    patch.setattr(Ledger, "_commit", stubborn)


def partials_of_a_group_share_their_part_numbers(patch: pytest.MonkeyPatch) -> None:
    place = concat.place_member
    patch.setattr(concatenation, "place_member", lambda length, wish, taken, *rest: place(length, wish, (), *rest))


def the_order_of_partials_is_that_of_the_group(patch: pytest.MonkeyPatch) -> None:
    """Whatever the final says: partials of one group are completed in place."""

    def in_any_order(partials: Sequence[Upload]) -> UploadId | None:
        filled = sorted((each for each in partials if each.length), key=lambda each: each.grid.first)
        return concat.shared_group(filled)

    async def sorted_parts(self: Concatenation, partials: Sequence[Upload]) -> list[Part]:
        ordered = sorted(partials, key=lambda each: each.grid.first)
        return [part for each in ordered if each.length for part in await self._database.parts(each)]

    patch.setattr(concatenation, "shared_group", in_any_order)
    patch.setattr(Concatenation, "_parts", sorted_parts)


def partials_may_be_deleted_under_a_final(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDatabase, "_is_needed", lambda self, row: False)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    stale_epochs_commit: "I6",
    offsets_are_told_before_they_are_committed: "I2",
    a_piece_is_dropped_with_the_one_before: "I2",
    activity_does_not_keep_an_upload_alive: "I1",
    pieces_are_stored_without_an_intent: "I11",
    intents_are_garbage_at_once: "I1|I2|I4|I11",
    what_is_in_use_is_collected: "I1|I2|I4",
    memory_of_failed_parts_is_not_given_back: "I15",
    a_sealed_upload_is_shown_as_done: "I5",
    checksums_are_looked_at_too_late: "I9",
    pieces_of_all_writers_share_their_keys: "I1|I2|I3",
    commits_jump_over_gaps: "I2|I20",
    terminated_uploads_keep_their_parts: "I11",
    a_stale_offset_is_no_conflict: "I6|I9",
    what_has_ended_can_fail: "I9",
    a_cut_body_is_thrown_away: "I9",
    a_fenced_writer_tries_again: "I6",
    partials_of_a_group_share_their_part_numbers: "I1|I2|I3",
    the_order_of_partials_is_that_of_the_group: "I1|I3",
    partials_may_be_deleted_under_a_final: "I1",
}
"""What is planted, and which invariant it must be seen to break, whatever breaks beside it: a search that fails
for other reasons only is none."""


@pytest.mark.parametrize(("plant", "broken"), MUTANTS.items(), ids=[plant.__name__ for plant in MUTANTS])
def test_the_model_catches(plant: Callable[[pytest.MonkeyPatch], None], broken: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises(AssertionError, match=rf"(?m)^({broken}): "):
            run_state_machine_as_test(Uploading, settings=SEARCH)
