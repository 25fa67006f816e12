"""Does the jobs of finished files: claims one, fetches the file, runs the processor, keeps what it has made.

Any number of workers may run, on any machines. Each job is held by a lease that is renewed while it runs; whoever dies
is followed by another once that is over. What a try has made becomes files in one commit, `finish`, and only if the job
is still its own: so a job that was tried twice has left one thumbnail.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import (
    JobLost,
    ObjectLost,
    ProcessingFailed,
    StoreRefused,
    TooLarge,
    TusgateError,
    Unavailable,
)
from tusgate.core.processing import HEARTBEAT_EVERY, LEASE, MOST_TRIES, RETRIES, ClaimId
from tusgate.ports import SourceFile
from tusgate.service.derivatives import read_in_parts, stage
from tusgate.service.files import verified
from tusgate.service.scratch import Scratch, clear_up

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tusgate.core.model import Upload
    from tusgate.core.processing import Job
    from tusgate.ports import JobQueue, MadeFile, ObjectStore, Sandbox
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

POSTPONED_FOR: Final = 30.0
"""Seconds until a job is tried again that could not be because the store was away. That counts as no try."""
LOST_AT_ONCE: Final = 10
CLEAR_UP_EVERY: Final = 600.0
"""Seconds between two looks for what workers that have died had on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRules:
    """How much one worker does.

    Attributes:
        slots: jobs at once.
        look_every: seconds between two looks for jobs of one slot that has none.
        heartbeat_every: seconds.
        scratch: where files are copied to; None: where the system has its temporary files.
    """

    slots: int = 2
    look_every: float = 1.0
    heartbeat_every: float = HEARTBEAT_EVERY
    scratch: Path | None = None


def new_claim() -> ClaimId:
    """Return a name that nobody can guess."""
    return ClaimId(secrets.token_urlsafe(24))


async def give_up_lost(jobs: JobQueue) -> None:
    """Give up the jobs that had all of their tries, and were in hands that are not heard of any more."""
    for job in await jobs.lost(MOST_TRIES, LOST_AT_ONCE):
        with suppress(JobLost):
            await jobs.fail(job, f"the worker has died in each of {job.tries} tries", None)
            log.error("processing.dead", upload_id=job.source.id, processor=job.processor, tries=job.tries)


