"""The databases that the model runs on: the double, and SQLite in a file. Each can be read behind the port's back."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tests.doubles.database import MemoryDatabase
from tests.model.witness import ElsewhereDatabase
from tusgate.database.rows import part_from, piece_from, upload_from
from tusgate.database.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.virtual_time import VirtualTimeLoop
    from tusgate.core.model import Part, Piece, Upload
    from tusgate.ports import Database


@dataclass(frozen=True)
class Content:
    """An upload, and where its bytes are said to be."""

    upload: Upload
    parts: list[Part]
    pieces: list[Piece]


class Backend(Protocol):
    """A database under the service.

    Attributes:
        is_elsewhere: it works in threads.
    """

    database: Database
    is_elsewhere: bool

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def contents(self) -> list[Content]:
        """Return what is committed at this moment."""

    def garbage(self) -> list[str]:
        """Return the keys of all garbage rows and intents."""


class MemoryBackend:
    """The double."""

    is_elsewhere = False

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._memory = MemoryDatabase(loop.time)
        self.database: Database = self._memory

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    def contents(self) -> list[Content]:
        return [
            Content(row.upload, list(row.parts.values()), list(row.pieces.values()))
            for row in self._memory._rows.values()
        ]

    def garbage(self) -> list[str]:
        return [garbage.key for garbage in self._memory.all_garbage()]


class SqliteBackend:
    """A file. Its clock is the loop's."""

    is_elsewhere = True

    def __init__(self, loop: VirtualTimeLoop, directory: Path) -> None:
        self._path = directory / "tusgate.db"
        self._sqlite = SqliteDatabase(self._path, loop.time)
        self.database: Database = self._sqlite

    async def open(self) -> None:
        await ElsewhereDatabase(self._sqlite).migrate()

    async def close(self) -> None:
        await ElsewhereDatabase(self._sqlite).close()

    def contents(self) -> list[Content]:
        return [self._content(upload_from(row)) for row in self._rows("SELECT * FROM uploads")]

    def garbage(self) -> list[str]:
        return [str(row["object_key"]) for row in self._rows("SELECT object_key FROM garbage")]

    def _content(self, upload: Upload) -> Content:
        parts = self._rows("SELECT * FROM parts WHERE upload_id = ?", upload.id)
        pieces = self._rows("SELECT * FROM pieces WHERE upload_id = ?", upload.id)
        return Content(upload, [part_from(row) for row in parts], [piece_from(row) for row in pieces])

    def _rows(self, sql: str, *values: str) -> list[Any]:
        connection = sqlite3.connect(self._path)
        try:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
