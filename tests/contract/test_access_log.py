"""What `ports.AccessLog` promises, by all databases."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.contract.database_rig import ALICE, STRANGERS, a_complete_upload
from tests.contract.test_share_store import a_new_share
from tusgate.core.audit import AccessFilter, AccessId, EndedAccess, Ending, How, NewAccess
from tusgate.core.listing import Position
from tusgate.core.model import Scope, UploadId

if TYPE_CHECKING:
    from typing import Any

    from tests.contract.database_rig import Rig
    from tusgate.core.audit import Access
    from tusgate.core.model import Upload
    from tusgate.ports import SurveyedDatabase

ANY = AccessFilter()


def an_access(file: Upload, **changes: Any) -> NewAccess:
    new = NewAccess(
        id=AccessId(secrets.token_urlsafe(18)),
        scope=file.scope,
        file_id=file.id,
        reader="bob",
        proof="token:1",
        how=How.CONTENT,
        client="2001:db8::1",
        first_byte=5,
        wanted=10,
    )
    return replace(new, **changes)


async def only(database: SurveyedDatabase, file: Upload) -> Access:
    (row,) = await database.list_accesses(file.scope, file.id, None, 10)
    return row


async def test_an_access_comes_back_as_it_began_and_as_it_ended(rig: Rig) -> None:
    database, file = rig.database, await a_complete_upload(rig.database)
    new = an_access(file)
    await database.begin_accesses([new])
    begun = await only(database, file)
    assert (begun.id, begun.scope, begun.file_id, begun.reader, begun.proof) == (
        *(new.id, ALICE, file.id, "bob", "token:1"),
    )
    assert (begun.how, begun.client, begun.first_byte, begun.wanted) == (How.CONTENT, "2001:db8::1", 5, 10)
    assert (begun.ending, begun.sent, begun.ended_at) == (Ending.STARTED, None, None)
    await rig.pass_time(3)
    await database.end_accesses([EndedAccess(new, 7)])
    ended = await only(database, file)
    assert (ended.ending, ended.sent) == (Ending.BROKEN, 7)
    assert ended.ended_at is not None
    assert (ended.ended_at - ended.began_at).total_seconds() > 2
    await database.end_accesses([EndedAccess(new, 10)])
    assert await only(database, file) == ended, "an end is an end"


async def test_what_is_over_at_once_has_ended_when_it_began(database: SurveyedDatabase) -> None:
    file = await a_complete_upload(database)
    new = an_access(file, how=How.API, client=None, first_byte=None, wanted=None, ending=Ending.DONE)
    await database.begin_accesses([new])
    row = await only(database, file)
    assert (row.ended_at, row.ending) == (row.began_at, Ending.DONE)
    assert (row.client, row.first_byte, row.wanted) == (None, None, None)


async def test_a_counted_access_is_written_down_only_if_it_counts(rig: Rig) -> None:
    """Twenty at once, by two processes: rows and downloads agree, and neither passes the limit."""
    file = await a_complete_upload(rig.database)
    share = await rig.database.create_share(a_new_share(file, max_downloads=3))
    others = [rig.database, rig.another()]
    began = await asyncio.gather(*[others[turn % 2].begin_counted_access(an_access(file), share) for turn in range(20)])
    assert began.count(True) == 3
    assert len(await rig.database.list_accesses(ALICE, file.id, None, 50)) == 3
    found = await rig.database.find_share(share.id)
    assert found is not None
    assert found.downloads == 3
    await rig.database.revoke_share(ALICE, file.id, share.id)
    assert not await rig.database.begin_counted_access(an_access(file), share)


async def test_a_page_begins_where_the_last_one_ended(rig: Rig) -> None:
    file = await a_complete_upload(rig.database)
    made = []
    for turn in range(7):
        new = an_access(file)
        await rig.database.begin_accesses([new])
        made.append(new.id)
        if turn % 2:
            await rig.pass_time(1)
    seen: list[Access] = []
    after = None
    while page := await rig.database.list_accesses(ALICE, file.id, after, 2):
        seen += page
        after = Position(page[-1].began_at, UploadId(page[-1].id))
    assert sorted(row.id for row in seen) == sorted(made)
    assert [row.began_at for row in seen] == sorted((row.began_at for row in seen), reverse=True)


async def test_nobody_sees_or_ends_an_access_to_anothers_file(database: SurveyedDatabase) -> None:
    file = await a_complete_upload(database)
    new = an_access(file)
    await database.begin_accesses([new])
    for stranger in STRANGERS:
        assert await database.list_accesses(stranger, file.id, None, 10) == []
        await database.end_accesses([EndedAccess(replace(new, scope=stranger), 10)])
    assert (await only(database, file)).ending is Ending.STARTED


async def test_an_administrator_sees_all_of_one_tenant(rig: Rig) -> None:
    database = rig.database
    mine = await a_complete_upload(database)
    bobs = await a_complete_upload(database, scope=Scope("acme", "bob"))
    foreign = await a_complete_upload(database, scope=Scope("other", "alice"))
    for file, reader in ((mine, "alice"), (mine, "bob"), (bobs, "bob"), (foreign, "alice")):
        await database.begin_accesses([an_access(file, reader=reader)])
        await rig.pass_time(1)

    async def found(wanted: AccessFilter, limit: int = 10) -> list[tuple[str, str]]:
        rows = await database.list_all_accesses("acme", wanted, None, limit)
        return [(row.file_id, row.reader) for row in rows]

    assert await found(ANY) == [(bobs.id, "bob"), (mine.id, "bob"), (mine.id, "alice")]
    assert await found(ANY, 2) == [(bobs.id, "bob"), (mine.id, "bob")]
    assert await found(AccessFilter(file_id=mine.id)) == [(mine.id, "bob"), (mine.id, "alice")]
    assert await found(AccessFilter(file_id=foreign.id)) == []
    assert await found(AccessFilter(reader="bob")) == [(bobs.id, "bob"), (mine.id, "bob")]
    rows = await database.list_all_accesses("acme", ANY, None, 10)
    middle = rows[1].began_at
    assert await found(AccessFilter(began_from=middle)) == [(bobs.id, "bob"), (mine.id, "bob")]
    assert await found(AccessFilter(began_before=middle)) == [(mine.id, "alice")]
    following = await database.list_all_accesses("acme", ANY, Position(middle, UploadId(rows[1].id)), 10)
    assert following == [rows[2]]


async def test_accesses_are_forgotten_by_age_the_oldest_first(rig: Rig) -> None:
    file = await a_complete_upload(rig.database)
    made = []
    for _ in range(5):
        made.append(an_access(file))
        await rig.database.begin_accesses([made[-1]])
        await rig.pass_time(10)
    assert await rig.database.forget_accesses(25.0, 1) == 1
    assert await rig.database.forget_accesses(timedelta(seconds=25).total_seconds(), 10) == 2
    left = await rig.database.list_accesses(ALICE, file.id, None, 10)
    assert [row.id for row in left] == [made[4].id, made[3].id]
