"""Removes from the store what rows of the database name as garbage. Idempotent; any number may run at once.

Rule 1: the list is the database's. The store is never searched for what might be superfluous, except for multipart
        uploads of one known key whose ids were never recorded.
Rule 2: a row stays until the store has confirmed, twice and `grace` seconds apart, that what it names is gone. A
        request that was on its way at the first time (sent again meanwhile, or by a process that was frozen) may have
        taken effect after it.
Rule 3: the database gives an object out only after the multipart upload is gone that a Complete on its way could make
        it of.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from tusgate.core.errors import StoreRefused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tusgate.core.model import Garbage, MultipartId
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

CALLS_AT_ONCE: Final = 8
Rows = TypeVar("Rows")


@dataclass(frozen=True, slots=True)
class Collected:
    """The outcome of one run.

    Attributes:
        removed: the store confirmed that these are gone, now.
        kept: it did not; they are tried again.
    """

    removed: list[Garbage]
    kept: list[Garbage]


class Collector:
    """Collects garbage, one batch per run."""

    def __init__(self, database: Database, stores: Stores[ObjectStore], batch: int, grace: float, retry: float) -> None:
        """Take `retry` as the seconds until a failed removal is tried again; `grace`: see rule 2."""
        self._database = database
        self._stores = stores
        self._batch = batch
        self._grace = grace
        self._retry = retry
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)

    async def run(self) -> Collected:
        """Remove what is due, at most one batch. Raises DatabaseUnavailable; what was removed is then removed again."""
        due = await self._database.due_garbage(self._batch, self._grace)
        multiparts = [row for row in due if row.multipart]
        removed = await self._succeeding(multiparts, self._abort)
        for route in {row.route for row in due if not row.multipart}:
            removed += await self._delete([row for row in due if not row.multipart and row.route == route])
        gone = {row.id for row in removed}
        kept = [row for row in due if row.id not in gone]
        if removed:
            await self._database.drop_garbage(removed, self._grace)
        if kept:
            log.warning("garbage.postponed", rows=len(kept), first=kept[0].key)
            await self._database.postpone_garbage(kept, self._retry)
        return Collected(removed, kept)

    async def _delete(self, rows: list[Garbage]) -> list[Garbage]:
        """Delete objects of one store together; return those that are gone.

        One that the store does not let go (a retention rule) must not keep all others: if another one can be deleted
        alone, all are tried alone.
        """
        if not rows or await self._succeeds(self._delete_together, rows):
            return rows
        probe = random.choice(rows)  # noqa: S311 - any will do
        if len(rows) == 1 or not await self._succeeds(self._delete_together, [probe]):
            return []
        return await self._succeeding(rows, lambda row: self._delete_together([row]))

    async def _delete_together(self, rows: list[Garbage]) -> None:
        await self._stores.of(rows[0].route).delete_objects([row.key for row in rows])

    async def _abort(self, row: Garbage) -> None:
        """Abort one multipart upload, or all of a key whose intent was never followed by a recorded id."""
        store = self._stores.of(row.route)
        for multipart_id in await _doomed(row, store):
            await store.abort_multipart(row.key, multipart_id)

    async def _succeeding(
        self, rows: list[Garbage], remove: Callable[[Garbage], Coroutine[None, None, None]]
    ) -> list[Garbage]:
        """Apply `remove` to each row, some at a time; return those that it removed."""
        outcomes = await asyncio.gather(*(self._succeeds(remove, row) for row in rows))
        return [row for row, is_gone in zip(rows, outcomes, strict=True) if is_gone]

    async def _succeeds(self, remove: Callable[[Rows], Coroutine[None, None, None]], rows: Rows) -> bool:
        async with self._slots:
            try:
                await remove(rows)
            except (Unavailable, StoreRefused) as error:
                log.debug("garbage.postponed", error=str(error))
                return False
        return True


async def _doomed(row: Garbage, store: ObjectStore) -> list[MultipartId]:
    """Return what to abort. Only a search may meet the upload's own: a row names what nobody refers to any more."""
    if row.multipart_id:
        return [row.multipart_id]
    return [found for found in await store.list_multiparts(row.key) if found != row.spare]
