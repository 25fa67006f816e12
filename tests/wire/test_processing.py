"""What is done with finished files, as clients see it: their state, what was made of them, who may read them."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.processing import GATED, SHOUTING, Copy, InlineSandbox, Outcome, scan, shout
from tests.wire.rig import MIB, running, until
from tests.wire.test_concatenation import a_partial
from tests.wire.test_files_api import FILES, ask, listed, uploaded
from tests.wire.test_shares import CONFIG, share
from tusgate.core.errors import ProcessingFailed, StoreUnavailable
from tusgate.core.model import Keeping, Scope, UploadId
from tusgate.core.processing import LEASE, MOST_TRIES
from tusgate.core.quota import Quota
from tusgate.service.feed import FeedRules
from tusgate.service.reconcile import Mending, Reconciler
from tusgate.service.stores import Stores
from tusgate.service.worker import POSTPONED_FOR, Worker, WorkerRules
from tusgate.sinks.document import document_of

TEXT = "filetype " + base64.b64encode(b"text/plain").decode()
LARGEST = 64 * MIB


def a_worker(rig, sandbox=None, stores=None, largest=LARGEST, **rules):
    """Return a worker that has not been started."""
    sandbox = sandbox or InlineSandbox(shout=shout, scan=scan)
    sizes = dict.fromkeys(sandbox.acts, largest)
    return Worker(rig.database.jobs, stores or Stores(rig.store), sizes, sandbox, "worker", WorkerRules(**rules))


@asynccontextmanager
async def processing(home, wanted, **options):
    async with running(home, keeping=Keeping(processing=wanted), **options) as rig:
        yield rig


async def work_until_idle(worker):
    while await worker.work():
        pass


async def a_text(rig, data=b"hello"):
    return await uploaded(rig.client, data, TEXT)


async def shown(rig, file):
    status, found = await ask(rig.client, "GET", file)
    assert status == 200
    return found


async def states(rig, file):
    return {job["name"]: job["state"] for job in (await shown(rig, file))["processing"]["jobs"]}


@pytest.mark.parametrize("size", [5, 0, 20 * MIB])
async def test_a_file_is_processing_until_its_jobs_are_done_and_shows_what_was_made_of_it(tmp_path, size):
    data = (b"hello " * (size // 6 + 1))[:size]
    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig, data)
        before = await shown(rig, file)
        assert (before["state"], before["processing"]["state"]) == ("complete", "processing")
        assert await states(rig, file) == {"shout": "waiting"}
        assert (await rig.client.request("GET", f"{file}/content")).body == data
        await work_until_idle(a_worker(rig))
        after = await shown(rig, file)
        assert (after["state"], after["processing"]["state"]) == ("complete", "ready")
        (job,) = after["processing"]["jobs"]
        assert (job["state"], job["progress"], job["tries"], job["facts"]) == ("done", 1.0, 1, {"bytes": size})
        (derived,) = after["processing"]["derived"]
        assert (derived["derivation"], derived["size"], derived["filename"]) == ("shout/loud", size, "loud.txt")
        assert (await rig.client.request("GET", f"{FILES}/{derived['id']}/content")).body == data.upper()
        own = await shown(rig, f"{FILES}/{derived['id']}")
        assert (own["derived_from"], own["processing"], own["state"]) == (after["id"], None, "complete")
        assert await listed(rig.client) == [after["id"]]
        assert await listed(rig.client, f"?derived_from={after['id']}") == [derived["id"]]
        _, page = await ask(rig.client, "GET", FILES)
        assert page["files"][0]["processing"] == after["processing"]


async def test_files_that_no_processor_is_for_are_not_processed(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file = await uploaded(rig.client, b"hello", "filetype " + base64.b64encode(b"image/png").decode())
        assert (await shown(rig, file))["processing"] is None
        assert not await a_worker(rig).work()


async def test_a_file_is_withheld_until_it_was_looked_at(tmp_path):
    async with processing(tmp_path, GATED, config=CONFIG) as rig:
        file = await a_text(rig)
        link, _ = await share(rig.client, file)
        answer = await rig.client.request("GET", f"{file}/content")
        assert (answer.status, b"still_processing" in answer.body) == (409, True)
        assert answer.headers["Retry-After"]
        assert (await rig.client.request("GET", link)).status == 404
        assert (await shown(rig, file))["processing"]["withheld"] is True
        await work_until_idle(a_worker(rig))
        assert (await rig.client.request("GET", f"{file}/content")).status == 200
        assert (await rig.client.request("GET", link)).body == b"hello"


async def test_nobody_reads_a_file_that_was_refused_or_what_was_made_of_it(tmp_path):
    async with processing(tmp_path, GATED, config=CONFIG) as rig:
        file = await a_text(rig, b"a virus")
        link, _ = await share(rig.client, file)
        await work_until_idle(a_worker(rig))
        found = await shown(rig, file)
        assert (found["state"], found["processing"]["state"]) == ("complete", "refused")
        assert {job["name"]: job["error"] for job in found["processing"]["jobs"]} == {
            "scan": "Test-Virus",
            "shout": None,
        }
        for path in (file, f"{FILES}/{found['processing']['derived'][0]['id']}"):
            answer = await rig.client.request("GET", f"{path}/content")
            assert (answer.status, b"not_clean" in answer.body) == (403, True)
        assert (await rig.client.request("GET", link)).status == 404
        assert (await ask(rig.client, "DELETE", file))[0] == 204


async def test_nobody_reads_parts_of_files_that_nobody_has_looked_at(tmp_path):
    """No processor gets a partial of tus, so none is let through."""
    async with processing(tmp_path, GATED) as rig:
        partial = (await a_partial(rig.client, b"a virus", **{"Upload-Metadata": TEXT})).rpartition("/")[2]
        for method in ("GET", "HEAD"):
            assert (await rig.client.request(method, f"{FILES}/{partial}/content")).status == 409


async def test_a_failure_is_tried_again_and_then_given_up_with_the_file_kept(tmp_path):
    async def fail(_source, _workspace, _progress):
        raise ProcessingFailed("no luck")

    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        worker = a_worker(rig, InlineSandbox(shout=fail))
        for tries in range(1, MOST_TRIES + 1):
            assert (await states(rig, file))["shout"] == "waiting"
            assert await worker.work()
            assert not await worker.work()
            assert (await shown(rig, file))["processing"]["jobs"][0]["tries"] == tries
            rig.clock.now += 3600
        found = await shown(rig, file)
        assert (found["state"], found["processing"]["state"]) == ("complete", "failed")
        assert (found["processing"]["jobs"][0]["state"], found["processing"]["jobs"][0]["error"]) == ("dead", "no luck")
        assert (await rig.client.request("GET", f"{file}/content")).body == b"hello"
        status, again = await ask(rig.client, "POST", f"{file}/processing")
        assert (status, again["processing"]["state"]) == (200, "processing")
        await work_until_idle(a_worker(rig))
        assert (await shown(rig, file))["processing"]["state"] == "ready"


async def test_what_would_fail_again_is_given_up_at_once(tmp_path):
    async def fail(_source, _workspace, _progress):
        raise ProcessingFailed("no picture", permanent=True)

    async with processing(tmp_path, SHOUTING) as rig:
        broken, large = await a_text(rig), None
        await a_worker(rig, InlineSandbox(shout=fail)).work()
        assert await states(rig, broken) == {"shout": "dead"}
        large = await a_text(rig, b"x" * 100)
        sandbox = InlineSandbox(shout=shout)
        await a_worker(rig, sandbox, largest=99).work()
        assert await states(rig, large) == {"shout": "dead"}
        assert "99 bytes" in (await shown(rig, large))["processing"]["jobs"][0]["error"]
        assert sandbox.runs == []


async def test_a_store_that_is_away_costs_no_try(tmp_path):
    class Away:
        def of(self, _route):
            raise StoreUnavailable

    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        for _ in range(MOST_TRIES + 1):
            assert await a_worker(rig, stores=Away()).work()
            assert not await a_worker(rig).work()
            rig.clock.now += POSTPONED_FOR + 1
        await a_worker(rig).work()
        assert await states(rig, file) == {"shout": "done"}
        assert (await shown(rig, file))["processing"]["jobs"][0]["tries"] == 1


async def test_bytes_that_are_not_the_file_are_not_processed(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        row = await rig.database.get(Scope(), UploadId(file.rpartition("/")[2]))
        (tmp_path / "objects" / "objects" / row.object_key).write_bytes(b"hullo")
        sandbox = InlineSandbox(shout=shout)
        await a_worker(rig, sandbox).work()
        assert await states(rig, file) == {"shout": "waiting"}
        assert sandbox.runs == []


class Slow:
    """A processor that waits to be let go on."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False

    async def __call__(self, source, workspace, progress):
        progress(0.4)
        self.begun.set()
        try:
            await self.go_on.wait()
        finally:
            self.ended = True
        return await shout(source, workspace, progress)


