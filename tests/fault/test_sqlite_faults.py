"""The file of the embedded database is locked, moved away, or has no room left on its disk.

Held by every test here: I1 and I3 (`honest.Upload`), I8 (no success meanwhile), I20 (service goes on by itself).
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.fault.books import SqliteBooks
from tests.fault.disk import ballast_of, fill, small_disk
from tests.fault.honest import begin
from tests.fault.rig import KIB, PART, Rig
from tests.wire.client import CT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.fault.honest import Upload

    StartRig = Callable[..., Awaitable[Rig]]

DATA = random.Random(26).randbytes(2 * PART + 100 * KIB + 7)
SMALL = 60 * KIB
"""What lies in the database itself until its part is full."""
READY_SECONDS = 10.0


async def is_refused(rig: Rig, upload: Upload, *, head: int) -> None:
    """Nothing is acknowledged, clients are asked to come again, and what was acknowledged is still told."""
    offset = upload.acknowledged
    answers = await asyncio.gather(
        rig.client.patch(upload.path, offset, DATA[offset : offset + SMALL]),
        rig.client.post({"Upload-Length": "5", **CT}, b"hello"),
    )
    assert [answer.status for answer in answers] == [503, 503]
    assert all(int(answer.headers["Retry-After"]) <= 10 for answer in answers)
    looked = await rig.client.head(upload.path)
    assert (looked.status, looked.headers.get("Upload-Offset")) == (head, str(offset) if head == 200 else None)
    assert (await rig.client.request("GET", "/livez")).status == 200


def file_of(rig: Rig) -> Path:
    assert isinstance(rig.books, SqliteBooks)
    return rig.books.file


async def test_another_process_that_keeps_the_file_locked_is_not_waited_for_forever(rig: Rig) -> None:
    """Whoever only asks for the offset does not notice."""
    upload = await begin(rig, DATA)
    await upload.send(PART + SMALL)
    other = sqlite3.connect(file_of(rig), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    await is_refused(rig, upload, head=200)
    assert (await rig.client.delete(upload.path)).status == 503
    other.close()

    await rig.until(rig.gateway.answers_ready, READY_SECONDS)
    await upload.run()


async def test_a_file_that_was_moved_away_takes_no_commits_with_it(rig: Rig) -> None:
    """I1: SQLite would go on writing to a file that nobody finds at the next start, or make an empty one."""
    upload = await begin(rig, DATA)
    await upload.send(PART + SMALL)
    file = file_of(rig)
    away = file.with_name("away")
    away.mkdir()
    family = [*file.parent.glob(f"{file.name}*")]
    for member in family:
        member.rename(away / member.name)

    await is_refused(rig, upload, head=423)
    ready = await rig.client.request("GET", "/readyz")
    assert (ready.status, ready.body.partition(b":")[0]) == (503, b"database_unavailable")
    assert not file.exists()
    for member in away.iterdir():
        member.rename(file.parent / member.name)

    await rig.until(rig.gateway.answers_ready, READY_SECONDS)
    await upload.run()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk where the first gateway of the test keeps its database."""
    place = tmp_path / "gateway-1" / "data"
    place.mkdir(parents=True)
    with small_disk(place):
        yield place


async def test_a_full_disk_is_waited_for(disk: Path, start_rig: StartRig) -> None:
    """Offsets are still told; and once there is room again, nothing is missing."""
    rig = await start_rig()
    assert file_of(rig).parent == disk
    upload = await begin(rig, DATA)
    await upload.send(PART + SMALL)
    fill(disk)

    statuses = set()
    while 503 not in statuses:  # the log has some room of its own at first
        offset = (await rig.client.head(upload.path)).offset
        answer = await rig.client.patch(upload.path, offset, DATA[offset : offset + SMALL])
        statuses.add(answer.status)
        fill(disk)
    assert statuses <= {204, 503}
    upload.acknowledged = (await rig.client.head(upload.path)).offset
    await is_refused(rig, upload, head=200)
    ballast_of(disk).unlink()

    await rig.until(rig.gateway.answers_ready, READY_SECONDS)
    await upload.run()
