"""Connections to PostgreSQL, lent for one step each.

Rule 1: no connection is held between steps.
Rule 2: whatever says that the server has gone or is no longer the primary makes all connections be replaced: the next
step asks the address again and finds the new primary, without a restart.
Rule 3: a step has one deadline, the wait for a connection included. What has not ended by then loses its connection:
asking a silent server to cancel, or to roll back, would only take as long again.
Rule 4: a client that asks where it is does not wait behind commits. Each of those waits for a disk, and under load many
wait for each connection, so looks have one of their own.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tusgate.core.errors import DatabaseUnavailable
from tusgate.database.postgres_errors import TECHNOLOGY_ERRORS, means_reconnect, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]
    Session = asyncpg.Connection[asyncpg.Record]

CONNECT_TIMEOUT: Final = 4.0
WAITING_SHARE: Final = 0.5
"""Of the time that a step may take: for so much it waits for a connection. A step that got one at the last moment would
not end in time, and lose the connection for all that wait behind it: under too much load that feeds itself."""
SERVERS_SHARE: Final = 0.75
"""Of the time that a step may take: after so much the server itself gives a statement up, so that one which merely
waited for a lock does not cost its connection."""
MOST_IDLE: Final = 300.0
"""Seconds after which the connection for looks is made anew before it is used: firewalls forget idle ones silently. It
is what asyncpg's pool does with the others."""


