"""How long finished files are kept, who has deleted them, and their digests: what all databases promise."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import (
    ALICE,
    STRANGERS,
    a_complete_upload,
    a_part,
    a_sealed_upload,
    a_step,
    a_writer,
    an_object,
    an_upload_in,
    garbage_of,
)
from tests.contract.test_database_concatenation import a_member, adopted, filled
from tusgate.core.clockwatch import Verdict
from tusgate.core.errors import Fenced, InvalidRequest, NotComplete, Retained, UploadGone, UploadNotFound
from tusgate.core.grid import MIB
from tusgate.core.listing import LISTED, FileFilter
from tusgate.core.model import Keeping, Role, State, StoredObject

if TYPE_CHECKING:
    from tests.contract.database_rig import PostgresRig, Rig
    from tusgate.core.listing import Changes
    from tusgate.core.model import Upload
    from tusgate.ports import SurveyedDatabase

DAY = timedelta(days=1)
DIGEST = hashlib.sha256(b"").digest()


async def completed(database: SurveyedDatabase, keeping: Keeping) -> Upload:
    sealed = await a_sealed_upload(database)
    sealed = await database.absorb(sealed, [a_part(3, 4 * MIB)])
    return await database.complete(sealed, an_object(sealed), keeping)


class TestExpiryOfFiles:
    @pytest.mark.parametrize("whole", [False, True])
    async def test_a_lifetime_of_files_begins_when_they_are_finished(self, rig: Rig, *, whole: bool) -> None:
        """By either way of finishing: from parts, or by one PutObject."""
        keeping = Keeping(lifetime=3600.0)
        if whole:
            upload = await a_writer(rig.database)
            stored = an_object(upload)
            step = a_step(20 * MIB, state=State.COMPLETE, stored=stored, keeping=keeping)
            file = await rig.database.commit(upload, step)
        else:
            file = await completed(rig.database, keeping)
        assert file.completed_at is not None
        assert file.expires_at == file.completed_at + timedelta(seconds=3600)
        await rig.pass_time(3599)
        assert await rig.database.expire(100) == []
        await rig.pass_time(2)
        assert [each.id for each in await rig.database.expire(100)] == [file.id]
        gone = await rig.database.get(ALICE, file.id)
        assert gone.state is State.EXPIRED
        assert (file.object_key, None) in await garbage_of(rig, file)

    async def test_a_file_is_given_an_end_and_none_again(self, rig: Rig) -> None:
        file = await a_complete_upload(rig.database)
        ends = file.updated_at + DAY
        assert (await rig.database.describe(ALICE, file.id, {"expires_at": ends})).expires_at == ends
        assert (await rig.database.describe(ALICE, file.id, {"filename": "b"})).expires_at == ends
        assert (await rig.database.describe(ALICE, file.id, {"expires_at": None})).expires_at is None
        await rig.database.describe(ALICE, file.id, {"expires_at": ends})
        await rig.pass_time(2 * DAY.total_seconds())
        assert [each.id for each in await rig.database.expire(100)] == [file.id]

    async def test_the_brake_of_expiry_holds_files_too(self, rig: Rig) -> None:
        file = await completed(rig.database, Keeping(lifetime=60.0))
        await rig.pass_time(120)
        assert await rig.database.expire(100, lambda _: Verdict(held="the clock jumped")) == []
        assert (await rig.database.get(ALICE, file.id)).state is State.COMPLETE

    @pytest.mark.parametrize("changes", ["expires_at", "retain_until"])
    async def test_a_time_that_is_over_is_none(self, database: SurveyedDatabase, changes: str) -> None:
        file = await a_complete_upload(database)
        over: Changes = {"filename": "b", changes: file.created_at - DAY}  # type: ignore[misc] # one of two names
        with pytest.raises(InvalidRequest, match=changes):
            await database.describe(ALICE, file.id, over)
        assert await database.get(ALICE, file.id) == file

    @pytest.mark.parametrize("state", [State.UPLOADING, State.SEALED])
    async def test_unfinished_uploads_have_no_times(self, database: SurveyedDatabase, state: State) -> None:
        upload = await an_upload_in(database, state)
        for changes in ({"expires_at": None}, {"retain_until": upload.created_at + DAY}):
            with pytest.raises(NotComplete):
                await database.describe(ALICE, upload.id, changes)  # type: ignore[arg-type] # one of two names
        assert await database.get(ALICE, upload.id) == upload

    async def test_a_final_lives_as_long_as_partials_lie_in_its_object(self, rig: Rig) -> None:
        """A final whose row is the group's: ending it would take the bytes of its partials."""
        members = [await filled(rig.database, await a_member(rig.database)) for _ in range(2)]
        final = await adopted(rig.database, *members)
        assert final.role is Role.FINAL
        file = await rig.database.complete(final, an_object(final), Keeping(lifetime=1.0))
        await rig.pass_time(60)
        assert await rig.database.expire(100) == []
        await rig.pass_time(100_000)
        ended = await rig.database.expire(100) + await rig.database.expire(100)
        assert {each.id for each in ended} == {file.id, *(member.id for member in members)}


