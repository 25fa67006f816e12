"""What `ports.TokenStore` promises about static tokens, and `Database.create` about spent ones, by all databases."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import ALICE, STRANGERS, a_new_upload, a_writer
from tusgate.core.access import USER, NewApiToken, Permission
from tusgate.core.errors import TokenSpent
from tusgate.core.model import State

if TYPE_CHECKING:
    from tests.contract.database_rig import Rig
    from tusgate.ports import TokenStore

NEW = NewApiToken(
    id="00c0ffee00c0ffee",
    digest=hashlib.sha256(b"secret").digest(),
    scope=ALICE,
    permissions=USER,
    label="the scanner of the café",
    lifetime=None,
)


class TestStaticTokens:
    async def test_a_token_comes_back_as_it_was_made(self, database: TokenStore) -> None:
        made = await database.create_token(NEW)
        assert (made.id, made.digest, made.scope, made.permissions, made.label) == (
            NEW.id,
            NEW.digest,
            NEW.scope,
            NEW.permissions,
            NEW.label,
        )
        assert (made.expires_at, made.last_used_at, made.revoked_at) == (None, None, None)
        assert await database.get_token(NEW.id) == made
        assert await database.list_tokens() == [made]

    async def test_a_lifetime_is_counted_by_the_database(self, database: TokenStore) -> None:
        made = await database.create_token(replace(NEW, lifetime=90.0))
        assert made.expires_at is not None
        assert (made.expires_at - made.created_at).total_seconds() == pytest.approx(90.0, abs=0.01)

    async def test_a_token_without_permissions_has_none(self, database: TokenStore) -> None:
        await database.create_token(replace(NEW, permissions=frozenset()))
        found = await database.get_token(NEW.id)
        assert found is not None
        assert found.permissions == frozenset()

    async def test_an_unknown_token_is_none(self, database: TokenStore) -> None:
        assert await database.get_token("0000000000000000") is None
        assert await database.revoke_token("0000000000000000") is None
        await database.note_token_use("0000000000000000")
        assert await database.list_tokens() == []

    async def test_a_revoked_token_stays_in_the_list_with_the_time_of_its_first_revocation(self, rig: Rig) -> None:
        await rig.database.create_token(NEW)
        revoked = await rig.database.revoke_token(NEW.id)
        assert revoked is not None
        assert revoked.revoked_at is not None
        again = await rig.database.revoke_token(NEW.id)
        assert again == revoked
        assert await rig.database.get_token(NEW.id) == revoked
        assert await rig.database.list_tokens() == [revoked]

    async def test_its_use_is_noted_and_changes_nothing_else(self, database: TokenStore) -> None:
        made = await database.create_token(NEW)
        await database.note_token_use(NEW.id)
        used = await database.get_token(NEW.id)
        assert used is not None
        assert used.last_used_at is not None
        assert replace(used, last_used_at=None) == made

    async def test_tokens_are_listed_by_age_and_of_all_tenants(self, rig: Rig) -> None:
        for number, scope in enumerate((ALICE, *STRANGERS)):
            await rig.database.create_token(replace(NEW, id=f"{9 - number:016x}", scope=scope))
            await rig.pass_time(1.0)
        assert [token.scope for token in await rig.database.list_tokens()] == [ALICE, *STRANGERS]

    async def test_another_process_sees_a_revocation(self, rig: Rig) -> None:
        await rig.database.create_token(replace(NEW, permissions=frozenset({Permission.ADMIN})))
        other = rig.another()
        await other.revoke_token(NEW.id)
        found = await rig.database.get_token(NEW.id)
        assert found is not None
        assert found.revoked_at is not None
        await other.close()


class TestSpentTokens:
    """`token_id`: one upload token makes one upload."""

    async def test_a_second_creation_with_a_token_finds_the_first_upload(self, rig: Rig) -> None:
        first = await rig.database.create(a_new_upload(token_id="once"))
        with pytest.raises(TokenSpent) as refused:
            await rig.database.create(a_new_upload(token_id="once"))
        assert refused.value.upload == first
        assert sum((await rig.database.count_by_state()).values()) == 1

    async def test_a_token_stays_spent_when_its_upload_has_ended(self, rig: Rig) -> None:
        first = await a_writer(rig.database, token_id="once")
        ended = await rig.database.terminate(first.scope, first.id)
        with pytest.raises(TokenSpent) as refused:
            await rig.database.create(a_new_upload(token_id="once"))
        assert refused.value.upload is not None
        assert refused.value.upload.id == ended.id
        assert refused.value.upload.state is State.TERMINATED

    async def test_of_twenty_creations_at_once_exactly_one_makes_an_upload(self, rig: Rig) -> None:
        news = [a_new_upload(token_id="once") for _ in range(20)]
        outcomes = await asyncio.gather(*(rig.database.create(new) for new in news), return_exceptions=True)
        made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, TokenSpent)]
        assert (len(made), len(refused)) == (1, 19)
        assert {error.upload for error in refused} == {made[0]}

    async def test_the_same_id_in_the_hands_of_others_is_another_token(self, rig: Rig) -> None:
        for scope in (ALICE, *STRANGERS):
            await rig.database.create(a_new_upload(token_id="once", scope=scope))
        await rig.database.create(a_new_upload())
        await rig.database.create(a_new_upload())
        assert sum((await rig.database.count_by_state()).values()) == len(STRANGERS) + 3
