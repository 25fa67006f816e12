"""Jobs of finished files: what all databases promise of `ports.JobQueue`, and of the files that jobs make."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.database_rig import (
    ALICE,
    LIFETIME,
    STRANGERS,
    PostgresRig,
    a_complete_upload,
    a_part,
    a_sealed_upload,
    a_step,
    a_writer,
    an_object,
    garbage_of,
)
from tests.contract.test_database_concatenation import a_member, adopted, filled
from tests.contract.test_forgetting import all_removed
from tusgate.core.errors import InvalidRequest, JobLost, QuotaExceeded
from tusgate.core.events import DeliveryState, EventType, Outbox, Outcome, Search, Subscription
from tusgate.core.fingerprint import Fingerprint
from tusgate.core.grid import MIB, Grid
from tusgate.core.listing import FileFilter
from tusgate.core.model import Keeping, ObjectKey, Role, State, StoredObject, UploadId
from tusgate.core.processing import (
    INTENT_LIFE,
    LEASE,
    MOST_DERIVED,
    MOST_TRIES,
    Chosen,
    ClaimId,
    Declared,
    JobSearch,
    JobState,
    Processed,
    Processing,
    Staged,
)
from tusgate.core.quota import Quota

if TYPE_CHECKING:
    from tests.contract.database_rig import Rig
    from tusgate.core.model import Upload
    from tusgate.core.processing import Job
    from tusgate.ports import SurveyedDatabase

SCAN, THUMBNAIL, VIDEO = (
    Declared("scan", 1, ("*/*",)),
    Declared("thumbnail", 3, ("text/*",)),
    Declared("video", 1, ("video/*",)),
)
ALL = Processing((SCAN, THUMBNAIL, VIDEO), Chosen(("scan", "thumbnail", "video")))
GATED = Processing((SCAN, THUMBNAIL), Chosen(("scan", "thumbnail"), frozenset({"scan"})))
ONE = Processing((THUMBNAIL,), Chosen(("thumbnail",)))
NAMES = ("scan", "thumbnail", "video")


async def completed(database: SurveyedDatabase, processing: Processing = ONE, **changes: Any) -> Upload:
    """Return a file of 20 MiB of text that has just become complete, by one PutObject."""
    upload = await a_writer(database, **changes)
    stored = StoredObject(upload.object_key, 20 * MIB, "etag", 5)
    step = a_step(20 * MIB, state=State.COMPLETE, stored=stored, keeping=Keeping(processing=processing))
    return await database.commit(upload, step)


async def completed_in_parts(database: SurveyedDatabase, processing: Processing = ONE, **changes: Any) -> Upload:
    """Return the same, after a multipart upload."""
    sealed = await a_sealed_upload(database, **changes)
    sealed = await database.absorb(sealed, [a_part(3, 4 * MIB)])
    return await database.complete(sealed, an_object(sealed), Keeping(processing=processing))


async def taken(database: SurveyedDatabase, *processors: str, tenant: str | None = None) -> Job | None:
    claim = ClaimId(secrets.token_urlsafe(16))
    return await database.jobs.claim(processors or NAMES, claim, "worker-1", LEASE, MOST_TRIES, tenant)


async def a_job(database: SurveyedDatabase, *processors: str) -> Job:
    job = await taken(database, *processors)
    assert job is not None
    return job


def a_made_file(name: str = "thumbnail", size: int = 100) -> Staged:
    file_id = secrets.token_urlsafe(16)
    return Staged(
        id=UploadId(file_id),
        name=name,
        key=ObjectKey(f"acme/{file_id}"),
        content_type="image/png",
        filename=f"{name}.png",
        size=size,
        etag="etag-of-it",
        crc64=9,
        grid=Grid(((1, 8 * MIB),)).encode(),
    )


async def stage(database: SurveyedDatabase, job: Job, staged: Staged) -> Staged:
    await database.jobs.intend(job, staged.key)
    await database.jobs.stage(job, staged)
    return staged


async def a_pair(database: SurveyedDatabase) -> tuple[Upload, Staged]:
    """Return a file whose only job is done, and what was made of it."""
    await completed(database)
    job = await a_job(database)
    made = await stage(database, job, a_made_file())
    return await database.jobs.finish(job, {}), made


async def states_of(database: SurveyedDatabase, file: Upload) -> dict[str, JobState]:
    return {job.processor: job.state for job in (await database.jobs.of([file]))[file.id]}


async def derived_of(database: SurveyedDatabase, file: Upload) -> list[Upload]:
    return (await database.jobs.derived([file])).get(file.id, [])


class TestCompletion:
    async def test_a_file_gets_its_jobs_in_the_commit_that_completes_it(self, database: SurveyedDatabase) -> None:
        file = await completed(database, ALL)
        assert (file.state, file.processing, file.withheld) == (State.COMPLETE, Processed.PROCESSING, False)
        assert await states_of(database, file) == {"scan": JobState.WAITING, "thumbnail": JobState.WAITING}
        assert {job.version for job in (await database.jobs.of([file]))[file.id]} == {1, 3}

    async def test_a_file_in_parts_gets_its_jobs_too(self, database: SurveyedDatabase) -> None:
        file = await completed_in_parts(database, GATED)
        assert (file.processing, file.withheld) == (Processed.PROCESSING, True)
        assert await states_of(database, file) == {"scan": JobState.WAITING, "thumbnail": JobState.WAITING}

    async def test_what_files_are_made_of_gets_none_and_a_final_gets_its_own(self, database: SurveyedDatabase) -> None:
        partial = await completed(database, ALL, role=Role.PARTIAL)
        assert partial.processing is None
        members = [await filled(database, await a_member(database)) for _ in range(2)]
        final = await adopted(database, *members)
        final = await database.complete(final, an_object(final), Keeping(processing=ALL))
        assert final.processing is Processed.PROCESSING
        assert "scan" in await states_of(database, final)

    async def test_a_file_without_jobs_is_not_processed(self, database: SurveyedDatabase) -> None:
        file = await completed(database, Processing((VIDEO,), Chosen(("video",))))
        assert (file.processing, await states_of(database, file)) == (None, {})
        assert (await a_complete_upload(database)).processing is None

    async def test_completing_again_makes_no_second_job(self, database: SurveyedDatabase) -> None:
        sealed = await database.absorb(await a_sealed_upload(database), [a_part(3, 4 * MIB)])
        file = await database.complete(sealed, an_object(sealed), Keeping(processing=ONE))
        await database.jobs.finish(await a_job(database), {})
        assert await taken(database) is None
        assert (await database.complete(sealed, an_object(sealed), Keeping(processing=ONE))).id == file.id
        assert await taken(database) is None


class TestClaims:
    async def test_of_many_workers_each_job_has_one(self, rig: Rig) -> None:
        files = [await completed(rig.database) for _ in range(5)]
        claims = await asyncio.gather(*[taken(each) for each in (rig.database, rig.another()) * 5])
        jobs = [job for job in claims if job is not None]
        while (more := await taken(rig.database)) is not None:
            jobs.append(more)  # one that lost against others with SKIP LOCKED has got none
        assert sorted(job.source.id for job in jobs) == sorted(file.id for file in files)
        assert {(job.state, job.tries, job.processor) for job in jobs} == {(JobState.RUNNING, 1, "thumbnail")}

    @pytest.mark.servers
    async def test_one_claim_is_of_one_job_whatever_was_known_of_the_table(self, postgres_rig: PostgresRig) -> None:
        """The planner may take the jobs for one row, as they were when it looked last."""
        database = postgres_rig.database
        await completed(database)
        await postgres_rig.query("ANALYZE jobs")
        files = [await completed(database) for _ in range(5)]
        claims = [(await a_job(database)).claim for _ in range(6)]
        assert len({*claims}) == 6
        assert {state for file in files for state in (await states_of(database, file)).values()} == {JobState.RUNNING}

    async def test_a_worker_gets_jobs_that_it_can_do(self, database: SurveyedDatabase) -> None:
        await completed(database)
        assert await taken(database, "scan", "video") is None
        assert await taken(database, tenant="other") is None
        job = await taken(database, "scan", "thumbnail", tenant="acme")
        assert job is not None
        assert job.processor == "thumbnail"

    async def test_whoever_dies_is_followed_by_another_and_can_change_nothing(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        dead = await a_job(database)
        await stage(database, dead, a_made_file())
        await rig.pass_time(LEASE - 1)
        assert await taken(database) is None
        await rig.pass_time(2)
        heir = await a_job(database)
        assert (heir.source.id, heir.tries) == (file.id, 2)
        for attempt in (
            database.jobs.finish(dead, {}),
            database.jobs.fail(dead, "x", None),
            database.jobs.refuse(dead, "x", {}),
            database.jobs.release(dead),
            database.jobs.heartbeat(dead, LEASE, 0.5),
            database.jobs.intend(dead, ObjectKey("acme/other")),
            database.jobs.stage(dead, a_made_file()),
        ):
            with pytest.raises(JobLost):
                await attempt
        assert await states_of(database, file) == {"thumbnail": JobState.RUNNING}
        done = await database.jobs.finish(heir, {})
        assert (done.processing, await derived_of(database, file)) == (Processed.READY, [])

    async def test_a_heartbeat_holds_on_to_a_job_and_shows_how_far_it_is(self, rig: Rig) -> None:
        file = await completed(rig.database)
        job = await a_job(rig.database)
        for progress in (0.25, 0.75, 0.5):
            await rig.pass_time(LEASE - 1)
            await rig.database.jobs.heartbeat(job, LEASE, progress)
            assert await taken(rig.database) is None
        assert (await rig.database.jobs.of([file]))[file.id][0].progress == 0.75
        assert job.claim is not None
        held = await rig.database.jobs.held("acme", job.claim)
        assert (held.source.id, held.processor) == (file.id, "thumbnail")
        with pytest.raises(JobLost):
            await rig.database.jobs.held("other", job.claim)

    async def test_a_job_that_is_given_back_has_lost_no_try(self, database: SurveyedDatabase) -> None:
        await completed(database)
        await database.jobs.release(await a_job(database))
        assert (await a_job(database)).tries == 1

    async def test_a_job_that_kills_its_workers_is_given_up(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        for _ in range(MOST_TRIES):
            assert await database.jobs.lost(MOST_TRIES, 10) == []
            await a_job(database)
            await rig.pass_time(LEASE + 1)
        assert await taken(database) is None
        (lost,) = await database.jobs.lost(MOST_TRIES, 10)
        assert (await database.jobs.fail(lost, "it died", None)).processing is Processed.FAILED
        assert await states_of(database, file) == {"thumbnail": JobState.DEAD}
        assert await database.jobs.lost(MOST_TRIES, 10) == []


class TestOutcomes:
    async def test_a_file_is_ready_when_all_of_its_jobs_are_done(self, database: SurveyedDatabase) -> None:
        file = await completed(database, GATED)
        after_one = await database.jobs.finish(await a_job(database, "thumbnail"), {"width": 7})
        assert (after_one.processing, after_one.withheld) == (Processed.PROCESSING, True)
        after_all = await database.jobs.finish(await a_job(database, "scan"), {})
        assert (after_all.processing, after_all.withheld, after_all.state) == (Processed.READY, False, State.COMPLETE)
        jobs = (await database.jobs.of([file]))[file.id]
        assert [(job.processor, job.state, job.progress) for job in jobs] == [
            ("scan", JobState.DONE, 1.0),
            ("thumbnail", JobState.DONE, 1.0),
        ]
        assert jobs[1].facts == {"width": 7}
        assert jobs[1].settled_at is not None

    async def test_a_gate_that_is_done_lets_readers_in_while_others_work(self, database: SurveyedDatabase) -> None:
        await completed(database, GATED)
        file = await database.jobs.finish(await a_job(database, "scan"), {})
        assert (file.processing, file.withheld) == (Processed.PROCESSING, False)

    @pytest.mark.parametrize("is_refused", [True, False])
    async def test_a_refusal_and_a_failure_keep_readers_out(self, database: SurveyedDatabase, is_refused: bool) -> None:
        await completed(database, GATED)
        await database.jobs.finish(await a_job(database, "thumbnail"), {})
        scan = await a_job(database, "scan")
        if is_refused:
            file = await database.jobs.refuse(scan, "Eicar", {"engine": "test"})
        else:
            file = await database.jobs.fail(scan, "no scanner", None)
        assert file.processing is (Processed.REFUSED if is_refused else Processed.FAILED)
        assert (file.withheld, file.state) == (True, State.COMPLETE)
        job = (await database.jobs.of([file]))[file.id][0]
        assert job.error == ("Eicar" if is_refused else "no scanner")
        assert await taken(database) is None

    async def test_an_error_of_any_characters_is_kept(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        await database.jobs.fail(await a_job(database), "\0 \ud800 \u00e9" + "x" * 5000, None)
        error = (await database.jobs.of([file]))[file.id][0].error
        assert error is not None
        assert "\u00e9" in error

    async def test_a_failure_is_tried_again_when_its_time_has_come(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        assert (await database.jobs.fail(await a_job(database), "boom", 30.0)).processing is Processed.PROCESSING
        job = (await database.jobs.of([file]))[file.id][0]
        assert (job.state, job.error, job.tries) == (JobState.WAITING, "boom", 1)
        assert await taken(database) is None
        await rig.pass_time(31)
        assert (await a_job(database)).tries == 2

    async def test_what_was_given_up_may_be_tried_again(self, database: SurveyedDatabase) -> None:
        file = await completed(database, GATED)
        await database.jobs.fail(await a_job(database, "scan"), "no scanner", None)
        await database.jobs.finish(await a_job(database, "thumbnail"), {})
        revived = await database.jobs.revive(file)
        assert (revived.processing, revived.withheld) == (Processed.PROCESSING, True)
        assert (await database.jobs.revive(file)).processing is Processed.PROCESSING
        job = await a_job(database)
        assert (job.processor, job.tries) == ("scan", 1)
        assert not (await database.jobs.finish(job, {})).withheld
        for stranger in STRANGERS:
            with pytest.raises(JobLost):
                await database.jobs.revive(replace(file, scope=stranger))

    async def test_two_last_jobs_at_once_make_the_file_ready(self, rig: Rig) -> None:
        for _ in range(5):
            file = await completed(rig.database, GATED)
            jobs = [await a_job(rig.database, "scan"), await a_job(rig.database, "thumbnail")]
            await asyncio.gather(rig.database.jobs.finish(jobs[0], {}), rig.another().jobs.finish(jobs[1], {}))
            found = await rig.database.get(ALICE, file.id)
            assert (found.processing, found.withheld) == (Processed.READY, False)


class TestDerivedFiles:
    async def test_what_is_staged_becomes_files_of_the_same_owner_when_the_job_is_done(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database, route="eu")
        job = await a_job(database)
        staged = [await stage(database, job, a_made_file(name)) for name in ("big", "small")]
        assert await derived_of(database, file) == []
        await database.jobs.finish(job, {})
        made = await derived_of(database, file)
        assert [each.id for each in made] == [each.id for each in staged]
        assert [each.derivation for each in made] == ["thumbnail/big", "thumbnail/small"]
        for each, was in zip(made, staged, strict=True):
            assert each == await database.get(ALICE, was.id)
            assert (each.state, each.scope, each.route, each.derived_from) == (State.COMPLETE, ALICE, "eu", file.id)
            assert (each.length, each.offset, each.etag, each.crc64) == (was.size, was.size, was.etag, was.crc64)
            assert (each.filename, each.content_type, each.processing) == (was.filename, "image/png", None)
            assert each.completed_at is not None
        await rig.pass_time(10 * LIFETIME)
        assert await garbage_of(rig, file) == set()

    async def test_listings_show_them_when_they_are_asked_for(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        staged = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        assert [each.id for each in await database.list_files(ALICE, FileFilter(), None, 10)] == [file.id]
        found = await database.list_files(ALICE, FileFilter(derived_from=file.id), None, 10)
        assert [each.id for each in found] == [staged.id]

    async def test_one_that_is_staged_again_is_there_once(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        await stage(database, job, a_made_file())
        latest = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        assert [each.id for each in await derived_of(database, file)] == [latest.id]

    async def test_a_job_makes_so_many_and_no_more(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        for number in range(MOST_DERIVED):
            await stage(database, job, a_made_file(f"page-{number}"))
        with pytest.raises(InvalidRequest):
            await stage(database, job, a_made_file("one-more"))
        await stage(database, job, a_made_file("page-3", 4711))
        await database.jobs.finish(job, {})
        assert sorted(each.length or 0 for each in await derived_of(database, file)) == [*[100] * 15, 4711]

    async def test_what_a_dead_worker_had_put_into_the_store_is_garbage(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        lost = await stage(database, await a_job(database), a_made_file())
        await rig.pass_time(LEASE + 1)
        heir = await a_job(database)
        made = await stage(database, heir, a_made_file())
        await database.jobs.finish(heir, {})
        assert [each.id for each in await derived_of(database, file)] == [made.id]
        await rig.pass_time(10 * LIFETIME)
        assert await garbage_of(rig, file) == {(lost.key, None), (lost.key, "?")}

    async def test_what_the_collector_may_be_removing_becomes_no_file(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        job = await a_job(database)
        await stage(database, job, a_made_file())
        await rig.pass_time(INTENT_LIFE + 1)
        with pytest.raises(JobLost):
            await database.jobs.finish(job, {})
        assert await derived_of(database, file) == []
        assert (await database.get(ALICE, file.id)).processing is Processed.PROCESSING

    async def test_heartbeats_keep_what_is_staged_for_as_long_as_a_job_lasts(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        job = await a_job(database)
        await stage(database, job, a_made_file())
        for _ in range(4):
            await rig.pass_time(INTENT_LIFE / 2)
            await database.jobs.heartbeat(job, LEASE, 0.1)
            assert await database.due_garbage(100, INTENT_LIFE) == []
        await database.jobs.finish(job, {})
        assert len(await derived_of(database, file)) == 1

    async def test_a_tenant_without_room_gets_none_and_the_job_stays(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        await stage(database, job, a_made_file(size=MIB))
        await database.limit_usage("acme", Quota(bytes=20 * MIB + 100))
        with pytest.raises(QuotaExceeded):
            await database.jobs.finish(job, {})
        assert await derived_of(database, file) == []
        await database.limit_usage("acme", Quota(bytes=22 * MIB))
        await database.jobs.finish(job, {})
        assert (await database.usage("acme")).bytes == 21 * MIB

    async def test_nobody_settles_or_sees_the_jobs_of_another(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        await stage(database, job, a_made_file())
        for stranger in STRANGERS:
            foreign = replace(job, source=replace(job.source, scope=stranger))
            with pytest.raises(JobLost):
                await database.jobs.finish(foreign, {})
            assert (await database.jobs.of([replace(file, scope=stranger)]))[file.id] == []
        await database.jobs.finish(job, {})
        for stranger in STRANGERS:
            assert (await database.jobs.derived([replace(file, scope=stranger)])).get(file.id, []) == []


class TestEnds:
    async def test_a_deleted_file_takes_its_jobs_and_derived_files_along(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database, GATED)
        job = await a_job(database, "thumbnail")
        made = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        running = await a_job(database, "scan")
        await database.terminate(ALICE, file.id, "token:1")
        gone = await database.get(ALICE, made.id)
        assert (gone.state, gone.ended_by) == (State.TERMINATED, "token:1")
        assert (await database.jobs.of([file]))[file.id] == []
        for attempt in (database.jobs.heartbeat(running, LEASE, 0.5), database.jobs.finish(running, {})):
            with pytest.raises(JobLost):
                await attempt
        assert (made.key, None) in await garbage_of(rig, gone)
        assert (await database.usage("acme")).bytes == 0

    async def test_an_expired_file_takes_them_along_too(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database)
        job = await a_job(database)
        made = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        await database.describe(
            ALICE,
            file.id,
            {"expires_at": (await database.get(ALICE, file.id)).updated_at.replace(year=file.updated_at.year + 1)},
        )
        await rig.pass_time(400 * 86_400)
        assert [each.id for each in await database.expire(10)] == [file.id]
        gone = await database.get(ALICE, made.id)
        assert gone.state is State.EXPIRED
        assert (made.key, None) in await garbage_of(rig, gone)

    async def test_a_derived_file_may_be_deleted_by_itself(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        job = await a_job(database)
        made = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        await database.terminate(ALICE, made.id)
        assert await derived_of(database, file) == []
        assert (await database.get(ALICE, file.id)).processing is Processed.READY

    @pytest.mark.parametrize("first", ["the source", "the derived file"])
    async def test_a_derived_file_that_expires_when_its_source_does_is_told_once(self, rig: Rig, first: str) -> None:
        """I12."""
        database = rig.telling(Outbox((Subscription("all"),)))
        file, made = await a_pair(database)
        await rig.pass_time(1.0)
        later = file.updated_at + timedelta(days=1)
        for name, upload_id in (("the source", file.id), ("the derived file", made.id)):
            await database.describe(ALICE, upload_id, {"expires_at": later + timedelta(hours=name != first)})
        await rig.pass_time(2 * 86_400)
        await database.expire(10)
        await database.expire(10)
        for upload_id in (file.id, made.id):
            assert (await told(database, upload_id)).count(EventType.EXPIRED) == 1
        assert sorted(each.upload_id for each in await database.due_garbage(100, 0.0)) == sorted([file.id, made.id])

    async def test_a_derived_file_that_must_be_kept_outlives_its_source_until_it_need_not(self, rig: Rig) -> None:
        """The row of the source stays as long: it says whether what was made of it may be read."""
        file, made = await a_pair(rig.database)
        await rig.database.describe(ALICE, made.id, {"retain_until": file.updated_at + timedelta(days=30)})
        await rig.database.terminate(ALICE, file.id)
        await rig.pass_time(3 * 86_400)
        await all_removed(rig)
        assert await rig.database.forget_ended(86_400, 100) == 0
        assert await rig.database.expire(100) == []
        assert (await rig.database.get(ALICE, made.id)).state is State.COMPLETE
        await rig.pass_time(30 * 86_400)
        assert [each.id for each in await rig.database.expire(100)] == [made.id]
        await rig.pass_time(3 * 86_400)
        await all_removed(rig)
        assert await rig.database.forget_ended(86_400, 100) == 2

    async def test_a_final_that_was_deleted_while_it_was_finished_gets_no_jobs(self, rig: Rig) -> None:
        """Partials lie in its object, so its row goes on as their group, behind the back of whoever finishes it."""
        database = rig.telling(Outbox((Subscription("all"),)))
        members = [await filled(database, await a_member(database)) for _ in range(2)]
        final = await adopted(database, *members, content_type="text/plain")
        await database.terminate(ALICE, final.id)
        hidden = await database.complete(final, an_object(final), Keeping(processing=GATED))
        assert (hidden.role, hidden.processing, hidden.withheld) == (Role.GROUP, None, False)
        assert await taken(database) is None
        assert (await told(database, final.id))[-1] is EventType.TERMINATED

    async def test_a_finish_and_a_deletion_at_once_leave_nothing_behind(self, rig: Rig) -> None:
        for _ in range(10):
            file = await completed(rig.database)
            job = await a_job(rig.database)
            made = await stage(rig.database, job, a_made_file())
            done, _ = await asyncio.gather(
                rig.database.jobs.finish(job, {}), rig.another().terminate(ALICE, file.id), return_exceptions=True
            )
            assert await derived_of(rig.database, file) == []
            if not isinstance(done, JobLost):
                assert (await rig.database.get(ALICE, made.id)).state is State.TERMINATED


class TestEvents:
    """I12: what happens to a file and what is made of it is told by the commit that makes it true."""

    async def test_processing_is_told_from_its_beginning_to_its_end(self, rig: Rig) -> None:
        outbox = Outbox((Subscription("all"),))
        database = rig.telling(outbox)
        file = await completed(database, GATED)
        job = await a_job(database, "thumbnail")
        made = await stage(database, job, a_made_file())
        await database.jobs.finish(job, {})
        await database.jobs.finish(await a_job(database, "scan"), {})
        await database.terminate(ALICE, file.id)
        assert await told(database, file.id) == [
            EventType.CREATED,
            EventType.COMPLETED,
            EventType.PROCESSING,
            EventType.READY,
            EventType.DELETED,
        ]
        assert await told(database, made.id) == [EventType.CREATED, EventType.COMPLETED, EventType.DELETED]
        deliveries = await database.deliveries.claim("all", "relay", 60.0, 1)
        assert deliveries  # a delivery for each, in their order

    async def test_a_failure_is_told_when_all_jobs_have_ended(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("all"),)))
        file = await completed(database, GATED)
        await database.jobs.refuse(await a_job(database, "scan"), "Eicar", {})
        assert (await told(database, file.id))[-1] is EventType.PROCESSING
        await database.jobs.finish(await a_job(database, "thumbnail"), {})
        assert (await told(database, file.id))[-1] is EventType.PROCESSING_FAILED

    async def test_each_sink_is_told_what_it_wants(self, rig: Rig) -> None:
        wanted = Subscription("ends", frozenset({EventType.READY, EventType.PROCESSING}))
        database = rig.telling(Outbox((wanted, Subscription("finished", frozenset({EventType.COMPLETED})))))
        await completed(database)
        await database.jobs.finish(await a_job(database), {})
        found: dict[str, list[EventType]] = {}
        for sink in ("ends", "finished"):
            found[sink] = []
            while claimed := await database.deliveries.claim(sink, "relay", 600.0, 1):
                found[sink].append(claimed[0].event.type)
                await database.deliveries.settle(sink, "relay", [Outcome(claimed[0].event.id, DeliveryState.DELIVERED)])
        assert found == {
            "ends": [EventType.PROCESSING, EventType.READY],
            "finished": [EventType.COMPLETED],
        }


async def told(database: SurveyedDatabase, upload_id: UploadId) -> list[EventType]:
    return [event.type for event in await database.events.of_upload(ALICE, upload_id, 0, 100)]


async def test_nobody_finds_a_derived_file_by_its_digest(database: SurveyedDatabase) -> None:
    """It was not uploaded, and ends with another file."""
    await completed(database)
    job = await a_job(database)
    made = await stage(database, job, replace(a_made_file(), crc64=77))
    await database.jobs.finish(job, {})
    wanted = Fingerprint("crc64nvme", f"{77:016x}")
    assert (await database.get(ALICE, made.id)).crc64 == wanted.crc64 == 77
    assert await database.find_by_fingerprint(ALICE, wanted, 10) == []


class TestOperators:
    async def test_jobs_are_found_by_what_they_are(self, rig: Rig, database: SurveyedDatabase) -> None:
        first = await completed(database, ALL)
        await rig.pass_time(100.0)
        other = await completed(database, ONE, scope=STRANGERS[1])
        await database.jobs.fail(await a_job(database, "scan"), "no", None)
        since = first.completed_at + timedelta(seconds=50) if first.completed_at else None
        searches = {
            JobSearch(): {(first.id, "scan"), (first.id, "thumbnail"), (other.id, "thumbnail")},
            JobSearch(upload_id=first.id): {(first.id, "scan"), (first.id, "thumbnail")},
            JobSearch(tenant="other"): {(other.id, "thumbnail")},
            JobSearch(processor="thumbnail"): {(first.id, "thumbnail"), (other.id, "thumbnail")},
            JobSearch(state=JobState.DEAD): {(first.id, "scan")},
            JobSearch(state=JobState.WAITING, upload_id=first.id): {(first.id, "thumbnail")},
        }
        if isinstance(rig, PostgresRig):  # its time passes by moving what there is into the past
            since = (await database.get(other.scope, other.id)).completed_at
        searches[JobSearch(since=since)] = {(other.id, "thumbnail")}
        searches[JobSearch(until=since)] = {(first.id, "scan"), (first.id, "thumbnail")}
        for search, expected in searches.items():
            found = await database.jobs.find(search, 100)
            assert {(job.source.id, job.processor) for job in found} == expected, search

    async def test_pages_of_jobs_follow_each_other(self, database: SurveyedDatabase) -> None:
        for _ in range(3):
            await completed(database, ALL)
        everything = await database.jobs.find(JobSearch(), 100)
        paged: list[Job] = []
        while page := await database.jobs.find(JobSearch(), 4, paged[-1] if paged else None):
            assert len(page) <= 4
            paged += page
        assert paged == everything
        assert len(everything) == 6

    async def test_one_dead_job_is_revived_and_the_others_stay(self, database: SurveyedDatabase) -> None:
        file = await completed(database, ALL)
        for name in ("scan", "thumbnail"):
            await database.jobs.fail(await a_job(database, name), "no", None)
        assert (await database.jobs.revive(file, "scan")).processing is Processed.PROCESSING
        assert await states_of(database, file) == {"scan": JobState.WAITING, "thumbnail": JobState.DEAD}

    @pytest.mark.parametrize("is_dead", [False, True])
    async def test_a_file_is_ready_without_a_job_that_is_dropped(
        self, database: SurveyedDatabase, *, is_dead: bool
    ) -> None:
        file = await completed(database)
        if is_dead:
            await database.jobs.fail(await a_job(database), "no", None)
        (job,) = await database.jobs.find(JobSearch(upload_id=file.id), 100)
        assert (await database.jobs.drop(job)).processing is Processed.READY
        assert await states_of(database, file) == {}
        with pytest.raises(JobLost):
            await database.jobs.drop(job)

    async def test_a_file_is_still_kept_from_readers_by_the_gates_that_are_left(
        self, database: SurveyedDatabase
    ) -> None:
        file = await completed(database, GATED)
        scan, thumbnail = await database.jobs.find(JobSearch(upload_id=file.id), 100)
        left = await database.jobs.drop(thumbnail)
        assert (left.processing, left.withheld) == (Processed.PROCESSING, True)
        left = await database.jobs.drop(scan)
        assert (left.processing, left.withheld) == (Processed.READY, False)

    async def test_a_job_that_somebody_has_is_dropped_only_when_the_lease_is_over(
        self, rig: Rig, database: SurveyedDatabase
    ) -> None:
        await completed(database)
        job = await a_job(database)
        with pytest.raises(JobLost):
            await database.jobs.drop(job)
        await rig.pass_time(LEASE + 1)
        await database.jobs.drop(job)
        with pytest.raises(JobLost):
            await database.jobs.finish(job, {})

    async def test_jobs_of_an_ended_file_and_of_others_are_not_dropped(self, database: SurveyedDatabase) -> None:
        file = await completed(database)
        (job,) = await database.jobs.find(JobSearch(), 100)
        for scope in STRANGERS:
            with pytest.raises(JobLost):
                await database.jobs.drop(replace(job, source=replace(job.source, scope=scope)))
        await database.terminate(file.scope, file.id)
        with pytest.raises(JobLost):
            await database.jobs.drop(job)

    async def test_a_file_that_a_dropped_job_makes_ready_is_told(self, rig: Rig) -> None:
        telling = rig.telling(Outbox((Subscription("hook"),)))
        file = await completed(telling, ALL)
        for name in ("scan", "thumbnail"):
            await telling.jobs.fail(await a_job(telling, name), "no", None)
        for job in await telling.jobs.find(JobSearch(upload_id=file.id), 100):
            await telling.jobs.drop(job)
        told = await telling.deliveries.find(Search(upload_id=file.id), 100)
        ends = [each.event.type for each in told if each.event.type in {EventType.READY, EventType.PROCESSING_FAILED}]
        assert ends == [EventType.PROCESSING_FAILED, EventType.READY]

    async def test_what_is_not_settled_is_counted_by_processor(self, rig: Rig, database: SurveyedDatabase) -> None:
        assert await database.jobs.backlog() == []
        for _ in range(3):
            await completed(database, ALL)
        dead, done, running = [await a_job(database, "scan") for _ in range(3)]
        await database.jobs.fail(dead, "no", None)
        await database.jobs.finish(done, {})
        await database.jobs.fail(running, "not yet", 500.0)
        await rig.pass_time(100.0)
        await a_job(database, "thumbnail")
        scans, thumbnails = await database.jobs.backlog()
        assert (scans.processor, scans.waiting, scans.running, scans.seconds) == ("scan", 1, 0, 0.0)
        assert (thumbnails.processor, thumbnails.waiting, thumbnails.running) == ("thumbnail", 2, 1)
        assert thumbnails.seconds == pytest.approx(100.0, abs=60.0)
        assert await database.jobs.count_dead() == {"scan": 1}

    async def test_jobs_that_nobody_takes_are_counted_by_processor(self, rig: Rig, database: SurveyedDatabase) -> None:
        for _ in range(2):
            await completed(database, ALL)
        await a_job(database, "scan")
        await rig.pass_time(500.0)
        await completed(database, ALL)
        assert await database.jobs.overdue(600.0) == []
        await rig.pass_time(200.0)
        scans, thumbnails = await database.jobs.overdue(600.0)
        assert [(each.processor, each.jobs) for each in (scans, thumbnails)] == [("scan", 2), ("thumbnail", 2)]
        assert thumbnails.seconds == pytest.approx(700.0, abs=60.0)
