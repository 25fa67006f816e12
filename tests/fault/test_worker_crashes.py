"""Workers die at every step of a job, and whoever comes next makes good what they left.

Held by all of it: the file is processed in the end, what is made of it is there once, and nothing else is left in the
store. The gateway has no worker of its own here; SQLite and a directory, which `contract` holds to what other databases
and stores do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway import TUSGATE, Gateway
from tests.processing import install_plugin
from tests.servers.process import ServerProcess
from tests.wire.client import Client
from tusgate.crash import EXIT_CODE, JOB_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    Story = Callable[["Shop"], Coroutine[Any, Any, str]]

pytestmark = pytest.mark.slow

TEXT = "filetype " + base64.b64encode(b"text/plain").decode()
LARGE = b"large " * 2_000_000
"""More than one part."""
OWN_NAME = {"TUSGATE_PUBLIC_ALIASES": "http://gateway.test"}
"""What the client calls any gateway."""
WEEK = 7 * 86_400 * 1000


@dataclass
class Shop:
    """A gateway whose files are processed by workers beside it."""

    gateway: Gateway
    workers: list[ServerProcess]

    @property
    def client(self) -> Client:
        return Client(self.gateway.port)

    def worker(self, crash: str | None = None) -> ServerProcess:
        """Return a worker that was not started."""
        home = self.gateway.home
        log = home / f"worker-{len(self.workers)}.log"
        mortal = {} if crash is None else {"TUSGATE_CRASH": crash, "TUSGATE_ENVIRONMENT": "development"}
        worker = ServerProcess(
            "worker",
            [*TUSGATE, "worker"],
            lambda: "worker.started" in log.read_text(),
            log,
            environment=self.gateway.environment | mortal,
        )
        self.workers.append(worker)
        return worker

    async def upload(self, data: bytes) -> str:
        """Upload a text, and return its path in the API."""
        path = await self.client.create(len(data), Upload_Metadata=TEXT)
        assert (await self.client.patch(path, 0, data)).status == 204
        return "/api/v1/files/" + path.rpartition("/")[2]

    async def shown(self, file: str) -> dict[str, Any]:
        answer = await self.client.request("GET", file)
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def until(self, file: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until what the API shows of a file's processing is as it should be."""
        async with asyncio.timeout(60):
            while not holds((found := await self.shown(file))["processing"]):  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.02)
        return found

    def change(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.gateway.home / "data" / "tusgate.sqlite3", timeout=10)) as database, database:
            database.execute(statement, values)

    def let_leases_run_out(self) -> None:
        self.change("UPDATE jobs SET due_at = 0 WHERE state IN ('running', 'waiting')")

    async def until_the_store_has(self, keys: int) -> None:
        """Wait until it has so many objects, however old what was announced gets."""
        objects = self.gateway.home / "data" / "objects"

        def found() -> int:
            self.change("UPDATE garbage SET created_at = created_at - ?, due_at = due_at - ?", WEEK, WEEK)
            self.change("UPDATE uploads SET updated_at = updated_at - ?", WEEK)
            return sum(path.is_file() for path in objects.rglob("*"))

        async with asyncio.timeout(60):
            while await asyncio.to_thread(found) != keys:  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.1)


@pytest.fixture
def shop(tmp_path: Path, start_gateway: Callable[..., Gateway]) -> Iterator[Shop]:
    settings = {
        "PYTHONPATH": search_path(tmp_path),
        "TUSGATE_PROCESSORS": "shout",
        "TUSGATE_WORKER": "off",
        **OWN_NAME,
        "TUSGATE_WORKER_JOBS": "1",
    }
    shop = Shop(start_gateway(settings), [])
    yield shop
    for worker in shop.workers:
        worker.kill()
        print(f"--- log of a worker\n{worker.log()}")


def search_path(tmp_path: Path) -> str:
    """Return where Python finds the plug-in, and whatever the tester has it find."""
    return os.pathsep.join((str(install_plugin(tmp_path)), *filter(None, [os.environ.get("PYTHONPATH")])))


async def a_text(shop: Shop) -> str:
    return await shop.upload(b"hello")


async def a_large_text(shop: Shop) -> str:
    return await shop.upload(LARGE)


async def a_virus(shop: Shop) -> str:
    return await shop.upload(b"virus")


async def something_broken(shop: Shop) -> str:
    return await shop.upload(b"broken")


async def something_slow(shop: Shop) -> str:
    return await shop.upload(b"wait for " + str(shop.gateway.home / "go-on").encode())


