"""Uploads that ended long ago are forgotten, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import (
    CELL,
    SQL_DATABASES,
    a_complete_upload,
    a_final,
    a_new_upload,
    a_part,
    a_step,
    a_writer,
    an_upload_in,
    garbage_of,
)
from tests.contract.test_database_concatenation import LENGTH, a_complete_partial, a_member, home_of
from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.errors import TokenSpent, UploadNotFound
from tusgate.core.model import State
from tusgate.database.rows import PARTS_FORGOTTEN

if TYPE_CHECKING:
    from tests.contract.database_rig import Rig, SqlRig
    from tusgate.core.model import Upload
    from tusgate.ports import Database

DAY = 86_400.0
ENDED = [State.TERMINATED, State.EXPIRED, State.FAILED]


async def all_removed(rig: Rig) -> None:
    """Collect all garbage, twice and half a day apart, as the store confirms it."""
    for _ in range(2):
        await rig.pass_time(DAY / 2)
        while found := await rig.database.due_garbage(1000, 0.0):
            await rig.database.drop_garbage(found, 1.0)


async def is_known(database: Database, upload: Upload) -> bool:
    try:
        await database.get(upload.scope, upload.id)
    except UploadNotFound:
        return False
    return True


async def test_what_ended_long_ago_is_unknown_and_the_rest_stays(rig: Rig) -> None:
    uploads = {state: await an_upload_in(rig.database, state) for state in State}
    await all_removed(rig)
    assert await rig.database.forget_ended(2 * DAY, 100) == 0
    await rig.pass_time(2 * DAY)
    lately = await an_upload_in(rig.database, State.TERMINATED)
    assert await rig.database.forget_ended(2 * DAY, 100) == len(ENDED)
    assert await rig.database.forget_ended(2 * DAY, 100) == 0
    assert {state for state in State if not await is_known(rig.database, uploads[state])} == {*ENDED}
    assert await is_known(rig.database, lately)


async def test_what_may_still_lie_in_the_store_is_not_forgotten(rig: Rig) -> None:
    """I11: its row says which store that is."""
    file = await a_complete_upload(rig.database)
    await rig.database.terminate(file.scope, file.id)
    await rig.pass_time(10 * DAY)
    assert await rig.database.forget_ended(DAY, 100) == 0
    assert await garbage_of(rig, file) != set()
    await rig.pass_time(DAY)
    await all_removed(rig)
    assert await rig.database.forget_ended(DAY, 100) == 1
    assert not await is_known(rig.database, file)


async def test_an_upload_token_stays_spent(rig: Rig) -> None:
    first = await rig.database.create(a_new_upload(token_id="once"))
    await rig.database.terminate(first.scope, first.id)
    await rig.pass_time(1000 * DAY)
    assert await rig.database.forget_ended(DAY, 100) == 0
    with pytest.raises(TokenSpent):
        await rig.database.create(a_new_upload(token_id="once"))


async def test_partials_stay_while_their_final_is_made_and_a_group_as_long_as_its_partials(rig: Rig) -> None:
    database = rig.database
    partials = [await a_complete_partial(database) for _ in range(2)]
    final = await database.concatenate(a_final(length=2 * LENGTH), partials)
    member = await a_member(database)
    group = await home_of(database, member)
    await database.terminate(member.scope, member.id)
    await rig.pass_time(JOINED_WITHIN + DAY)
    await database.expire(100)
    await all_removed(rig)
    await rig.pass_time(2 * DAY)
    while await database.forget_ended(DAY, 100):
        pass
    assert [await is_known(database, each) for each in (*partials, final)] == [True] * 3
    assert [await is_known(database, each) for each in (member, group)] == [False] * 2


async def test_two_processes_forget_at_once(rig: Rig) -> None:
    uploads = [await an_upload_in(rig.database, State.TERMINATED) for _ in range(20)]
    await all_removed(rig)
    await rig.pass_time(DAY)
    others = [rig.database, rig.another()]
    while sum(await asyncio.gather(*[each.forget_ended(DAY, 3) for each in others])):
        pass
    assert not any([await is_known(rig.database, each) for each in uploads])


@pytest.mark.parametrize("rig", SQL_DATABASES, indirect=True)
async def test_an_upload_of_many_parts_is_forgotten_in_several_steps(rig: SqlRig) -> None:
    count = 3 * PARTS_FORGOTTEN
    length = (count + 1) * CELL
    upload = await a_writer(rig.database, length=length)
    parts = tuple(a_part(number) for number in range(1, count + 1))
    await rig.database.commit(upload, a_step(count * CELL, length=length, parts=parts))
    await rig.database.terminate(upload.scope, upload.id)
    await all_removed(rig)
    await rig.pass_time(DAY)
    assert [await rig.database.forget_ended(DAY, 1) for _ in range(4)] == [1, 1, 1, 0]
    assert await rig.query("SELECT count(*) FROM parts") == [(0,)]
