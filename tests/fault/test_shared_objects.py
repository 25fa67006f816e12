"""Equal files that share one object, on two replicas over PostgreSQL and MinIO: while they come, go, and are read.

Held by all of it, as the audit looks at it in the end: I3, I4, I10, I11, I14.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.audit.facts import gather
from tests.audit.rules import violations
from tests.fault.commands import command
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.rig import KIB, PART, id_of
from tests.fault.test_cleanup import age

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.fault.honest import Upload
    from tests.fault.rig import Rig

pytestmark = pytest.mark.slow

DATA = random.Random(10).randbytes(PART + 64 * KIB)
FILES = 20


@pytest.fixture
async def pair(start_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    settings = SMALLEST_PARTS_AND_COLD | {"TUSGATE_DEDUP": "on"}
    return await start_rig(settings, database="postgres", replicas=2)


async def uploaded(rig: Rig) -> Upload:
    """Upload the file, by either replica in turn."""
    upload = await begin(rig, DATA, [replica.client for replica in rig.replicas])
    await upload.run()
    return upload


async def deleted(rig: Rig, upload: Upload) -> None:
    assert (await random.choice(rig.replicas).client.delete(upload.path)).status == 204
    upload.journal.deleted = True


async def check_readable(rig: Rig, upload: Upload) -> None:
    for replica in rig.replicas:
        answer = await replica.client.request("GET", f"/api/v1/files/{id_of(upload.path)}/content")
        if upload.journal.deleted or answer.status == 410:
            return
        assert (answer.status, answer.body == DATA) == (200, True)


@asynccontextmanager
async def read_all_the_while(rig: Rig, uploads: Sequence[Upload]) -> AsyncIterator[None]:
    """Read files that nobody deletes over and over; every one must be whole each time."""
    done = False

    async def reading() -> None:
        while not done:
            for upload in uploads:
                for replica in rig.replicas:
                    answer = await replica.client.request("GET", f"/api/v1/files/{id_of(upload.path)}/content")
                    assert (answer.status, answer.body == DATA) == (200, True)

    task = asyncio.create_task(reading())
    try:
        yield
    finally:
        done = True
        await task


async def until_shared(rig: Rig, count: int) -> str:
    """Wait until all of `count` complete files refer to one object; return its key."""

    def keys() -> list[str]:
        # What is looked at again after two minutes, because its twin had gone, is looked at now.
        rig.books.change("UPDATE uploads SET digest_due_at = now() WHERE digest_due_at > now() + interval '60 seconds'")
        found = rig.rows("SELECT object_key FROM uploads WHERE state = 'complete' AND digest_due_at IS NULL")
        return [row["object_key"] for row in found]

    def are_shared() -> bool:
        found = keys()
        return len(found) == count and len(set(found)) == 1

    await rig.until(are_shared)
    return keys()[0]


async def cleaned_up(rig: Rig) -> None:
    """Let time pass until nothing is left to be removed."""
    async with asyncio.timeout(120):
        while await asyncio.to_thread(rig.rows, "SELECT 1 FROM garbage"):
            await age(rig)
            assert (await command(rig, "gc"))[0] in (0, 1)


async def test_equal_files_share_one_object_until_the_last_of_them_is_deleted(pair: Rig) -> None:
    """CC-10, I4, I10, I11: 20 finish at once while half of them are deleted; then all go while one more comes."""
    chance = random.Random(10)
    uploads = await asyncio.gather(*[begin(pair, DATA, [each.client for each in pair.replicas]) for _ in range(FILES)])
    doomed = chance.sample(uploads, FILES // 2)
    staying = [upload for upload in uploads if upload not in doomed]

    async def come_and_go(upload: Upload) -> None:
        await upload.run()
        if upload in doomed:
            await pair.until(lambda: pair.row(upload.path)["sha256"] is not None or chance.random() < 0.3)
            await deleted(pair, upload)

    await asyncio.gather(*map(come_and_go, uploads))
    async with read_all_the_while(pair, staying[:2]):
        key = await until_shared(pair, len(staying))
    await cleaned_up(pair)
    assert await pair.finished_keys() == [key]
    await asyncio.gather(*[check_readable(pair, upload) for upload in staying])

    chance.shuffle(staying)
    last = asyncio.create_task(uploaded(pair))
    for upload in staying[:-1]:
        await deleted(pair, upload)
        await check_readable(pair, staying[-1])
    newcomer = await last
    async with read_all_the_while(pair, [newcomer]):
        key = await until_shared(pair, 2)
        await deleted(pair, staying[-1])
        due = "SELECT 1 FROM garbage WHERE removed_at IS NULL AND due_at <= now() + interval '2 minutes'"
        await pair.until(lambda: not pair.rows(due))
    await check_readable(pair, newcomer)
    await deleted(pair, newcomer)
    await cleaned_up(pair)
    assert await pair.finished_keys() == []


async def test_the_auditor_and_reconcile_miss_an_object_that_files_share(pair: Rig) -> None:
    """I4, I10: the row that came first is gone, so only the one that shares its object can tell."""
    first = await uploaded(pair)
    await until_shared(pair, 1)
    second = await uploaded(pair)
    key = await until_shared(pair, 2)
    await deleted(pair, first)
    await cleaned_up(pair)
    assert violations(await gather(pair)) == []
    assert (await command(pair, "reconcile", "--min-age", "0s", "--repair", "--delete-objects"))[0] == 0
    await check_readable(pair, second)

    await asyncio.to_thread(pair.minio.client().remove_object, bucket_name=pair.bucket, object_name=key)
    assert [str(each) for each in violations(await gather(pair))] == [
        f"I4: {id_of(second.path)} is complete without an object"
    ]
    lines = (await command(pair, "reconcile"))[1]
    assert [(line["trouble"], line["upload"]) for line in lines[:-1]] == [("object missing", id_of(second.path))]
    pair.spoiled = True
