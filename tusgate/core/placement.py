"""Where collected bytes go: a part, a piece, the database row, or the whole object at once. Integers only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from tusgate.core.model import Intent
from tusgate.core.naming import attempt_key, piece_key

if TYPE_CHECKING:
    from tusgate.core.grid import Cell
    from tusgate.core.model import NewUpload, Upload


class Place(Enum):
    """What to do with the bytes of the open cell."""

    NOWHERE = auto()
    """Nothing to store: everything is durable already."""
    WHOLE = auto()
    """The cell is the whole upload: one PutObject, no multipart upload."""
    PART = auto()
    """The cell is complete: one UploadPart."""
    PIECE = auto()
    """The request ends inside the cell: a new object of its own."""
    INLINE = auto()
    """So few bytes that they go into the database row."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How far the open cell is.

    Attributes:
        saved: offset up to which the bytes are in parts or piece objects.
        durable: offset up to which they are there or inline in the database; `saved <= durable`.
        filled: offset up to which they have arrived; `durable <= filled`.
    """

    saved: int
    durable: int
    filled: int


def is_whole(cell: Cell, length: int | None, multipart: bool) -> bool:
    """Return whether `cell` is all there is of an upload of `length` bytes."""
    return cell.start == 0 and length == cell.end and not multipart


def place_cell(
    cell: Cell, marks: Marks, length: int | None, *, multipart: bool, inline_max: int, publishes: bool = True
) -> Place:
    """Decide where the bytes of `cell` go when it is full, or when the request ends.

    Args:
        cell: the open cell, cut at the length when that is known.
        marks: how far it is filled.
        length: the declared length, None while deferred.
        multipart: whether a multipart upload exists already.
        inline_max: most bytes that may wait in the database.
        publishes: whether a request may make the object; else what would be one waits as a piece.
    """
    if marks.filled == cell.end:
        if not is_whole(cell, length, multipart):
            return Place.PART
        if publishes:
            return Place.WHOLE
    if marks.filled == marks.durable:
        return Place.NOWHERE
    return Place.INLINE if marks.filled - marks.saved <= inline_max else Place.PIECE


def foresee(
    upload: Upload | NewUpload,
    epoch: int,
    size: int | None,
    length: int | None,
    inline_max: int,
    *,
    publishes: bool = True,
) -> list[Intent]:
    """Return the intents that a request with `size` bytes, writing under `epoch`, will surely need.

    The claim carries them. A guess saves a commit when right; what it misses is written when needed, what it adds in
    vain becomes garbage.
    """
    if not size and length != 0:
        return []
    end = upload.offset + (size or 0)
    multipart = upload.multipart_id is not None or upload.group is not None
    first = upload.grid.cell_at(0, length)
    if is_whole(first, length, multipart):
        return [whole_intent(upload)] if end == length and publishes else _tail_intent(upload, epoch, size, inline_max)
    intents = []
    if not multipart and end >= first.end:
        intents.append(multipart_intent(upload))
    last = upload.grid.cell_at(max(end - 1, 0), length)
    if last.end != end:
        intents += _tail_intent(upload, epoch, end - max(upload.offset, last.start), inline_max)
    return intents


def multipart_intent(upload: Upload | NewUpload) -> Intent:
    """Return the intent of the multipart upload.

    It has the key of a further attempt where there were PutObjects of the whole, which was thought to be smaller then:
    a late one must not replace the object.
    """
    if not upload.put_attempts:
        return Intent(upload.object_key, multipart=True)
    return Intent(attempt_key(upload.object_key, upload.put_attempts + 1), multipart=True)


def whole_intent(upload: Upload | NewUpload) -> Intent:
    """Return the intent of the next PutObject of the whole upload."""
    attempt = upload.put_attempts + 1
    return Intent(attempt_key(upload.object_key, attempt), attempt=attempt)


def _tail_intent(upload: Upload | NewUpload, epoch: int, new: int | None, inline_max: int) -> list[Intent]:
    """Return the intent of the piece that ends the request, when its `new` bytes alone are too many for a row."""
    if new is None or new <= inline_max:
        return []
    return [Intent(piece_key(upload.id, epoch, 0))]
