"""Replicas whose clocks are wrong: time is that of the database."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.books import PostgresBooks
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.proxy import Gate
from tests.fault.rig import KIB, MIB, PART, PATIENCE, Rig, id_of, lettered
from tests.gateway import TUSGATE
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.gateway import Gateway

    StartRig = Callable[..., Awaitable[Rig]]

PATIENT = SMALLEST_PARTS_AND_COLD | {"TUSGATE_IDLE_TIMEOUT": "300s", "TUSGATE_MIN_RATE": "0"}
"""A request that waits for the test is not ended for that."""
DATA = lettered("c", 3 * PART + 100 * KIB + 7)
WITHIN = "BETWEEN now() + make_interval(secs => ?) AND now() + make_interval(secs => ?)"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def wrong_by(faketime: Path) -> Callable[[str], dict[str, str]]:
    """Say what of its environment makes a process believe in another time, but not in another pace."""
    return lambda shift: {"LD_PRELOAD": str(faketime), "FAKETIME": shift, "DONT_FAKE_MONOTONIC": "1"}


async def test_replicas_with_wrong_clocks_follow_that_of_the_database(
    wrong_by: Callable[[str], dict[str, str]], start_rig: StartRig
) -> None:
    """DF-27: one is ten minutes ahead, one behind. Nothing expires early, and no lease is taken from the other.

    More than fifteen minutes no S3 server accepts (RequestTimeTooSkewed): such a replica is not ready.
    """
    rig = await start_rig(PATIENT | {"TUSGATE_UPLOAD_EXPIRY": "5m"}, database="postgres", replicas=2)
    for replica, shift in zip(rig.replicas, ("+10m", "-10m"), strict=True):
        replica.gateway.environment.update(wrong_by(shift))
        await asyncio.to_thread(replica.gateway.restart)
    ahead, behind = rig.replicas
    upload = await begin(rig, DATA, [ahead.client, behind.client])
    await upload.send(MIB)
    assert rig.rows(f"SELECT 1 FROM uploads WHERE expires_at {WITHIN}", 240, 300)

    gate = Gate(before="answer")
    ahead.store_link.on("CompleteMultipartUpload", gate)
    finished = await begin(rig, DATA, [ahead.client])
    finishing = asyncio.create_task(finished.send(len(DATA)))
    await gate.reached.wait()
    assert rig.rows(f"SELECT 1 FROM uploads WHERE finisher_until {WITHIN}", 10, 30)
    gate.open()
    await finishing

    for running, stopped in ((ahead, behind), (behind, ahead)):
        await asyncio.to_thread(stopped.gateway.stop)
        overdue = await running.client.create(1)
        rig.books.change("UPDATE uploads SET expires_at = now() WHERE id = ?", id_of(overdue))
        await rig.until_state(overdue, "expired")
        assert rig.row(upload.path)["state"] == "uploading"
        await asyncio.to_thread(stopped.gateway.start)
    await upload.run()


@dataclass
class Wrong:
    """A gateway whose clock is wrong."""

    gateway: Gateway
    books: PostgresBooks

    @property
    def client(self) -> Client:
        return Client(self.gateway.port)

    async def api(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        raw = None if body is None else json.dumps(body).encode()
        answer = await self.client.request(method, f"/api/v1{path}", JSON, raw)
        assert answer.status in (200, 201), answer
        shown: dict[str, Any] = json.loads(answer.body)
        return shown

    def state(self, path: str) -> str:
        (row,) = self.books.rows("SELECT state FROM uploads WHERE id = ?", id_of(path))
        return str(row["state"])

    async def until(self, path: str, state: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.state(path) != state:  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.05)

    async def sealed(self, leased_for: int | None) -> str:
        """Return the path of an upload that waits to be finished; its lease ends so many seconds from now."""
        path = await self.client.create(2 * KIB)
        assert (await self.client.patch(path, 0, DATA[:KIB])).status == 204
        changed = "state = 'sealed', upload_length = upload_offset, finisher = 'somebody'"
        until = "finisher_until = now() + make_interval(secs => ?::integer)"
        self.books.change(f"UPDATE uploads SET {changed}, {until} WHERE id = ?", leased_for, id_of(path))
        return path


async def test_an_hour_is_nothing_where_the_store_keeps_no_time(
    wrong_by: Callable[[str], dict[str, str]],
    database_url: str,
    tmp_path: Path,
    start_gateway: Callable[..., Gateway],
) -> None:
    """DF-27, I6, I10: on a directory, at the size of the case. By its own clock each of the two would be wrong."""
    settings = {
        "TUSGATE_DATABASE_URL": database_url,
        "TUSGATE_DATA_DIR": str(tmp_path / "shared"),
        "TUSGATE_UPLOAD_EXPIRY": "20m",
        "TUSGATE_SHARE_KEYS": "k" * 32,
        "TUSGATE_PUBLIC_ALIASES": "http://gateway.test",
    }
    books = PostgresBooks(database_url)

    async def start(shift: str) -> Wrong:
        return Wrong(await asyncio.to_thread(start_gateway, settings | wrong_by(shift)), books)

    ahead = await start("+1h")
    alive = await ahead.client.create(len(DATA))
    await ends_what_is_over(ahead, alive)
    behind = await start("-1h")
    for number, replica in enumerate((ahead, behind, ahead, behind)):
        answer = await replica.client.patch(alive, number * KIB, DATA[number * KIB :][:KIB])
        assert (answer.status, answer.offset) == (204, (number + 1) * KIB)
        assert books.rows(f"SELECT 1 FROM uploads WHERE id = '{id_of(alive)}' AND expires_at {WITHIN}", 1140, 1200)

    file = await ahead.client.create(KIB)
    assert (await behind.client.patch(file, 0, DATA[:KIB])).status == 204
    (now,) = books.rows("SELECT now()")
    link = {"expires_at": (now["now"] + timedelta(minutes=20)).isoformat()}
    shared = "/" + (await ahead.api("POST", f"/files/{id_of(file)}/shares", link))["url"].split("/", 3)[3]
    for replica in (ahead, behind):
        assert (await replica.client.request("GET", shared)).body == DATA[:KIB]
    books.change("UPDATE shares SET expires_at = now() - interval '20 minutes'")
    for replica in (ahead, behind):
        assert (await replica.client.request("GET", shared)).status == 404

    await asyncio.to_thread(ahead.gateway.stop)
    await ends_what_is_over(behind, alive)
    assert (await behind.client.patch(alive, 4 * KIB, DATA[4 * KIB :])).status == 204
    assert (tmp_path / "shared" / "objects" / id_of(alive)).read_bytes() == DATA


async def ends_what_is_over(alone: Wrong, alive: str) -> None:
    """Have a replica look at what is 20 minutes over, and at what has as long to go, by the time of the database."""
    leased, lapsed = [await alone.sealed(seconds) for seconds in (1200, -1200)]
    overdue = await alone.client.create(1)
    alone.books.change("UPDATE uploads SET expires_at = now() - interval '20 minutes' WHERE id = ?", id_of(overdue))
    await alone.until(lapsed, "complete")
    cleaning = partial(subprocess.run, [*TUSGATE, "gc"], env=alone.gateway.environment, cwd=alone.gateway.home)
    assert (await asyncio.to_thread(cleaning, check=False)).returncode == 0
    assert (alone.state(overdue), alone.state(leased), alone.state(alive)) == ("expired", "sealed", "uploading")
