"""Events for those who listen, in SQLite. A step is a function that runs in the reading thread; see `sqlite`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosql

from tusgate.core.events import EventPlace
from tusgate.database.rows import event_from, event_id_from, event_key_rows, milliseconds_of, moment_from, place_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from tusgate.core.events import Event, EventId
    from tusgate.core.model import Scope, UploadId
    from tusgate.database.sqlite_threads import ReadingThread
    from tusgate.ports import Events

_queries: Any = aiosql.from_path(Path(__file__).with_name("sqlite_events.sql"), "sqlite3", mandatory_parameters=False)


class SqliteEvents:
    """The port `Events`."""

    def __init__(self, reader: ReadingThread) -> None:
        self._reader = reader

    async def tail(self, tenants: Collection[str], seconds: float) -> list[EventId]:
        """See `ports.Events.tail`."""
        names = json.dumps(list(tenants))
        return await self._reader.run(
            lambda connection: [event_id_from(row) for row in _queries.tail(connection, tenants=names, seconds=seconds)]
        )

    async def fetch(self, event_ids: Sequence[EventId]) -> list[Event]:
        """See `ports.Events.fetch`."""
        return await self._reader.run(partial(_fetch, event_ids=event_ids))

    async def of_upload(self, scope: Scope, upload_id: UploadId, after: int, limit: int) -> list[Event]:
        """See `ports.Events.of_upload`."""
        identity = {"id": upload_id, "tenant": scope.tenant, "owner": scope.owner}
        return await self._reader.run(
            lambda connection: [
                event_from(row) for row in _queries.of_upload(connection, **identity, after=after, limit=limit)
            ]
        )

    async def when_was(self, tenant: str, owner: str | None, event_id: EventId) -> datetime | None:
        """See `ports.Events.when_was`."""
        return await self._reader.run(partial(_when_was, tenant=tenant, owner=owner, event_id=event_id))

    async def page(self, tenant: str, owner: str | None, after: EventPlace | None, limit: int) -> list[Event]:
        """See `ports.Events.page`."""
        place = place_of(after)
        place["time"] = 0 if after is None else milliseconds_of(after.occurred_at)
        return await self._reader.run(
            lambda connection: [
                event_from(row) for row in _queries.page(connection, tenant=tenant, owner=owner, **place, limit=limit)
            ]
        )


def _fetch(connection: sqlite3.Connection, event_ids: Sequence[EventId]) -> list[Event]:
    rows = (_queries.fetch(connection, **key) for key in event_key_rows(event_ids))
    return sorted((event_from(row) for row in rows if row is not None), key=EventPlace.of)


def _when_was(connection: sqlite3.Connection, tenant: str, owner: str | None, event_id: EventId) -> datetime | None:
    row = _queries.when_was(connection, id=event_id.upload_id, number=event_id.number, tenant=tenant, owner=owner)
    return None if row is None else moment_from(row["occurred_at"])


if TYPE_CHECKING:
    _: type[Events] = SqliteEvents
