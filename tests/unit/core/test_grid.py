"""The part grid: cells tile the upload, within the limits of the store."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.core.uploads import small_grids
from tusgate.core.errors import TooLarge
from tusgate.core.grid import (
    ASSEMBLE_ABOVE,
    EQUAL_DEFERRED_SIZE,
    LADDER_SIZES,
    MIB,
    PIECE_SIZE,
    Cell,
    Grid,
    PartLimits,
    grid_for,
)

GIB = 1 << 30
TIB = 1 << 40
P = 8 * MIB
S3 = PartLimits()
LARGEST = S3.max_part_size * S3.max_parts
"""48.8 TiB: 10,000 parts of 5 GiB."""

part_limits = st.builds(
    PartLimits,
    min_part_size=st.sampled_from([1, 5 * MIB]),
    max_part_size=st.sampled_from([64 * MIB, 5 * GIB]),
    max_parts=st.sampled_from([5, 1_000, 10_000]),
    equal_parts=st.booleans(),
)
part_sizes = st.integers(1, 64).map(lambda size: size * MIB)


def grid_or_none(length: int | None, part_size: int, limits: PartLimits) -> Grid | None:
    try:
        return grid_for(length, part_size, limits)
    except TooLarge:
        return None


def cells_of(grid: Grid, length: int | None) -> list[Cell]:
    """Return the cells from byte 0 to `length`, or to the end of the grid."""
    cells, offset = [], 0
    while offset < (grid.capacity if length is None else length):
        cells.append(grid.cell_at(offset, length))
        offset = cells[-1].end
    return cells


@given(small_grids, st.data())
def test_cells_tile_the_upload_without_gap_or_overlap(grid: Grid, data: st.DataObject) -> None:
    length = data.draw(st.none() | st.integers(0, grid.capacity))
    cells = cells_of(grid, length)
    assert [cell.start for cell in cells] == [0, *(cell.end for cell in cells)][:-1]
    assert [cell.number for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(cell.size for cell in cells) == (grid.capacity if length is None else length)
    assert all(cell.size > 0 for cell in cells)


@given(small_grids, st.data())
def test_the_part_number_is_a_function_of_the_offset_alone(grid: Grid, data: st.DataObject) -> None:
    """RE-12: whatever failed before. Also where the length is declared later: what was stored keeps its number."""
    length = data.draw(st.integers(1, grid.capacity))
    offset = data.draw(st.integers(0, length - 1))
    known, unknown = grid.cell_at(offset, length), grid.cell_at(offset, None)
    assert known.start <= offset < known.end
    assert (known.number, known.start) == (unknown.number, unknown.start)
    assert known.end == min(unknown.end, length)


@given(small_grids)
def test_a_grid_agrees_with_the_list_of_its_cells(grid: Grid) -> None:
    sizes = [size for cells, size in grid.runs for _ in range(cells)]
    assert [cell.size for cell in cells_of(grid, None)] == sizes
    assert grid.capacity == sum(sizes)


@given(small_grids, st.integers(0, 1 << 60))
def test_no_cell_lies_beyond_the_grid(grid: Grid, beyond: int) -> None:
    with pytest.raises(TooLarge, match=str(grid.capacity)):
        grid.cell_at(grid.capacity + beyond, None)


@given(small_grids | st.builds(grid_for, st.none() | st.integers(0, TIB), part_sizes, st.just(S3)))
def test_a_grid_is_read_back_as_it_was_written(grid: Grid) -> None:
    assert Grid.decode(grid.encode()) == grid


def test_the_stored_text_of_a_grid_stays_readable_for_later_releases() -> None:
    assert Grid(((10_000, P),)).encode() == "10000*8388608"
    assert Grid.decode("2000*8388608+5*1") == Grid(((2_000, P), (5, 1)))


@given(st.none() | st.integers(0, 60 * TIB), part_sizes, part_limits)
@example(LARGEST, P, S3)
@example(LARGEST + 1, P, S3)
def test_every_grid_keeps_to_the_limits_of_the_store(length: int | None, part_size: int, limits: PartLimits) -> None:
    grid = grid_or_none(length, part_size, limits)
    most = limits.max_part_size * limits.max_parts
    if grid is None:
        assert (length or 0) > most or part_size > limits.max_part_size
        return
    assert sum(cells for cells, _ in grid.runs) <= limits.max_parts
    sizes = [size for _, size in grid.runs]
    assert all(limits.min_part_size <= size <= limits.max_part_size for size in sizes)
    assert sizes == sorted(sizes)
    assert length is None or grid.capacity >= length
    if limits.equal_parts or length is not None:
        assert len(sizes) == 1


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(1, [1]), (P - 1, [P - 1]), (P, [P]), (P + 1, [P, 1]), (3 * P, [P, P, P]), (20 * MIB, [P, P, 4 * MIB])],
)
def test_a_length_is_cut_into_parts_of_the_configured_size(length: int, sizes: list[int]) -> None:
    assert [cell.size for cell in cells_of(grid_for(length, P, S3), length)] == sizes


def test_an_empty_upload_has_one_empty_cell() -> None:
    assert grid_for(0, P, S3).cell_at(0, 0) == Cell(1, 0, 0)


@pytest.mark.parametrize(
    ("length", "part_size"),
    [(10_000 * P, P), (10_000 * P + 1, 9 * MIB), (5 * TIB, 525 * MIB), (LARGEST, 5 * GIB)],
)
def test_parts_grow_by_whole_mebibytes_when_a_long_upload_needs_it(length: int, part_size: int) -> None:
    grid = grid_for(length, P, S3)
    assert grid.runs == ((10_000, part_size),)
    assert grid.cell_at(length - 1, length).number <= 10_000


def test_a_length_beyond_the_largest_object_is_refused() -> None:
    with pytest.raises(TooLarge, match=str(LARGEST)):
        grid_for(LARGEST + 1, P, S3)


def test_a_part_size_below_the_minimum_of_the_store_is_raised() -> None:
    assert grid_for(GIB, MIB, S3).cell_at(0, None).size == 5 * MIB
    assert grid_for(None, MIB, PartLimits(min_part_size=16 * MIB)).cell_at(0, None).size == 16 * MIB


def test_an_upload_of_unknown_length_may_reach_five_tebibytes() -> None:
    grid = grid_for(None, P, S3)
    assert grid.runs == tuple((2_000, size) for size in LADDER_SIZES)
    assert grid.capacity == sum(LADDER_SIZES) * 2_000 > 5 * TIB
    assert grid.cell_at(grid.capacity - 1, None).number == 10_000


@pytest.mark.parametrize(("part_size", "first"), [(5 * MIB, 8 * MIB), (16 * MIB, 16 * MIB), (64 * MIB, 64 * MIB)])
def test_the_ladder_begins_at_the_configured_size(part_size: int, first: int) -> None:
    assert grid_for(None, part_size, S3).cell_at(0, None).size == first


def test_a_store_with_few_parts_gets_a_shorter_ladder() -> None:
    assert [cells for cells, _ in grid_for(None, P, PartLimits(max_parts=1_000)).runs] == [200] * 5


def test_a_store_that_wants_equal_parts_gets_one_size_for_unknown_lengths() -> None:
    equal = PartLimits(equal_parts=True)
    assert grid_for(None, P, equal).runs == ((10_000, EQUAL_DEFERRED_SIZE),)
    assert grid_for(None, 100 * MIB, equal).runs == ((10_000, 100 * MIB),)


@pytest.mark.parametrize("size", [1, ASSEMBLE_ABOVE])
def test_a_cell_that_fits_into_memory_is_collected_whole(size: int) -> None:
    assert Cell(1, 10, 10 + size).window == size


@pytest.mark.parametrize("size", [ASSEMBLE_ABOVE + 1, 5 * GIB])
def test_a_larger_cell_is_collected_piece_by_piece(size: int) -> None:
    assert Cell(1, 10, 10 + size).window == PIECE_SIZE