class TestRetention:
    async def test_what_must_be_kept_is_neither_deleted_nor_does_it_expire(self, rig: Rig) -> None:
        file = await completed(rig.database, Keeping(lifetime=3600.0))
        until = file.updated_at + DAY
        kept = await rig.database.describe(ALICE, file.id, {"retain_until": until})
        assert kept.retain_until == until
        with pytest.raises(Retained) as refused:
            await rig.database.terminate(ALICE, file.id)
        assert refused.value.until == until
        await rig.pass_time(7200)
        assert await rig.database.expire(100) == []
        await rig.pass_time(DAY.total_seconds())
        assert [each.id for each in await rig.database.expire(100)] == [file.id]

    async def test_a_hold_that_is_over_holds_nothing(self, rig: Rig) -> None:
        file = await a_complete_upload(rig.database)
        await rig.database.describe(ALICE, file.id, {"retain_until": file.updated_at + DAY})
        await rig.pass_time(2 * DAY.total_seconds())
        assert (await rig.database.terminate(ALICE, file.id)).state is State.TERMINATED

    async def test_a_hold_is_prolonged_by_anybody_and_shortened_by_administrators(
        self, database: SurveyedDatabase
    ) -> None:
        file = await a_complete_upload(database)
        until = file.updated_at + DAY
        await database.describe(ALICE, file.id, {"retain_until": until})
        await database.describe(ALICE, file.id, {"retain_until": until})
        longer = await database.describe(ALICE, file.id, {"retain_until": until + DAY})
        for shorter in (None, until):
            with pytest.raises(Retained):
                await database.describe(ALICE, file.id, {"retain_until": shorter, "filename": "other"})
        assert await database.get(ALICE, file.id) == longer
        earlier = await database.describe(ALICE, file.id, {"retain_until": until}, may_shorten=True)
        assert earlier.retain_until == until
        free = await database.describe(ALICE, file.id, {"retain_until": None}, may_shorten=True)
        assert free.retain_until is None
        await database.terminate(ALICE, file.id)

    async def test_a_deletion_and_a_hold_at_once_never_both_happen(self, rig: Rig) -> None:
        for _ in range(10):
            file = await a_complete_upload(rig.database)
            until = file.updated_at + DAY
            held, deleted = await asyncio.gather(
                rig.database.describe(ALICE, file.id, {"retain_until": until}),
                rig.another().terminate(ALICE, file.id),
                return_exceptions=True,
            )
            assert isinstance(held, UploadGone) != isinstance(deleted, Retained)

    async def test_nobody_holds_the_file_of_another(self, database: SurveyedDatabase) -> None:
        file = await a_complete_upload(database)
        for stranger in STRANGERS:
            with pytest.raises(UploadNotFound):
                await database.describe(stranger, file.id, {"retain_until": file.updated_at + DAY}, may_shorten=True)
        assert await database.get(ALICE, file.id) == file


