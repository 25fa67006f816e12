"""Events for those who listen, in PostgreSQL. A step is one statement; see `postgres`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosql

from tusgate.database.rows import columns_from, event_from, event_id_from, event_key_rows, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from tusgate.core.events import Event, EventId, EventPlace
    from tusgate.core.model import Scope, UploadId
    from tusgate.ports import Events

_queries: Any = aiosql.from_path(Path(__file__).with_name("postgres_events.sql"), "asyncpg", mandatory_parameters=False)


class PostgresEvents:
    """The port `Events`.

    Args:
        lend: a connection for one statement.
    """

    def __init__(self, lend: Callable[[], AbstractAsyncContextManager[PoolConnectionProxy[asyncpg.Record]]]) -> None:
        self._lend = lend

    async def tail(self, tenants: Collection[str], seconds: float) -> list[EventId]:
        """See `ports.Events.tail`."""
        return [event_id_from(row) for row in await self._all(_queries.tail, tenants=list(tenants), seconds=seconds)]

    async def fetch(self, event_ids: Sequence[EventId]) -> list[Event]:
        """See `ports.Events.fetch`."""
        columns = columns_from(event_key_rows(event_ids), upload_id="upload_ids", number="numbers")
        return [event_from(row) for row in await self._all(_queries.fetch, **columns)]

    async def of_upload(self, scope: Scope, upload_id: UploadId, after: int, limit: int) -> list[Event]:
        """See `ports.Events.of_upload`."""
        found = await self._all(
            _queries.of_upload, id=upload_id, tenant=scope.tenant, owner=scope.owner, after=after, limit=limit
        )
        return [event_from(row) for row in found]

    async def when_was(self, tenant: str, owner: str | None, event_id: EventId) -> datetime | None:
        """See `ports.Events.when_was`."""
        identity = {"id": event_id.upload_id, "number": event_id.number}
        async with self._lend() as connection:
            row = await _queries.when_was(connection, **identity, tenant=tenant, owner=owner)
        return None if row is None else row["occurred_at"]

    async def page(self, tenant: str, owner: str | None, after: EventPlace | None, limit: int) -> list[Event]:
        """See `ports.Events.page`."""
        found = await self._all(_queries.page, tenant=tenant, owner=owner, **place_of(after), limit=limit)
        return [event_from(row) for row in found]

    async def _all(self, query: Any, **parameters: object) -> list[asyncpg.Record]:
        async with self._lend() as connection:
            return [row async for row in query(connection, **parameters)]


if TYPE_CHECKING:
    _: type[Events] = PostgresEvents
