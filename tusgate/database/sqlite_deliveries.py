"""Deliveries of events, in SQLite. A step is a function that runs in the writing thread; see `sqlite`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosql

from tusgate.database.rows import (
    PUTTING_OFF,
    delivery_from,
    key_rows,
    milliseconds_of,
    outcome_rows,
    search_of,
    sink_backlog_from,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tusgate.core.events import Delivery, Outcome, Search, SinkBacklog
    from tusgate.database.sqlite_threads import ReadingThread, WritingThread
    from tusgate.ports import Deliveries

_queries: Any = aiosql.from_path(
    Path(__file__).with_name("sqlite_deliveries.sql"), "sqlite3", mandatory_parameters=False
)


class SqliteDeliveries:
    """The port `Deliveries`."""

    def __init__(self, reader: ReadingThread, writer: WritingThread) -> None:
        self._reader = reader
        self._writer = writer

    async def claim(self, sink: str, holder: str, lease: float, limit: int) -> list[Delivery]:
        """See `ports.Deliveries.claim`."""
        return await self._writer.run(partial(_claim, sink=sink, holder=holder, lease=lease, limit=limit))

    async def settle(self, sink: str, holder: str, outcomes: Sequence[Outcome]) -> None:
        """See `ports.Deliveries.settle`."""
        settled = json.dumps(outcome_rows(outcomes))
        await self._writer.run(
            lambda connection: _queries.settle(connection, sink=sink, holder=holder, outcomes=settled)
        )

    async def give_back(self, sink: str, holder: str) -> None:
        """See `ports.Deliveries.give_back`."""
        await self._writer.run(lambda connection: _queries.give_back(connection, sink=sink, holder=holder))

    async def disable(self, sink: str, reason: str) -> None:
        """See `ports.Deliveries.disable`."""
        await self._writer.run(lambda connection: _queries.disable(connection, sink=sink, reason=reason))

    async def enable(self, sink: str) -> None:
        """See `ports.Deliveries.enable`."""
        await self._writer.run(lambda connection: _queries.enable(connection, sink=sink))

    async def disabled(self) -> dict[str, str]:
        """See `ports.Deliveries.disabled`."""
        return await self._reader.run(_disabled)

    async def backlog(self) -> list[SinkBacklog]:
        """See `ports.Deliveries.backlog`."""
        return await self._reader.run(_backlog)

    async def bury_unclaimed(self, sinks: Sequence[str], patience: float) -> None:
        """See `ports.Deliveries.bury_unclaimed`."""
        names = json.dumps(list(sinks))
        await self._writer.run(lambda connection: _queries.bury_unclaimed(connection, sinks=names, patience=patience))

    async def purge(self, retention: float, dead_retention: float, limit: int) -> int:
        """See `ports.Deliveries.purge`."""
        return await self._writer.run(partial(_purge, retention=retention, dead_retention=dead_retention, limit=limit))

    async def find(self, search: Search, limit: int, after: Delivery | None = None) -> list[Delivery]:
        """See `ports.Deliveries.find`."""
        return await self._reader.run(partial(_find, search=search, limit=limit, after=after))

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        """See `ports.Deliveries.replay`."""
        return await self._writer.run(partial(_change, query=_queries.replay, deliveries=deliveries))

    async def drop(self, deliveries: Sequence[Delivery]) -> int:
        """See `ports.Deliveries.drop`."""
        return await self._writer.run(partial(_change, query=_queries.drop, deliveries=deliveries))


def _claim(connection: sqlite3.Connection, sink: str, holder: str, lease: float, limit: int) -> list[Delivery]:
    _queries.put_off(connection, sink=sink, **PUTTING_OFF)
    places = [row["place"] for row in _queries.claim(connection, sink=sink, holder=holder, lease=lease, limit=limit)]
    if not places:
        return []
    return [delivery_from(row) for row in _queries.list_claimed(connection, places=json.dumps(places))]


def _disabled(connection: sqlite3.Connection) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in _queries.list_disabled(connection)}


def _backlog(connection: sqlite3.Connection) -> list[SinkBacklog]:
    return [sink_backlog_from(row) for row in _queries.backlog(connection)]


def _purge(connection: sqlite3.Connection, retention: float, dead_retention: float, limit: int) -> int:
    found = _queries.list_old(connection, retention=retention, dead_retention=dead_retention, limit=limit)
    old = [dict(row) for row in found]
    _queries.delete_deliveries(connection, old)
    _queries.delete_events(connection, old)
    return len(old)


def _find(connection: sqlite3.Connection, search: Search, limit: int, after: Delivery | None) -> list[Delivery]:
    wanted = search_of(search, after)
    for name in ("since", "until", "after_time"):
        wanted[name] = milliseconds_of(wanted[name])
    return [delivery_from(row) for row in _queries.find(connection, **wanted, limit=limit)]


def _change(connection: sqlite3.Connection, query: Any, deliveries: Sequence[Delivery]) -> int:
    changed = [keys for keys in key_rows(deliveries) if query(connection, **keys) is not None]
    _queries.let_go(connection, changed)
    return len(changed)


if TYPE_CHECKING:
    _: type[Deliveries] = SqliteDeliveries
