"""Concatenation by arithmetic: every byte has one place, in its order, in parts that the store takes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.unit.core.uploads import an_upload
from tusgate.core.concat import (
    COPY_SIZE,
    EXPECTED_MEMBERS,
    UNKNOWN_CRC,
    GroupWish,
    chained,
    cut,
    lay_out,
    may_be_in_place,
    place_member,
    ranges_of,
    runs_of,
    shared_group,
)
from tusgate.core.errors import TooLarge
from tusgate.core.grid import MIB, Cell, Grid, PartLimits, grid_for
from tusgate.core.model import ObjectKey, Part, Piece, UploadId

GIB = 1 << 30
TIB = 1 << 40
P = 8 * MIB
S3 = PartLimits()
EQUAL = PartLimits(equal_parts=True)
LARGEST = S3.max_part_size * S3.max_parts
ARITHMETIC = settings(deadline=None)
"""Finals of ten thousands of parts take their time where the machine is busy."""
DIRECTORY = PartLimits(min_part_size=1)

lengths = st.one_of(
    st.integers(0, 64 * MIB),
    st.integers(0, 60 * GIB),
    st.integers(0, 50 * TIB),
    st.sampled_from([0, 1, 5 * MIB - 1, 5 * MIB, P - 1, P, P + 1, P + 5 * MIB - 1, 5 * GIB, 5 * GIB + 1, 5 * TIB]),
)
part_sizes = st.sampled_from([5 * MIB, P, 64 * MIB, 1 * GIB])
wishes = st.none() | st.lists(lengths, min_size=1, max_size=12)


def cells_of(grid: Grid, length: int) -> list[Cell]:
    cells, offset = [], 0
    while offset < length:
        cells.append(grid.cell_at(offset, length))
        offset = cells[-1].end
    return cells


def sizes_in(grid: Grid) -> set[int]:
    return {size for _, size in grid.runs}


def numbers(grid: Grid) -> range:
    return range(grid.first, grid.last + 1)


def place_all(
    partials: list[tuple[int, list[int] | None]], part_size: int = P, limits: PartLimits = S3
) -> list[Grid | None]:
    """Place partials one after the other, each with its length and the lengths it tells of all."""
    taken: list[Grid] = []
    placed: list[Grid | None] = []
    for length, told in partials:
        wish = GroupWish("g", None if told is None else tuple(told))
        fits = may_be_in_place(length, limits, completes_all_parts=False)
        placed.append(place_member(length, wish, taken, part_size, limits) if fits else None)
        taken += [placed[-1]] if placed[-1] else []
    return placed


class TestMembers:
    """Partials in place: parts of one multipart upload from the start."""

    @ARITHMETIC
    @given(st.lists(st.tuples(lengths, wishes), min_size=1, max_size=12), part_sizes)
    @example([(6 * GIB, [6 * GIB, 100 * TIB])], P)
    @example([(13 * MIB, None), (8 * MIB, [5 * MIB, 8 * MIB])], P)
    def test_whatever_clients_tell_every_part_fits_and_no_number_is_given_twice(
        self, partials: list[tuple[int, list[int] | None]], part_size: int
    ) -> None:
        given_numbers: set[int] = set()
        for (length, _), grid in zip(partials, place_all(partials, part_size), strict=True):
            if grid is None:
                continue
            assert grid.capacity == length
            assert [cell.number for cell in (grid.cell_at(0, length), grid.cell_at(length - 1, length))] == [
                grid.first,
                grid.last,
            ]
            assert all(S3.min_part_size <= size <= S3.max_part_size for size in sizes_in(grid))
            assert 1 <= grid.first <= grid.last <= S3.max_parts
            assert given_numbers.isdisjoint(numbers(grid))
            given_numbers |= set(numbers(grid))

    @ARITHMETIC
    @given(st.integers(5 * MIB, 400 * MIB), part_sizes)
    def test_the_cells_of_a_partial_tile_it(self, length: int, part_size: int) -> None:
        grid = place_all([(length, None)], part_size)[0]
        assert grid is not None
        cells = cells_of(grid, length)
        assert [cell.start for cell in cells] == [0, *(cell.end for cell in cells)][:-1]
        assert cells[-1].end == length
        assert [cell.number for cell in cells] == list(numbers(grid))

    @ARITHMETIC
    @given(
        st.lists(st.one_of(st.just(0), st.integers(5 * MIB, 5 * TIB)), min_size=1, max_size=30, unique=True).filter(
            any
        ),
        st.data(),
    )
    def test_told_lengths_give_the_order_of_the_list_however_they_arrive(
        self, told: list[int], data: st.DataObject
    ) -> None:
        arriving = data.draw(st.permutations(told))
        assume(sum(told) <= 40 * TIB)
        placed = dict(zip(arriving, place_all([(length, told) for length in arriving]), strict=True))
        filled = [length for length in told if length]
        in_order = [placed[length] for length in filled]
        assert all(in_order)
        assert all(one.last < other.first for one, other in pairwise(grid for grid in in_order if grid))

    @ARITHMETIC
    @given(st.lists(st.integers(5 * MIB, 2 * TIB), min_size=1, max_size=EXPECTED_MEMBERS), part_sizes)
    def test_without_lengths_the_order_of_arrival_is_that_of_the_numbers(
        self, arriving: list[int], part_size: int
    ) -> None:
        in_order = place_all([(length, None) for length in arriving], part_size)
        assert all(in_order)
        assert all(one.last < other.first for one, other in pairwise(grid for grid in in_order if grid))

    @pytest.mark.parametrize("told", [None, pytest.param([5 * MIB] * 1_000, marks=pytest.mark.slow)])
    def test_a_thousand_partials_lie_in_place(self, told: list[int] | None) -> None:
        placed = place_all([(5 * MIB, told)] * 1_000)
        assert [grid.first if grid else None for grid in placed] == list(range(1, 1_001))

    def test_partials_of_more_than_a_part_may_have_are_cut(self) -> None:
        """The largest part is 5 GiB."""
        told = [5 * GIB + 1, 2 * TIB, 700 * GIB]
        for grid, length in zip(place_all([(length, told) for length in told]), told, strict=True):
            assert grid is not None
            assert grid.capacity == length
            assert max(sizes_in(grid)) < GIB

    def test_once_the_numbers_are_used_up_a_partial_gets_none(self) -> None:
        placed = place_all([(4 * TIB, None)] * 12)
        assert sum(grid is not None for grid in placed) == EXPECTED_MEMBERS
        assert placed[-1] is None

    def test_a_place_that_was_given_is_never_given_again(self) -> None:
        told = [6 * MIB, 7 * MIB]
        placed = place_all([(6 * MIB, told), (6 * MIB, told), (7 * MIB, told)])
        assert [grid.first if grid else None for grid in placed] == [1, None, 2]

    def test_a_partial_whose_length_nobody_told_gets_no_place(self) -> None:
        assert place_all([(9 * MIB, [6 * MIB, 7 * MIB])]) == [None]

    def test_one_partial_that_is_too_small_to_be_a_part_keeps_all_others_out(self) -> None:
        """The lengths tell that the final could not be completed."""
        told = [6 * MIB, 1, 7 * MIB]
        assert place_all([(length, told) for length in told]) == [None] * 3

    @pytest.mark.parametrize(
        ("length", "limits", "completes_all_parts", "may"),
        [
            (5 * MIB, S3, False, True),
            (5 * MIB - 1, S3, False, False),
            (0, S3, False, False),
            (0, DIRECTORY, False, False),
            (1, DIRECTORY, False, True),
            (None, S3, False, False),
            (5 * MIB, EQUAL, False, False),
            (5 * MIB, S3, True, False),
        ],
    )
    def test_which_partials_may_lie_in_place(
        self, length: int | None, limits: PartLimits, completes_all_parts: bool, may: bool
    ) -> None:
        assert may_be_in_place(length, limits, completes_all_parts=completes_all_parts) is may


class TestOrder:
    """Whether the numbers of partials are in the order that a final asks for."""

    HOME = UploadId("g" * 24)
    ONE = an_upload(length=6, grid=Grid(((2, 3),)), group=HOME)
    TWO = an_upload(length=6, grid=Grid(((1, 6),), 3), group=HOME)
    EMPTY = an_upload(length=0)
    OTHER = an_upload(length=6, grid=Grid(((1, 6),), 4), group=UploadId("o" * 24))
    ALONE = an_upload(length=6, grid=Grid(((1, 6),), 4))

    def test_ascending_numbers_of_one_group_are_in_order_empty_partials_aside(self) -> None:
        assert shared_group([self.ONE, self.TWO]) == self.HOME
        assert shared_group([self.EMPTY, self.ONE, self.EMPTY, self.TWO, self.EMPTY]) == self.HOME

    @pytest.mark.parametrize(
        "partials",
        [[TWO, ONE], [ONE, ONE], [ONE, OTHER], [ONE, ALONE], [ALONE], [EMPTY, EMPTY], [ONE, TWO, ONE]],
    )
    def test_anything_else_is_not(self, partials: list[object]) -> None:
        assert shared_group(partials) is None  # type: ignore[arg-type] # a class body knows no better

    def test_parts_of_several_partials_are_laid_end_to_end_with_their_numbers(self) -> None:
        laid = chained([Part(1, 0, 3, "a", 1), Part(2, 3, 3, "b", 2), Part(7, 0, 6, "c", 3)])
        assert laid == [Part(1, 0, 3, "a", 1), Part(2, 3, 3, "b", 2), Part(7, 6, 6, "c", 3)]


@dataclass(frozen=True)
class Source:
    """A finished partial: its key and the sizes of its parts."""

    key: str
    parts: tuple[int, ...]


def sources(limits: PartLimits) -> st.SearchStrategy[Source]:
    """Draw partials as gateways make them: whole parts of one size, then a rest of any.

    Parts of more than 525 MiB belong to partials above the 5 TiB that S3 allows for an object.
    """
    sizes = st.sampled_from([5 * MIB, P, 17 * MIB, 64 * MIB, 525 * MIB])
    counts = st.integers(0, 12) | st.sampled_from([0, 150])
    keys = st.sampled_from("abcdef")
    rests = st.integers(1, limits.min_part_size) | st.integers(1, 64 * MIB)
    return st.builds(
        lambda key, count, size, rest: Source(key, (*(size,) * count, min(rest, size))), keys, counts, sizes, rests
    )


def pieces_in(partials: list[Source]) -> list[Piece]:
    pieces: list[Piece] = []
    for partial in partials:
        starts = accumulate(partial.parts, initial=0)
        parts = [Part(n, at, size, "", n) for n, (at, size) in enumerate(zip(starts, partial.parts, strict=False), 1)]
        pieces += ranges_of(ObjectKey(partial.key), parts, pieces[-1].end if pieces else 0, 0)
    return pieces


def check_layout(pieces: list[Piece], grid: Grid, limits: PartLimits, total: int) -> None:
    """Each cell is a part that the store takes, and the pieces in the cells are all bytes in their order."""
    cells = cells_of(grid, total)
    assert [cell.start for cell in cells] == [0, *(cell.end for cell in cells)][:-1]
    assert [cell.number for cell in cells] == list(range(1, len(cells) + 1))
    assert len(cells) <= limits.max_parts
    assert all(limits.min_part_size <= cell.size <= limits.max_part_size for cell in cells[:-1])
    assert all(0 < cell.size <= limits.max_part_size for cell in cells[-1:])
    if limits.equal_parts:
        assert len({cell.size for cell in cells[:-1]}) <= 1
    laid = [piece for cell in cells for piece in check_cut(pieces, cell)]
    assert [each for run in runs_of(laid) for each in run] == laid
    assert joined(laid) == joined(pieces)


def check_cut(pieces: list[Piece], cell: Cell) -> list[Piece]:
    found = cut(pieces, cell)
    assert [piece.start for piece in found] == [cell.start, *(piece.end for piece in found)][:-1]
    assert found[-1].end == cell.end
    whole = [piece for piece in found if piece.crc64 != UNKNOWN_CRC]
    assert all(piece == pieces[bisect_left(pieces, piece.start, key=lambda each: each.start)] for piece in whole)
    assert len(whole) >= len(found) - 2
    return found


def joined(pieces: list[Piece]) -> list[tuple[int, int, str | None, int]]:
    """Return what `pieces` are as ranges of objects: (start, size, key, skip)."""
    runs = runs_of(pieces)
    return [(run[0].start, sum(piece.size for piece in run), run[0].key, run[0].skip) for run in runs]


class TestLayout:
    """Finals that are not in place: which bytes become which part."""

    @ARITHMETIC
    @given(st.lists(sources(S3), max_size=6), part_sizes, st.booleans(), st.booleans())
    @example([Source("a", (1,)), Source("b", (5 * GIB, 5 * GIB))], P, True, False)
    @example([Source("a", (5 * GIB,) * 5_000)], P, True, False)
    @example([Source("a", (5 * GIB, 1))], P, True, False)
    @example([Source("a", (3 * GIB,) * 8_000 + (1,)), Source("b", (3 * GIB,) * 8_000)], P, True, False)
    def test_every_final_is_cut_into_parts_that_the_store_takes(
        self, partials: list[Source], part_size: int, copies: bool, equal: bool
    ) -> None:
        limits, pieces = EQUAL if equal else S3, pieces_in(partials)
        total = sum(piece.size for piece in pieces)
        try:
            grid = lay_out(pieces, part_size, limits, copies=copies)
        except TooLarge:
            assert total > LARGEST
            return
        check_layout(pieces, grid, limits, total)

    @ARITHMETIC
    @given(st.lists(sources(S3), min_size=1, max_size=6))
    def test_a_copied_cell_lies_in_one_object_and_ends_where_parts_end(self, partials: list[Source]) -> None:
        pieces = pieces_in(partials)
        total = sum(piece.size for piece in pieces)
        assume(total < 5 * TIB)
        for cell in cells_of(lay_out(pieces, P, S3, copies=True), total):
            found = cut(pieces, cell)
            assert total <= P or all(piece.crc64 != UNKNOWN_CRC for piece in found)

    @ARITHMETIC
    @given(st.lists(sources(S3), min_size=1, max_size=6))
    def test_no_more_is_streamed_than_small_partials_and_their_neighbours(self, partials: list[Source]) -> None:
        """Each of these drags along one part of the next partial, and what is left of that when it is too small."""
        pieces = pieces_in(partials)
        total = sum(piece.size for piece in pieces)
        assume(total < 5 * TIB)
        cells = [cut(pieces, cell) for cell in cells_of(lay_out(pieces, P, S3, copies=True), total)]
        streamed = sum(piece.size for cell in cells if len(runs_of(cell)) > 1 for piece in cell)
        small = [partial for partial in partials if sum(partial.parts) < S3.min_part_size]
        assert streamed <= sum(sum(partial.parts) for partial in small) + sum(
            2 * max(partial.parts) + S3.min_part_size for partial in partials if partial not in small
        )
        assert small or not streamed

    def test_a_thousand_small_partials_are_gathered_into_parts(self) -> None:
        pieces = pieces_in([Source(str(number), (100_000,)) for number in range(1_000)])
        grid = lay_out(pieces, P, S3, copies=True)
        check_layout(pieces, grid, S3, 100_000_000)
        assert grid == Grid(((18, 5_300_000), (1, 4_600_000)))

    def test_a_thousand_partials_of_some_parts_are_copied_each_at_once(self) -> None:
        pieces = pieces_in([Source(str(number), (P, P, P)) for number in range(1_000)])
        grid = lay_out(pieces, P, S3, copies=True)
        check_layout(pieces, grid, S3, 3_000 * P)
        assert grid == Grid(((1_000, 3 * P),))

    def test_partials_of_terabytes_are_copied_in_ranges_of_256_mebibytes_or_more(self) -> None:
        pieces = pieces_in([Source("a", (GIB,) * 4_000), Source("b", (P,) * 9_999)])
        grid = lay_out(pieces, P, S3, copies=True)
        check_layout(pieces, grid, S3, 4_000 * GIB + 9_999 * P)
        assert all(COPY_SIZE <= size <= GIB for size in sorted(sizes_in(grid))[1:])

    def test_as_much_as_fits_one_cell_is_one_object_whole(self) -> None:
        pieces = pieces_in([Source("a", (P // 2,)), Source("b", (P // 2,))])
        assert lay_out(pieces, P, S3, copies=True) == grid_for(P, P, S3)

    def test_nothing_at_all_is_an_empty_object(self) -> None:
        assert lay_out([], P, S3, copies=True).cell_at(0, 0) == Cell(1, 0, 0)

    def test_more_than_an_object_may_have_is_refused(self) -> None:
        with pytest.raises(TooLarge, match=str(LARGEST)):
            lay_out(pieces_in([Source("a", (5 * GIB,) * 9_999)] * 2), P, S3, copies=True)

    @ARITHMETIC
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
    def test_a_cut_takes_exactly_the_bytes_of_the_cell(self, sizes: list[int], data: st.DataObject) -> None:
        starts = list(accumulate(sizes, initial=0))
        pieces = [Piece(start, size, 7, ObjectKey("a"), skip=start) for start, size in zip(starts, sizes, strict=False)]
        start = data.draw(st.integers(0, starts[-1] - 1))
        check_cut(pieces, Cell(1, start, data.draw(st.integers(start + 1, starts[-1]))))
