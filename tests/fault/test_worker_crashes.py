"""Workers die at every step of a job, and whoever comes next makes good what they left.

Held by all of it: the file is processed in the end, what is made of it is there once, and nothing else is left in the
store. The gateway has no worker of its own here, and serves all tests that share it. Every step is died at on SQLite
and a directory, and those that leave most behind also on PostgreSQL and MinIO.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.books import PostgresBooks, SqliteBooks
from tests.gateway import TUSGATE, Gateway, minio_settings
from tests.processing import install_plugin
from tests.servers.process import ServerProcess
from tests.wire.client import Client
from tusgate.crash import EXIT_CODE, JOB_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.fault.books import Books
    from tests.servers.postgres import Postgres
    from tests.servers.s3 import S3Server

    Story = Callable[["Shop"], Coroutine[Any, Any, str]]

pytestmark = pytest.mark.slow

TEXT = "filetype " + base64.b64encode(b"text/plain").decode()
LARGE = b"large " * 2_000_000
"""More than one part."""
OWN_NAME = {"TUSGATE_PUBLIC_ALIASES": "http://gateway.test"}
"""What the client calls any gateway."""
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Site:
    """A gateway that does no jobs by itself, for all tests that share it.

    Attributes:
        books: its database.
        week_ago: what to add to a time of that database.
        keys: returns what lies in its store: objects, and multipart uploads under way.
    """

    gateway: Gateway
    books: Books
    week_ago: object
    keys: Callable[[], set[str]]


@dataclass
class Shop:
    """What one test has: its files are processed by workers beside the gateway."""

    site: Site
    workers: list[ServerProcess] = field(default_factory=list)
    before: set[str] = field(default_factory=set)
    number: int = field(default_factory=lambda: next(NUMBERS))

    @property
    def gateway(self) -> Gateway:
        return self.site.gateway

    @property
    def go_on(self) -> Path:
        """What slow files of this test wait for."""
        return self.gateway.home / f"go-on-{self.number}"

    @property
    def client(self) -> Client:
        return Client(self.gateway.port)

    def worker(self, crash: str | None = None) -> ServerProcess:
        """Return a worker that was not started."""
        home = self.gateway.home
        log = home / f"worker-{self.number}-{len(self.workers)}.log"
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

    def let_leases_run_out(self) -> None:
        late = "UPDATE jobs SET due_at = due_at + ? WHERE state IN ('running', 'waiting')"
        self.site.books.change(late, self.site.week_ago)

    async def until_the_store_has(self, keys: int) -> None:
        """Wait until it has so many things of this test, however old what was announced gets."""
        books, ago = self.site.books, self.site.week_ago

        def found() -> int:
            books.change("UPDATE garbage SET created_at = created_at + ?, due_at = due_at + ?", ago, ago)
            books.change("UPDATE uploads SET updated_at = updated_at + ?", ago)
            return len(self.site.keys() - self.before)

        async with asyncio.timeout(60):
            while await asyncio.to_thread(found) != keys:  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.1)


def settings_of(site: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": search_path(site),
        "TUSGATE_PROCESSORS": "shout",
        "TUSGATE_WORKER": "off",
        **OWN_NAME,
        "TUSGATE_WORKER_JOBS": "1",
    }


@pytest.fixture(scope="module")
def embedded_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """SQLite and a directory."""
    home = tmp_path_factory.mktemp("embedded")
    with Gateway(home / "gateway", settings_of(home)) as gateway:
        data = gateway.home / "data"
        places = (data / "objects", data / "multipart")

        def keys() -> set[str]:
            # Not by `rglob`, which fails when a directory goes away while it looks.
            return {f"{where}/{name}" for place in places for where, _, names in os.walk(place) for name in names}

        yield Site(gateway, SqliteBooks(data / "tusgate.sqlite3"), -7 * 86_400 * 1000, keys)


@pytest.fixture(scope="module")
def served_site(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres, minio_server: S3Server
) -> Iterator[Site]:
    """PostgreSQL and MinIO."""
    home, dsn, bucket = tmp_path_factory.mktemp("served"), postgres_server.new_database(), minio_server.make_bucket()
    servers = {**minio_settings(minio_server, bucket), "TUSGATE_DATABASE_URL": dsn, "TUSGATE_PART_SIZE": "5MiB"}

    def keys() -> set[str]:
        unfinished = minio_server.client()._list_multipart_uploads(bucket_name=bucket).uploads
        return {*minio_server.keys(bucket), *(str(each.upload_id) for each in unfinished)}

    with Gateway(home / "gateway", settings_of(home) | servers) as gateway:
        yield Site(gateway, PostgresBooks(dsn), timedelta(days=-7), keys)
    postgres_server.drop_database(dsn)
    minio_server.remove_bucket(bucket)


@contextmanager
def opened(site: Site) -> Iterator[Shop]:
    """Open a shop; what it leaves undone is nobody's any more."""
    shop = Shop(site, before=site.keys())
    try:
        yield shop
    finally:
        for worker in shop.workers:
            worker.kill()
            print(f"--- log of a worker\n{worker.log()}")
        site.books.change("DELETE FROM jobs WHERE state IN ('running', 'waiting')")


