"""The open cell: the bytes of one part that have arrived so far, kept by reference.

    cell.start ....... memory_start ....... saved ....... durable ....... filled ....... cell.end
       stored pieces │ in memory, and as pieces │ inline in the │ only in    │ still to come
                     │ too (a warm cell)        │ database      │ memory     │

Chunks are appended to a list as they came from the socket: never copied, never joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.placement import Marks
from tusgate.ports import Body
from tusgate.service.digest import combined_crc64, crc64, crc64_of

if TYPE_CHECKING:
    from asyncio import Task

    from tusgate.core.grid import Cell
    from tusgate.core.model import Piece
    from tusgate.ports import Buffer


SMALL_CHUNK = 2048
"""Chunks below this many bytes are gathered by copying."""
SMALL_BUFFER = 64 * 1024
"""Size in bytes at which a buffer of gathered chunks is closed."""


class OpenCell:
    """Bytes of one cell, in memory and as pieces. Knows nothing of the budget: `held` is what its owner accounts."""

    def __init__(self, cell: Cell, pieces: list[Piece]) -> None:
        """Open `cell` with its committed `pieces`; inline ones come back into memory."""
        self.cell = cell
        self.pieces = [piece for piece in pieces if piece.data is None]
        self.saved = self.pieces[-1].end if self.pieces else cell.start
        self.memory_start = self.saved
        self.buffers: list[Buffer] = [piece.data for piece in pieces if piece.data is not None]
        self.durable = self.filled = pieces[-1].end if pieces else cell.start
        self.crc64 = combined_crc64(pieces)
        self._small: bytearray | None = None
        self.pieces_on_the_way: list[Task[None]] = []
        """Stores of pieces that must end before the cell can be read back from them."""

    def fit_length(self, cell: Cell) -> None:
        """Cut the cell at a length that has been declared after it was opened."""
        self.cell = cell

    def add(self, chunk: Buffer) -> None:
        """Append bytes that fit."""
        if len(chunk) < SMALL_CHUNK:
            self._add_small(chunk)
        else:
            self.buffers.append(chunk)
            self._small = None
        self.filled += len(chunk)
        self.crc64 = crc64(chunk, self.crc64)

    def _add_small(self, chunk: Buffer) -> None:
        """Gather trickling bytes in one buffer: as objects of their own they would outweigh what they hold."""
        if self._small is None or len(self._small) > SMALL_BUFFER:
            self._small = bytearray()
            self.buffers.append(self._small)
        self._small += chunk

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self.filled - self.memory_start

    @property
    def unsaved(self) -> int:
        """Bytes that are not in a part or piece object yet."""
        return self.filled - self.saved

    @property
    def room(self) -> int:
        """Bytes that may be added before the cell, or its memory window, is full."""
        return min(self.cell.end, self.saved + self.cell.window) - self.filled

    @property
    def is_full(self) -> bool:
        """Whether every byte of the cell has arrived."""
        return self.filled == self.cell.end

    @property
    def marks(self) -> Marks:
        """How far the cell is, for `core.placement`."""
        return Marks(self.saved, self.durable, self.filled)

    def body(self) -> Body:
        """Return the whole cell for the store: pieces that are not in memory first, then the memory."""
        self._small = None
        stored = tuple(piece for piece in self.pieces if piece.end <= self.memory_start)
        return Body(self.filled - self.cell.start, self.crc64, stored, self.buffers)

    def unsaved_body(self) -> Body:
        """Return the bytes that no piece object holds yet."""
        buffers = self._since(self.saved)
        return Body(self.unsaved, crc64_of(buffers), (), buffers)

    def new_bytes(self) -> bytes:
        """Return the bytes that are durable nowhere yet, joined: few enough for a database row."""
        return b"".join(self._since(self.durable))

    def mark_saved(self, piece: Piece) -> None:
        """Note a piece, stored or on its way, that ends where the cell is filled now."""
        if piece.data is None:
            self.pieces.append(piece)
            self.saved = piece.end
        self.durable = piece.end
        self._small = None

    def forget_memory(self) -> None:
        """Drop the buffers of bytes that are saved; the stored pieces stand in for them."""
        self.buffers = self._since(self.saved)
        self.memory_start = self.saved

    def _since(self, offset: int) -> list[Buffer]:
        """Return the buffers from `offset` on; it is always a border between two of them."""
        position, index = self.filled, len(self.buffers)
        while position > offset:
            index -= 1
            position -= len(self.buffers[index])
        return self.buffers[index:]
