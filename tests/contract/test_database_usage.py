"""What tenants have and may have: counted in the commit that changes it, on every database (I14)."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.database_rig import (
    ALICE,
    CELL,
    LIFETIME,
    a_complete_upload,
    a_final,
    a_new_upload,
    a_part,
    a_piece,
    a_sealed_upload,
    a_step,
    a_writer,
    an_object,
)
from tusgate.core.errors import QuotaExceeded, Retained, StillNeeded, TooManyUploads, UploadGone, UploadNotFound
from tusgate.core.grid import MIB, Grid
from tusgate.core.model import Keeping, Role, Scope, State
from tusgate.core.quota import Measure, Quota, Usage, usage_of

TENANT = ALICE.tenant
ENOUGH = Quota(bytes=1 << 50)


def a_member(first, **changes):
    """Return a partial of 8 MiB that lies in the multipart upload of its group from part `first` on."""
    return a_new_upload(role=Role.PARTIAL, length=CELL, grid=Grid(((1, CELL),), first), **changes)


async def a_partial_in_place(database, first, name="g"):
    group = a_new_upload(role=Role.GROUP, length=None, metadata=None)
    partial = await database.create_partial(a_member(first), group, name, lambda _: Grid(((1, CELL),), first))
    partial, _ = await database.claim(partial, "replica-1")
    part = replace(a_part(first), start=0)
    return await database.commit(partial, a_step(CELL, length=CELL, state=State.UPLOADING, parts=(part,)))


async def test_nothing_is_used_by_a_tenant_without_uploads(database):
    assert await database.usage(TENANT) == Usage()
    await database.limit_usage(TENANT, ENOUGH)
    assert await database.usage(TENANT) == Usage()


@pytest.mark.parametrize("counted", [True, False], ids=["with limits", "without limits"])
class TestUsage:
    @pytest.fixture(autouse=True)
    async def limits(self, database, counted):
        await database.limit_usage(TENANT, ENOUGH if counted else None)

    async def test_declared_bytes_count_from_the_creation_on(self, database):
        await database.create(a_new_upload())
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 1)

    async def test_bytes_of_a_deferred_length_count_as_they_come(self, database):
        upload = await a_writer(database, length=None)
        assert await database.usage(TENANT) == Usage(0, 1, 1)
        piece = a_piece(0, 5 * MIB, "pieces/1")
        await database.commit(upload, a_step(5 * MIB, length=None, pieces=(piece,)))
        assert await database.usage(TENANT) == Usage(5 * MIB, 1, 1)

    async def test_a_length_that_is_declared_later_counts_then(self, database):
        upload = await a_writer(database, length=None)
        await database.commit(upload, a_step(0))
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 1)

    async def test_a_finished_upload_is_no_longer_unfinished(self, database):
        await a_sealed_upload(database)
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 1)
        await a_complete_upload(database)
        assert await database.usage(TENANT) == Usage(40 * MIB, 2, 1)

    async def test_what_is_deleted_counts_no_more(self, database):
        upload = await a_complete_upload(database)
        await database.terminate(upload.scope, upload.id)
        assert await database.usage(TENANT) == Usage()

    async def test_what_fails_counts_no_more(self, database):
        await database.fail(await a_writer(database), "broken")
        assert await database.usage(TENANT) == Usage()

    async def test_what_expires_counts_no_more(self, database):
        await database.create(a_new_upload(lifetime=-1.0))
        await database.expire(100)
        assert await database.usage(TENANT) == Usage()

    @pytest.mark.parametrize("by_setting", [True, False], ids=["by setting", "by its owner"])
    async def test_a_file_whose_time_is_over_gives_its_room_back_and_a_tombstone_takes_none(
        self, rig, database, by_setting
    ):
        sealed = await a_sealed_upload(database)
        file = await database.complete(sealed, an_object(sealed), Keeping(lifetime=60.0 if by_setting else None))
        if not by_setting:
            ends = file.completed_at + timedelta(seconds=60)
            await database.describe(file.scope, file.id, {"expires_at": ends})
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 0)
        await rig.pass_time(61.0)
        assert [expired.id for expired in await database.expire(100)] == [file.id]
        assert await database.usage(TENANT) == Usage()
        assert (await database.get(file.scope, file.id)).state is State.EXPIRED

    async def test_a_file_that_must_be_kept_keeps_its_room(self, database):
        file = await a_complete_upload(database)
        assert file.completed_at is not None
        until = file.completed_at + timedelta(days=1)
        await database.describe(file.scope, file.id, {"retain_until": until})
        with pytest.raises(Retained):
            await database.terminate(file.scope, file.id)
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 0)

    async def test_other_tenants_do_not_count(self, database):
        await database.create(a_new_upload(scope=Scope("other", "alice")))
        assert await database.usage(TENANT) == Usage()

    async def test_owners_of_a_tenant_count_together(self, database):
        await database.create(a_new_upload())
        await database.create(a_new_upload(scope=Scope(TENANT, "bob")))
        assert await database.usage(TENANT) == Usage(40 * MIB, 2, 2)

    async def test_partials_in_place_count_once_whatever_becomes_of_them(self, database):
        partials = [await a_partial_in_place(database, first) for first in (1, 2)]
        assert await database.usage(TENANT) == Usage(2 * CELL, 0, 0)
        group = await database.get(ALICE, partials[0].group)
        final = a_final(id=group.id, object_key=group.object_key, grid=group.grid, length=2 * CELL)
        sealed = await database.concatenate(final, partials, [a_part(1), a_part(2)])
        assert await database.usage(TENANT) == Usage(2 * CELL, 1, 1)
        await database.complete(sealed, an_object(sealed))
        await database.terminate(ALICE, partials[0].id)
        assert await database.usage(TENANT) == Usage(2 * CELL, 1, 0)
        await database.terminate(ALICE, sealed.id)
        assert await database.usage(TENANT) == Usage(2 * CELL, 0, 0)  # the other partial still lies in the object

    async def test_a_copied_final_counts_beside_its_partials(self, database):
        partials = [await a_complete_upload(database, role=Role.PARTIAL) for _ in range(2)]
        await database.concatenate(a_final(length=40 * MIB), partials)
        assert await database.usage(TENANT) == Usage(80 * MIB, 1, 1)

    async def test_all_tenants_are_told_side_by_side(self, database):
        await database.create(a_new_upload())
        await database.create(a_new_upload(scope=Scope("other", ""), length=5))
        assert await database.usages() == {TENANT: Usage(20 * MIB, 1, 1), "other": Usage(5, 1, 1)}


class TestLimits:
    @pytest.mark.parametrize(
        ("quota", "error"),
        [
            (Quota(bytes=39 * MIB), QuotaExceeded),
            (Quota(files=1), QuotaExceeded),
            (Quota(unfinished=1), TooManyUploads),
        ],
    )
    async def test_a_creation_that_passes_a_limit_leaves_nothing(self, database, quota, error):
        await database.limit_usage(TENANT, quota)
        await database.create(a_new_upload())
        refused = a_new_upload()
        with pytest.raises(error):
            await database.create(refused)
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 1)
        with pytest.raises(UploadNotFound):
            await database.get(ALICE, refused.id)

    async def test_what_reaches_a_limit_exactly_is_let_in(self, database):
        await database.limit_usage(TENANT, Quota(bytes=40 * MIB, files=2, unfinished=2))
        await database.create(a_new_upload())
        await database.create(a_new_upload())

    async def test_what_was_there_before_the_limit_counts(self, database):
        await database.create(a_new_upload())
        await database.limit_usage(TENANT, Quota(files=1))
        with pytest.raises(QuotaExceeded):
            await database.create(a_new_upload())

    async def test_a_limit_below_the_usage_refuses_growth_only(self, database):
        upload = await a_sealed_upload(database)
        await database.limit_usage(TENANT, ENOUGH)
        await database.limit_usage(TENANT, Quota(bytes=1, files=0, unfinished=0))
        upload = await database.absorb(upload, [a_part(3, 4 * MIB)])
        await database.complete(upload, an_object(upload))
        assert await database.usage(TENANT) == Usage(20 * MIB, 1, 0)
        with pytest.raises(QuotaExceeded):
            await database.create(a_new_upload())

    async def test_other_tenants_are_not_limited(self, database):
        await database.limit_usage("other", Quota(bytes=0, files=0, unfinished=0))
        await database.create(a_new_upload())

    async def test_lifted_limits_refuse_nothing(self, database):
        await database.limit_usage(TENANT, Quota(files=0))
        assert await database.limited_tenants() == [TENANT]
        await database.limit_usage(TENANT, None)
        assert await database.limited_tenants() == []
        await database.create(a_new_upload())

    async def test_a_step_of_deferred_length_that_passes_the_limit_changes_nothing(self, database):
        await database.limit_usage(TENANT, Quota(bytes=8 * MIB))
        upload = await a_writer(database, length=None)
        upload = await database.commit(upload, a_step(CELL, length=None, parts=(a_part(1),)))
        with pytest.raises(QuotaExceeded):
            await database.commit(upload, a_step(2 * CELL, length=None, parts=(a_part(2),)))
        assert await database.get(ALICE, upload.id) == upload
        assert [part.number for part in await database.parts(upload)] == [1]

    async def test_a_whole_object_that_passes_the_limit_is_not_recorded(self, database):
        await database.limit_usage(TENANT, Quota(bytes=1))
        upload = await a_writer(database, length=None)
        step = a_step(5, length=5, state=State.COMPLETE, stored=replace(an_object(upload), size=5))
        with pytest.raises(QuotaExceeded):
            await database.commit(upload, step)
        assert (await database.get(ALICE, upload.id)).state is State.UPLOADING

    async def test_a_copied_final_that_passes_the_limit_is_not_made(self, database):
        partials = [await a_complete_upload(database, role=Role.PARTIAL) for _ in range(2)]
        await database.limit_usage(TENANT, Quota(bytes=79 * MIB))
        with pytest.raises(QuotaExceeded):
            await database.concatenate(a_final(length=40 * MIB), partials)
        assert await database.usage(TENANT) == Usage(40 * MIB, 0, 0)

    async def test_a_final_in_place_needs_no_more_room(self, database):
        await database.limit_usage(TENANT, Quota(bytes=2 * CELL))
        partials = [await a_partial_in_place(database, first) for first in (1, 2)]
        group = await database.get(ALICE, partials[0].group)
        final = a_final(id=group.id, object_key=group.object_key, grid=group.grid, length=2 * CELL)
        await database.concatenate(final, partials, [a_part(1), a_part(2)])
        assert await database.usage(TENANT) == Usage(2 * CELL, 1, 1)

    async def test_of_fifty_creations_at_once_as_many_get_in_as_there_is_room_for(self, rig):
        """CC-08."""
        await rig.database.limit_usage(TENANT, Quota(bytes=60 * MIB))
        clients = [rig.another() for _ in range(4)]
        creations = [clients[n % 4].create(a_new_upload()) for n in range(50)]
        outcomes = await asyncio.gather(*creations, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {QuotaExceeded}
        assert len(refused) == 47
        assert await rig.database.usage(TENANT) == Usage(60 * MIB, 3, 3)

    async def test_counting_begins_while_uploads_are_made(self, rig):
        clients = [rig.another() for _ in range(4)]
        creations = [clients[n % 4].create(a_new_upload()) for n in range(30)]
        limits = [rig.database.limit_usage(TENANT, ENOUGH) for _ in range(3)]
        await asyncio.gather(*creations[:15], *limits, *creations[15:])
        assert await rig.database.usage(TENANT) == Usage(30 * 20 * MIB, 30, 30)
        assert (await rig.database.usages())[TENANT] == Usage(30 * 20 * MIB, 30, 30)


async def test_a_step_of_an_upload_of_declared_length_does_not_wait_for_its_tenant(postgres_rig):
    """A row that all uploads of a tenant share must not be in the way of their bytes."""
    database = postgres_rig.database
    await database.limit_usage(TENANT, ENOUGH)
    upload = await a_writer(database)
    connection = await asyncpg.connect(postgres_rig.dsn)
    try:
        await connection.execute("BEGIN")
        await connection.execute("UPDATE tenant_usage SET bytes = bytes")
        upload = await database.commit(upload, a_step(CELL, parts=(a_part(1),)))
        upload, _ = await database.claim(upload, "replica-2")
        assert (await database.get(ALICE, upload.id)).offset == CELL
    finally:
        await connection.close()


class TestRecount:
    async def test_a_count_that_is_right_stays(self, database):
        await database.limit_usage(TENANT, ENOUGH)
        await database.create(a_new_upload())
        assert await database.recount() == {TENANT: (Usage(20 * MIB, 1, 1), Usage(20 * MIB, 1, 1))}

    async def test_a_count_that_is_wrong_is_mended(self, rig):
        if not hasattr(rig, "query"):
            pytest.skip("the double keeps no count")
        await rig.database.limit_usage(TENANT, ENOUGH)
        await rig.database.create(a_new_upload())
        await rig.query("UPDATE tenant_usage SET bytes = 7, files = 0, unfinished = 3")
        assert await rig.database.recount() == {TENANT: (Usage(7, 0, 3), Usage(20 * MIB, 1, 1))}
        assert await rig.database.usage(TENANT) == Usage(20 * MIB, 1, 1)


PLACES = {"a": "s3 one/", "b": "s3 two/"}


class TestRoutes:
    async def test_an_upload_keeps_the_route_it_was_made_with(self, database):
        upload = await database.create(a_new_upload(route="a"))
        assert (upload.route, (await database.get(ALICE, upload.id)).route) == ("a", "a")

    async def test_garbage_has_the_route_of_its_upload(self, database):
        upload = await a_complete_upload(database, route="a")
        await database.terminate(ALICE, upload.id)
        assert {row.route for row in await database.due_garbage(10, 0.0)} == {"a"}

    async def test_a_partial_in_place_lies_where_its_group_does(self, database):
        group = a_new_upload(role=Role.GROUP, length=None, metadata=None, route="a")
        await database.create_partial(a_member(1, route="a"), group, "g", lambda _: Grid(((1, CELL),), 1))
        later = replace(group, id=a_new_upload().id, route="b")
        partial = await database.create_partial(a_member(2, route="b"), later, "g", lambda _: Grid(((1, CELL),), 2))
        assert partial.route == "a"

    async def test_routes_that_lead_where_they_led_are_fine(self, database):
        assert await database.check_routes(PLACES) == []
        assert await database.check_routes(PLACES) == []

    async def test_a_route_that_leads_elsewhere_is_told_while_something_lies_there(self, database):
        await database.check_routes(PLACES)
        await database.create(a_new_upload(route="a"))
        for _ in range(2):
            [found] = await database.check_routes({"a": "s3 three/", "b": "s3 two/"})
            assert (found.name, found.recorded, found.configured, found.is_used) == ("a", "s3 one/", "s3 three/", True)

    async def test_a_route_that_is_gone_is_told_while_something_lies_there(self, database):
        await database.check_routes(PLACES)
        await database.create(a_new_upload(route="a"))
        [found] = await database.check_routes({"b": "s3 two/"})
        assert (found.name, found.configured, found.is_used) == ("a", None, True)

    async def test_a_route_by_which_nothing_was_stored_may_lead_elsewhere(self, database):
        await database.check_routes(PLACES)
        [found] = await database.check_routes({"a": "s3 three/", "b": "s3 two/"})
        assert not found.is_used
        assert await database.check_routes({"a": "s3 three/", "b": "s3 two/"}) == []


async def go_on(database, upload, event):  # noqa: PLR0911 # one for each event
    """Let one thing happen to `upload`, if it can; return what it is then, or what has been made of it."""
    match event:
        case "delete":
            return await database.terminate(upload.scope, upload.id)
        case "fail" if upload.state in {State.UPLOADING, State.SEALED}:
            return await database.fail(upload, "broken")
        case "grow" if upload.state is State.UPLOADING and upload.offset < (
            CELL if upload.length is None else upload.length
        ):
            upload, _ = await database.claim(upload, "replica-1")
            piece = a_piece(upload.offset, MIB, f"pieces/{upload.id}/{upload.offset}")
            return await database.commit(upload, a_step(upload.offset + MIB, length=upload.length, pieces=(piece,)))
        case "declare" if upload.state is State.UPLOADING and upload.length is None:
            upload, _ = await database.claim(upload, "replica-1")
            return await database.commit(upload, a_step(upload.offset, length=20 * MIB))
        case "seal" if upload.state is State.UPLOADING and upload.length:
            upload, _ = await database.claim(upload, "replica-1")
            return await database.commit(upload, a_step(upload.length, length=upload.length, state=State.SEALED))
        case "finish" if upload.state is State.SEALED:
            return await database.complete(upload, an_object(upload))
        case "join" if upload.state is State.COMPLETE and upload.role is Role.PARTIAL:
            final = a_final(scope=upload.scope, length=upload.length)
            return await database.concatenate(final, [upload])
    return upload


EVENTS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from([None, 0, 5 * MIB, 20 * MIB]), st.sampled_from([None, Role.PARTIAL])),
    st.tuples(
        st.sampled_from(["delete", "fail", "grow", "declare", "seal", "finish", "join", "expire"]), st.integers(0, 9)
    ),
)
QUOTAS = st.builds(
    Quota,
    bytes=st.sampled_from([None, 25 * MIB, 60 * MIB]),
    files=st.sampled_from([None, 3]),
    unfinished=st.sampled_from([None, 2]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(EVENTS, max_size=25), quota=QUOTAS)
async def test_usage_is_what_a_recount_finds_after_any_history(rig, history, quota):
    """I14: by the rules of `usage_of`, and never above a limit."""
    database, ids = rig.database, []
    scope = Scope(secrets.token_hex(8), "alice")
    await database.limit_usage(scope.tenant, quota)
    for event, *details in history:
        with suppress(QuotaExceeded, TooManyUploads, UploadGone, StillNeeded):
            if event == "create":
                length, role = details
                ids.append((await database.create(a_new_upload(scope=scope, length=length, role=role))).id)
            elif event == "expire":
                await rig.pass_time(LIFETIME / 3)
                await database.expire(100)
            elif ids:
                upload = await database.get(scope, ids[details[0] % len(ids)])
                ids.append((await go_on(database, upload, event)).id)
        used = await database.usage(scope.tenant)
        for measure in Measure:
            limit = getattr(quota, measure)
            assert limit is None or getattr(used, measure) <= limit
    uploads = [await database.get(scope, upload_id) for upload_id in set(ids)]
    expected = sum(map(usage_of, uploads), Usage())
    assert await database.usage(scope.tenant) == expected
    assert (await database.recount())[scope.tenant] == (expected, expected)
    assert (await database.usages()).get(scope.tenant, Usage()) == expected
