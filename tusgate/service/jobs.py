"""What runs beside the requests: finishing abandoned uploads, expiry, and removing what nothing refers to.

Every job works from database rows only, never from bucket listings, and may run on any number of replicas at once.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.dedup import NO_DEDUP, Dedup
from tusgate.core.errors import Unavailable
from tusgate.service.collector import Collector
from tusgate.service.digests import Digester
from tusgate.service.expirer import Expirer, OwnClocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.ports import Database, ObjectStore, ReadingDatabase
    from tusgate.service.completion import Completion
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

HASTE: Final = 20
"""How many times as often a job runs while there is more to do than fits one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """How often and how much.

    Attributes:
        finish_every, expire_every, collect_every, digest_every: seconds between two runs of a job.
        batch: rows per run.
        finishing: sealed uploads that one process finishes at once.
        intent_grace: seconds before an unused intent counts as garbage, and between the two times that garbage is
            removed: longer than any request to the store lives.
        retry_garbage: seconds until a failed removal is tried again.
        forget_every: seconds between two looks for what is only remembered, and no longer needs to be.
        ended_memory: seconds for which uploads are known after their end; None: for ever.
        share_memory: seconds for which share links are listed after their end.
        digests: this process computes the SHA-256 of files.
        dedup: whose files share objects with equal ones.
        access_memory: seconds for which it is known who read what; None: not at all.
        watch_every: seconds between two looks for jobs of processors that nobody takes.
        job_patience: seconds for which such a job may have been due.
        processors: that anybody's files get by the settings of this process.
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
    forget_every: float = 600.0
    digest_every: float = 2.0
    digests: bool = False
    dedup: Dedup = NO_DEDUP
    ended_memory: float | None = None
    share_memory: float = 30 * 86_400.0
    access_memory: float | None = None
    watch_every: float = 300.0
    job_patience: float = 600.0
    processors: frozenset[str] = frozenset()

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
        reading: ReadingDatabase | None = None,
    ) -> None:
        self._database = database
        self._reading = reading
        self._completion = completion
        self._rules = rules
        self._expirer = rules.expirer(database, clocks or OwnClocks())
        self._collector = rules.collector(database, stores)
        self._digester = Digester(database, stores, rules.dedup)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run all jobs until `stop`."""
        rules = self._rules
        jobs: list[tuple[float, Callable[[], Awaitable[int]]]] = [
            (rules.finish_every, self.finish_abandoned),
            (rules.expire_every, self.expire),
            (rules.collect_every, self.collect_garbage),
            (rules.forget_every, self.forget),
        ]
        if rules.digests or rules.dedup.is_on_anywhere:
            jobs.append((rules.digest_every, self.digest))
        if self._reading is not None:
            jobs.append((rules.watch_every, self.watch_processing))
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

    async def forget(self) -> int:
        """Delete rows about what ended long ago: uploads, share links, accesses; return how many of the most."""
        reading, rules = self._reading, self._rules
        ended = 0
        if rules.ended_memory is not None:
            ended = await self._database.forget_ended(rules.ended_memory, rules.batch)
        if reading is None:
            return ended
        shares = await reading.forget_shares(rules.share_memory, rules.batch)
        accesses = 0
        for _ in range(HASTE):  # many small steps: there may be as many accesses as requests
            # With no log what an earlier setting has written is forgotten, too.
            forgotten = await reading.forget_accesses(rules.access_memory or 0.0, rules.batch)
            accesses += forgotten
            if forgotten < rules.batch:
                break
        return max(ended, shares, accesses)

    async def digest(self) -> int:
        """Compute the SHA-256 of finished files, one after the other, until none is due; return of how many."""
        count = 0
        while await self._digester.run():
            count += 1
        return count

    async def watch_processing(self) -> int:
        """Tell operators of jobs that no worker takes; return of how many processors. They wait until one does."""
        if self._reading is None:
            return 0
        overdue = await self._reading.jobs.overdue(self._rules.job_patience)
        for each in overdue:
            log.warning(
                "processing.waiting",
                processor=each.processor,
                jobs=each.jobs,
                seconds=round(each.seconds),
                in_settings=each.processor in self._rules.processors,
                hint=f"tusgate jobs list --processor {each.processor}",
            )
        return len(overdue)

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
