"""Files that share an object: what all databases promise (CC-10, GC-08, I10, I11, I14)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.contract.database_rig import (
    ALICE,
    a_part,
    a_sealed_upload,
    a_step,
    a_writer,
    an_object,
    foreign,
)
from tests.contract.test_database_concatenation import a_member, adopted, filled
from tusgate.core.dedup import NO_DEDUP, Dedup
from tusgate.core.errors import Fenced, Retained, UploadNotFound
from tusgate.core.grid import MIB
from tusgate.core.model import Keeping, ObjectKey, Role, Scope, State, StoredObject, StoreName

if TYPE_CHECKING:
    from typing import Any

    from tests.contract.database_rig import PostgresRig, Rig, SqliteRig
    from tusgate.core.model import Garbage, Upload
    from tusgate.ports import Database, SurveyedDatabase

SHA256 = b"a" * 32
ANOTHER = b"b" * 32
BOB = Scope("acme", "bob")
LEASE = 60.0
KEPT_FOR = 7200.0
SHARING = Keeping(dedup=Dedup(usual=True))


async def a_file(database: SurveyedDatabase, keeping: Keeping = SHARING, **changes: Any) -> Upload:
    """Return a complete upload whose digest is due, with an ETag that no other has."""
    sealed = await a_sealed_upload(database, **changes)
    sealed = await database.absorb(sealed, [a_part(3, 4 * MIB)])
    stored = replace(an_object(sealed), etag=f"etag-of-{sealed.id}")
    return await database.complete(sealed, stored, keeping)


async def a_file_of(database: SurveyedDatabase, length: int) -> Upload:
    """Return a complete upload of `length` bytes that was one PutObject, and whose digest is due."""
    upload = await a_writer(database, length=length)
    stored = StoredObject(upload.object_key, length, "etag-of-one", 5)
    return await database.commit(
        upload, a_step(length, state=State.COMPLETE, length=length, stored=stored, keeping=SHARING)
    )


async def settled(database: SurveyedDatabase, **changes: Any) -> Upload:
    """Return a file that has found no twin."""
    file = await a_file(database, **changes)
    assert await database.find_twin(file, SHA256, LEASE) is None
    return await database.get(file.scope, file.id)


async def shared(database: SurveyedDatabase, twin: Upload, **changes: Any) -> Upload:
    """Return a file that refers to the object of `twin`."""
    file = await a_file(database, **changes)
    found = await database.find_twin(file, SHA256, LEASE)
    assert found is not None
    assert found.object_key == twin.object_key
    return await database.adopt(file, found, KEPT_FOR)


async def objects_due(database: Database) -> list[str]:
    """Return the keys of finished objects that the store may lose now, and note that it has lost them."""
    due: list[Garbage] = await database.due_garbage(1000, 0.0)
    await database.drop_garbage(due, 0.0)
    return [row.key for row in due if not row.multipart and not row.key.startswith("pieces/")]


class TestFindingTwins:
    async def test_the_first_of_equal_files_finds_none_and_the_next_finds_it(self, rig: Rig) -> None:
        database = rig.database
        first, second = await a_file(database), await a_file(database)
        assert await database.find_twin(first, SHA256, LEASE) is None
        first = await database.get(ALICE, first.id)
        assert first.sha256 == SHA256
        assert await database.find_twin(second, SHA256, LEASE) == first
        assert (await database.get(ALICE, second.id)).sha256 == SHA256

    async def test_whoever_dies_between_finding_and_adopting_is_followed_by_another(self, rig: Rig) -> None:
        database = rig.database
        twin, file = await settled(database), await a_file(database)
        assert await database.find_twin(file, SHA256, LEASE) == twin
        assert await database.claim_undigested(LEASE, 5) == []
        await rig.pass_time(LEASE + 1)
        [again] = await rig.another().claim_undigested(LEASE, 5)
        assert (again.id, again.sha256) == (file.id, SHA256)
        assert await database.find_twin(again, SHA256, LEASE) is not None
        await database.adopt(again, await database.get(ALICE, twin.id), KEPT_FOR)
        await rig.pass_time(LEASE + 1)
        assert await database.claim_undigested(LEASE, 5) == []

    async def test_the_look_is_over_without_a_twin(self, rig: Rig) -> None:
        await settled(rig.database)
        await rig.pass_time(1000)
        assert await rig.database.claim_undigested(LEASE, 5) == []

    @pytest.mark.parametrize(
        "other",
        [
            {"scope": Scope("other", "alice")},
            {"route": "elsewhere"},
            {"content_coding": "gzip"},
        ],
        ids=["tenant", "route", "coding"],
    )
    async def test_files_of_another_tenant_place_or_coding_are_no_twins(
        self, database: SurveyedDatabase, other: dict[str, Any]
    ) -> None:
        """I13: what a tenant can see depends on no other one."""
        await settled(database, **other)
        assert await database.find_twin(await a_file(database), SHA256, LEASE) is None

    async def test_files_of_other_bytes_or_another_length_are_no_twins(self, database: SurveyedDatabase) -> None:
        file = await a_file(database)
        assert await database.find_twin(file, ANOTHER, LEASE) is None
        shorter = await a_file_of(database, MIB)
        assert await database.find_twin(shorter, SHA256, LEASE) is None
        assert await database.find_twin(await a_file(database), SHA256, LEASE) is None

    async def test_a_file_that_has_ended_or_is_still_looking_is_no_twin(self, database: SurveyedDatabase) -> None:
        gone = await settled(database)
        await database.terminate(ALICE, gone.id)
        first = await settled(database)
        looking = await a_file(database)
        assert await database.find_twin(looking, SHA256, LEASE) == first
        await database.terminate(ALICE, first.id)
        third = await a_file(database)
        assert await database.find_twin(third, SHA256, LEASE) is None

    async def test_files_of_two_owners_of_a_tenant_are_twins(self, database: SurveyedDatabase) -> None:
        twin = await settled(database, scope=BOB)
        file = await shared(database, twin)
        assert (file.scope, file.object_key) == (ALICE, twin.object_key)

    async def test_of_many_that_look_at_once_one_finds_none(self, rig: Rig) -> None:
        files = [await a_file(rig.database) for _ in range(10)]
        clients = (rig.database, rig.another())
        twins = await asyncio.gather(
            *[clients[number % 2].find_twin(file, SHA256, LEASE) for number, file in enumerate(files)]
        )
        [first] = [file for file, twin in zip(files, twins, strict=True) if twin is None]
        assert {twin.id for twin in twins if twin is not None} == {first.id}

    async def test_what_was_deleted_or_has_another_object_finds_nothing(self, database: SurveyedDatabase) -> None:
        twin, file = await settled(database), await a_file(database)
        with pytest.raises(Fenced):
            await database.find_twin(replace(file, etag="another"), SHA256, LEASE)
        with pytest.raises(Fenced):
            await database.find_twin(replace(file, object_key=ObjectKey("another")), SHA256, LEASE)
        assert (await database.get(ALICE, file.id)).sha256 is None
        await database.terminate(ALICE, file.id)
        with pytest.raises(Fenced):
            await database.find_twin(file, SHA256, LEASE)
        assert await database.get(ALICE, twin.id) == twin


class TestAdopting:
    async def test_the_file_refers_to_the_object_of_its_twin_and_is_otherwise_as_it_was(self, rig: Rig) -> None:
        """I14: and it counts as before."""
        database = rig.database
        twin = await settled(database)
        file = await a_file(database)
        usage = await database.usage("acme")
        await database.find_twin(file, SHA256, LEASE)
        found = await database.adopt(file, twin, KEPT_FOR)
        assert found == replace(file, object_key=twin.object_key, etag=twin.etag, sha256=SHA256, object_of=twin.id)
        assert await database.get(ALICE, file.id) == found
        assert await database.get(ALICE, twin.id) == twin
        assert await database.usage("acme") == usage

    async def test_its_own_object_is_kept_for_those_who_read_it(self, rig: Rig) -> None:
        database = rig.database
        twin, file = await settled(database), await a_file(database)
        await database.find_twin(file, SHA256, LEASE)
        await database.adopt(file, twin, KEPT_FOR)
        await rig.pass_time(KEPT_FOR - 10)
        assert await objects_due(database) == []
        await rig.pass_time(20)
        assert await objects_due(database) == [file.object_key]
        assert twin.object_key not in await rig.garbage_keys()

    async def test_a_checksum_that_nobody_knew_is_that_of_the_twin(self, database: SurveyedDatabase) -> None:
        twin = await settled(database)
        sealed = await a_sealed_upload(database)
        sealed = await database.absorb(sealed, [a_part(3, 4 * MIB)])
        file = await database.complete(sealed, replace(an_object(sealed), crc64=-1), SHARING)
        assert file.crc64 is None
        await database.find_twin(file, SHA256, LEASE)
        assert (await database.adopt(file, twin, KEPT_FOR)).crc64 == twin.crc64

    @pytest.mark.parametrize("which", ["file", "twin"])
    async def test_nothing_is_adopted_when_one_of_the_two_has_ended(self, rig: Rig, which: str) -> None:
        database = rig.database
        twin, file = await settled(database), await a_file(database)
        await database.find_twin(file, SHA256, LEASE)
        ended = await database.terminate(ALICE, (twin if which == "twin" else file).id)
        with pytest.raises(Fenced):
            await database.adopt(file, twin, KEPT_FOR)
        await rig.pass_time(2 * KEPT_FOR)
        assert await objects_due(database) == [ended.object_key]

    async def test_nothing_is_adopted_twice_or_by_itself(self, rig: Rig) -> None:
        database = rig.database
        twin, file = await settled(database), await a_file(database)
        await database.find_twin(file, SHA256, LEASE)
        with pytest.raises(Fenced):
            await database.adopt(file, file, KEPT_FOR)
        found = await database.adopt(file, twin, KEPT_FOR)
        with pytest.raises(Fenced):
            await database.adopt(file, twin, KEPT_FOR)
        assert await database.get(ALICE, file.id) == found
        assert sorted(await rig.garbage_keys()).count(file.object_key) == 1

    async def test_nothing_is_adopted_of_another_tenant_or_without_a_digest(self, rig: Rig) -> None:
        database = rig.database
        there, file = await settled(database, scope=Scope("other", "alice")), await a_file(database)
        await database.find_twin(file, SHA256, LEASE)
        with pytest.raises(Fenced):
            await database.adopt(file, there, KEPT_FOR)
        undigested = await a_file(database)
        with pytest.raises(Fenced):
            await database.adopt(undigested, file, KEPT_FOR)
        with pytest.raises(Fenced):
            await database.adopt(file, undigested, KEPT_FOR)

    async def test_nobody_lets_the_file_of_another_adopt(self, database: SurveyedDatabase) -> None:
        twin, file = await settled(database), await a_file(database)
        await database.find_twin(file, SHA256, LEASE)
        before = await database.get(ALICE, file.id)
        with pytest.raises(UploadNotFound):
            await database.adopt(foreign(file, BOB), twin, KEPT_FOR)
        assert await database.get(ALICE, file.id) == before

    async def test_files_that_adopt_in_a_chain_all_have_the_first_maker(self, database: SurveyedDatabase) -> None:
        first = await settled(database)
        second = await shared(database, first)
        third = await a_file(database)
        assert await database.find_twin(third, SHA256, LEASE) is not None
        third = await database.adopt(third, second, KEPT_FOR)
        assert (third.object_of, third.object_key) == (first.id, first.object_key)


class TestTheLastOneOut:
    async def test_an_object_goes_with_the_last_file_that_refers_to_it(self, rig: Rig) -> None:
        """GC-08: there is no count that could be wrong."""
        database = rig.database
        first = await settled(database)
        files = [first, await shared(database, first), await shared(database, first)]
        random.Random(3).shuffle(files)
        await rig.pass_time(2 * KEPT_FOR)
        assert first.object_key not in await objects_due(database)
        for file in files[:-1]:
            await database.terminate(ALICE, file.id)
            await rig.pass_time(2 * KEPT_FOR)
            assert first.object_key not in await objects_due(database)
            assert StoreName(first.object_key) in await database.names([first.id])
        await database.terminate(ALICE, files[-1].id)
        assert first.object_key in await objects_due(database)
        await rig.pass_time(2 * KEPT_FOR)
        while await objects_due(database):
            await rig.pass_time(120)
        assert await rig.garbage_keys() == []

    async def test_files_that_end_before_anybody_looks_leave_nothing(self, rig: Rig) -> None:
        database = rig.database
        first = await settled(database)
        second = await shared(database, first)
        for file in (first, second):
            await database.terminate(ALICE, file.id)
        await rig.pass_time(2 * KEPT_FOR)
        assert set(await objects_due(database)) == {first.object_key, f"acme/{second.id}"}

    async def test_an_object_outlives_the_row_of_its_maker(self, rig: Rig) -> None:
        database = rig.database
        first = await settled(database)
        second = await shared(database, first)
        await database.terminate(ALICE, first.id)
        await rig.pass_time(2 * KEPT_FOR)
        while await objects_due(database):
            await rig.pass_time(120)
        assert await database.forget_ended(60.0, 100) == 1
        with pytest.raises(UploadNotFound):
            await database.get(ALICE, first.id)
        assert StoreName(first.object_key) in await database.names([first.id])
        third = await shared(database, second)
        assert third.object_of == first.id
        await database.terminate(ALICE, second.id)
        assert first.object_key not in await objects_due(database)
        await database.terminate(ALICE, third.id)
        assert first.object_key in await objects_due(database)

    async def test_what_expires_does_not_take_the_object_of_others_along(self, rig: Rig) -> None:
        database = rig.database
        first = await settled(database)
        brief = await a_file(database, replace(SHARING, lifetime=100.0))
        await database.find_twin(brief, SHA256, LEASE)
        await database.adopt(brief, first, KEPT_FOR)
        await rig.pass_time(200)
        assert [each.id for each in await database.expire(10)] == [brief.id]
        assert first.object_key not in await objects_due(database)
        await database.terminate(ALICE, first.id)
        assert first.object_key in await objects_due(database)

    async def test_a_hold_of_one_file_keeps_the_object_and_no_other_file(self, rig: Rig) -> None:
        database = rig.database
        first = await settled(database)
        held = await shared(database, first)
        until = held.updated_at.replace(year=held.updated_at.year + 1)
        await database.describe(ALICE, held.id, {"retain_until": until})
        await database.terminate(ALICE, first.id)
        with pytest.raises(Retained):
            await database.terminate(ALICE, held.id)
        await rig.pass_time(2 * KEPT_FOR)
        assert first.object_key not in await objects_due(database)

    async def test_a_planted_row_about_a_shared_object_is_dropped(self, rig: Rig) -> None:
        """I10: whatever has written it, and of whichever of the two it is."""
        database = rig.database
        first = await settled(database)
        second = await shared(database, first)
        for row in (first, second):
            await rig.plant_garbage(row, first.object_key, None)
        await database.terminate(ALICE, first.id)
        assert await objects_due(database) == []
        assert first.object_key not in await rig.garbage_keys()

    async def test_an_object_waits_for_the_multipart_upload_of_its_maker(self, rig: Rig) -> None:
        """Rule 3 of the collector: a Complete that is still on its way could make it once more."""
        database = rig.database
        first = await settled(database)
        second = await shared(database, first)
        await rig.plant_garbage(first, first.object_key, "late")
        for file in (first, second):
            await database.terminate(ALICE, file.id)
        due = await database.due_garbage(100, 1000.0)
        assert [row.multipart_id for row in due if row.key == first.object_key] == ["late"]
        await database.drop_garbage(due, 1000.0)
        await rig.pass_time(120)
        assert first.object_key in await objects_due(database)

    async def test_a_final_whose_object_partials_lie_in_still_needs_what_it_has_adopted(self, rig: Rig) -> None:
        """A deleted final turns into their group: it may have come to refer to the object of an equal file."""
        database = rig.database
        partial = await filled(database, await a_member(database, "g"))
        final = await adopted(database, partial)
        final = await database.complete(final, replace(an_object(final), etag="final"), SHARING)
        equal = await a_file_of(database, final.length or 0)
        assert await database.find_twin(equal, SHA256, LEASE) is None
        twin = await database.get(ALICE, equal.id)
        assert await database.find_twin(final, SHA256, LEASE) == twin
        await database.adopt(final, twin, KEPT_FOR)
        await database.terminate(ALICE, final.id)
        hidden = await database.get_any(final.id)
        assert hidden is not None
        assert (hidden.role, hidden.state, hidden.object_key) == (Role.GROUP, State.COMPLETE, twin.object_key)
        await database.terminate(ALICE, twin.id)
        await rig.pass_time(60)
        assert twin.object_key not in await objects_due(database)

    async def test_ends_and_adoptions_at_once_never_leave_a_file_without_object(self, rig: Rig) -> None:
        """CC-10 in the database: after any order of events each complete file's object is needed, all others go."""
        chance, clients = random.Random(10), (rig.database, rig.another())
        files = [await a_file(rig.database) for _ in range(12)]

        async def share(number: int, file: Upload) -> None:
            database = clients[number % 2]
            try:
                while (twin := await database.find_twin(file, SHA256, LEASE)) is not None:
                    try:
                        await database.adopt(file, twin, KEPT_FOR)
                    except Fenced:
                        continue
                    return
            except Fenced:
                return

        async def end(number: int, file: Upload) -> None:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            await clients[number % 2].terminate(ALICE, file.id)

        doomed = chance.sample(files, 8)
        lost: set[str] = set()

        async def collect() -> None:
            for _ in range(10):
                lost.update(await objects_due(rig.another()))

        await asyncio.gather(
            *[share(number, file) for number, file in enumerate(files)],
            *[end(number, file) for number, file in enumerate(doomed)],
            collect(),
        )
        await rig.pass_time(2 * KEPT_FOR)
        lost.update(await objects_due(rig.database))
        left = [await rig.database.get(ALICE, file.id) for file in files if file not in doomed]
        assert {file.state for file in left} == {State.COMPLETE}
        [kept] = {file.object_key for file in left}
        assert kept not in lost
        assert lost == {file.object_key for file in files} - {kept}


