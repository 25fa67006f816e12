"""The open cell: however the bytes come in slices, and whenever it is saved, the same bytes go out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.service.rig import some_bytes
from tusgate.core.grid import Cell
from tusgate.core.model import ObjectKey, Piece
from tusgate.core.placement import Marks
from tusgate.service.cell import OpenCell
from tusgate.service.digest import crc64_of

if TYPE_CHECKING:
    from tusgate.ports import Body

pytestmark = pytest.mark.usefixtures("small_scale")

START = 100
CELL = Cell(2, START, START + 60)
DATA = some_bytes(60)


@dataclass(frozen=True)
class Add:
    size: int
    as_view: bool


class SavePiece: ...


class SaveInline: ...


class Forget: ...


steps = st.lists(
    st.one_of(
        st.builds(Add, st.integers(1, 20), st.booleans()),
        st.builds(SavePiece),
        st.builds(SaveInline),
        st.builds(Forget),
    ),
    max_size=25,
)


class Model:
    """What the cell must be: the bytes so far, and those of each piece object."""

    def __init__(self, cell: OpenCell) -> None:
        self.cell = cell
        self.filled = 0
        self.saved = 0
        self.durable = 0
        self.objects: dict[ObjectKey, bytes] = {}
        self.rows: list[Piece] = []

    def add(self, step: Add) -> None:
        chunk = DATA[self.filled : self.filled + min(step.size, self.cell.room)]
        if chunk:
            self.cell.add(memoryview(chunk) if step.as_view else chunk)
            self.filled += len(chunk)

    def save_piece(self) -> None:
        if not self.cell.unsaved:
            return
        key = ObjectKey(f"piece-{len(self.objects)}")
        body = self.cell.unsaved_body()
        self.objects[key] = self.bytes_of(body)
        piece = Piece(START + self.saved, body.size, body.crc64, key)
        self.cell.mark_saved(piece)
        self.rows = [row for row in self.rows if row.data is None] + [piece]
        self.saved = self.durable = self.filled

    def save_inline(self) -> None:
        data = self.cell.new_bytes()
        assert data == DATA[self.durable : self.filled]
        if data:
            piece = Piece(START + self.durable, len(data), crc64_of([data]), None, data)
            self.cell.mark_saved(piece)
            self.rows.append(piece)
            self.durable = self.filled

    def bytes_of(self, body: Body) -> bytes:
        stored = [self.objects[piece.key] for piece in body.pieces if piece.key is not None]
        joined = b"".join([*stored, *body.buffers])
        assert (len(joined), crc64_of([joined])) == (body.size, body.crc64)
        return joined

    def check(self) -> None:
        cell = self.cell
        assert cell.marks == Marks(START + self.saved, START + self.durable, START + self.filled)
        assert cell.unsaved == self.filled - self.saved
        assert cell.held == sum(map(len, cell.buffers))
        assert cell.is_full == (self.filled == 60)
        assert self.bytes_of(cell.body()) == DATA[: self.filled]
        assert self.bytes_of(cell.unsaved_body()) == DATA[self.saved : self.filled]
        assert sum(piece.size for piece in cell.body().pieces) + cell.held == self.filled


def played(script: list[object]) -> Model:
    model = Model(OpenCell(CELL, []))
    for step in script:
        match step:
            case Add():
                model.add(step)
            case SavePiece():
                model.save_piece()
            case SaveInline():
                model.save_inline()
            case _:
                model.cell.forget_memory()
        model.check()
    return model


@given(steps)
def test_any_slices_and_saves_give_the_same_bytes(script: list[object]) -> None:
    played(script)


@given(steps, steps)
def test_a_cell_that_is_opened_again_from_its_rows_goes_on_where_it_was(
    before: list[object], after: list[object]
) -> None:
    model = played(before)
    model.filled = model.durable  # what no row knows is lost
    model.cell = OpenCell(CELL, model.rows)
    model.check()
    for step in after:
        if isinstance(step, Add):
            model.add(step)
        elif isinstance(step, SavePiece):
            model.save_piece()
        model.check()


def test_large_chunks_are_kept_by_reference() -> None:
    cell = OpenCell(CELL, [])
    chunk = bytes(20)
    cell.add(chunk)
    assert cell.body().buffers[0] is chunk


def test_crumbs_are_gathered_but_never_after_the_store_has_seen_them() -> None:
    cell = OpenCell(CELL, [])
    for number in range(6):
        cell.add(bytes([number]))
    body = cell.body()
    assert len(body.buffers) == 1
    cell.add(b"!")
    assert bytes(body.buffers[0]) == bytes(range(6))


def test_a_cell_beyond_memory_has_room_for_one_window() -> None:
    large = OpenCell(Cell(1, 0, 200), [])
    assert large.room == 32
    large.add(bytes(32))
    assert (large.room, large.is_full) == (0, False)
    large.mark_saved(Piece(0, 32, 0, ObjectKey("piece")))
    large.forget_memory()
    assert (large.room, large.held) == (32, 0)


def test_a_length_declared_later_cuts_the_open_cell() -> None:
    cell = OpenCell(CELL, [])
    cell.add(bytes(20))
    cell.fit_length(Cell(2, START, START + 20))
    assert (cell.is_full, cell.room) == (True, 0)
