"""What external workers send is taken by few at a time: it is in memory beside the budget."""

from __future__ import annotations

import asyncio
import time

from tests.contract.database_rig import ALICE
from tests.contract.test_jobs import a_job, completed
from tests.doubles.database import MemoryDatabase
from tests.doubles.store import MemoryStore
from tusgate.core.access import Principal
from tusgate.core.processing import MOST_DERIVED
from tusgate.service.external import TAKEN_AT_ONCE, ExternalJobs
from tusgate.service.stores import Stores


class Crowd:
    """Counts the bodies that are being read."""

    def __init__(self) -> None:
        self.reading = self.most = 0


class Body:
    """A body of several chunks, each of which takes its time."""

    def __init__(self, crowd: Crowd) -> None:
        self.size: int | None = 5
        self.is_abandoned = False
        self._crowd = crowd
        self._rest = [b"h", b"e", b"llo", b""]

    async def read(self, paid: int = 0) -> bytes:
        if len(self._rest) == 4:
            self._crowd.reading += 1
            self._crowd.most = max(self._crowd.most, self._crowd.reading)
        for _ in range(10):
            await asyncio.sleep(0)
        chunk = self._rest.pop(0)
        if not chunk:
            self._crowd.reading -= 1
        return chunk

    def interrupt(self, error: Exception) -> None:
        raise error


async def test_few_files_are_taken_at_once_and_all_in_the_end() -> None:
    """I15."""
    database, crowd = MemoryDatabase(time.time), Crowd()
    external = ExternalJobs(database.jobs, Stores(MemoryStore()), ["thumbnail"], lambda: False)
    await completed(database)
    job = await a_job(database)
    worker = Principal(scope=ALICE)
    await asyncio.gather(
        *(
            external.derive(
                worker, str(job.claim), Body(crowd), name=f"page-{number}", content_type="text/plain", filename="p.txt"
            )
            for number in range(MOST_DERIVED)
        )
    )
    assert crowd.most == TAKEN_AT_ONCE
    await external.finish(worker, str(job.claim), {})
    assert len((await database.jobs.derived([job.source]))[job.source.id]) == MOST_DERIVED
