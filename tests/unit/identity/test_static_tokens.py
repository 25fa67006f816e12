"""Static tokens: made once, found by id, compared by digest, and taken back within seconds."""

from __future__ import annotations

import re

import pytest

from tests.doubles.database import MemoryDatabase
from tests.wire.rig import Clock
from tusgate.core.access import Permission, Presented, Principal
from tusgate.core.errors import CredentialsExpired, DatabaseUnavailable, InvalidCredentials
from tusgate.core.model import Scope
from tusgate.identity.static_tokens import BELIEVED_FOR, NOTE_EVERY, StaticTokens, make_token

ALICE = Scope("acme", "alice")
READ = frozenset({Permission.READ})


class Ground:
    """A verifier with its store and its time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryDatabase(self.clock)
        self.tokens = StaticTokens(self.store, self.clock)

    async def made(self, lifetime: float | None = None) -> tuple[str, str]:
        """Return a new token, and its id."""
        token, new = make_token(ALICE, READ, "scanner", lifetime)
        await self.store.create_token(new)
        return token, new.id

    async def identified(self, token: str) -> Principal:
        principal = await self.tokens.verify(Presented(bearer=token))
        assert principal is not None
        return principal


@pytest.fixture
def ground() -> Ground:
    return Ground()


async def test_a_token_names_its_owner_and_permissions(ground: Ground) -> None:
    token, token_id = await ground.made()
    principal = await ground.identified(token)
    assert (principal.scope, principal.permissions, principal.proof) == (ALICE, READ, f"token:{token_id}")


async def test_what_is_kept_does_not_have_the_secret(ground: Ground) -> None:
    token, token_id = await ground.made()
    await ground.identified(token)
    secret = token.rpartition("_")[2]
    kept = await ground.store.get_token(token_id)
    assert kept is not None
    assert secret not in repr((kept, kept.digest.hex(), ground.tokens._remembered._entries))
    assert re.fullmatch(r"tusgate_[0-9a-f]{16}_[0-9a-f]{64}", token)


async def test_two_tokens_differ_in_everything(ground: Ground) -> None:
    parts = [(await ground.made())[0].split("_")[1:] for _ in range(100)]
    assert len({part for pair in parts for part in pair}) == 200


@pytest.mark.parametrize("change", ["last", "id", "case", "longer", "empty", "unicode", "newline"])
async def test_any_other_token_is_refused(ground: Ground, change: str) -> None:
    token, _ = await ground.made()
    changed = {
        "last": token[:-1] + ("0" if token[-1] != "0" else "1"),
        "id": f"tusgate_{'0' * 16}_{token.rpartition('_')[2]}",
        "case": token.upper().replace("TUSGATE", "tusgate"),
        "longer": token + "0",
        "empty": "tusgate_",
        "unicode": token[:-1] + "٣",
        "newline": token + "\n",
    }[change]
    with pytest.raises(InvalidCredentials):
        await ground.identified(changed)


async def test_the_secret_of_one_does_not_open_another(ground: Ground) -> None:
    one, two = [(await ground.made())[0].split("_") for _ in range(2)]
    with pytest.raises(InvalidCredentials):
        await ground.identified(f"tusgate_{one[1]}_{two[2]}")


async def test_other_credentials_are_not_for_this_verifier(ground: Ground) -> None:
    assert await ground.tokens.verify(Presented(bearer="a.b.c")) is None
    assert await ground.tokens.verify(Presented()) is None


async def test_a_revocation_works_within_the_time_that_is_promised(ground: Ground) -> None:
    token, token_id = await ground.made()
    principal = await ground.identified(token)
    await ground.store.revoke_token(token_id)
    assert await ground.identified(token) is principal
    with pytest.raises(CredentialsExpired):  # at the finish it is looked up at once
        await ground.tokens.reaffirm(principal)
    ground.clock.now += BELIEVED_FOR
    with pytest.raises(CredentialsExpired):
        await ground.identified(token)


async def test_a_revoked_token_with_a_wrong_secret_says_nothing_about_its_past(ground: Ground) -> None:
    token, token_id = await ground.made()
    await ground.store.revoke_token(token_id)
    with pytest.raises(InvalidCredentials):
        await ground.identified(token[:-1] + ("0" if token[-1] != "0" else "1"))


async def test_a_token_ends_with_its_lifetime_even_when_it_is_remembered(ground: Ground) -> None:
    token, _ = await ground.made(lifetime=3.0)
    principal = await ground.identified(token)
    ground.clock.now += 3.0
    with pytest.raises(CredentialsExpired):
        await ground.identified(token)
    await ground.tokens.reaffirm(principal)  # a request that began in time may end


async def test_a_principal_of_another_kind_is_not_looked_up(ground: Ground) -> None:
    await ground.store.close()
    await ground.tokens.reaffirm(Principal(proof="jwt:https://login.example.com"))


async def test_its_use_is_noted_now_and_then(ground: Ground) -> None:
    token, token_id = await ground.made()
    seen = []
    for _ in range(4):
        await ground.identified(token)
        kept = await ground.store.get_token(token_id)
        assert kept is not None
        seen.append(kept.last_used_at)
        ground.clock.now += NOTE_EVERY / 2
    assert len({*seen}) == 2


async def test_a_database_that_is_away_refuses_nobody_for_good(ground: Ground) -> None:
    token, _ = await ground.made()
    await ground.store.close()
    with pytest.raises(DatabaseUnavailable):
        await ground.identified(token)