class TestTombstones:
    async def test_what_was_deleted_is_known_by_whom_and_is_listed_when_asked_for(self, rig: Rig) -> None:
        database = rig.database
        file, other = await a_complete_upload(database), await a_complete_upload(database)
        await rig.pass_time(5)
        gone = await database.terminate(ALICE, file.id, "token:7")
        assert (gone.ended_by, gone.state) == ("token:7", State.TERMINATED)
        assert gone.updated_at > other.updated_at
        listed = await database.list_files(ALICE, FileFilter(states=frozenset({State.TERMINATED})), None, 10)
        assert [each.id for each in listed] == [file.id]
        assert [each.id for each in await database.list_files(ALICE, FileFilter(), None, 10)] == [other.id]
        assert len(await database.list_files(ALICE, FileFilter(states=LISTED), None, 10)) == 2


class TestDigests:
    async def test_a_file_is_digested_once_by_one_and_its_digest_stays(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database, Keeping(digests=True))
        taken = await asyncio.gather(*[each.claim_undigested(60.0, 5) for each in (database, rig.another()) * 5])
        assert [upload.id for batch in taken for upload in batch] == [file.id]
        assert (await database.record_digest(file, DIGEST)).sha256 == DIGEST
        assert (await database.get(ALICE, file.id)).sha256 == DIGEST
        assert (await database.record_digest(file, DIGEST)).sha256 == DIGEST
        await rig.pass_time(1000)
        assert await database.claim_undigested(60.0, 5) == []

    @pytest.mark.servers
    async def test_one_file_is_given_out_whatever_was_known_of_the_table(self, postgres_rig: PostgresRig) -> None:
        """The planner may take the uploads for one row, as they were when it looked last."""
        database = postgres_rig.database
        await completed(database, Keeping(digests=True))
        await postgres_rig.query("ANALYZE uploads")
        for _ in range(3):
            await completed(database, Keeping(digests=True))
        assert [len(await database.claim_undigested(60.0, 1)) for _ in range(5)] == [1, 1, 1, 1, 0]

    async def test_whoever_dies_over_a_file_is_followed_by_another(self, rig: Rig) -> None:
        file = await completed(rig.database, Keeping(digests=True))
        assert await rig.database.claim_undigested(60.0, 5)
        await rig.pass_time(50)
        await rig.database.postpone_digest(file, 60.0)
        await rig.pass_time(50)
        assert await rig.database.claim_undigested(60.0, 5) == []
        await rig.pass_time(20)
        assert [each.id for each in await rig.database.claim_undigested(60.0, 5)] == [file.id]

    async def test_nobody_puts_off_the_digest_of_anothers_file(self, database: SurveyedDatabase) -> None:
        file = await completed(database, Keeping(digests=True))
        for stranger in STRANGERS:
            await database.postpone_digest(replace(file, scope=stranger), 1000.0)
        assert [each.id for each in await database.claim_undigested(60.0, 5)] == [file.id]

    async def test_files_are_digested_only_where_that_is_wanted(self, database: SurveyedDatabase) -> None:
        file = await a_complete_upload(database)
        await database.postpone_digest(file, 0.0)
        assert await database.claim_undigested(60.0, 5) == []

    async def test_batches_are_bounded(self, database: SurveyedDatabase) -> None:
        files = [await completed(database, Keeping(digests=True)) for _ in range(3)]
        taken = [await database.claim_undigested(60.0, 2) for _ in range(3)]
        assert [len(batch) for batch in taken] == [2, 1, 0]
        assert {each.id for batch in taken for each in batch} == {file.id for file in files}

    async def test_what_is_gone_or_another_object_has_no_digest(self, rig: Rig) -> None:
        database = rig.database
        file = await completed(database, Keeping(digests=True))
        with pytest.raises(Fenced):
            await database.record_digest(replace(file, etag="another"), DIGEST)
        await database.terminate(ALICE, file.id)
        with pytest.raises(Fenced):
            await database.record_digest(file, DIGEST)
        await database.postpone_digest(file, 0.0)
        assert await database.claim_undigested(60.0, 5) == []

    async def test_one_put_object_is_digested_too(self, database: SurveyedDatabase) -> None:
        upload = await a_writer(database)
        stored = StoredObject(upload.object_key, 20 * MIB, "etag", 5)
        step = a_step(20 * MIB, state=State.COMPLETE, stored=stored, keeping=Keeping(digests=True))
        file = await database.commit(upload, step)
        assert await database.claim_undigested(60.0, 5) == [file]