class TestWhereItIsOff:
    async def test_a_digest_alone_makes_no_file_refer_to_another_object(self, database: SurveyedDatabase) -> None:
        files = [await a_file(database, Keeping(digests=True, dedup=NO_DEDUP)) for _ in range(2)]
        for file in files:
            assert await database.record_digest(file, SHA256) == replace(file, sha256=SHA256)

    async def test_digests_are_due_where_a_tenant_shares(self, database: SurveyedDatabase) -> None:
        keeping = Keeping(dedup=Dedup(tenants={"acme": True}))
        sharing, other = await a_file(database, keeping), await a_file(database, keeping, scope=Scope("other", ""))
        assert [each.id for each in await database.claim_undigested(LEASE, 5)] == [sharing.id]
        assert other.state is State.COMPLETE

    async def test_intents_of_a_file_that_has_adopted_are_not_its_new_object(self, rig: Rig) -> None:
        """What was announced at its own key is garbage now; what is at the key of the twin is not."""
        twin = await settled(rig.database)
        file = await shared(rig.database, twin)
        await rig.plant_garbage(file, twin.object_key, None)
        await rig.plant_garbage(file, f"acme/{file.id}", None)
        assert await objects_due(rig.database) == [f"acme/{file.id}"]


@pytest.mark.servers
async def test_postgres_lets_nobody_look_while_somebody_else_looks_for_the_same_bytes(
    postgres_rig: PostgresRig,
) -> None:
    """CC-10: the first one is held up between its look and the note that it has found none."""
    first, second = await a_file(postgres_rig.database), await a_file(postgres_rig.database)

    async def until_somebody_waits(count: int, *looks: asyncio.Task[Upload | None]) -> None:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(10):
            waiters = 0
            while waiters < count and not any(look.done() for look in looks):
                [(waiters,)] = await postgres_rig.query(waiting)

    async with postgres_rig.unfinished_write(first):
        one = asyncio.create_task(postgres_rig.database.find_twin(first, SHA256, LEASE))
        await until_somebody_waits(1, one)
        other = asyncio.create_task(postgres_rig.another().find_twin(second, SHA256, LEASE))
        await until_somebody_waits(2, one, other)
        assert not other.done()
    found = await asyncio.gather(one, other)
    assert [None if twin is None else twin.id for twin in found] == [None, first.id]


