"""Connections of SQLite, each with a thread of its own: the event loop never waits for a disk.

A step is a plain function of the connection, so it needs one hop to the thread however many statements it has, and a
cancelled caller cannot leave it half done. The steps that wait for the writer together share one transaction, and so
one flush to disk: with many uploads at once a commit costs a fraction of a flush. Nobody learns the outcome of a
step before that flush is done.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tusgate.core.errors import DatabaseUnavailable, Fenced, InvalidRequest
from tusgate.core.events import NO_OUTBOX, EventType
from tusgate.core.quota import Measure, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.core.events import Outbox

T = TypeVar("T")

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process that writes, such as `tusgate migrate`."""
_LOCKED_PAUSE: Final = 0.01
_CONFIGURATION: Final = (
    "PRAGMA synchronous = FULL",  # NORMAL may lose the last commits when the power fails
    "PRAGMA fullfsync = 1",  # macOS: a plain fsync does not reach the disk; no effect elsewhere
)
_UNSTORABLE: Final = (UnicodeEncodeError, OverflowError)
"""What sqlite3 raises for a parameter that it cannot encode."""
_QUOTA: Final = re.compile(r"CHECK constraint failed: quota_(\w+)")
_KEY_VIOLATIONS: Final = frozenset({"SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"})


class ReadingThread:
    """One connection for steps that read; it sees what is committed and never waits for the writer.

    The connection is opened by the first step, and again by the first step after an error that may have spoiled it.
    A file that is not there is not made: see `WritingThread.make_file`. One that is moved away or replaced is let go
    of, since whatever SQLite wrote to it from then on would be missed at the next start.
    """

    def __init__(self, path: Path, clock: Callable[[], float], outbox: Outbox = NO_OUTBOX) -> None:
        self._path = path
        self._clock = clock
        self._outbox = outbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(self).__name__)
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def run(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run `step` in the thread and return its result; errors of sqlite3 arrive as ours."""
        return await asyncio.wrap_future(self._submit(self._read, step))

    async def close(self) -> None:
        """Finish the steps that wait, then close the connection and end the thread. Idempotent."""
        try:
            closing = self._submit(self._disconnect)
        except DatabaseUnavailable:
            return
        self._thread.shutdown(wait=False)
        await asyncio.wrap_future(closing)

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            return self._thread.submit(function, *arguments)
        except RuntimeError as error:  # the thread has been shut down
            raise DatabaseUnavailable("the database is closed") from error

    def _read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return step(self._connected())
        except sqlite3.Error as error:
            self._disconnect()
            raise translated(error) from error
        except _UNSTORABLE as error:
            raise translated(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_in_place():
            self._disconnect()
        if self._connection is None:
            self._file = _identity(self._path)
            connection = self._opened()
            try:
                self._configure(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        place = f"{self._path.absolute().as_uri()}?mode=rw"
        try:
            return sqlite3.connect(place, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise sqlite3.OperationalError(f"{error} {self._path}") from error

    def _is_in_place(self) -> bool:
        return _identity(self._path) == self._file

    def _configure(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        connection.create_function("now_ms", 0, lambda: _milliseconds(self._clock()))
        connection.create_function("ms", 1, _milliseconds, deterministic=True)
        connection.create_function("earliest", 2, _earliest, deterministic=True)
        connection.create_function("sinks_for", 2, self._sinks_for)
        _use_wal(connection)
        for pragma in _CONFIGURATION:
            connection.execute(pragma)

    def _sinks_for(self, event_type: str, tenant: str) -> str | None:
        sinks = self._outbox.sinks_for(EventType(event_type), tenant)
        return None if sinks is None else json.dumps(sinks)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another of the same name; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _use_wal(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log. SQLite does not wait by itself while another process does so on a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_LOCKED_PAUSE)
        else:
            return


class WritingThread(ReadingThread):
    """The one connection that writes. Steps that wait together are committed together, each whole or not at all."""

    def __init__(self, path: Path, clock: Callable[[], float], outbox: Outbox = NO_OUTBOX) -> None:
        super().__init__(path, clock, outbox)
        self._waiting: SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = SimpleQueue()

    async def make_file(self) -> None:
        """Make an empty file if there is none. Raises DatabaseUnavailable."""
        try:
            await asyncio.wrap_future(self._submit(self._path.touch, 0o644))
        except OSError as error:
            raise DatabaseUnavailable(f"the database file cannot be made: {error}") from error

    async def run(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run `step` in a transaction; its result is returned, or its error raised, once that is on disk.

        A caller that is cancelled before its turn leaves nothing; later, the step happens all the same.
        """
        outcome: Future[T] = Future()
        self._waiting.put((step, outcome))
        self._submit(self._commit_waiting)
        return await asyncio.wrap_future(outcome)

    def _commit_waiting(self) -> None:
        batch = self._take_waiting()
        if not batch:
            return  # an earlier turn took this one's step along
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            results = [_attempt(connection, step) for step, _ in batch]
            connection.execute("COMMIT")
            if not self._is_in_place():
                raise sqlite3.OperationalError("it was moved or removed")
        except sqlite3.Error as error:
            self._disconnect()  # rolls back
            results = [error] * len(batch)
        for (_, outcome), result in zip(batch, results, strict=True):
            _deliver(outcome, result)

    def _take_waiting(self) -> list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]:
        batch = []
        try:
            while True:
                step, outcome = self._waiting.get_nowait()
                if outcome.set_running_or_notify_cancel():
                    batch.append((step, outcome))
        except Empty:
            return batch


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def _earliest(*moments: int | None) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _attempt(connection: sqlite3.Connection, step: Callable[[sqlite3.Connection], Any]) -> Any:
    """Return what `step` returns, or the exception that it raised and that undid it.

    Raises:
        sqlite3.Error: SQLite itself has rolled the whole transaction back (disk full, I/O error).
    """
    connection.execute("SAVEPOINT step")
    try:
        result = step(connection)
    except Exception as error:  # raised again where the caller waits
        if not connection.in_transaction:
            raise sqlite3.OperationalError(f"the transaction was rolled back: {error}") from error
        connection.execute("ROLLBACK TO step")
        result = error
    connection.execute("RELEASE step")
    return result


def _deliver(outcome: Future[Any], result: Any) -> None:
    if not isinstance(result, Exception):
        outcome.set_result(result)
        return
    ours = translated(result)
    if ours is not result:
        ours.__cause__ = result
    outcome.set_exception(ours)


def translated(error: Exception) -> Exception:
    """Return what an error of sqlite3 is to our callers; `error` itself when it is ours, or can only be a bug."""
    if isinstance(error, _UNSTORABLE):
        return InvalidRequest("Upload-Metadata", "text without NUL bytes and lone surrogates")
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.ProgrammingError):
        return error
    if isinstance(error, sqlite3.IntegrityError):
        passed = _QUOTA.fullmatch(str(error))
        if passed is not None:
            return refusal_of(Measure(passed[1]))
        known = error.sqlite_errorname in _KEY_VIOLATIONS
        return Fenced("the row exists already: another request has done this") if known else error
    if str(error).startswith(("no such table", "no such column")):
        return DatabaseUnavailable("the database lacks our tables: run `tusgate migrate`")
    return DatabaseUnavailable(f"the database file cannot be used: {error}")
