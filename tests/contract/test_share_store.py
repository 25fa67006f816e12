"""What `ports.ShareStore` promises, by all databases."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import ALICE, STRANGERS, a_complete_upload, an_upload_in
from tusgate.core.errors import InvalidRequest, NotComplete, UploadGone, UploadNotFound
from tusgate.core.model import State, UploadId
from tusgate.core.sharing import NewShare, ShareId

if TYPE_CHECKING:
    from typing import Any

    from tests.contract.database_rig import Rig
    from tusgate.core.model import Upload
    from tusgate.core.sharing import Share
    from tusgate.ports import SurveyedDatabase

WINDOW = 60.0


def a_new_share(file: Upload, **changes: Any) -> NewShare:
    share_id = ShareId(secrets.token_urlsafe(18))
    return replace(NewShare(id=share_id, scope=file.scope, file_id=file.id, created_by="token:1"), **changes)


async def a_share(database: SurveyedDatabase, **changes: Any) -> Share:
    return await database.create_share(a_new_share(await a_complete_upload(database), **changes))


async def test_a_link_comes_back_as_it_was_made(database: SurveyedDatabase) -> None:
    file = await a_complete_upload(database)
    new = a_new_share(
        file, password=b"\x01hash\x00", max_downloads=3, expires_at=file.created_at + timedelta(seconds=90)
    )
    made = await database.create_share(new)
    assert (made.id, made.scope, made.file_id, made.created_by) == (new.id, ALICE, file.id, "token:1")
    assert (made.password, made.max_downloads, made.expires_at) == (new.password, 3, new.expires_at)
    assert (made.downloads, made.revoked_at) == (0, None)
    assert await database.find_share(made.id) == made
    assert await database.list_shares(ALICE, file.id) == [made]


async def test_the_links_of_a_file_are_its_own_and_the_newest_comes_first(rig: Rig) -> None:
    database = rig.database
    file, other = await a_complete_upload(database), await a_complete_upload(database)
    first = await database.create_share(a_new_share(file))
    await rig.pass_time(1)
    second = await database.create_share(a_new_share(file))
    await database.create_share(a_new_share(other))
    assert [each.id for each in await database.list_shares(ALICE, file.id)] == [second.id, first.id]
    assert await database.list_shares(ALICE, UploadId("A" * 24)) == []


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.UPLOADING, NotComplete),
        (State.SEALED, NotComplete),
        (State.FAILED, UploadGone),
        (State.EXPIRED, UploadGone),
        (State.TERMINATED, UploadGone),
    ],
)
async def test_only_a_finished_file_is_shared(database: SurveyedDatabase, state: State, error: type[Exception]) -> None:
    file = await an_upload_in(database, state)
    with pytest.raises(error):
        await database.create_share(a_new_share(file))
    assert await database.list_shares(file.scope, file.id) == []


async def test_a_link_whose_time_is_over_is_not_made(database: SurveyedDatabase) -> None:
    file = await a_complete_upload(database)
    with pytest.raises(InvalidRequest, match="expires_at"):
        await database.create_share(a_new_share(file, expires_at=file.created_at - timedelta(seconds=1)))


async def test_a_link_is_good_until_its_time_is_over(rig: Rig) -> None:
    file = await a_complete_upload(rig.database)
    share = await rig.database.create_share(a_new_share(file, expires_at=file.created_at + timedelta(seconds=90)))
    await rig.pass_time(60)
    assert await rig.database.find_share(share.id) is not None
    await rig.pass_time(60)
    assert await rig.database.find_share(share.id) is None
    assert not await rig.database.count_download(share)
    assert [each.id for each in await rig.database.list_shares(ALICE, file.id)] == [share.id]


async def test_a_revoked_link_is_good_for_nothing_and_keeps_the_time_of_its_end(rig: Rig) -> None:
    share = await a_share(rig.database)
    revoked = await rig.database.revoke_share(ALICE, share.file_id, share.id)
    assert revoked.revoked_at is not None
    assert await rig.database.find_share(share.id) is None
    assert not await rig.database.count_download(share)
    assert await rig.database.revoke_share(ALICE, share.file_id, share.id) == revoked


async def test_nobody_lists_revokes_uses_up_or_makes_a_link_to_anothers_file(database: SurveyedDatabase) -> None:
    share = await a_share(database, max_downloads=1)
    for stranger in STRANGERS:
        assert await database.list_shares(stranger, share.file_id) == []
        with pytest.raises(UploadNotFound):
            await database.revoke_share(stranger, share.file_id, share.id)
        assert not await database.count_download(replace(share, scope=stranger))
        with pytest.raises(UploadNotFound):
            await database.create_share(
                replace(NewShare(id=ShareId("x"), scope=stranger, file_id=share.file_id, created_by=""))
            )
    with pytest.raises(UploadNotFound):
        await database.revoke_share(ALICE, UploadId("A" * 24), share.id)
    assert await database.find_share(share.id) == share


async def test_of_twenty_downloads_at_once_exactly_as_many_begin_as_are_allowed(rig: Rig) -> None:
    share = await a_share(rig.database, max_downloads=3)
    others = [rig.database, rig.another()]
    began = await asyncio.gather(*[others[turn % 2].count_download(share) for turn in range(20)])
    assert began.count(True) == 3
    found = await rig.database.find_share(share.id)
    assert found is not None
    assert (found.downloads, found.is_used_up) == (3, True)


async def test_a_link_without_a_limit_counts_all_the_same(database: SurveyedDatabase) -> None:
    share = await a_share(database)
    assert [await database.count_download(share) for _ in range(3)] == [True] * 3
    found = await database.find_share(share.id)
    assert found is not None
    assert (found.downloads, found.is_used_up) == (3, False)


async def test_tries_are_bounded_within_a_window_whoever_makes_them(rig: Rig) -> None:
    share = await a_share(rig.database)
    others = [rig.database, rig.another()]
    tried = await asyncio.gather(*[others[turn % 2].begin_try(share, 5, WINDOW) for turn in range(20)])
    assert tried.count(True) == 5
    await rig.pass_time(WINDOW - 10)
    assert not await rig.database.begin_try(share, 5, WINDOW)
    await rig.pass_time(20)
    assert [await rig.database.begin_try(share, 5, WINDOW) for _ in range(6)] == [True] * 5 + [False]


async def test_a_try_that_is_taken_back_leaves_room_for_another(database: SurveyedDatabase) -> None:
    share = await a_share(database)
    for _ in range(10):
        assert await database.begin_try(share, 1, WINDOW)
        assert not await database.begin_try(share, 1, WINDOW)
        await database.take_try_back(share)
    await database.take_try_back(share)
    assert await database.begin_try(share, 1, WINDOW)
    assert not await database.begin_try(share, 1, WINDOW)


async def test_links_are_forgotten_a_while_after_they_or_their_file_have_ended(rig: Rig) -> None:
    database = rig.database
    file, deleted = await a_complete_upload(database), await a_complete_upload(database)
    kept = await database.create_share(a_new_share(file))
    await database.create_share(a_new_share(file, expires_at=file.created_at + timedelta(seconds=60)))
    revoked = await database.create_share(a_new_share(file))
    await database.revoke_share(ALICE, file.id, revoked.id)
    await database.create_share(a_new_share(deleted))
    await database.terminate(ALICE, deleted.id)
    await rig.pass_time(120)
    assert await database.forget_shares(1000.0, 10) == 0
    assert [await database.forget_shares(30.0, 2) for _ in range(3)] == [2, 1, 0]
    assert [each.id for each in await database.list_shares(ALICE, file.id)] == [kept.id]
    assert await database.list_shares(ALICE, deleted.id) == []
