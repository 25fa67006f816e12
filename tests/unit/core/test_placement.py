"""Where collected bytes go, and what a request is announced to need."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.uploads import a_new_upload, an_upload, small_grids
from tusgate.core.grid import Cell, Grid
from tusgate.core.model import Intent, MultipartId, ObjectKey
from tusgate.core.naming import piece_key
from tusgate.core.placement import Marks, Place, foresee, is_whole, place_cell, whole_intent

FIRST, SECOND = Cell(1, 0, 10), Cell(2, 10, 20)
HAS_MULTIPART = MultipartId("begun")


def place(cell: Cell, marks: Marks, length: int | None, *, multipart: bool = False, inline_max: int = 3) -> Place:
    return place_cell(cell, marks, length, multipart=multipart, inline_max=inline_max)


def test_a_cell_that_is_the_whole_upload_is_one_object() -> None:
    assert place(FIRST, Marks(0, 0, 10), 10) is Place.WHOLE
    assert place(Cell(1, 0, 0), Marks(0, 0, 0), 0) is Place.WHOLE


@pytest.mark.parametrize("length", [None, 11, 100])
def test_a_full_cell_of_a_longer_or_open_upload_is_a_part(length: int | None) -> None:
    assert place(FIRST, Marks(0, 0, 10), length) is Place.PART
    assert place(SECOND, Marks(10, 10, 20), length or 20) is Place.PART


def test_an_upload_that_began_as_multipart_ends_as_multipart() -> None:
    assert place(FIRST, Marks(0, 0, 10), 10, multipart=True) is Place.PART


def test_a_full_cell_becomes_a_part_even_if_its_last_bytes_are_durable_already() -> None:
    assert place(FIRST, Marks(0, 10, 10), None) is Place.PART


def test_what_is_durable_already_is_not_stored_again() -> None:
    assert place(FIRST, Marks(5, 7, 7), 100) is Place.NOWHERE


@pytest.mark.parametrize(("filled", "expected"), [(8, Place.INLINE), (9, Place.PIECE)])
def test_few_bytes_since_the_last_piece_go_into_the_row(filled: int, expected: Place) -> None:
    assert place(FIRST, Marks(5, 6, filled), 100) is expected


def test_without_room_in_the_row_everything_is_a_piece() -> None:
    assert place(FIRST, Marks(0, 0, 1), 100, inline_max=0) is Place.PIECE


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 10), st.integers(0, 10), st.booleans())
def test_bytes_that_are_not_durable_always_have_a_place(a: int, b: int, c: int, inline: int, multipart: bool) -> None:
    saved, durable, filled = sorted((a, b, c))
    decided = place(FIRST, Marks(saved, durable, filled), 100, multipart=multipart, inline_max=inline)
    assert (decided is Place.NOWHERE) == (filled == durable and filled != 10)
    assert (decided is Place.PART) == (filled == 10)


def test_only_the_first_cell_can_be_the_whole_upload() -> None:
    assert is_whole(FIRST, 10, multipart=False)
    assert not is_whole(FIRST, 10, multipart=True)
    assert not is_whole(FIRST, None, multipart=False)
    assert not is_whole(SECOND, 20, multipart=False)


def test_the_next_attempt_at_the_whole_object_has_the_next_key() -> None:
    assert whole_intent(a_new_upload()) == Intent(ObjectKey("key"), attempt=1)
    assert whole_intent(an_upload(put_attempts=2)) == Intent(ObjectKey("key~3"), attempt=3)


def test_a_request_without_bytes_needs_nothing_unless_it_is_the_whole_upload() -> None:
    assert foresee(an_upload(), 1, 0, 100, 3) == []
    assert foresee(an_upload(), 1, None, 100, 3) == []
    assert foresee(a_new_upload(length=0), 1, 0, 0, 3) == [Intent(ObjectKey("key"), attempt=1)]


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 10, []),  # an object: see the next test
        (0, 8, ["piece"]),
        (0, 3, []),
        (5, 4, ["piece"]),
        (5, 5, []),
    ],
)
def test_a_small_upload_needs_a_piece_where_the_request_ends_early(offset: int, size: int, expected: list[str]) -> None:
    upload = an_upload(offset=offset, length=10)
    intents = [] if offset + size == 10 else foresee(upload, 4, size, 10, 3)
    assert [intent.key for intent in intents] == [piece_key(upload.id, 4, 0) for _ in expected]


@pytest.mark.parametrize("offset", [0, 5])
def test_a_small_upload_that_ends_with_the_request_needs_its_object(offset: int) -> None:
    assert foresee(an_upload(offset=offset, length=10), 1, 10 - offset, 10, 3) == [Intent(ObjectKey("key"), attempt=1)]


@pytest.mark.parametrize(
    ("offset", "size", "multipart", "piece"),
    [
        (0, 10, True, False),
        (0, 25, True, True),
        (0, 23, True, False),
        (0, 5, False, True),
        (0, 100, True, False),
        (95, 5, True, False),
        (8, 4, True, False),
    ],
)
def test_a_large_upload_needs_a_multipart_at_its_first_cell_and_a_piece_at_a_loose_end(
    offset: int, size: int, multipart: bool, piece: bool
) -> None:
    upload = an_upload(offset=offset)
    intents = foresee(upload, 2, size, 100, 3)
    assert [intent for intent in intents if intent.multipart] == [Intent(ObjectKey("key"), multipart=True)] * multipart
    pieces = [intent.key for intent in intents if not intent.multipart]
    assert pieces == [piece_key(upload.id, 2, 0)] * piece
    begun = foresee(replace(upload, multipart_id=HAS_MULTIPART), 2, size, 100, 3)
    assert begun == [intent for intent in intents if not intent.multipart]


@given(small_grids, st.data())
def test_foresight_never_fails_and_never_names_a_thing_twice(grid: Grid, data: st.DataObject) -> None:
    length = data.draw(st.none() | st.integers(0, grid.capacity))
    most = grid.capacity if length is None else length
    offset = data.draw(st.integers(0, most))
    size = data.draw(st.none() | st.integers(0, most - offset))
    upload = an_upload(grid=grid, length=length, offset=offset)
    intents = foresee(upload, 1, size, length, 2)
    assert len({(intent.key, intent.multipart) for intent in intents}) == len(intents) <= 2
