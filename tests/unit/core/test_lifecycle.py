"""What an upload may become: the table, and the decision about an append."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.uploads import an_upload
from tusgate.core.errors import (
    AlreadyComplete,
    InconsistentLength,
    OffsetMismatch,
    Overrun,
    TooLarge,
    TusgateError,
    UploadGone,
    WrongProtocol,
)
from tusgate.core.grid import Grid
from tusgate.core.lifecycle import (
    GONE,
    TRANSITIONS,
    Append,
    advance,
    check_append,
    check_present,
    sources_of,
)
from tusgate.core.model import CreatedVia, ObjectKey, Part, Piece, State, StoredObject, Upload

PAIRS = [(before, after) for before in State for after in State]
OBJECT = StoredObject(ObjectKey("key"), 100, "etag", 7)


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


def test_what_is_expired_or_terminated_stays_so() -> None:
    assert TRANSITIONS[State.EXPIRED] == TRANSITIONS[State.TERMINATED] == frozenset()


def test_only_an_upload_that_takes_bytes_expires_and_only_a_stored_one_becomes_complete() -> None:
    assert sources_of(State.EXPIRED) == (State.UPLOADING, State.COMPLETE), "complete partials"
    assert set(sources_of(State.COMPLETE)) == {State.UPLOADING, State.SEALED}
    assert sources_of(State.SEALED) == (State.UPLOADING,)
    assert sources_of(State.UPLOADING) == ()


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_sources_of_a_state_are_the_table_read_backwards(before: State, after: State) -> None:
    assert (before in sources_of(after)) == (after in TRANSITIONS[before] and before is not after)


@pytest.mark.parametrize("state", State)
def test_an_upload_is_gone_exactly_when_it_ended_without_an_object(state: State) -> None:
    upload = an_upload(state=state, reason="because")
    if state not in {State.FAILED, State.EXPIRED, State.TERMINATED}:
        check_present(upload)
        return
    assert state in GONE
    with pytest.raises(UploadGone, match=f"{state.value}: because") as gone:
        check_present(upload)
    assert gone.value.state == state


@dataclass(frozen=True)
class Case:
    upload: Upload
    append: Append
    max_size: int | None


def first_objection(case: Case) -> type[TusgateError] | None:
    """Return the error that the contract demands, written down rule by rule in its order."""
    upload, append = case.upload, case.append
    length = append.length if upload.length is None else upload.length
    end = None if append.size is None else append.offset + append.size
    rules: list[tuple[bool, type[TusgateError]]] = [
        (upload.state in GONE, UploadGone),
        (append.offset != upload.offset, OffsetMismatch),
        (append.length is not None and upload.length not in {None, append.length}, InconsistentLength),
        (upload.length is None and append.length is not None and append.length < upload.offset, InconsistentLength),
        (
            upload.length is None
            and append.length is not None
            and append.length > min(upload.grid.capacity, case.max_size or 1000),
            TooLarge,
        ),
        (end is not None and length is not None and end > length, TooLarge),
        (end is not None and case.max_size is not None and end > case.max_size, TooLarge),
    ]
    return next((error for holds, error in rules if holds), None)


offsets = st.integers(0, 60)
cases = st.builds(
    Case,
    st.builds(
        lambda state, offset, length, grid: an_upload(state=state, offset=offset, length=length, grid=grid),
        st.sampled_from(State),
        offsets,
        st.none() | st.integers(0, 70),
        st.just(Grid(((5, 13),))),
    ),
    st.builds(Append, offset=offsets, size=st.none() | offsets, length=st.none() | st.integers(0, 80)),
    st.none() | st.integers(1, 70),
)


@given(cases, st.booleans())
def test_an_append_is_checked_for_gone_then_offset_then_length_then_size(case: Case, hits: bool) -> None:
    if hits:  # else nearly every case would end at the offset
        append = Append(offset=case.upload.offset, size=case.append.size, length=case.append.length)
        case = Case(case.upload, append, case.max_size)
    objection = first_objection(case)
    if objection is None:
        length = check_append(case.upload, case.append, case.max_size)
        assert length == (case.upload.length if case.upload.length is not None else case.append.length)
    else:
        with pytest.raises(TusgateError) as raised:
            check_append(case.upload, case.append, case.max_size)
        assert type(raised.value) is objection


@pytest.mark.parametrize(
    ("upload", "append", "max_size", "objection"),
    [
        (an_upload(state=State.EXPIRED), Append(offset=5, size=5, length=3), None, UploadGone),
        (an_upload(), Append(offset=5, size=500, length=3), None, OffsetMismatch),
        (an_upload(), Append(offset=0, size=500, length=3), None, InconsistentLength),
        (an_upload(length=None, offset=9), Append(offset=9, size=500, length=8), None, InconsistentLength),
        (an_upload(length=None), Append(offset=0, size=1, length=51), 50, TooLarge),
        (an_upload(length=None), Append(offset=0, size=1, length=1001), None, TooLarge),
        (an_upload(), Append(offset=0, size=101, length=None), None, TooLarge),
        (an_upload(length=None), Append(offset=0, size=8, length=7), None, TooLarge),
    ],
)
def test_each_rule_has_an_append_that_breaks_it(
    upload: Upload, append: Append, max_size: int | None, objection: type[TusgateError]
) -> None:
    assert first_objection(Case(upload, append, max_size)) is objection
    with pytest.raises(objection):
        check_append(upload, append, max_size)


def test_a_wrong_offset_is_told_before_anything_else_about_the_body() -> None:
    with pytest.raises(OffsetMismatch) as mismatch:
        check_append(an_upload(offset=10), Append(offset=9, size=1000, length=3), 5)
    assert (mismatch.value.expected, mismatch.value.provided) == (10, 9)


def test_a_body_of_unknown_size_is_not_refused_in_advance() -> None:
    assert check_append(an_upload(offset=99), Append(offset=99, size=None, length=None), 100) == 100


def test_a_body_of_an_upload_of_unknown_length_is_held_to_the_largest_size() -> None:
    deferred = an_upload(length=None, offset=10)
    assert check_append(deferred, Append(offset=10, size=40, length=None), 50) is None
    with pytest.raises(TooLarge, match="50"):
        check_append(deferred, Append(offset=10, size=41, length=None), 50)


def test_a_length_may_be_declared_again_if_it_is_the_same() -> None:
    assert check_append(an_upload(), Append(offset=0, size=0, length=100), None) == 100


@given(st.integers(0, 100), st.integers(0, 100), st.none() | st.integers(0, 100))
def test_a_step_seals_the_upload_exactly_at_its_last_byte(before: int, end: int, length: int | None) -> None:
    upload = an_upload(offset=before, length=length)
    if end < before:
        with pytest.raises(AssertionError, match="illegal step"):
            advance(upload, end, length)
        return
    step = advance(upload, end, length, lifetime=5.0, max_age=9.0)
    assert step.state is (State.SEALED if end == length else State.UPLOADING)
    assert (step.end, step.length, step.lifetime, step.max_age) == (end, length, 5.0, 9.0)


def test_a_whole_object_completes_the_upload_without_a_seal() -> None:
    step = advance(an_upload(), 100, 100, stored=OBJECT)
    assert (step.state, step.stored) == (State.COMPLETE, OBJECT)


@pytest.mark.parametrize("state", [State.COMPLETE, State.FAILED, State.EXPIRED, State.TERMINATED])
@pytest.mark.parametrize("stored", [None, OBJECT])
def test_nothing_moves_an_upload_that_has_ended(state: State, stored: StoredObject | None) -> None:
    with pytest.raises(AssertionError, match="illegal step"):
        advance(an_upload(state=state, offset=50), 100, 100, stored=stored)


def test_a_step_carries_its_rows() -> None:
    part, piece = Part(1, 0, 10, "etag", 1), Piece(10, 5, 2, ObjectKey("piece"))
    step = advance(an_upload(), 15, 100, parts=(part,), pieces=(piece,), absorb=(0, 10))
    assert (step.parts, step.pieces, step.absorb, step.stored) == ((part,), (piece,), (0, 10), None)


def a_rufh_upload(**changes: object) -> Upload:
    return an_upload(created_via=CreatedVia.RUFH, **changes)


def a_rufh_append(offset: int = 0, size: int | None = None, length: int | None = None, *, ends: bool = False) -> Append:
    return Append(offset=offset, size=size, length=length, ends=ends, via=CreatedVia.RUFH)


@pytest.mark.spec("SH-02")
@pytest.mark.parametrize("via", CreatedVia)
def test_bytes_are_taken_in_the_protocol_of_the_creation_only(via: CreatedVia) -> None:
    for other in CreatedVia:
        append = Append(offset=9, size=1, length=None, via=other)
        is_here = other is via and via is not CreatedVia.DIRECT  # of which no byte comes here
        with pytest.raises(OffsetMismatch if is_here else WrongProtocol):
            check_append(an_upload(created_via=via), append, None)


@pytest.mark.spec("R-APP-10")
def test_what_has_been_ended_takes_nothing_at_any_offset() -> None:
    ended = a_rufh_upload(state=State.COMPLETE, offset=100)
    for offset in (0, 100):
        with pytest.raises(AlreadyComplete):
            check_append(ended, a_rufh_append(offset, 0, ends=True), None)


@pytest.mark.spec("R-APP-08", "R-CRE-06")
@pytest.mark.parametrize(
    ("append", "expected"),
    [
        (a_rufh_append(size=101), Overrun),
        (a_rufh_append(size=101, ends=True), Overrun),
        (a_rufh_append(size=101, length=101, ends=True), Overrun),
        (a_rufh_append(size=99, ends=True), InconsistentLength),
        (a_rufh_append(size=100, length=99, ends=True), InconsistentLength),
        (a_rufh_append(size=1, length=99), InconsistentLength),
    ],
)
def test_an_overrun_outweighs_that_lengths_do_not_agree(append: Append, expected: type[TusgateError]) -> None:
    with pytest.raises(expected):
        check_append(a_rufh_upload(), append, None)


@pytest.mark.spec("R-CRE-05", "R-APP-12")
def test_a_body_that_ends_the_upload_declares_its_length_when_its_size_is_known() -> None:
    deferred = a_rufh_upload(length=None, offset=10)
    assert check_append(deferred, a_rufh_append(10, 5, ends=True), None) == 15
    assert check_append(deferred, a_rufh_append(10, 5), None) is None
    assert check_append(deferred, a_rufh_append(10, None, ends=True), None) is None


@pytest.mark.spec("R-APP-09", "SH-01")
def test_where_requests_end_uploads_reaching_the_length_seals_nothing() -> None:
    reached = advance(a_rufh_upload(), 100, 100)
    ended = advance(a_rufh_upload(), 100, 100, ends=True)
    early = advance(a_rufh_upload(), 99, 100, ends=True)
    assert (reached.state, ended.state, early.state) == (State.UPLOADING, State.SEALED, State.UPLOADING)
    assert a_rufh_upload(offset=100).final_length is None
    assert a_rufh_upload(offset=100, state=State.SEALED).final_length == 100
    assert an_upload().final_length == 100
