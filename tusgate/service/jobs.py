"""What runs beside the requests: finishing abandoned uploads, expiry, and removing what nothing refers to.

Every job works from database rows only, never from bucket listings, and may run on any number of replicas at once.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from tusgate.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.core.model import Garbage, MultipartId
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.completion import Completion

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """How often and how much.

    Attributes:
        finish_every, expire_every, collect_every: seconds between two runs of a job.
        batch: rows per run.
        finishing: sealed uploads that one process finishes at once.
        intent_grace: seconds before an unused intent counts as garbage: longer than any request to the store lives.
        retry_garbage: seconds until a failed removal is tried again.
    """

    finish_every: float = 2.0
    expire_every: float = 20.0
    collect_every: float = 5.0
    batch: int = 500
    finishing: int = 16
    intent_grace: float = 1800.0
    retry_garbage: float = 60.0


class Jobs:
    """The background jobs of one process."""

    def __init__(self, database: Database, store: ObjectStore, completion: Completion, rules: JobRules) -> None:
        self._database = database
        self._store = store
        self._completion = completion
        self._rules = rules
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run all jobs until `stop`."""
        rules = self._rules
        jobs: list[tuple[float, Callable[[], Awaitable[int]]]] = [
            (rules.finish_every, self.finish_abandoned),
            (rules.expire_every, self.expire),
            (rules.collect_every, self.collect_garbage),
        ]
        self._tasks = [asyncio.create_task(_repeat(every, job)) for every, job in jobs]

    async def stop(self) -> None:
        """Cancel the jobs; whatever they were at is found again by the next run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish_abandoned(self) -> int:
        """Finish sealed uploads whose request, or replica, is gone; return how many were found."""
        return await self._completion.resume_abandoned(self._rules.finishing)

    async def expire(self) -> int:
        """Expire uploads that nobody continued in time; return how many."""
        expired = await self._database.expire(self._rules.batch)
        for upload in expired:
            log.info("upload.expired", upload_id=upload.id, offset=upload.offset)
        return len(expired)

    async def collect_garbage(self) -> int:
        """Remove from the store what the garbage rows name; return how many rows were settled.

        Multipart uploads go first, and an object waits for the one of its key: while that is there, a Complete on its
        way can still make the object, after it was deleted.
        """
        rows = await self._database.due_garbage(self._rules.batch, self._rules.intent_grace)
        multiparts = [row for row in rows if row.multipart]
        stuck = [row.key for row in multiparts if not await self._abort(row)]
        objects = [row for row in rows if not row.multipart]
        waiting = [row for row in objects if row.key in stuck]
        if waiting:
            await self._database.postpone_garbage(waiting, self._rules.retry_garbage)
        gone = await self._delete([row for row in objects if row.key not in stuck])
        return gone + len(multiparts) - len(stuck)

    async def _delete(self, rows: list[Garbage]) -> int:
        if not rows:
            return 0
        try:
            await self._store.delete_objects([row.key for row in rows])
        except Unavailable as error:
            await self._postpone(rows, error)
            return 0
        await self._database.drop_garbage(rows)
        return len(rows)

    async def _abort(self, row: Garbage) -> bool:
        """Abort one multipart upload, or all of a key whose intent was never followed by a recorded id."""
        try:
            for multipart_id in await self._doomed(row):
                await self._store.abort_multipart(row.key, multipart_id)
        except Unavailable as error:
            await self._postpone([row], error)
            return False
        await self._database.drop_garbage([row])
        return True

    async def _doomed(self, row: Garbage) -> list[MultipartId]:
        """Return what to abort. Only a search may meet the upload's own: a row names what nobody refers to any more."""
        if row.multipart_id:
            return [row.multipart_id]
        return [found for found in await self._store.list_multiparts(row.key) if found != row.spare]

    async def _postpone(self, rows: list[Garbage], error: Exception) -> None:
        log.warning("garbage.postponed", rows=len(rows), error=str(error))
        await self._database.postpone_garbage(rows, self._rules.retry_garbage)


async def _repeat(every: float, job: Callable[[], Awaitable[int]]) -> None:
    """Run `job` for ever, about `every` seconds apart; an error ends one run, not the job."""
    while True:
        await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas, guards nothing
        try:
            await job()
        except Unavailable as error:
            log.warning("job.postponed", job=job.__name__, error=str(error))
        except Exception:  # the guard of a job loop: the next run may succeed
            log.exception("job.failed", job=job.__name__)
