"""What `ports.Database` promises about partials, their groups and finals."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import (
    CELL,
    LIFETIME,
    STRANGERS,
    a_final,
    a_new_upload,
    a_part,
    a_piece,
    a_step,
    an_object,
)
from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.errors import Fenced, StillNeeded, UploadGone, UploadNotFound
from tusgate.core.grid import MIB, Grid
from tusgate.core.listing import FileFilter
from tusgate.core.model import MultipartId, ObjectKey, Role, State, StoredObject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tests.contract.database_rig import Rig
    from tusgate.core.model import NewUpload, Upload
    from tusgate.ports import Database

LENGTH = 20 * MIB


def a_group(**changes: Any) -> NewUpload:
    return a_new_upload(**{"role": Role.GROUP, "length": None, "metadata": None, **changes})


def behind(taken: Sequence[Grid]) -> Grid:
    """Return three cells after all others."""
    return Grid(((2, CELL), (1, 4 * MIB)), max((grid.last for grid in taken), default=0) + 1)


async def a_member(database: Database, name: str = "file", **changes: Any) -> Upload:
    new = a_new_upload(**{"role": Role.PARTIAL, **changes})
    group = a_group(scope=new.scope, lifetime=new.lifetime)
    return await database.create_partial(new, group, name, behind)


async def filled(database: Database, member: Upload) -> Upload:
    """Return `member` with all its bytes in three parts."""
    writer, _ = await database.claim(member, "replica-1")
    first = member.grid.first
    parts = tuple(replace(part, number=part.number + first - 1) for part in (a_part(1), a_part(2), a_part(3, 4 * MIB)))
    return await database.commit(writer, a_step(LENGTH, state=State.UPLOADING, parts=parts))


async def a_complete_partial(database: Database, **changes: Any) -> Upload:
    writer, _ = await database.claim(
        await database.create(a_new_upload(**{"role": Role.PARTIAL, **changes})), "replica-1"
    )
    return await database.commit(writer, a_step(LENGTH, state=State.COMPLETE, stored=an_object(writer)))


async def home_of(database: Database, member: Upload) -> Upload:
    assert member.group is not None
    return await database.get(member.scope, member.group)


async def adopted(database: Database, *members: Upload, **changes: Any) -> Upload:
    """Return the final that the group of `members` has become."""
    home = await home_of(database, members[0])
    final = a_final(id=home.id, object_key=home.object_key, length=len(members) * LENGTH, **changes)
    parts = [
        replace(part, number=member.grid.first + part.number - 1, start=index * LENGTH + part.start)
        for index, member in enumerate(members)
        for part in (a_part(1), a_part(2), a_part(3, 4 * MIB))
    ]
    return await database.concatenate(final, members, parts)


async def garbage_in(rig: Rig) -> set[tuple[str, str | None]]:
    """Return (key, id of the multipart upload) of all that may be removed. To be asked once."""
    return {(row.key, row.multipart_id) for row in await rig.database.due_garbage(1000, 0.0)}


class TestGroups:
    async def test_the_first_partial_opens_the_group_and_others_lie_behind_it(self, database: Database) -> None:
        first, second = await a_member(database), await a_member(database)
        home = await home_of(database, first)
        assert (home.role, home.state, home.offset, home.epoch) == (Role.GROUP, State.UPLOADING, 0, 0)
        assert second.group == first.group == home.id
        assert first.object_key == second.object_key == home.object_key
        assert (first.grid.first, second.grid.first) == (1, 4)
        assert first.role is Role.PARTIAL
        assert {member.id for member in await database.members(home)} == {first.id, second.id}

    async def test_names_and_owners_keep_groups_apart(self, database: Database) -> None:
        members = [await a_member(database), await a_member(database, "another")]
        members += [await a_member(database, scope=stranger) for stranger in STRANGERS]
        assert len({member.group for member in members}) == len(members)
        assert {member.grid.first for member in members} == {1}

    async def test_without_a_place_a_partial_is_one_like_any_other(self, database: Database) -> None:
        new = a_new_upload(role=Role.PARTIAL)
        partial = await database.create_partial(new, a_group(), "file", lambda _: None)
        assert (partial.group, partial.object_key, partial.grid) == (None, new.object_key, new.grid)

    async def test_places_of_partials_that_have_ended_are_taken(self, database: Database) -> None:
        first = await a_member(database)
        await database.terminate(first.scope, first.id)
        assert (await a_member(database)).grid.first == 4

    async def test_a_partial_that_comes_late_opens_a_group_of_its_own(self, rig: Rig) -> None:
        """The store counts the age of a multipart upload from its first partial, and each partial its own."""
        first = await a_member(rig.database, lifetime=None)
        await rig.pass_time(JOINED_WITHIN - 60)
        second = await a_member(rig.database, lifetime=None)
        await rig.pass_time(120)
        late = [await a_member(rig.database, lifetime=None) for _ in range(2)]
        assert second.group == first.group
        assert late[0].group == late[1].group != first.group
        assert {member.id for member in await rig.database.members(await home_of(rig.database, first))} == {
            first.id,
            second.id,
        }

    async def test_many_at_once_get_a_place_each(self, rig: Rig) -> None:
        members = await asyncio.gather(*[a_member(rig.another()) for _ in range(6)])
        assert len({member.group for member in members}) == 1
        assert sorted(member.grid.first for member in members) == [1, 4, 7, 10, 13, 16]

    async def test_a_full_partial_takes_no_object_of_its_own_into_the_garbage(self, rig: Rig) -> None:
        member = await filled(rig.database, await a_member(rig.database))
        home = await home_of(rig.database, member)
        await rig.database.record_multipart(home, MultipartId("shared"))
        await rig.database.terminate(member.scope, member.id)
        assert await garbage_in(rig) == set()

    async def test_a_group_expires_after_its_partials_with_its_multipart_upload(self, rig: Rig) -> None:
        database = rig.database
        old, young = await a_member(database), await a_member(database)
        home = await database.record_multipart(await home_of(database, old), MultipartId("shared"))
        await rig.pass_time(LIFETIME / 2)
        writer, _ = await database.claim(young, "replica-1")
        await database.commit(writer, a_step(8, state=State.UPLOADING, pieces=(a_piece(0, 8, "p"),)))
        await rig.pass_time(LIFETIME / 2 + 1)
        assert [upload.id for upload in await database.expire(100)] == [old.id]
        await rig.pass_time(LIFETIME)
        assert [upload.id for upload in await database.expire(100)] == [young.id]
        assert [upload.id for upload in await database.expire(100)] == [home.id]
        assert await garbage_in(rig) == {("p", None), (home.object_key, "shared")}

    async def test_a_group_takes_its_partials_with_it_when_it_fails(self, rig: Rig) -> None:
        database = rig.database
        full, begun = await filled(database, await a_member(database)), await a_member(database)
        writer, _ = await database.claim(begun, "replica-1")
        await database.commit(writer, a_step(8, state=State.UPLOADING, pieces=(a_piece(0, 8, "p"),)))
        home = await database.record_multipart(await home_of(database, full), MultipartId("shared"))
        await database.fail(home, "lost")
        for each in (full, begun, home):
            found = await database.get(each.scope, each.id)
            assert (found.state, found.reason, found.expires_at) == (State.FAILED, "lost", None)
        assert await garbage_in(rig) == {("p", None), (home.object_key, "shared")}


class TestFinals:
    async def test_a_final_of_objects_is_sealed_from_the_start(self, database: Database) -> None:
        a, b = await a_complete_partial(database), await a_complete_partial(database)
        new = a_final(length=2 * LENGTH)
        final = await database.concatenate(new, [a, b, a])
        assert (final.role, final.state, final.offset, final.length) == (Role.FINAL, State.SEALED, *[2 * LENGTH] * 2)
        assert (final.concat, final.metadata, final.expires_at) == (new.concat, new.metadata, None)
        assert [source.id for source in await database.sources(final)] == [a.id, b.id, a.id]
        assert [upload.id for upload in await database.claim_sealed("me", 60, 10)] == [final.id]

    async def test_a_group_turns_into_the_final_with_all_parts(self, rig: Rig) -> None:
        database = rig.database
        a, b = [await filled(database, await a_member(database)) for _ in range(2)]
        home = await database.record_multipart(await home_of(database, a), MultipartId("shared"))
        final = await adopted(database, a, b, filename="new name.txt", metadata=b"k dg==")
        assert (final.id, final.role, final.state) == (home.id, Role.FINAL, State.SEALED)
        assert (final.offset, final.length, final.multipart_id) == (2 * LENGTH, 2 * LENGTH, "shared")
        assert (final.filename, final.metadata, final.expires_at) == ("new name.txt", b"k dg==", None)
        assert [part.number for part in await database.parts(final)] == [1, 2, 3, 4, 5, 6]
        assert sum(part.size for part in await database.parts(final)) == final.length
        assert [source.id for source in await database.sources(final)] == [a.id, b.id]
        final = await database.complete(final, an_object(final))
        await rig.pass_time(LIFETIME + 1)
        assert {upload.id for upload in await database.expire(100)} == {a.id, b.id}
        assert await garbage_in(rig) == set()
        assert (await database.get(final.scope, final.id)).state is State.COMPLETE

    async def test_its_name_is_free_again_once_a_group_is_no_longer_open(self, database: Database) -> None:
        member = await filled(database, await a_member(database))
        final = await adopted(database, member)
        assert (await a_member(database)).group not in (final.id, None)

    async def test_partials_that_are_left_out_end_unless_they_hold_bytes(self, database: Database) -> None:
        a, b = [await filled(database, await a_member(database)) for _ in range(2)]
        left_out, begun = await a_member(database), await a_member(database)
        writer, _ = await database.claim(begun, "replica-1")
        await database.commit(writer, a_step(8, state=State.UPLOADING, pieces=(a_piece(0, 8, "p"),)))
        for kept in ((a,), (a, b), (a, begun)):
            with pytest.raises(Fenced):
                await adopted(database, *kept)
            with pytest.raises(Fenced):
                await database.gather(await home_of(database, a), kept, [a_part(1)])
        await database.terminate(begun.scope, begun.id)
        await adopted(database, a, b)
        found = await database.get(left_out.scope, left_out.id)
        assert (found.state, found.reason) == (State.TERMINATED, "its group was concatenated without it")
        assert (await database.get(a.scope, a.id)).state is State.UPLOADING

    async def test_a_gathered_group_becomes_an_object_of_its_own_until_its_partials_are_gone(self, rig: Rig) -> None:
        database = rig.database
        a = await filled(database, await a_member(database))
        home = await database.record_multipart(await home_of(database, a), MultipartId("shared"))
        sealed = await database.gather(home, [a], [a_part(1), a_part(2), a_part(3, 4 * MIB)])
        assert (sealed.role, sealed.state, sealed.offset) == (Role.GROUP, State.SEALED, LENGTH)
        complete = await database.complete(sealed, an_object(sealed))
        assert complete.expires_at is not None
        await rig.pass_time(LIFETIME + 1)
        assert [upload.id for upload in await database.expire(100)] == [a.id]
        assert [upload.id for upload in await database.expire(100)] == [home.id]
        assert await garbage_in(rig) == {(home.object_key, None)}

    async def test_what_has_changed_meanwhile_is_noticed(self, database: Database) -> None:
        a, b = [await filled(database, await a_member(database)) for _ in range(2)]
        home = await home_of(database, a)
        with pytest.raises(Fenced):
            await database.concatenate(a_final(), [a, replace(b, offset=7)])
        with pytest.raises(Fenced):
            await database.gather(home, [replace(a, offset=7)], [a_part(1)])
        await database.terminate(b.scope, b.id)
        with pytest.raises(Fenced):
            await adopted(database, a, b)
        await adopted(database, a)
        with pytest.raises(Fenced):
            await adopted(database, a)
        with pytest.raises(Fenced):
            await database.gather(home, [a], [a_part(1)])

    async def test_of_many_at_once_one_turns_the_group_into_its_final(self, rig: Rig) -> None:
        a = await filled(rig.database, await a_member(rig.database))
        outcomes = await asyncio.gather(*[adopted(rig.another(), a) for _ in range(5)], return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Fenced"] * 4 + ["Upload"]

    async def test_the_same_request_again_is_found(self, database: Database) -> None:
        a, b = await a_complete_partial(database), await a_complete_partial(database)
        new = a_final()
        assert await database.find_final(new, a.id) is None
        final = await database.concatenate(new, [a, b])
        assert (await database.find_final(new, a.id)) == final
        for other in (
            replace(new, concat="final;/files/b"),
            replace(new, metadata=None),
            *[replace(new, scope=stranger) for stranger in STRANGERS],
        ):
            assert await database.find_final(other, a.id) is None
        assert await database.find_final(new, b.id) is None
        await database.terminate(final.scope, final.id)
        assert await database.find_final(new, a.id) is None

    async def test_a_final_without_metadata_is_found_again(self, database: Database) -> None:
        a = await a_complete_partial(database)
        new = a_final(metadata=None)
        final = await database.concatenate(new, [a])
        assert (await database.find_final(new, a.id)) == final


class TestPartialsInUse:
    async def test_what_an_unfinished_final_needs_is_kept(self, rig: Rig) -> None:
        database = rig.database
        a, b = await a_complete_partial(database), await a_complete_partial(database)
        final = await database.concatenate(a_final(length=2 * LENGTH), [a, b])
        with pytest.raises(StillNeeded):
            await database.terminate(a.scope, a.id)
        await rig.pass_time(3 * LIFETIME)
        assert await database.expire(100) == []
        final = await database.record_multipart(final, MultipartId("m"))
        await database.complete(final, an_object(final))
        assert {upload.id for upload in await database.expire(100)} == {a.id, b.id}
        assert await garbage_in(rig) == {(a.object_key, None), (b.object_key, None)}

    async def test_being_used_prolongs_the_life_of_a_partial(self, rig: Rig) -> None:
        database = rig.database
        a = await a_complete_partial(database)
        assert a.expires_at is not None
        await rig.pass_time(LIFETIME - 1)
        final = await database.concatenate(a_final(length=LENGTH), [a])
        await database.complete(final, StoredObject(ObjectKey("o"), LENGTH, "e", 5))
        await rig.pass_time(60)
        assert await database.expire(100) == []
        await rig.pass_time(LIFETIME)
        assert [upload.id for upload in await database.expire(100)] == [a.id]

    async def test_a_final_in_whose_object_partials_lie_is_gone_for_clients_and_kept_for_them(self, rig: Rig) -> None:
        """DEL-08."""
        database = rig.database
        a, b = [await filled(database, await a_member(database)) for _ in range(2)]
        await database.record_multipart(await home_of(database, a), MultipartId("shared"))
        final = await adopted(database, a, b)
        final = await database.complete(final, an_object(final))
        await database.terminate(final.scope, final.id)
        hidden = await database.get(final.scope, final.id)
        assert (hidden.role, hidden.state, hidden.metadata, hidden.concat) == (Role.GROUP, State.COMPLETE, None, None)
        with pytest.raises(UploadGone):
            await database.terminate(final.scope, final.id)
        await database.terminate(a.scope, a.id)
        assert await database.expire(100) == []
        await database.terminate(b.scope, b.id)
        assert [upload.id for upload in await database.expire(100)] == [final.id]
        assert await garbage_in(rig) == {(final.object_key, None)}

    async def test_a_final_of_which_no_partial_is_left_ends_with_its_object(self, rig: Rig) -> None:
        database = rig.database
        a = await filled(database, await a_member(database))
        final = await adopted(database, a)
        final = await database.complete(final, an_object(final))
        await database.terminate(a.scope, a.id)
        assert (await database.terminate(final.scope, final.id)).state is State.TERMINATED
        assert await garbage_in(rig) == {(final.object_key, None)}

    async def test_nobody_concatenates_what_somebody_else_owns(self, database: Database) -> None:
        """AT-02."""
        a = await a_complete_partial(database)
        for stranger in STRANGERS:
            with pytest.raises(UploadNotFound):
                await database.concatenate(a_final(scope=stranger), [replace(a, scope=stranger)])


class TestWhatOwnersSee:
    async def test_finals_are_files_and_partials_and_groups_are_not(self, database: Database) -> None:
        a = await filled(database, await a_member(database))
        await a_complete_partial(database)
        assert await database.list_files(a.scope, FileFilter(), None, 10) == []
        final = await adopted(database, a, filename="Whole.txt")
        named = FileFilter(name_prefix="whole")
        assert await database.list_files(a.scope, named, None, 10) == [final]
        await database.terminate(final.scope, final.id)
        assert await database.list_files(a.scope, FileFilter(), None, 10) == []
        with pytest.raises(UploadGone):
            await database.describe(final.scope, final.id, {"filename": "x"})
