"""Files that are complete from their first moment on, because an equal one is here: what all databases promise."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.database_rig import ALICE, a_new_upload
from tests.contract.test_dedup import ANOTHER, BOB, KEPT_FOR, LEASE, SHA256, SHARING, a_file, objects_due, settled
from tests.contract.test_events import HOOK, told
from tests.contract.test_jobs import GATED
from tusgate.core.errors import Fenced, QuotaExceeded, TokenSpent
from tusgate.core.events import EventType, Outbox, Subscription
from tusgate.core.grid import MIB
from tusgate.core.model import Scope, State
from tusgate.core.quota import Quota

if TYPE_CHECKING:
    from tests.contract.database_rig import PostgresRig, Rig
    from tusgate.core.model import Keeping, Upload, UploadId
    from tusgate.ports import SurveyedDatabase


async def begun(database: SurveyedDatabase, twin: Upload, keeping: Keeping = SHARING, **changes: Any) -> Upload:
    """Return a new file that refers to the object of `twin`."""
    return await database.create_equal(a_new_upload(**changes), twin, keeping)


async def events_of(database: SurveyedDatabase, upload: Upload) -> list[tuple[EventType, int, State]]:
    return [(each.event.type, each.event.number, each.event.upload.state) for each in await told(database, upload)]


class TestFindingAnEqualFile:
    async def test_it_is_found_by_digest_length_route_and_coding(self, database: SurveyedDatabase) -> None:
        twin = await settled(database, scope=BOB, route="cold", content_coding="gzip")
        new = a_new_upload(route="cold", content_coding="gzip")
        assert await database.find_equal(new, SHA256) == twin
        for other in ({"route": None}, {"content_coding": None}, {"length": 19 * MIB}, {"scope": Scope("other", "x")}):
            assert await database.find_equal(replace(new, **other), SHA256) is None
        assert await database.find_equal(new, ANOTHER) is None
        await database.terminate(BOB, twin.id)
        assert await database.find_equal(new, SHA256) is None

    async def test_a_file_that_may_still_change_over_is_not_found(self, database: SurveyedDatabase) -> None:
        """One whose digest was not computed, or whose own look for an equal one is not over."""
        file = await a_file(database)
        assert await database.find_equal(a_new_upload(), SHA256) is None
        assert await database.find_twin(file, SHA256, LEASE) is None
        other = await a_file(database)
        assert await database.find_twin(other, SHA256, LEASE) is not None
        found = await database.find_equal(a_new_upload(), SHA256)
        assert found is not None
        assert found.id == file.id


class TestBeginningWithAnObject:
    async def test_the_file_is_complete_and_all_its_own_but_for_the_object(self, rig: Rig) -> None:
        database = rig.database
        twin = await settled(database, scope=BOB)
        file = await begun(database, twin, filename="mine.txt", fingerprint="sha256:00")
        assert await database.get(ALICE, file.id) == file
        assert (file.state, file.offset, file.length) == (State.COMPLETE, twin.length, twin.length)
        assert (file.object_key, file.etag, file.crc64) == (twin.object_key, twin.etag, twin.crc64)
        assert (file.object_of, file.maker, file.sha256) == (twin.id, twin.id, SHA256)
        assert (file.filename, file.fingerprint, file.expires_at) == ("mine.txt", "sha256:00", None)
        assert file.completed_at is not None
        assert await database.parts(file) == []
        assert await rig.garbage_keys() == [f"pieces/{twin.id}/0"]

    async def test_nothing_of_it_is_digested_again(self, rig: Rig) -> None:
        await begun(rig.database, await settled(rig.database))
        await rig.pass_time(10_000)
        assert await rig.database.claim_undigested(LEASE, 5) == []

    async def test_others_find_and_share_it_in_turn(self, database: SurveyedDatabase) -> None:
        first = await settled(database)
        second = await begun(database, first)
        third = await begun(database, second)
        assert (third.object_of, third.object_key) == (first.id, first.object_key)
        sent = await a_file(database)
        twin = await database.find_twin(sent, SHA256, LEASE)
        assert twin is not None
        assert (await database.adopt(sent, twin, KEPT_FOR)).object_key == first.object_key

    async def test_it_expires_as_a_sent_file_does(self, rig: Rig) -> None:
        twin = await settled(rig.database)
        brief = await begun(rig.database, twin, replace(SHARING, lifetime=100.0))
        assert brief.expires_at is not None
        await rig.pass_time(200)
        assert [each.id for each in await rig.database.expire(10)] == [brief.id]
        assert twin.object_key not in await objects_due(rig.database)

    async def test_it_tells_the_events_of_a_sent_file_in_their_order(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription(HOOK),)))
        twin = await settled(database)
        file = await begun(database, twin)
        assert await events_of(database, file) == [
            (EventType.CREATED, 1, State.UPLOADING),
            (EventType.COMPLETED, 2, State.COMPLETE),
        ]

    async def test_it_gets_the_jobs_of_a_sent_file(self, rig: Rig) -> None:
        keeping = replace(SHARING, processing=GATED)
        database = rig.telling(Outbox((Subscription(HOOK),)))
        file = await begun(database, await settled(database), keeping)
        jobs = await database.jobs.of([file])
        assert [job.processor for job in jobs[file.id]] == ["scan", "thumbnail"]
        assert file.withheld
        assert [each[0] for each in await events_of(database, file)] == [
            EventType.CREATED,
            EventType.COMPLETED,
            EventType.PROCESSING,
        ]

    async def test_it_counts_as_a_sent_file_does(self, database: SurveyedDatabase) -> None:
        """I14: with all its bytes."""
        twin = await settled(database)
        await database.limit_usage("acme", Quota(bytes=41 * MIB))
        await begun(database, twin)
        assert (await database.usage("acme")).bytes == 40 * MIB
        new = a_new_upload()
        with pytest.raises(QuotaExceeded):
            await database.create_equal(new, twin, SHARING)
        assert await database.get_any(new.id) is None
        assert (await database.usage("acme")).bytes == 40 * MIB

    async def test_a_token_is_spent_by_it_once(self, database: SurveyedDatabase) -> None:
        twin = await settled(database)
        file = await begun(database, twin, token_id="once")
        with pytest.raises(TokenSpent) as caught:
            await begun(database, twin, token_id="once")
        assert caught.value.upload == file

    async def test_an_id_makes_one_file(self, rig: Rig) -> None:
        twin = await settled(rig.database)
        new = a_new_upload()
        made = await asyncio.gather(
            *[client.create_equal(new, twin, SHARING) for client in (rig.database, rig.another()) * 3],
            return_exceptions=True,
        )
        [file] = [each for each in made if not isinstance(each, Exception)]
        assert all(isinstance(each, Fenced) for each in made if each is not file)
        assert await rig.database.get(ALICE, new.id) == file

    @pytest.mark.parametrize("other", ["ended", "another object", "another digest", "no digest", "longer", "tenant"])
    async def test_nothing_is_made_unless_the_other_is_as_it_was_read(
        self, database: SurveyedDatabase, other: str
    ) -> None:
        twin = shown = await settled(database)
        new = a_new_upload()
        match other:
            case "ended":
                await database.terminate(ALICE, twin.id)
            case "another object":
                shown = replace(twin, etag="another")
            case "another digest":
                shown = replace(twin, sha256=ANOTHER)
            case "no digest":
                shown = twin = await a_file(database)
            case "longer":
                new = replace(new, length=19 * MIB)
            case _:
                new = replace(new, scope=Scope("other", "alice"))
        with pytest.raises(Fenced):
            await database.create_equal(new, shown, SHARING)
        assert await database.get_any(new.id) is None


class TestEnding:
    async def test_the_object_goes_with_the_last_of_its_files_in_any_order(self, rig: Rig) -> None:
        """GC-08."""
        database = rig.database
        first = await settled(database, scope=BOB)
        files = [first, await begun(database, first), await begun(database, first)]
        random.Random(5).shuffle(files)
        for count, file in enumerate(files, 1):
            await database.terminate(file.scope, file.id)
            await rig.pass_time(2 * KEPT_FOR)
            assert (first.object_key in await objects_due(database)) is (count == len(files))

    async def test_what_ends_and_what_begins_at_once_never_leave_a_file_without_object(self, rig: Rig) -> None:
        """CC-10: either the new file is refused, or the object stays."""
        clients, chance = (rig.database, rig.another()), random.Random(7)
        files = [await settled(rig.database)]
        files += [await begun(rig.database, files[0]) for _ in range(5)]
        key = files[0].object_key
        made: list[UploadId] = []

        async def begin(number: int) -> None:
            database = clients[number % 2]
            new = a_new_upload()
            twin = await database.find_equal(new, SHA256)
            if twin is not None:
                try:
                    made.append((await database.create_equal(new, twin, SHARING)).id)
                except Fenced:
                    return

        async def end(number: int, file: Upload) -> None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            await clients[number % 2].terminate(ALICE, file.id)

        lost: list[str] = []

        async def collect() -> None:
            for _ in range(5):
                lost.extend(await objects_due(rig.another()))

        await asyncio.gather(
            *[begin(number) for number in range(20)], *[end(*each) for each in enumerate(files)], collect()
        )
        await rig.pass_time(2 * KEPT_FOR)
        lost.extend(await objects_due(rig.database))
        assert (key in lost) is (not made)
        for each in made:
            await rig.database.terminate(ALICE, each)
        await rig.pass_time(2 * KEPT_FOR)
        assert made == [] or key in await objects_due(rig.database)


@pytest.mark.servers
async def test_postgres_begins_with_no_object_while_somebody_is_about_to_end_the_other_file(
    postgres_rig: PostgresRig,
) -> None:
    """CC-10: the collector takes what no row refers to without a lock, so the reference has to wait."""
    twin = await settled(postgres_rig.database)
    waiters = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with postgres_rig.unfinished_write(twin):
        creation = asyncio.create_task(begun(postgres_rig.database, twin))
        async with asyncio.timeout(10):
            while not creation.done() and await postgres_rig.query(waiters) == [(0,)]:
                continue
        assert not creation.done()
    assert (await creation).object_key == twin.object_key
