"""What operators do with jobs of finished files: have them done after all, or go on without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tusgate.core.errors import JobLost
from tusgate.service.paging import pages

if TYPE_CHECKING:
    from tusgate.core.processing import JobSearch
    from tusgate.ports import JobQueue


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was dropped.

    Attributes:
        jobs: how many.
        gates: how many were left as they are, since their files could be read without them.
    """

    jobs: int
    gates: int


async def retry_all(jobs: JobQueue, search: JobSearch) -> int:
    """Have all dead jobs that `search` finds tried again; return how many are. Done one by one."""
    count = 0
    async for page in pages(jobs.find, search):
        for job in page:
            try:
                await jobs.revive(job.source, job.processor)
            except JobLost:  # the file has ended meanwhile
                continue
            count += 1
    return count


async def drop_all(jobs: JobQueue, search: JobSearch, *, with_gates: bool) -> Dropped:
    """Forget all jobs that `search` finds, and that nobody has. Done one by one.

    Args:
        jobs: of all tenants.
        search: which.
        with_gates: also those that keep their file from readers: without them it can be read.
    """
    count = gates = 0
    async for page in pages(jobs.find, search):
        for job in page:
            if job.is_gate and not with_gates:
                gates += 1
                continue
            try:
                await jobs.drop(job)
            except JobLost:  # somebody has it, it is done, or the file has ended
                continue
            count += 1
    return Dropped(count, gates)