class Worker:
    """Does jobs in the background until it is stopped.

    Args:
        jobs: where they come from.
        stores: where files are.
        largest: bytes of the largest file that each processor takes, by its name.
        sandbox: runs processors.
        holder: what operators see of it.
        rules: how much it does.
    """

    def __init__(
        self,
        jobs: JobQueue,
        stores: Stores[ObjectStore],
        largest: Mapping[str, int],
        sandbox: Sandbox,
        holder: str,
        rules: WorkerRules,
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._largest = largest
        self._sandbox = sandbox
        self._holder = holder
        self._rules = rules
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to do jobs."""
        if self._largest:
            self._tasks = [asyncio.create_task(self._work_for_ever()) for _ in range(self._rules.slots)]
            self._tasks.append(asyncio.create_task(self._clear_up_for_ever()))

    async def stop(self) -> None:
        """Give back what is being done, and do no more. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def work(self) -> bool:
        """Do one job, if one is due; return whether there was one. Raises DatabaseUnavailable."""
        await give_up_lost(self._jobs)
        claim = new_claim()
        job = await self._jobs.claim(list(self._largest), claim, self._holder, LEASE, MOST_TRIES)
        if job is not None:
            await self._do(job)
        return job is not None

    async def _work_for_ever(self) -> None:
        while True:
            try:
                while await self.work():
                    pass
            except Unavailable as error:
                log.warning("job.postponed", job="process", error=str(error))
            except Exception:  # the guard of a job loop: the next run may succeed
                log.exception("job.failed", job="process")
            await asyncio.sleep(self._rules.look_every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads workers

    async def _clear_up_for_ever(self) -> None:
        """Remove what workers that have died had copied to this disk."""
        while True:
            await asyncio.to_thread(clear_up, self._rules.scratch)
            await asyncio.sleep(CLEAR_UP_EVERY)

    async def _do(self, job: Job) -> None:
        """Try the job, and settle it whatever happens; a worker that is told to stop gives it back."""
        try:
            await self._holding(job)
        except JobLost:
            log.info("processing.overtaken", upload_id=job.source.id, processor=job.processor)
        except (ProcessingFailed, TooLarge, StoreRefused, ObjectLost) as error:
            await self._failed(job, error)
        except Unavailable as error:
            log.warning("processing.postponed", upload_id=job.source.id, processor=job.processor, error=str(error))
            with suppress(JobLost):
                await self._jobs.release(job, POSTPONED_FOR)
        except asyncio.CancelledError:
            with suppress(JobLost, Unavailable):
                await self._jobs.release(job)
            raise
        except Exception as error:  # a bug, or a disk that fails: what is held would be held until the lease ends
            log.exception("processing.crashed", upload_id=job.source.id, processor=job.processor)
            await self._failed(job, ProcessingFailed(f"the worker has failed: {type(error).__name__}"))

    async def _failed(self, job: Job, error: TusgateError) -> None:
        is_hopeless = isinstance(error, TooLarge) or (isinstance(error, ProcessingFailed) and error.permanent)
        retry_in = None if is_hopeless else RETRIES.after(job.tries, None, random.random())  # noqa: S311 - spreads tries
        with suppress(JobLost):
            await self._jobs.fail(job, str(error), retry_in)
            told = {"upload_id": job.source.id, "processor": job.processor, "tries": job.tries, "error": str(error)}
            if retry_in is None:
                log.error("processing.dead", **told)
            else:
                log.warning("processing.failed", **told)

    async def _holding(self, job: Job) -> None:
        """Try the job, and hold on to it meanwhile. Raises JobLost as soon as it is somebody else's."""
        log.debug("processing.started", upload_id=job.source.id, processor=job.processor, tries=job.tries)
        reached = _Reached()
        attempt = asyncio.create_task(self._attempt(job, reached))
        try:
            while not (await asyncio.wait([attempt], timeout=self._rules.heartbeat_every))[0]:
                with suppress(Unavailable):
                    await self._jobs.heartbeat(job, LEASE, reached.progress)
            await attempt
        finally:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)

    async def _attempt(self, job: Job, reached: _Reached) -> None:
        largest = self._largest[job.processor]
        if (job.source.length or 0) > largest:
            raise ProcessingFailed(f"the file has more than the {largest} bytes that are looked at", permanent=True)
        place = await asyncio.to_thread(Scratch.make, self._rules.scratch)
        try:
            await self._run(job, place, reached)
        finally:
            await asyncio.to_thread(place.remove)

    async def _run(self, job: Job, place: Scratch, reached: _Reached) -> None:
        place.workspace.mkdir()
        source = SourceFile(place.source, job.source.length or 0, job.source.content_type, job.source.filename)
        await self._fetch(job.source, source.path)
        result = await self._sandbox.run(job.processor, source, place.workspace, reached.note)
        if result.refused is not None:
            await self._jobs.refuse(job, result.refused, result.facts)
            log.warning("processing.refused", upload_id=job.source.id, processor=job.processor, reason=result.refused)
            return
        for made in result.derived:
            await self._stage(job, made)
        await self._jobs.finish(job, result.facts)
        log.info("processing.done", upload_id=job.source.id, processor=job.processor, derived=len(result.derived))

    async def _fetch(self, upload: Upload, path: Path) -> None:
        """Copy the file to `path`, checked. Raises ObjectLost, StoreUnavailable, ProcessingFailed."""
        size = upload.length or 0
        try:
            with path.open("xb") as file:
                if size == 0:
                    return
                chunks = self._stores.of(upload.route).read(upload.object_key, 0, size, etag=upload.etag)
                if upload.crc64 is not None:
                    chunks = verified(chunks, size, upload.crc64)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
        except OSError as error:
            raise ProcessingFailed(f"the worker cannot keep a copy of the file: {error.strerror}") from error

    async def _stage(self, job: Job, made: MadeFile) -> None:
        with made.path.open("rb") as file:
            await stage(
                self._jobs,
                self._stores.of(job.source.route),
                job,
                partial(read_in_parts, file),
                size=made.path.stat().st_size,
                name=made.name,
                content_type=made.content_type,
                filename=made.filename,
            )


@dataclass(slots=True)
class _Reached:
    """How far a try is."""

    progress: float = 0.0

    def note(self, progress: float) -> None:
        self.progress = min(max(progress, 0.0), 1.0)
