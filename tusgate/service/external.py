"""Jobs that programs of others do, by way of the API: any language, any machine, one token.

Rule 1: a worker has what is due in its own tenant, whoever owns the file, and of external processors only.
Rule 2: a job is known by its claim alone. Who has lost the job has an address that leads nowhere.
"""

from __future__ import annotations

import asyncio
import random
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import InvalidRequest, JobLost
from tusgate.core.processing import LEASE, MOST_TRIES, RETRIES, ClaimId
from tusgate.service.derivatives import receive_in_parts, stage
from tusgate.service.worker import give_up_lost, new_claim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tusgate.core.access import Principal
    from tusgate.core.processing import Job, Json, Staged
    from tusgate.ports import ByteSource, JobQueue, ObjectStore
    from tusgate.service.stores import Stores

_CLAIM: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
LOOK_EVERY: Final = 1.0
"""Seconds between two looks for a job while a worker waits."""
TAKEN_AT_ONCE: Final = 4
"""Files that are taken from workers by one process; of each up to two parts are in memory, beside the budget."""


class ExternalJobs:
    """What external workers can do.

    Args:
        jobs: of finished files.
        stores: where files are.
        processors: names of the external ones.
        is_draining: says whether this process is about to end, so that nobody waits here any longer.
    """

    def __init__(
        self,
        jobs: JobQueue,
        stores: Stores[ObjectStore],
        processors: Sequence[str],
        is_draining: Callable[[], bool],
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._processors = frozenset(processors)
        self._is_draining = is_draining
        self._slots = asyncio.Semaphore(TAKEN_AT_ONCE)

    async def claim(
        self, principal: Principal, processors: Sequence[str], wait: float, is_abandoned: Callable[[], bool]
    ) -> Job | None:
        """Return a job of one of `processors`, when one is due within `wait` seconds.

        Raises:
            InvalidRequest: one of these is no external processor.
        """
        unknown = sorted({*processors} - self._processors)
        if unknown:
            raise InvalidRequest("processors", f"names in TUSGATE_EXTERNAL_PROCESSORS, got {unknown[0]}")
        now, tenant, holder = asyncio.get_running_loop().time, principal.scope.tenant, principal.proof
        until = now() + wait
        while not (is_abandoned() or self._is_draining()):
            await give_up_lost(self._jobs)
            job = await self._jobs.claim(processors, new_claim(), holder, LEASE, MOST_TRIES, tenant)
            if job is not None or now() >= until:
                return job
            await asyncio.sleep(min(LOOK_EVERY, max(until - now(), 0.0)))
        return None

    async def held(self, principal: Principal, claim: str) -> Job:
        """Return the job of this claim. Raises JobLost."""
        if _CLAIM.fullmatch(claim) is None:
            raise JobLost
        return await self._jobs.held(principal.scope.tenant, ClaimId(claim))

    async def heartbeat(self, principal: Principal, claim: str, progress: float) -> None:
        """Hold on to the job for as long as a lease lasts. Raises JobLost."""
        await self._jobs.heartbeat(await self.held(principal, claim), LEASE, progress)

    async def derive(
        self, principal: Principal, claim: str, body: ByteSource, *, name: str, content_type: str, filename: str
    ) -> Staged:
        """Take a file that was made; it becomes one when the job is done. Waits while `TAKEN_AT_ONCE` others are taken.

        Raises:
            JobLost: also while it is taken.
            InvalidRequest: its length is not announced, or there are too many.
            Interrupted, TooLarge, StoreRefused, StoreUnavailable: nothing is staged.
        """
        if body.size is None:
            raise InvalidRequest("Content-Length", "the size of the file")
        async with self._slots:
            job = await self.held(principal, claim)
            return await stage(
                self._jobs,
                self._stores.of(job.source.route),
                job,
                partial(receive_in_parts, body),
                size=body.size,
                name=name,
                content_type=content_type,
                filename=filename,
            )

    async def finish(self, principal: Principal, claim: str, facts: Mapping[str, Json]) -> None:
        """Settle the job as done. Raises JobLost, QuotaExceeded."""
        await self._jobs.finish(await self.held(principal, claim), facts)

    async def refuse(self, principal: Principal, claim: str, reason: str, facts: Mapping[str, Json]) -> None:
        """Settle the job as refused. Raises JobLost."""
        await self._jobs.refuse(await self.held(principal, claim), reason, facts)

    async def fail(self, principal: Principal, claim: str, error: str, *, permanent: bool) -> None:
        """Have the job tried again later, or given up. Raises JobLost."""
        job = await self.held(principal, claim)
        retry_in = None if permanent else RETRIES.after(job.tries, None, random.random())  # noqa: S311 - spreads tries
        await self._jobs.fail(job, error, retry_in)
