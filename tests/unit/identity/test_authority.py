"""All ways together, and users whom a proxy names."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.doubles.database import MemoryDatabase
from tests.issuer import AUDIENCE, Issuer
from tests.unit.identity.test_upload_tokens import KEY, minted
from tusgate.core.access import USER, Permission, Presented, Principal
from tusgate.core.errors import CredentialsExpired, InvalidCredentials, Unauthenticated
from tusgate.core.model import Scope
from tusgate.identity.authority import CombinedAuthority
from tusgate.identity.config import IssuerConfig, ProxyConfig
from tusgate.identity.issuers import Issuers
from tusgate.identity.proxies import VouchedUsers
from tusgate.identity.static_tokens import StaticTokens, make_token
from tusgate.identity.upload_tokens import UploadTokens

if TYPE_CHECKING:
    from tusgate.identity.authority import Verifier

PROXY = ProxyConfig(tenant_field="x-tenant", admin_groups=frozenset({"ops"}))
VOUCHED = {"x-forwarded-user": ("carol",), "x-tenant": ("acme",), "x-forwarded-groups": ("staff, ops",)}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def store() -> MemoryDatabase:
    return MemoryDatabase(time.time)


def authority(issuer: Issuer, store: MemoryDatabase, *, open_to_all: bool = False) -> CombinedAuthority:
    pinned = IssuerConfig(issuer=issuer.name, audience=AUDIENCE, key=issuer.public_pem, algorithm="RS256")
    verifiers: list[Verifier] = [
        StaticTokens(store, time.time),
        UploadTokens([KEY], time.time),
        Issuers([pinned], time.time, time.monotonic),
        VouchedUsers(PROXY),
    ]
    return CombinedAuthority(verifiers, takes_bearers=True, open_to_all=open_to_all)


async def test_each_way_to_prove_who_one_is_leads_to_its_own_scope(issuer: Issuer, store: MemoryDatabase) -> None:
    token, new = make_token(Scope("acme", "scanner"), USER, "", None)
    await store.create_token(new)
    every = authority(issuer, store)
    found = {
        (await every.identify(presented)).scope.owner
        for presented in [
            Presented(bearer=token),
            Presented(bearer=minted(sub="browser")),
            Presented(bearer=issuer.token()),
            Presented(vouched=VOUCHED),
        ]
    }
    assert found == {"scanner", "browser", "alice", "carol"}


async def test_who_presents_nothing_is_let_in_only_where_it_is_open(issuer: Issuer, store: MemoryDatabase) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await authority(issuer, store).identify(Presented())
    assert type(refused.value) is Unauthenticated
    assert await authority(issuer, store, open_to_all=True).identify(Presented()) == Principal()


@pytest.mark.parametrize("bearer", ["opaque", "a.b.c", "tusgate_0_0", ""])
async def test_wrong_credentials_are_refused_even_where_it_is_open(
    issuer: Issuer, store: MemoryDatabase, bearer: str
) -> None:
    with pytest.raises(InvalidCredentials):
        await authority(issuer, store, open_to_all=True).identify(Presented(bearer=bearer))


async def test_where_no_bearer_token_counts_the_field_is_somebody_elses() -> None:
    only_open = CombinedAuthority([], takes_bearers=False, open_to_all=True)
    assert await only_open.identify(Presented(bearer="for the proxy in front")) == Principal()


async def test_a_proxy_may_pass_on_the_token_by_which_it_knows_the_user(issuer: Issuer, store: MemoryDatabase) -> None:
    foreign = issuer.token(iss="https://the-proxys-own.example")
    principal = await authority(issuer, store).identify(Presented(bearer=foreign, vouched=VOUCHED))
    assert (principal.scope, principal.permissions) == (Scope("acme", "carol"), USER | {Permission.ADMIN})


async def test_the_log_has_the_reason_and_the_answer_has_not(issuer: Issuer, store: MemoryDatabase) -> None:
    token = issuer.token(aud="another")
    with capture_logs() as logs, pytest.raises(InvalidCredentials) as refused:
        await authority(issuer, store).identify(Presented(bearer=token))
    assert "InvalidAudienceError" in logs[0]["reason"]
    assert str(refused.value) == str(InvalidCredentials())
    assert token not in json.dumps(logs)
    assert refused.value.__cause__ is None


async def test_the_end_of_a_token_is_told(issuer: Issuer, store: MemoryDatabase) -> None:
    with pytest.raises(CredentialsExpired):
        await authority(issuer, store).identify(Presented(bearer=issuer.token(exp=1)))


class TestVouchedUsers:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"x-forwarded-user": ("carol",)}, None),
            ({"x-forwarded-user": ("carol", "mallory"), "x-tenant": ("acme",)}, None),
            ({"x-forwarded-user": ("carol",), "x-tenant": ("a/b",)}, None),
            ({"x-forwarded-user": ("carol",), "x-tenant": ("acme",)}, USER),
            ({"x-forwarded-user": ("carol",), "x-tenant": ("acme",), "x-forwarded-groups": ("opsy",)}, USER),
            (VOUCHED, USER | {Permission.ADMIN}),
        ],
    )
    async def test_the_word_of_the_proxy_counts_when_it_is_whole_and_single(
        self, fields: dict[str, tuple[str, ...]], expected: object
    ) -> None:
        verifier = VouchedUsers(PROXY)
        if expected is None:
            with pytest.raises(InvalidCredentials):
                await verifier.verify(Presented(vouched=fields))
            return
        principal = await verifier.verify(Presented(vouched=fields))
        assert principal is not None
        assert (principal.scope, principal.permissions) == (Scope("acme", "carol"), expected)

    @pytest.mark.parametrize("fields", [{}, {"x-forwarded-user": ("",)}, {"x-forwarded-user": (" ",)}])
    async def test_nobody_is_named_by_an_empty_field(self, fields: dict[str, tuple[str, ...]]) -> None:
        assert await VouchedUsers(PROXY).verify(Presented(vouched=fields)) is None
