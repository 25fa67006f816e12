"""Deliveries of events, in PostgreSQL. A step is one statement; see `postgres`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosql

from tusgate.database.rows import (
    PUTTING_OFF,
    columns_from,
    delivery_from,
    key_rows,
    outcome_rows,
    search_of,
    sink_backlog_from,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from tusgate.core.events import Delivery, Outcome, Search, SinkBacklog
    from tusgate.ports import Deliveries

_queries: Any = aiosql.from_path(
    Path(__file__).with_name("postgres_deliveries.sql"), "asyncpg", mandatory_parameters=False
)


class PostgresDeliveries:
    """The port `Deliveries`.

    Args:
        lend: a connection for one statement.
    """

    def __init__(self, lend: Callable[[], AbstractAsyncContextManager[PoolConnectionProxy[asyncpg.Record]]]) -> None:
        self._lend = lend

    async def claim(self, sink: str, holder: str, lease: float, limit: int) -> list[Delivery]:
        """See `ports.Deliveries.claim`."""
        wanted = {"sink": sink, "holder": holder, "lease": lease, "limit": limit, **PUTTING_OFF}
        found = await self._all(_queries.claim, **wanted)
        return [delivery_from(row) for row in found]

    async def settle(self, sink: str, holder: str, outcomes: Sequence[Outcome]) -> None:
        """See `ports.Deliveries.settle`."""
        columns = columns_from(
            outcome_rows(outcomes),
            upload_id="upload_ids",
            number="numbers",
            state="states",
            delay="delays",
            error="errors",
        )
        async with self._lend() as connection:
            await _queries.settle(connection, sink=sink, holder=holder, **columns)

    async def give_back(self, sink: str, holder: str) -> None:
        """See `ports.Deliveries.give_back`."""
        async with self._lend() as connection:
            await _queries.give_back(connection, sink=sink, holder=holder)

    async def disable(self, sink: str, reason: str) -> None:
        """See `ports.Deliveries.disable`."""
        async with self._lend() as connection:
            await _queries.disable(connection, sink=sink, reason=reason)

    async def enable(self, sink: str) -> None:
        """See `ports.Deliveries.enable`."""
        async with self._lend() as connection:
            await _queries.enable(connection, sink=sink)

    async def disabled(self) -> dict[str, str]:
        """See `ports.Deliveries.disabled`."""
        return {row["name"]: row["reason"] for row in await self._all(_queries.list_disabled)}

    async def backlog(self) -> list[SinkBacklog]:
        """See `ports.Deliveries.backlog`."""
        return [sink_backlog_from(row) for row in await self._all(_queries.backlog)]

    async def bury_unclaimed(self, sinks: Sequence[str], patience: float) -> None:
        """See `ports.Deliveries.bury_unclaimed`."""
        async with self._lend() as connection:
            await _queries.bury_unclaimed(connection, sinks=list(sinks), patience=patience)

    async def purge(self, retention: float, dead_retention: float, limit: int) -> int:
        """See `ports.Deliveries.purge`."""
        return len(await self._all(_queries.purge, retention=retention, dead_retention=dead_retention, limit=limit))

    async def find(self, search: Search, limit: int, after: Delivery | None = None) -> list[Delivery]:
        """See `ports.Deliveries.find`."""
        found = await self._all(_queries.find, **search_of(search, after), limit=limit)
        return [delivery_from(row) for row in found]

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        """See `ports.Deliveries.replay`."""
        return len(await self._all(_queries.replay, **_keys(deliveries)))

    async def drop(self, deliveries: Sequence[Delivery]) -> int:
        """See `ports.Deliveries.drop`."""
        return len(await self._all(_queries.drop, **_keys(deliveries)))

    async def _all(self, query: Any, **parameters: object) -> list[asyncpg.Record]:
        async with self._lend() as connection:
            return [row async for row in query(connection, **parameters)]


def _keys(deliveries: Sequence[Delivery]) -> dict[str, object]:
    return columns_from(key_rows(deliveries), upload_id="upload_ids", number="numbers", sink="sinks")


if TYPE_CHECKING:
    _: type[Deliveries] = PostgresDeliveries