@pytest.fixture
def shop(embedded_site: Site) -> Iterator[Shop]:
    with opened(embedded_site) as shop:
        yield shop


@pytest.fixture
def served_shop(served_site: Site) -> Iterator[Shop]:
    with opened(served_site) as shop:
        yield shop


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
    return await shop.upload(b"wait for " + str(shop.go_on).encode())


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
DECISIVE = (
    "after-job-claim",
    "after-job-stage",
    "before-job-finish",
    "after-job-finish",
    "after-put-object",
    "after-create-multipart",
    "after-complete-multipart",
)
"""What a database, or a store, of its own has kept when the worker dies there."""
BY_THE_API = {"job-held", "job-revive", "job-of", "job-derived"}
"""Each is one statement that answers a request, which asks again."""
BY_OPERATORS = {"job-find", "job-drop", "job-overdue", "job-backlog", "job-count-dead"}
"""Each is one commit, or changes nothing, and no worker comes to it."""
ENDS: dict[Story, tuple[str, int]] = {a_virus: ("refused", 0), something_broken: ("failed", 0)}


def test_there_is_a_story_for_each_step_of_a_job() -> None:
    assert {*JOB_STEPS} <= {*STORIES} | BY_THE_API | BY_OPERATORS


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STORIES)
async def test_another_worker_does_the_job_that_one_has_died_over(shop: Shop, step: str, moment: str) -> None:
    await another_follows(shop, step, moment)


@pytest.mark.servers
@pytest.mark.parametrize("place", DECISIVE)
async def test_so_it_does_with_a_server_for_the_database_and_one_for_the_store(served_shop: Shop, place: str) -> None:
    moment, _, step = place.partition("-")
    await another_follows(served_shop, step, moment)


async def another_follows(shop: Shop, step: str, moment: str) -> None:
    story = STORIES[step]
    file = await story(shop)
    doomed = shop.worker(f"{moment}-{step}")
    await asyncio.to_thread(doomed._spawn)
    if step == "job-release":
        await shop.until(file, lambda processing: processing["jobs"][0]["state"] == "running")
        assert doomed._process is not None
        doomed._process.terminate()
    await asyncio.to_thread(wait_for_death, doomed)
    shop.go_on.touch()
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
    shop.go_on.touch()
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
    gateway = start_gateway({"PYTHONPATH": path, "TUSGATE_PROCESSORS": "shout", **OWN_NAME})
    shop = Shop(Site(gateway, SqliteBooks(gateway.home / "data" / "tusgate.sqlite3"), 0, set))
    file = await a_text(shop)
    found = await shop.until(file, lambda processing: processing["state"] == "ready")
    assert len(found["processing"]["derived"]) == 1


def wait_for_death(worker: ServerProcess) -> None:
    assert worker._process is not None
    assert worker._process.wait(60) == EXIT_CODE, worker.log()