class _Step:
    """The time of one step: who has not got a connection by then gets none, and who has one loses it.

    Attributes:
        patience: seconds that it may wait for a connection.
        is_waiting: whether it still does.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.patience = seconds * WAITING_SHARE
        self.is_waiting = True
        self._deadline = asyncio.get_running_loop().time() + seconds

    @property
    def is_late(self) -> bool:
        return asyncio.get_running_loop().time() >= self._deadline

    @contextmanager
    def use(self, connection: Session | Connection) -> Iterator[None]:
        """Cut `connection` when the time is up."""
        self.is_waiting = False
        watchdog = asyncio.get_running_loop().call_at(self._deadline, _cut, connection)
        try:
            yield
        except AttributeError as error:
            if not connection.is_closed():
                raise
            # asyncpg looks no second time whether it was terminated between two steps of one call.
            raise asyncpg.InterfaceError("the connection was closed") from error
        finally:
            watchdog.cancel()


class PostgresConnections:
    """All connections of one process but the one that listens. Made at first use.

    Args:
        dsn: libpq URL; of several hosts, the one that is the primary is used.
        most: connections at once for steps; one for looks comes on top.
        command_timeout: seconds that one step may take, the wait for a free connection included.
        transaction_pooling: see `PostgresDatabase`.
    """

    def __init__(self, dsn: str, most: int, command_timeout: float, *, transaction_pooling: bool) -> None:
        self._dsn = dsn
        self._most = most
        self._command_timeout = command_timeout
        self._transaction_pooling = transaction_pooling
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._looking = asyncio.Lock()
        self._looker: Session | None = None
        self._looked_at = 0.0
        self._closed = False

    async def close(self) -> None:
        """End all connections, after the steps that run. Idempotent; nothing is lent any more."""
        self._closed = True
        pool, self._pool = self._pool, None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._command_timeout), self._looking:  # after the look that is under way
                pass
        self._drop_looker()
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), self._command_timeout)
            except TECHNOLOGY_ERRORS:
                pool.terminate()

    async def connect(self) -> Session:
        """Return a connection that the caller keeps. Raises what asyncpg raises."""
        return await connect_to_primary(self._dsn, **self._options())

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Session | Connection]:
        """Lend a connection for a single short statement that changes nothing.

        It is no connection of the pool: asyncpg takes and gives back those in tasks of their own, which each wait for
        a turn of the event loop, and beside uploads at full speed a turn takes 10 ms.
        """
        if self._transaction_pooling:
            async with self.statement() as pooled:
                yield pooled
            return
        async with self._step(self._command_timeout) as step, AsyncExitStack() as turn:
            async with asyncio.timeout(step.patience):
                await turn.enter_async_context(self._looking)
                looker = await self._opened_looker()
            try:
                with step.use(looker):
                    yield looker
            except BaseException:  # also cancelled, while the server works on
                self._drop_looker()
                raise
            self._looked_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Lend a connection for a step that is a single statement."""
        # Behind a pooler, preparing and executing meet the same server connection only inside a transaction.
        lending = self.transaction() if self._transaction_pooling else self.session()
        async with lending as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, seconds: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection for a step of several statements; rolled back when the block raises.

        Args:
            seconds: for the whole step, instead of `command_timeout`.
        """
        async with self.session(seconds) as connection, connection.transaction():
            if self._transaction_pooling:
                await connection.execute("SET TRANSACTION READ WRITE")  # refused by a standby
            yield connection

    @asynccontextmanager
    async def session(self, seconds: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection on which the caller begins and ends transactions, if any."""
        pool = await self._opened()
        async with self._step(seconds or self._command_timeout) as step:
            connection = await pool.acquire(timeout=step.patience)
            with step.use(connection):
                try:
                    yield connection
                finally:
                    await pool.release(connection)

    @asynccontextmanager
    async def _step(self, seconds: float) -> AsyncIterator[_Step]:
        """Give the time of a step. Errors of asyncpg leave the block as ours; doubtful connections are replaced."""
        step = _Step(seconds)
        try:
            yield step
        except TECHNOLOGY_ERRORS as error:
            crowded = step.is_waiting and isinstance(error, TimeoutError)
            if means_reconnect(error) and not crowded:
                await self._replace_all()
            ours = (
                DatabaseUnavailable("no connection to the database was free in time") if crowded else translated(error)
            )
            if ours is None:
                raise
            if step.is_late:
                ours = DatabaseUnavailable(f"the database did not answer within {seconds:g} s")
            raise ours from error

    async def _replace_all(self) -> None:
        """Have no connection used again: a look at a server that is the primary no longer would not fail by itself."""
        self._drop_looker()
        if self._pool is not None:
            await self._pool.expire_connections()

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        self._check_open()
        if self._pool is None:
            # With min_size=0 this connects nothing and does not give way to other tasks: no second pool is made.
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._most,
                connect=connect_to_primary,
                reset=_keep_session,
                **self._options(),
            )
        return self._pool

    async def _opened_looker(self) -> Session:
        self._check_open()
        if asyncio.get_running_loop().time() - self._looked_at > MOST_IDLE:
            self._drop_looker()
        if self._looker is None or self._looker.is_closed():
            self._looker = await self.connect()
        return self._looker

    def _drop_looker(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.terminate()

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": CONNECT_TIMEOUT, "command_timeout": self._command_timeout}
        if self._transaction_pooling:
            return {**options, "statement_cache_size": 0}
        limit = str(int(self._command_timeout * 1000 * SERVERS_SHARE))
        settings = {
            "application_name": "tusgate",
            "statement_timeout": limit,
            "idle_in_transaction_session_timeout": limit,
        }
        # A standby would show offsets of the past.
        return {**options, "target_session_attrs": "primary", "server_settings": settings}


def _cut(connection: Session | Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # on its way back to the pool: that has a time limit of its own
        connection.terminate()


async def connect_to_primary(dsn: str | None = None, **options: Any) -> Session:
    """Connect to all hosts of `dsn` at once, and return the first connection that is as `options` demand.

    asyncpg asks one after the other within one time-out: a host that is switched off would use all of it up.
    """
    attempts: list[asyncio.Task[Session]] = [
        asyncio.create_task(asyncpg.connect(each, **options)) for each in one_host_each(dsn or "")
    ]
    try:
        waiting = set(attempts)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            chosen = min(done, key=lambda attempt: attempt.exception() is not None)
            if chosen.exception() is None or not waiting:
                attempts.remove(chosen)
                return chosen.result()
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_hang_up)


def one_host_each(dsn: str) -> list[str]:
    """Return the URL of each host in `dsn`."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=user + at + host)) for host in hosts.split(",")]


def _hang_up(attempt: asyncio.Task[Session]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


async def _keep_session(_connection: object) -> None:
    """Stand in for the statements that asyncpg sends when a connection is given back: no step leaves anything set."""
