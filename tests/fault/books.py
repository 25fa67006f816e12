"""The gateway's database, read and changed beside it. Both kinds take the same SQL, with `?` for values."""

from __future__ import annotations

import asyncio
import itertools
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Row = Mapping[str, Any]


class Books(Protocol):
    """One database."""

    def rows(self, statement: str, *values: object) -> list[Row]:
        """Return what a SELECT finds, as committed now. Blocks for some milliseconds."""

    def change(self, statement: str, *values: object) -> None:
        """Run one statement that writes, as a test that spoils the books does."""


@dataclass(frozen=True)
class SqliteBooks:
    """An SQLite file."""

    file: Path

    def rows(self, statement: str, *values: object) -> list[Row]:
        """See Books."""
        connection = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(statement, values)]
        finally:
            connection.close()

    def change(self, statement: str, *values: object) -> None:
        """See Books."""
        connection = sqlite3.connect(self.file, timeout=10)
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()


@dataclass(frozen=True)
class PostgresBooks:
    """A PostgreSQL database, reached directly and not through any proxy of a test."""

    dsn: str
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def rows(self, statement: str, *values: object) -> list[Row]:
        """See Books."""
        return [dict(row) for row in self._run(statement, values)]

    def change(self, statement: str, *values: object) -> None:
        """See Books."""
        self._run(statement, values)

    def _run(self, statement: str, values: tuple[object, ...]) -> list[asyncpg.Record]:
        # In a thread with a loop of its own, because tests call this from inside theirs.
        return self._thread.submit(asyncio.run, self._fetch(statement, values)).result()

    async def _fetch(self, statement: str, values: tuple[object, ...]) -> list[asyncpg.Record]:
        numbers = itertools.count(1)
        numbered = re.sub(r"\?", lambda _: f"${next(numbers)}", statement)
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            return list(await connection.fetch(numbered, *values))
        finally:
            await connection.close()