STORIES: dict[str, Story] = {
    "job-claim": a_text,
    "job-lost": a_text,
    "job-intend": a_text,
    "job-stage": a_text,
    "job-finish": a_text,
    "job-refuse": a_virus,
    "job-fail": something_broken,
    "job-heartbeat": something_slow,
    "job-release": something_slow,
    "read": a_text,
    "put-object": a_text,
    "create-multipart": a_large_text,
    "put-part": a_large_text,
    "complete-multipart": a_large_text,
    "find": a_large_text,
}
BY_THE_API = {"job-held", "job-revive", "job-of", "job-derived"}
"""Each is one statement that answers a request, which asks again."""
BY_OPERATORS = {"job-find", "job-drop", "job-overdue"}
"""Each is one commit, or changes nothing, and no worker comes to it."""
ENDS: dict[Story, tuple[str, int]] = {a_virus: ("refused", 0), something_broken: ("failed", 0)}


def test_there_is_a_story_for_each_step_of_a_job() -> None:
    assert {*JOB_STEPS} <= {*STORIES} | BY_THE_API | BY_OPERATORS


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STORIES)
async def test_another_worker_does_the_job_that_one_has_died_over(shop: Shop, step: str, moment: str) -> None:
    story = STORIES[step]
    file = await story(shop)
    doomed = shop.worker(f"{moment}-{step}")
    await asyncio.to_thread(doomed._spawn)
    if step == "job-release":
        await shop.until(file, lambda processing: processing["jobs"][0]["state"] == "running")
        assert doomed._process is not None
        doomed._process.terminate()
    await asyncio.to_thread(wait_for_death, doomed)
    (shop.gateway.home / "go-on").touch()
    shop.let_leases_run_out()

    await asyncio.to_thread(shop.worker().start)

    state, made = ENDS.get(story, ("ready", 1))
    found = await shop.until(file, lambda processing: processing["state"] == state)
    derived = found["processing"]["derived"]
    assert len(derived) == made
    for each in derived:
        loud = (await shop.client.request("GET", f"/api/v1/files/{each['id']}/content")).body
        assert loud == (await shop.client.request("GET", f"{file}/content")).body.upper()
    await shop.until_the_store_has(1 + made)


async def test_a_worker_that_is_killed_in_the_middle_is_followed_by_another(shop: Shop) -> None:
    file = await something_slow(shop)
    first, second = shop.worker(), shop.worker()
    await asyncio.to_thread(first.start)
    await shop.until(file, lambda processing: processing["jobs"][0]["state"] == "running")
    await asyncio.to_thread(first.kill)
    shop.let_leases_run_out()
    (shop.gateway.home / "go-on").touch()
    await asyncio.to_thread(second.start)
    found = await shop.until(file, lambda processing: processing["state"] == "ready")
    assert (found["processing"]["jobs"][0]["tries"], len(found["processing"]["derived"])) == (2, 1)


async def test_of_two_workers_each_job_is_done_by_one(shop: Shop) -> None:
    files = [await shop.upload(b"text %d" % number) for number in range(10)]
    for worker in (shop.worker(), shop.worker()):
        await asyncio.to_thread(worker.start)
    for file in files:
        found = await shop.until(file, lambda processing: processing["state"] == "ready")
        assert (found["processing"]["jobs"][0]["tries"], len(found["processing"]["derived"])) == (1, 1)
    done = sum(worker.log().count("processing.done") for worker in shop.workers)
    assert done == len(files)


async def test_a_worker_that_is_told_to_stop_gives_its_job_back_and_ends_well(shop: Shop) -> None:
    file = await something_slow(shop)
    worker = shop.worker()
    await asyncio.to_thread(worker.start)
    await shop.until(file, lambda processing: processing["jobs"][0]["state"] == "running")
    process = worker._process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    job = (await shop.shown(file))["processing"]["jobs"][0]
    assert (job["state"], job["tries"]) == ("waiting", 0)


async def test_a_gateway_does_jobs_by_itself(tmp_path: Path, start_gateway: Callable[..., Gateway]) -> None:
    path = search_path(tmp_path)
    shop = Shop(start_gateway({"PYTHONPATH": path, "TUSGATE_PROCESSORS": "shout", **OWN_NAME}), [])
    file = await a_text(shop)
    found = await shop.until(file, lambda processing: processing["state"] == "ready")
    assert len(found["processing"]["derived"]) == 1


def wait_for_death(worker: ServerProcess) -> None:
    assert worker._process is not None
    assert worker._process.wait(60) == EXIT_CODE, worker.log()
