"""What only the SQLite adapter can show: shared commits, a full disk, a file that is away."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import (
    SqliteRig,
    a_new_upload,
    a_piece,
    a_step,
    a_writer,
    an_inline_piece,
)
from tusgate.core.errors import DatabaseUnavailable, Fenced
from tusgate.core.grid import MIB
from tusgate.database import sqlite_threads
from tusgate.database.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tusgate.core.model import Upload


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SqliteRig]:
    rig = SqliteRig(tmp_path)
    await rig.database.migrate()
    yield rig
    await rig.close()


@pytest.fixture
async def database(rig: SqliteRig) -> SqliteDatabase:
    assert isinstance(rig.database, SqliteDatabase)
    return rig.database


async def test_every_commit_is_flushed_to_disk(database: SqliteDatabase) -> None:
    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "fullfsync")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    full = 2
    assert await database._writer.run(settings) == ["wal", full, 1]


async def test_many_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """SQLite itself does not wait when two turn the journal of a new file into a WAL at the same moment."""
    for number in range(60):
        databases = [SqliteDatabase(tmp_path / f"{number}.sqlite3") for _ in range(6)]
        await asyncio.gather(*(database.migrate() for database in databases))
        await asyncio.gather(*(database.close() for database in databases))


async def test_steps_that_wait_together_are_one_transaction(database: SqliteDatabase) -> None:
    statements: list[str] = []
    await database._writer.run(lambda connection: connection.set_trace_callback(statements.append))
    hold, held = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(_connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(held.set)
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result()

    blocked = asyncio.create_task(database._writer.run(block))
    await held.wait()
    waiting = [asyncio.create_task(database.create(a_new_upload())) for _ in range(10)]
    await asyncio.sleep(0)
    assert database._writer._waiting.qsize() == len(waiting)
    statements.clear()
    hold.set()
    await asyncio.gather(blocked, *waiting)
    assert [sql for sql in statements if sql in {"BEGIN IMMEDIATE", "COMMIT"}] == [
        "COMMIT",
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


async def test_a_step_that_is_refused_takes_no_other_down(database: SqliteDatabase) -> None:
    stale = await a_writer(database)
    await database.claim(stale, "replica-2")
    writers = [await a_writer(database) for _ in range(6)]

    def write(writer: Upload) -> asyncio.Future[Upload]:
        return asyncio.ensure_future(database.commit(writer, a_step(9, pieces=(a_piece(0, 9, "p"),))))

    results = await asyncio.gather(*map(write, [*writers[:3], stale, *writers[3:]]), return_exceptions=True)
    assert isinstance(results.pop(3), Fenced)
    assert [result.offset for result in results if not isinstance(result, BaseException)] == [9] * 6
    assert await database.pieces(stale) == []


async def test_a_caller_that_is_cancelled_before_its_turn_leaves_nothing(database: SqliteDatabase) -> None:
    hold, held = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(_connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(held.set)
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result()

    blocked = asyncio.create_task(database._writer.run(block))
    await held.wait()
    cancelled = asyncio.create_task(database.create(a_new_upload()))
    await asyncio.sleep(0)
    assert database._writer._waiting.qsize() == 1
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    hold.set()
    await blocked
    assert sum((await database.count_by_state()).values()) == 0


async def test_a_full_disk_is_unavailable_and_loses_nothing(rig: SqliteRig, database: SqliteDatabase) -> None:
    writer = await a_writer(database)
    first = an_inline_piece(0, b"kept")
    writer = await database.commit(writer, a_step(4, pieces=(first,)))
    (pages,) = (await rig.query("PRAGMA page_count"))[0]

    def limit(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await database._writer.run(limit)
    with pytest.raises(DatabaseUnavailable) as full:
        await database.commit(writer, a_step(4 + MIB, pieces=(an_inline_piece(4, bytes(MIB)),)))
    assert isinstance(full.value.__cause__, sqlite3.Error)
    assert await database.get(writer.scope, writer.id) == writer
    assert await database.pieces(writer) == [first]
    moved = await database.commit(writer, a_step(5, pieces=(an_inline_piece(4, b"x"),)))
    assert moved.offset == 5


async def test_it_waits_for_another_process_only_so_long(
    rig: SqliteRig, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await a_writer(database)
    monkeypatch.setattr(sqlite_threads, "BUSY_TIMEOUT", 0.05)
    impatient = rig.another()
    async with rig.unfinished_write(writer):
        with pytest.raises(DatabaseUnavailable):
            await impatient.claim(writer, "replica-2")
    claimed, _ = await impatient.claim(writer, "replica-2")
    assert claimed.epoch == writer.epoch + 1


async def test_it_recovers_when_its_directory_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "not-mounted-yet"
    database = SqliteDatabase(directory / "tusgate.db")
    with pytest.raises(DatabaseUnavailable):
        await database.migrate()
    directory.mkdir()
    assert await database.migrate() != []
    await database.close()


async def test_a_file_that_is_no_database_is_unavailable_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tusgate.db"
    path.write_text("something else entirely, long enough to be looked at" * 10)
    before = path.read_bytes()
    database = SqliteDatabase(path)
    with pytest.raises(DatabaseUnavailable):
        await database.migrate()
    await database.close()
    assert path.read_bytes() == before


async def test_what_was_committed_is_there_after_reopening(rig: SqliteRig, database: SqliteDatabase) -> None:
    writer = await a_writer(database)
    await database.close()
    assert await rig.another().get(writer.scope, writer.id) == writer
