"""What the store reports by itself: a reason to look, and nothing more.

A report that is forged, late, doubled or out of order is harmless for that: what counts is what the store answers when
it is asked.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import Unavailable
from tusgate.core.naming import ids_in
from tusgate.core.store_events import keys_told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tusgate.core.model import UploadId
    from tusgate.ports import Database, Report, ReportQueue
    from tusgate.service.direct import DirectUploads

log = structlog.get_logger(__name__)

PAUSE: Final = 5.0
"""Seconds, about, before a queue is asked again that could not be, or whose reports could not be acted on."""


class Evidence:
    """Takes reports about objects."""

    def __init__(self, database: Database, direct: DirectUploads) -> None:
        self._database = database
        self._direct = direct
        self._looking: set[UploadId] = set()

    async def objects_changed(self, keys: Iterable[str]) -> int:
        """Look after the uploads whose objects these are; return how many there are.

        Args:
            keys: as the store names them, with whatever prefix.

        Raises:
            Unavailable: the store should report it again; what was done is done.
        """
        looked = 0
        for key in dict.fromkeys(keys):
            for upload_id in ids_in(key):
                looked += await self._look(upload_id, key)
        return looked

    async def _look(self, upload_id: UploadId, key: str) -> bool:
        if upload_id in self._looking:
            return False  # a flood of reports about one object is one report
        self._looking.add(upload_id)
        try:
            upload = await self._database.get_any(upload_id)
            if upload is None or not key.endswith(upload.object_key):
                return False
            await self._direct.look_again(upload)
        finally:
            self._looking.discard(upload_id)
        log.info("evidence.taken", upload_id=upload_id)
        return True


class QueueWatch:
    """Acts on the reports of a queue, and drops each one after that; any number of replicas may share the queue.

    A report that could not be acted on, or that a process has died over, comes again. What is no report of S3 is left
    in the queue, whose own rules say what becomes of it: it may not be meant for us.

    Args:
        queue: of the object store.
        evidence: looks after what is reported.
        pause: seconds.
    """

    def __init__(self, queue: ReportQueue, evidence: Evidence, pause: float = PAUSE) -> None:
        self._queue = queue
        self._evidence = evidence
        self._pause = pause
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch until `stop`."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching, and close the queue. Reports that were not dropped come again. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._queue.close()

    async def take(self) -> int:
        """Act on the next reports; return how many there were.

        Raises:
            Unavailable: the queue, the database or the store could not be asked; reports it hit come again.
        """
        reports = await self._queue.receive()
        ended = await asyncio.gather(*map(self._act, reports), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        return len(reports)

    async def _act(self, report: Report) -> None:
        keys = keys_told(report.text)
        if keys is None:
            log.warning("evidence.unreadable", size=len(report.text))
            return
        await self._evidence.objects_changed(keys)
        await self._queue.drop(report)

    async def _watch(self) -> None:
        while True:
            try:
                await self.take()
            except Unavailable as error:
                log.warning("evidence.postponed", error=str(error))
                await asyncio.sleep(self._pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas
            except Exception:  # the guard of the loop: other reports may be fine
                log.exception("job.failed", job="watch_queue")
                await asyncio.sleep(self._pause)
