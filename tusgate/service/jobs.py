"""What runs beside the requests: finishing abandoned uploads, expiry, and removing what nothing refers to.

Every job works from database rows only, never from bucket listings, and may run on any number of replicas at once.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import Unavailable
from tusgate.service.collector import Collector
from tusgate.service.expirer import Expirer, OwnClocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.ports import Database, ObjectStore
    from tusgate.service.completion import Completion
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

HASTE: Final = 20
"""How many times as often a job runs while there is more to do than fits one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """How often and how much.

    Attributes:
        finish_every, expire_every, collect_every: seconds between two runs of a job.
        batch: rows per run.
        finishing: sealed uploads that one process finishes at once.
        intent_grace: seconds before an unused intent counts as garbage, and between the two times that garbage is
            removed: longer than any request to the store lives.
        retry_garbage: seconds until a failed removal is tried again.
        resume_pause: seconds that clients get to come back after an outage, before anything is expired.
    """

    finish_every: float = 2.0
    expire_every: float = 20.0
    collect_every: float = 5.0
    batch: int = 500
    finishing: int = 16
    intent_grace: float = 1800.0
    retry_garbage: float = 60.0
    resume_pause: float = 3600.0

    def expirer(self, database: Database, clocks: OwnClocks) -> Expirer:
        """Return what expires uploads by these rules."""
        return Expirer(database, self.batch, self.resume_pause, clocks)

    def collector(self, database: Database, stores: Stores[ObjectStore]) -> Collector:
        """Return what collects garbage by these rules."""
        return Collector(database, stores, self.batch, self.intent_grace, self.retry_garbage)


class Jobs:
    """The background jobs of one process."""

    def __init__(
        self,
        database: Database,
        stores: Stores[ObjectStore],
        completion: Completion,
        rules: JobRules,
        clocks: OwnClocks | None = None,
    ) -> None:
        self._completion = completion
        self._rules = rules
        self._expirer = rules.expirer(database, clocks or OwnClocks())
        self._collector = rules.collector(database, stores)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run all jobs until `stop`."""
        rules = self._rules
        jobs: list[tuple[float, Callable[[], Awaitable[int]]]] = [
            (rules.finish_every, self.finish_abandoned),
            (rules.expire_every, self.expire),
            (rules.collect_every, self.collect_garbage),
        ]
        self._tasks = [asyncio.create_task(self._repeat(every, job)) for every, job in jobs]

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
        return len(await self._expirer.run())

    async def collect_garbage(self) -> int:
        """Remove from the store what the garbage rows name; return how many rows were settled."""
        return len((await self._collector.run()).removed)

    async def _repeat(self, every: float, job: Callable[[], Awaitable[int]]) -> None:
        """Run `job` for ever, about `every` seconds apart; an error ends one run, not the job."""
        pace = every
        while True:
            await asyncio.sleep(pace * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas, guards nothing
            pace = every
            try:
                if await job() >= self._rules.batch:
                    pace = every / HASTE
            except Unavailable as error:
                log.warning("job.postponed", job=job.__name__, error=str(error))
            except Exception:  # the guard of a job loop: the next run may succeed
                log.exception("job.failed", job=job.__name__)