THOSE_WHO_SHARE = (
    "SELECT 1 FROM garbage LEFT JOIN uploads ON uploads.id = garbage.upload_id WHERE EXISTS (SELECT 1 FROM uploads AS"
    " sharing WHERE sharing.object_of IN (garbage.upload_id, uploads.object_of) AND sharing.state = 'complete')"
)
TWINS = (
    "SELECT 1 FROM uploads WHERE tenant = 'acme' AND state = 'complete'"
    " AND sha256 = (SELECT other.sha256 FROM uploads AS other LIMIT 1)"
)


async def test_sqlite_looks_for_those_who_share_by_an_index(sqlite_rig: SqliteRig) -> None:
    """The collector does so for each row of garbage."""
    assert "uploads_sharing" in str(await sqlite_rig.query(f"EXPLAIN QUERY PLAN {THOSE_WHO_SHARE}"))
    assert "uploads_twins" in str(await sqlite_rig.query(f"EXPLAIN QUERY PLAN {TWINS}"))


@pytest.mark.servers
async def test_postgres_can_look_for_those_who_share_by_an_index(postgres_rig: PostgresRig) -> None:
    """Small tables would be read as a whole, so that is made dear here."""
    connection = await asyncpg.connect(postgres_rig.dsn)
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
        assert "uploads_sharing" in str(await connection.fetch(f"EXPLAIN {THOSE_WHO_SHARE}"))
        assert "uploads_twins" in str(await connection.fetch(f"EXPLAIN {TWINS}"))
    finally:
        await connection.close()
