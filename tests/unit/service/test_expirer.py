"""Expiry and clocks: outages, jumps, replicas whose own clock is wrong, and what is logged about it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.contract.database_rig import a_new_upload
from tests.doubles.database import MemoryDatabase
from tests.unit.service.rig import LIFETIME, World
from tests.virtual_time import run
from tusgate.core.errors import DatabaseUnavailable
from tusgate.core.model import State
from tusgate.database.sqlite import SqliteDatabase
from tusgate.service.expirer import Expirer, OwnClocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.core.clockwatch import Judge
    from tusgate.core.model import Upload, UploadId

PAUSE = 3600.0
EVERY = 20.0
DAY = 86_400.0

pytestmark = pytest.mark.usefixtures("small_scale")


class Machines:
    """A database with a clock of its own that may be set, processes, and an upload that nobody continues."""

    def __init__(self) -> None:
        self.set_forward = 0.0
        self.world = World()
        self.world.database = MemoryDatabase(self.database_time)
        self.upload_id: UploadId

    def database_time(self) -> float:
        return asyncio.get_running_loop().time() + self.set_forward

    def process(self, wall: Callable[[], datetime] | None = None) -> Expirer:
        steady = asyncio.get_running_loop().time
        return Expirer(self.world.database, 100, PAUSE, OwnClocks(steady=steady, wall=wall))

    def right_wall(self, off_by: float = 0.0) -> Callable[[], datetime]:
        return lambda: datetime.fromtimestamp(asyncio.get_running_loop().time() + off_by, UTC)

    async def begin(self) -> None:
        self.upload_id = (await self.world.process().create(57)).id

    async def is_alive(self) -> bool:
        return (await self.world.process().committed(self.upload_id)).state is State.UPLOADING

    async def work(self, expirer: Expirer, seconds: float) -> None:
        """Run like the job does."""
        for _ in range(int(seconds / EVERY)):
            await asyncio.sleep(EVERY)
            await expirer.run()


async def machines() -> Machines:
    made = Machines()
    await made.begin()
    return made


def test_in_ordinary_operation_uploads_expire_in_time() -> None:
    async def work() -> None:
        here = await machines()
        expirer = here.process(here.right_wall())
        with capture_logs() as logs:
            await here.work(expirer, LIFETIME - 1)
            assert await here.is_alive()
            await here.work(expirer, 2 * EVERY)
        assert not await here.is_alive()
        assert [entry["event"] for entry in logs] == ["upload.expired"]

    run(work())


def test_a_clock_that_jumps_stops_all_replicas_until_an_operator_says_so() -> None:
    async def work() -> None:
        here = await machines()
        expirers = [here.process() for _ in range(3)]
        for expirer in expirers:
            await here.work(expirer, 2 * EVERY)
        here.set_forward = 3 * DAY
        with capture_logs() as logs:
            for expirer in [here.process(), *expirers, here.process()]:
                await here.work(expirer, 2 * EVERY)
            assert await here.is_alive()
            here.set_forward = 0.0
            for expirer in [*expirers, here.process()]:
                await here.work(expirer, LIFETIME)
        assert await here.is_alive()
        held = [entry for entry in logs if entry["event"] == "expiry.held"]
        assert len(held) >= 4
        assert all(entry["log_level"] == "error" for entry in held)
        assert "3 d 2 min forward while 2 min 20 s passed" in held[0]["reason"]

        await here.world.database.release_expiry()
        await here.work(expirers[0], EVERY)
        assert not await here.is_alive()

    run(work())


def test_the_alarm_is_repeated_every_hour_and_not_at_every_run() -> None:
    async def work() -> None:
        here = await machines()
        expirer = here.process()
        await expirer.run()
        here.set_forward = DAY
        with capture_logs() as logs:
            await here.work(expirer, 3 * 3600.0)
        assert 3 <= len(logs) <= 4

    run(work())


def test_a_jump_is_not_forgotten_when_it_could_not_be_written_down() -> None:
    async def work() -> None:
        here = await machines()
        expirer = here.process()
        await expirer.run()
        here.set_forward = DAY
        expire = here.world.database.expire

        async def judged_in_vain(limit: int, judge: Judge) -> None:
            assert judge(here.world.database._reading()).held
            raise DatabaseUnavailable

        here.world.database.expire = judged_in_vain  # type: ignore[method-assign,assignment]  # breaks in the middle
        with pytest.raises(DatabaseUnavailable):
            await expirer.run()
        here.world.database.expire = expire  # type: ignore[method-assign]  # mended
        await here.work(expirer, EVERY)
        assert await here.is_alive()

    run(work())


def test_after_a_weekend_off_clients_have_an_hour_to_come_back() -> None:
    async def work() -> None:
        here = await machines()
        await here.process().run()
        await asyncio.sleep(DAY / 2)
        with capture_logs() as logs:
            await here.work(here.process(here.right_wall()), PAUSE / 2)
            await here.work(here.process(here.right_wall()), PAUSE / 2 - EVERY)
            assert await here.is_alive()
            assert {entry["event"] for entry in logs} == {"expiry.delayed"}
            await here.work(here.process(), 3 * EVERY)
        assert not await here.is_alive()

    run(work())


def test_a_replica_whose_wall_clock_is_wrong_expires_nothing_and_stops_nobody() -> None:
    """DF-27: an hour does not matter, time is the database's; with a day one of the two is wrong."""

    async def work() -> None:
        here = await machines()
        wrong, right = here.process(here.right_wall(-DAY)), here.process(here.right_wall(3600.0))
        await here.work(right, LIFETIME - 100)
        assert await here.is_alive()
        with capture_logs() as logs:
            await here.work(wrong, 200)
        assert await here.is_alive()
        assert logs[0]["event"] == "expiry.held"
        await here.work(right, EVERY)
        assert not await here.is_alive()

    run(work())


