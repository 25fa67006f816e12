"""How partial uploads become one object: where their bytes lie, and what the final is made of. Integers only.

Three ways, each correct on its own:
    in place    partials of one group are, from the start, parts of one multipart upload; the final completes it
    copied      the store copies ranges of the partials' objects into parts of the final's multipart upload
    streamed    ranges are read back and stored again: where too small to be a part, or where the store cannot copy

Rule 1: a partial lies in place only if each of its parts is large enough to be followed by another one, because its
        place in the list is not known before the final names it.
Rule 2: parts of a final are cut where parts of its partials are, so that their checksums are known without reading.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final

from tusgate.core.grid import MIB, Cell, Grid, PartLimits, grid_for
from tusgate.core.model import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tusgate.core.model import ObjectKey, Part, Upload, UploadId

COPY_SIZE: Final = 256 * MIB
"""Bytes that one request to copy covers, unless the final needs larger parts: enough work for several at once."""
EXPECTED_MEMBERS: Final = 8
"""So many partials of the size of one must fit the part numbers of one multipart upload, while nobody tells more."""
JOINED_WITHIN: Final = 1800.0
"""Seconds after its first partial for which a group takes others. Their lifetimes begin with each of them, that of
the multipart upload with the first, and in some stores it ends an hour after theirs."""
UNKNOWN_CRC: Final = -1
"""`Piece.crc64` of a range whose checksum nobody has computed."""


@dataclass(frozen=True, slots=True)
class GroupWish:
    """That a partial be stored together with the others of its file.

    Attributes:
        name: the same for all partials of one file, and for no others of their owner.
        lengths: of all partials in bytes, in their order; None when the client does not tell.
    """

    name: str
    lengths: tuple[int, ...] | None = None


def place_member(
    length: int, wish: GroupWish, taken: Sequence[Grid], part_size: int, limits: PartLimits
) -> Grid | None:
    """Return which parts of the group's multipart upload a new partial gets; None when it cannot lie in place.

    Args:
        length: of the new partial in bytes, which `may_be_in_place`.
        wish: what it was created with.
        taken: the grids of all partials that the group ever had: numbers are never given twice, because a writer of
            the first owner might still be on its way.
        part_size: the configured part size in bytes.
        limits: what the store allows.
    """
    if wish.lengths is None:
        share = max(1, limits.max_parts // EXPECTED_MEMBERS)
        first = max((grid.last for grid in taken), default=0) + 1
        places = [_member_grid(length, _cell_size(length, share, part_size, limits), first, limits)]
    else:
        places = [grid for grid in _planned(wish.lengths, part_size, limits) if grid.capacity == length]
    # Another plan may have been told before, or none: then some of its numbers may be numbers of this one.
    used = {number for grid in taken for number in _numbers(grid)}
    free = (grid for grid in places if used.isdisjoint(_numbers(grid)) and _is_within(grid, limits))
    return next(free, None)


def _planned(lengths: Sequence[int], part_size: int, limits: PartLimits) -> list[Grid]:
    """Return the grids of all partials, in their order; none when one of them cannot lie in place."""
    if any(0 < length < limits.min_part_size for length in lengths):
        return []
    cell_size = _cell_size(sum(lengths), limits.max_parts - len(lengths), part_size, limits)
    grids: list[Grid] = []
    for length in filter(None, lengths):
        grids.append(_member_grid(length, cell_size, grids[-1].last + 1 if grids else 1, limits))
    return grids


def _numbers(grid: Grid) -> range:
    return range(grid.first, grid.last + 1)


def _is_within(grid: Grid, limits: PartLimits) -> bool:
    return grid.last <= limits.max_parts and all(size <= limits.max_part_size for _, size in grid.runs)


def _cell_size(length: int, cells: int, part_size: int, limits: PartLimits) -> int:
    needed = -(-length // max(1, cells))
    return max(part_size, limits.min_part_size, -(-needed // MIB) * MIB)


def _member_grid(length: int, cell_size: int, first: int, limits: PartLimits) -> Grid:
    """Return cells for exactly `length` bytes; a rest that is too small for a part joins the cell before (rule 1)."""
    cells, rest = divmod(length, cell_size)
    if cells and 0 < rest < limits.min_part_size:
        runs = ((cells - 1, cell_size), (1, cell_size + rest))
    else:
        runs = ((cells, cell_size), (1 if rest else 0, rest))
    return Grid(tuple(run for run in runs if run[0]), first)


def shared_group(partials: Sequence[Upload]) -> UploadId | None:
    """Return the group in whose multipart upload the bytes of `partials` lie in this order; None when they do not."""
    filled = [partial for partial in partials if partial.length]
    groups = {partial.group for partial in filled}
    ascending = all(one.grid.last < other.grid.first for one, other in pairwise(filled))
    return groups.pop() if len(groups) == 1 and ascending else None


def chained(parts: Iterable[Part]) -> list[Part]:
    """Return `parts` of several partials as parts of one upload: laid end to end, with the numbers that they have."""
    position, laid = 0, []
    for part in parts:
        laid.append(type(part)(part.number, position, part.size, part.etag, part.crc64))
        position += part.size
    return laid


def ranges_of(key: ObjectKey, parts: Sequence[Part], start: int, skip: int) -> list[Piece]:
    """Return the bytes of `parts` as ranges of the object at `key`.

    Args:
        key: of a finished object.
        parts: of one partial, in order.
        start: where the first one begins in the final.
        skip: where it begins in the object.
    """
    pieces = []
    for part in parts:
        pieces.append(Piece(start, part.size, part.crc64, key, skip=skip))
        start, skip = start + part.size, skip + part.size
    return pieces


def lay_out(pieces: Sequence[Piece], part_size: int, limits: PartLimits, *, copies: bool) -> Grid:
    """Return the grid of a final that is made of `pieces`, as few as possible of which must be streamed.

    Tens of TiB may have parts of which no cells within the limits can be made. The cells are those of any upload
    then, and end within parts, which costs reading for the checksums.

    Args:
        pieces: ranges of finished objects, end to end.
        part_size: the configured part size in bytes.
        limits: what the store allows.
        copies: whether the store can copy ranges.

    Raises:
        TooLarge: the store allows no such object.
    """
    total = sum(piece.size for piece in pieces)
    usual = grid_for(total, part_size, limits)
    if total <= part_size or limits.equal_parts:
        return usual
    sizes = _Cells(limits, usual.runs[0][1], max(COPY_SIZE, -(-2 * total // limits.max_parts)))
    for run in runs_of(pieces):
        sizes.add_run([piece.size for piece in run], copies=copies)
    sizes.close()
    grid = Grid(tuple((len(list(same)), size) for size, same in groupby(sizes.done)))
    return grid if _is_within(grid, limits) else usual


class _Cells:
    """Sizes of the final's cells: streamed ones gather small pieces, copied ones lie within one object."""

    def __init__(self, limits: PartLimits, streamed: int, copied: int) -> None:
        self.done: list[int] = []
        self._limits = limits
        self._streamed = streamed
        self._copied = copied
        self._gathered = 0

    def add_run(self, sizes: list[int], *, copies: bool) -> None:
        """Add adjoining pieces of one object."""
        rest = list(sizes)
        if copies:
            while rest and self._gathered:
                self._gather(rest.pop(0), self._limits.min_part_size)
            if sum(rest) >= self._limits.min_part_size:
                self._copy(rest)
                return
        for size in rest:
            self._gather(size, self._streamed)

    def close(self) -> None:
        """End the last cell, which may have any size."""
        if self._gathered:
            self.done.append(self._gathered)
            self._gathered = 0

    def _gather(self, size: int, enough: int) -> None:
        if self._gathered >= self._limits.min_part_size and self._gathered + size > self._limits.max_part_size:
            self.close()
        self._gathered += size
        if self._gathered >= enough:
            self.close()

    def _copy(self, sizes: list[int]) -> None:
        cells = [0]
        for size in sizes:
            if cells[-1] >= self._limits.min_part_size and cells[-1] + size > self._copied:
                cells.append(0)
            cells[-1] += size
        if len(cells) > 1 and cells[-1] < self._limits.min_part_size:
            cells[-2:] = [cells[-2] + cells[-1]]
        self.done += cells


def may_be_in_place(length: int | None, limits: PartLimits, *, completes_all_parts: bool) -> bool:
    """Return whether the store takes a partial of `length` bytes as parts of a multipart upload of several.

    Not where all parts must have one size, or where parts that a final leaves out could not be left out.
    """
    return length is not None and length >= limits.min_part_size and not limits.equal_parts and not completes_all_parts


def runs_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return `pieces` in runs that adjoin each other in one object."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        before = runs[-1][-1] if runs else None
        if before is not None and before.key == piece.key and before.skip + before.size == piece.skip:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def cut(pieces: Sequence[Piece], cell: Cell) -> list[Piece]:
    """Return what of `pieces`, which lie end to end, lies in `cell`. A range that is cut has `UNKNOWN_CRC`."""
    found = []
    for piece in pieces[bisect_right(pieces, cell.start, key=lambda piece: piece.end) :]:
        start, end = max(piece.start, cell.start), min(piece.end, cell.end)
        if start >= end:
            break
        is_whole = (start, end) == (piece.start, piece.end)
        crc64 = piece.crc64 if is_whole else UNKNOWN_CRC
        found.append(Piece(start, end - start, crc64, piece.key, skip=piece.skip + start - piece.start))
    return found
