"""The part grid: which bytes of an upload become which S3 part.

Rule 1: a grid is fixed when the upload is created; the part number is a function of the offset. So a part can be
sent again, by any process, and can only ever replace itself.
Rule 2: integers in, integers out. This module never sees a byte.

A grid is a list of runs `(cells, size)`: known lengths have one run of equal parts; a deferred length has a ladder
of growing ones, so that a stream may reach terabytes within 10,000 parts (S3: part numbers are 1..10,000).
"""

from __future__ import annotations

from dataclasses import dataclass

from tusgate.core.errors import TooLarge

MIB = 1 << 20
LADDER_CELLS = 2_000
LADDER_SIZES = (8 * MIB, 32 * MIB, 128 * MIB, 512 * MIB, 2_048 * MIB)
"""2,000 parts of each size reach 5.2 TiB in 10,000 parts."""
EQUAL_DEFERRED_SIZE = 64 * MIB
"""Part size of deferred uploads where the store insists on equal parts: 625 GiB in 10,000 parts."""
ASSEMBLE_ABOVE = 64 * MIB
"""Cells above this size are not held in memory; they are collected as pieces."""
PIECE_SIZE = 32 * MIB
"""Size of the pieces that a cell above `ASSEMBLE_ABOVE` is collected in."""


@dataclass(frozen=True, slots=True)
class PartLimits:
    """What a store allows.

    Attributes:
        min_part_size: bytes that every part but the last needs at least (S3: 5 MiB).
        max_part_size: bytes that one part may have at most (S3: 5 GiB).
        max_parts: highest part number (S3: 10,000).
        equal_parts: every part but the last must have one size (Cloudflare R2).
    """

    min_part_size: int = 5 * MIB
    max_part_size: int = 5_120 * MIB
    max_parts: int = 10_000
    equal_parts: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """The byte range `[start, end)` that becomes part `number` (from 1)."""

    number: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in the cell."""
        return self.end - self.start

    @property
    def window(self) -> int:
        """Bytes of this cell that may be collected in memory before they are stored."""
        return self.size if self.size <= ASSEMBLE_ABOVE else PIECE_SIZE


@dataclass(frozen=True, slots=True)
class Grid:
    """Runs of `(cells, size in bytes)`, laid end to end from offset 0.

    Attributes:
        first: part number of the first cell; above 1 for a partial that shares a multipart upload with others.
    """

    runs: tuple[tuple[int, int], ...]
    first: int = 1

    @property
    def last(self) -> int:
        """Part number of the last cell."""
        return self.first + sum(cells for cells, _ in self.runs) - 1

    @property
    def capacity(self) -> int:
        """Bytes that the whole grid can address."""
        return sum(cells * size for cells, size in self.runs)

    def cell_at(self, offset: int, length: int | None) -> Cell:
        """Return the cell that holds byte `offset`; the last one is cut at `length` when that is known.

        Raises:
            TooLarge: the grid ends before `offset`.
        """
        number, start = self.first, 0
        for cells, size in self.runs:
            span = cells * size
            if offset < start + span:
                index = (offset - start) // size
                begin = start + index * size
                end = begin + size
                return Cell(number + index, begin, end if length is None else min(end, length))
            number += cells
            start += span
        raise TooLarge(f"the upload would pass {self.capacity} bytes, the most that its part grid can hold")

    def encode(self) -> str:
        """Return the text stored with the upload, for example `10000*8388608`, or `7:3*8388608` from part 7 on."""
        runs = "+".join(f"{cells}*{size}" for cells, size in self.runs)
        return runs if self.first == 1 else f"{self.first}:{runs}"

    @classmethod
    def decode(cls, text: str) -> Grid:
        """Return the grid that `encode` wrote."""
        first, colon, rest = text.rpartition(":")
        runs = [run.split("*") for run in rest.split("+")]
        return cls(tuple((int(cells), int(size)) for cells, size in runs), int(first) if colon else 1)


def grid_for(length: int | None, part_size: int, limits: PartLimits) -> Grid:
    """Return the grid for a new upload.

    Args:
        length: declared bytes, or None when deferred.
        part_size: the configured part size in bytes; larger parts are used when `length` needs them.
        limits: what the store allows.

    Raises:
        TooLarge: no grid within the limits reaches `length`.
    """
    wanted = max(part_size, limits.min_part_size)
    if length is None:
        return _deferred_grid(wanted, limits)
    needed = -(-length // limits.max_parts)
    size = max(wanted, -(-needed // MIB) * MIB)
    if size > limits.max_part_size:
        most = limits.max_part_size * limits.max_parts
        raise TooLarge(f"Upload-Length: {length} bytes is more than the object store can hold ({most})")
    return Grid(((limits.max_parts, size),))


def _deferred_grid(wanted: int, limits: PartLimits) -> Grid:
    if limits.equal_parts:
        return Grid(((limits.max_parts, max(wanted, EQUAL_DEFERRED_SIZE)),))
    cells = min(LADDER_CELLS, limits.max_parts // len(LADDER_SIZES))
    sizes = (min(max(wanted, size), limits.max_part_size) for size in LADDER_SIZES)
    return Grid(tuple((cells, size) for size in sizes))
