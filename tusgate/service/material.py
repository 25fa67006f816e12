"""What a final is made of: ranges of the objects that its partials have become, or lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.concat import UNKNOWN_CRC, ranges_of, runs_of
from tusgate.core.errors import Fenced
from tusgate.core.model import Part, Piece
from tusgate.service.digest import combined_crc64, crc64_in_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tusgate.core.grid import Cell
    from tusgate.core.model import Upload, UploadId
    from tusgate.ports import Database, ObjectStore


async def home_of(database: Database, partial: Upload) -> Upload:
    """Return the upload whose object holds the bytes of `partial`: itself, or its group."""
    return partial if partial.group is None else await database.get(partial.scope, partial.group)


async def pieces_of(database: Database, partials: Sequence[Upload]) -> list[Piece]:
    """Return the bytes of all `partials`, end to end, as ranges of finished objects.

    Every one must have a home (see `home_of`) that is COMPLETE. A partial that occurs twice is read twice.

    Raises:
        Fenced: one has ended before its group became an object, and is not in it.
    """
    found: list[Piece] = []
    known: dict[UploadId, list[Piece]] = {}
    for partial in partials:
        if not partial.length:
            continue
        if partial.id not in known:
            known[partial.id] = await _ranges(database, partial)
        start = found[-1].end if found else 0
        found += [_moved(piece, start) for piece in known[partial.id]]
    return found


async def _ranges(database: Database, partial: Upload) -> list[Piece]:
    """Return the bytes of one partial, beginning at 0."""
    home = await home_of(database, partial)
    parts = await database.parts(partial)
    if not parts:
        assert partial.crc64 is not None
        assert partial.length is not None
        parts = [Part(1, 0, partial.length, "", partial.crc64)]
    skip = 0
    if home.id != partial.id:
        starts = {part.number: part.start for part in await database.parts(home)}
        if parts[0].number not in starts:
            raise Fenced
        skip = starts[parts[0].number]
    return ranges_of(home.object_key, parts, 0, skip)


def _moved(piece: Piece, by: int) -> Piece:
    return Piece(piece.start + by, piece.size, piece.crc64, piece.key, skip=piece.skip)


async def merged(store: ObjectStore, pieces: Sequence[Piece]) -> list[Piece]:
    """Return `pieces`, ranges of objects, as few ranges as possible, each with its checksum.

    A range whose checksum does not follow from those of parts is read. Raises StoreUnavailable, PieceLost.
    """
    whole = []
    for run in runs_of(pieces):
        checked = [await _checked(store, piece) for piece in run]
        first = checked[0]
        size = sum(piece.size for piece in checked)
        whole.append(Piece(first.start, size, combined_crc64(checked), first.key, skip=first.skip))
    return whole


async def _checked(store: ObjectStore, piece: Piece) -> Piece:
    if piece.crc64 != UNKNOWN_CRC:
        return piece
    assert piece.key is not None
    value = await crc64_in_store(store, piece.key, piece.skip, piece.size)
    return Piece(piece.start, piece.size, value, piece.key, skip=piece.skip)


def missing_cells(final: Upload, parts: Iterable[Part]) -> list[Cell]:
    """Return the cells of `final` of which there is no part yet; none when its parts have all its bytes."""
    stored = {part.number: part.size for part in parts}
    cells: list[Cell] = []
    if sum(stored.values()) == final.length:
        return cells
    offset = 0
    while offset < (final.length or 0):
        cell = final.grid.cell_at(offset, final.length)
        if cell.number not in stored:
            cells.append(cell)
        offset = cell.end
    return cells