@pytest.mark.parametrize("is_late", ["the call", "the answer"])
def test_a_process_that_is_frozen_in_the_middle_of_a_run_takes_that_for_no_jump(is_late: str) -> None:
    async def work() -> None:
        here = await machines()
        expirer = here.process(here.right_wall())
        await here.work(expirer, 10 * EVERY)
        expire = here.world.database.expire

        async def frozen(limit: int, judge: Judge) -> list[Upload]:
            await asyncio.sleep(1200 if is_late == "the call" else 0)
            expired = await expire(limit, judge)
            await asyncio.sleep(1200 if is_late == "the answer" else 0)
            return expired

        here.world.database.expire = frozen  # type: ignore[method-assign,assignment]  # the process stands still in there
        await expirer.run()
        here.world.database.expire = expire  # type: ignore[method-assign]  # and no longer
        assert expirer.verdict.held is None
        await here.work(expirer, 2 * EVERY)
        assert expirer.verdict.held is None

    run(work())


def test_a_steady_clock_that_sleeps_is_not_needed_where_it_does_not() -> None:
    """The clock that counts is the one that the process is given."""

    async def work() -> None:
        here = await machines()
        elapsed = timedelta(0)
        expirer = Expirer(here.world.database, 100, 0.0, OwnClocks(steady=lambda: elapsed.total_seconds()))
        await expirer.run()
        elapsed = timedelta(seconds=LIFETIME + 1)
        here.set_forward = LIFETIME + 1
        assert [upload.id for upload in await expirer.run()] == [here.upload_id]

    run(work())


async def test_a_database_that_works_in_a_thread_judges_there(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "tusgate.sqlite3")
    await database.migrate()
    upload = await database.create(a_new_upload(lifetime=-1.0))
    assert [expired.id for expired in await Expirer(database, 10, PAUSE, OwnClocks()).run()] == [upload.id]
    await database.close()