async def test_progress_is_seen_while_a_processor_works(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file, slow = await a_text(rig), Slow()
        working = asyncio.create_task(a_worker(rig, InlineSandbox(shout=slow), heartbeat_every=0.01).work())

        async def is_seen():
            return (await shown(rig, file))["processing"]["jobs"][0]["progress"] == 0.4

        await until(is_seen)
        assert await states(rig, file) == {"shout": "running"}
        slow.go_on.set()
        await working
        assert await states(rig, file) == {"shout": "done"}


async def test_a_file_that_is_deleted_while_it_is_processed_stops_the_processor(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file, slow = await a_text(rig), Slow()
        working = asyncio.create_task(a_worker(rig, InlineSandbox(shout=slow), heartbeat_every=0.01).work())
        await slow.begun.wait()
        assert (await ask(rig.client, "DELETE", file))[0] == 204
        await working
        assert slow.ended
        assert await listed(rig.client) == []


async def test_a_worker_that_is_stopped_gives_its_job_back(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file, slow = await a_text(rig), Slow()
        worker = a_worker(rig, InlineSandbox(shout=slow), slots=1)
        worker.start()
        await slow.begun.wait()
        await worker.stop()
        assert slow.ended
        assert await states(rig, file) == {"shout": "waiting"}
        assert (await shown(rig, file))["processing"]["jobs"][0]["tries"] == 0
        assert await a_worker(rig).work()
        assert await states(rig, file) == {"shout": "done"}


async def test_of_two_workers_one_is_overtaken_and_leaves_no_second_file(tmp_path):
    """A worker stands still for longer than its lease; another does its job; then it wakes up."""
    async with processing(tmp_path, SHOUTING) as rig:
        file, slow = await a_text(rig), Slow()
        working = asyncio.create_task(a_worker(rig, InlineSandbox(shout=slow)).work())
        await slow.begun.wait()
        rig.clock.now += LEASE + 1
        assert await a_worker(rig).work()
        slow.go_on.set()
        await working
        found = await shown(rig, file)
        assert (found["processing"]["state"], len(found["processing"]["derived"])) == ("ready", 1)
        assert len(await listed(rig.client, f"?derived_from={found['id']}")) == 1


async def test_jobs_that_kill_their_workers_are_given_up(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        for number in range(MOST_TRIES):
            assert await rig.database.jobs.claim(["shout"], f"claim-{number}", "dead", LEASE, MOST_TRIES)
            rig.clock.now += LEASE + 1
        assert not await a_worker(rig).work()
        (job,) = (await shown(rig, file))["processing"]["jobs"]
        assert (job["state"], job["error"]) == ("dead", "the worker has died in each of 3 tries")


async def test_a_deleted_file_takes_what_was_made_of_it_along(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        await work_until_idle(a_worker(rig))
        (derived,) = (await shown(rig, file))["processing"]["derived"]
        assert (await ask(rig.client, "DELETE", file))[0] == 204
        assert (await rig.client.request("GET", f"{FILES}/{derived['id']}/content")).status == 410


async def test_processing_again_is_for_finished_files(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        unfinished = f"{FILES}/" + (await rig.client.create(10)).rpartition("/")[2]
        assert (await ask(rig.client, "POST", f"{unfinished}/processing"))[0] == 409
        assert (await ask(rig.client, "POST", f"{FILES}/unknown-upload-0123456789/processing"))[0] == 404
        file = await a_text(rig)
        await work_until_idle(a_worker(rig, InlineSandbox(shout=lambda *_: asyncio.sleep(0, Outcome()))))
        status, same = await ask(rig.client, "POST", f"{file}/processing")
        assert (status, same["processing"]["state"]) == (200, "ready")


async def test_a_processor_whose_file_is_not_there_has_failed(tmp_path):
    async def lie(_source, workspace, _progress):
        return Outcome((Copy(workspace / "nothing", "nothing"),))

    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        await a_worker(rig, InlineSandbox(shout=lie)).work()
        (job,) = (await shown(rig, file))["processing"]["jobs"]
        assert (job["state"], job["error"]) == ("waiting", "the worker has failed: FileNotFoundError")


async def test_a_tenant_without_room_gets_no_derived_file_and_keeps_the_source(tmp_path):
    async with processing(tmp_path, SHOUTING) as rig:
        file = await a_text(rig)
        await rig.database.limit_usage("default", Quota(files=1))
        await work_until_idle(a_worker(rig))
        found = await shown(rig, file)
        assert (found["processing"]["state"], found["processing"]["derived"]) == ("failed", [])
        assert (await rig.client.request("GET", f"{file}/content")).body == b"hello"


@pytest.mark.parametrize("size", [5, 20 * MIB])
async def test_the_store_has_what_the_rows_say_and_nothing_else(tmp_path, size):
    """`tusgate reconcile` finds nothing wrong with derived files."""
    async with processing(tmp_path, SHOUTING) as rig:
        await a_text(rig, b"x" * size)
        await work_until_idle(a_worker(rig))
        reconciler = Reconciler(
            database=rig.database,
            stores=Stores(rig.store),
            mending=Mending(),
            now=datetime.now(UTC) + timedelta(days=1),
            grace=timedelta(hours=1),
        )
        assert [finding async for finding in reconciler.run()] == []
        assert len(await rig.objects()) == 2


async def test_listeners_hear_of_a_file_until_it_is_ready_and_of_what_was_made(tmp_path):
    async with processing(tmp_path, SHOUTING, listening=FeedRules()) as rig:
        file = await a_text(rig)
        await work_until_idle(a_worker(rig))
        (derived,) = (await shown(rig, file))["processing"]["derived"]
        scope, file_id = Scope(), UploadId(file.rpartition("/")[2])
        types = [each.type for each in await rig.database.events.of_upload(scope, file_id, 0, 100)]
        assert types[-3:] == ["upload.completed", "file.processing", "file.ready"]
        (_, made) = await rig.database.events.of_upload(scope, derived["id"], 0, 100)
        told = json.loads(document_of(made, "/files"))
        assert (told["type"], told["data"]["upload"]["derived_from"]) == ("upload.completed", file_id)
