"""JWTs: which count, whose they are, and how keys come and go (AT-01)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.issuer import AUDIENCE, KEY_ID, Issuer, forged, public_jwk, segment
from tests.wire.rig import Clock, until
from tusgate.core.access import USER, Permission, Presented
from tusgate.core.errors import CredentialsExpired, IdentityUnavailable, InvalidCredentials, SettingsError
from tusgate.core.model import Scope
from tusgate.identity.compact import LONGEST
from tusgate.identity.config import IssuerConfig
from tusgate.identity.issuers import BELIEVED_FOR, Issuers
from tusgate.identity.keys import FRESH_FOR, RETRY_AFTER, PinnedKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tusgate.core.access import Principal

SECRET = "a shared secret of more than thirty-two bytes"


@pytest.fixture(scope="module")
def made() -> Issuer:
    """Give one issuer for all tests of the module: RSA keys take their time."""
    return Issuer()


@pytest.fixture
async def issuer(made: Issuer) -> AsyncIterator[Issuer]:
    made.status, made.keys, made.requests = 200, [public_jwk(made.private, KEY_ID)], []
    async with made.serving():
        yield made


@pytest.fixture
async def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
async def issuers(issuer: Issuer, clock: Clock) -> AsyncIterator[Issuers]:
    verifier = Issuers([config_of(issuer)], time.time, clock)
    yield verifier
    await verifier.close()


def config_of(issuer: Issuer, **changes: Any) -> IssuerConfig:
    config = IssuerConfig(issuer=issuer.name, audience=AUDIENCE, jwks_url=issuer.jwks_url)
    return replace(config, **changes)


def pinned(issuer: Issuer, **changes: Any) -> Issuers:
    """Return a verifier with the issuer's key in its settings."""
    config = config_of(issuer, jwks_url=None, key=issuer.public_pem, algorithm="RS256", **changes)
    return Issuers([config], time.time, time.monotonic)


async def identified(verifier: Issuers, token: str) -> Principal:
    principal = await verifier.verify(Presented(bearer=token))
    assert principal is not None
    return principal


class TestWhoIsFound:
    async def test_a_good_token_names_its_owner(self, issuer: Issuer, issuers: Issuers) -> None:
        principal = await identified(issuers, issuer.token())
        assert (principal.scope, principal.permissions) == (Scope("default", "alice"), USER)
        assert principal.proof == f"jwt:{issuer.name}"
        by_hand = issuer.signed({"alg": "RS256", "kid": KEY_ID}, issuer.claims())
        assert (await identified(issuers, by_hand)).scope == principal.scope

    async def test_claims_give_tenant_owner_and_permissions(self, made: Issuer) -> None:
        verifier = pinned(
            made,
            tenant_claim="org.slug",
            owner_claim="https://example.com/uid",
            owner_prefix="corp|",
            permissions_claim="realm_access.roles",
            permission_map={"uploader": frozenset({Permission.CREATE, Permission.APPEND})},
        )
        claims: dict[str, Any] = {
            "org": {"slug": "acme"},
            "https://example.com/uid": "u-17",
            "realm_access": {"roles": ["uploader", "else", 5]},
        }
        token = made.token(**claims)
        principal = await identified(verifier, token)
        assert principal.scope == Scope("acme", "corp|u-17")
        assert principal.permissions == {Permission.CREATE, Permission.APPEND}

    async def test_a_scope_of_words_gives_permissions_too(self, made: Issuer) -> None:
        grants = {str(permission): frozenset({permission}) for permission in Permission}
        verifier = pinned(made, permissions_claim="scope", permission_map=grants)
        assert (await identified(verifier, made.token(scope="openid read append"))).permissions == {
            Permission.READ,
            Permission.APPEND,
        }
        assert (await identified(verifier, made.token())).permissions == frozenset()

    @pytest.mark.parametrize("changes", [{"org": "../x"}, {"org": ""}, {"org": 5}, {}, {"org": ["acme"]}])
    async def test_a_tenant_that_is_no_name_is_refused(self, made: Issuer, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidCredentials):
            await identified(pinned(made, tenant_claim="org"), made.token(**changes))

    @pytest.mark.parametrize("sub", ["", "a\nb", "\ud800", "x" * 256, "a\x00b"])
    async def test_an_owner_that_cannot_be_shown_is_refused(self, made: Issuer, sub: str) -> None:
        with pytest.raises(InvalidCredentials):
            await identified(pinned(made), made.token(sub=sub))

    async def test_a_token_of_another_issuer_is_not_for_this_verifier(self, made: Issuer) -> None:
        assert await pinned(made).verify(Presented(bearer=made.token(iss="https://other.example"))) is None
        assert await pinned(made).verify(Presented(bearer="tusgate_00_00")) is None
        assert await pinned(made).verify(Presented()) is None


def corpus(issuer: Issuer, listener: str) -> dict[str, str]:
    """Return tokens that must not count, by what is wrong with them. `listener` hears whoever follows a link."""
    good, now = issuer.claims(), int(time.time())
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    header = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
    by_public_key = f"{segment({**header, 'alg': 'HS256'})}.{segment(good)}"
    mac = hmac.new(issuer.public_pem.encode(), by_public_key.encode(), hashlib.sha256).digest()
    signed, text = issuer.token(), json.dumps(good)
    return {
        "alg none": forged({**header, "alg": "none"}, good, b""),
        "alg none, with a signature": forged({**header, "alg": "none"}, good),
        "alg None in other letters": forged({**header, "alg": "NoNe"}, good),
        "HS256 with the public key as secret": f"{by_public_key}.{segment(mac)}",
        "unknown crit": issuer.token({"crit": ["exp", "unknown"], "unknown": 1}),
        "crit of b64": issuer.token({"crit": ["b64"]}),
        "kid that is a path": issuer.token({"kid": "../../../../dev/null"}),
        "kid that is SQL": issuer.token({"kid": "' OR 1=1 --"}),
        "kid in other letters": issuer.token({"kid": KEY_ID + " "}),
        "jku of a stranger": jwt.encode(good, stranger, "RS256", {"kid": "mine", "jku": listener + "/jku"}),
        "x5u of a stranger": jwt.encode(good, stranger, "RS256", {"kid": KEY_ID, "x5u": listener + "/x5u"}),
        "jwk of a stranger": jwt.encode(good, stranger, "RS256", {"kid": KEY_ID, "jwk": public_jwk(stranger, KEY_ID)}),
        "signed by a stranger": jwt.encode(good, stranger, "RS256", {"kid": KEY_ID}),
        "other algorithm of the same key": jwt.encode(good, issuer.private, "PS256", {"kid": KEY_ID}),
        "another payload": ".".join([signed.split(".")[0], segment({**good, "sub": "bob"}), signed.split(".")[2]]),
        "no signature": signed.rpartition(".")[0] + ".",
        "no exp": issuer.token(exp=None),
        "no iat": issuer.token(iat=None),
        "no aud": issuer.token(aud=None),
        "no sub": issuer.token(sub=None),
        "exp as text": issuer.token(exp=str(now + 600)),
        "exp beyond all numbers": issuer.signed(header, text.replace(str(good["exp"]), "Infinity")),
        "iat in the future": issuer.token(iat=now + 3600),
        "not yet valid": issuer.token(nbf=now + 3600),
        "other audience": issuer.token(aud="another"),
        "audience in a list of others": issuer.token(aud=["another", "tusgate-upload"]),
        "sub that is a number": issuer.signed(header, {**good, "sub": 5}),
        "nested": issuer.signed({**header, "cty": "JWT"}, signed),
        "twice a claim": issuer.signed(header, text[:-1] + ', "sub": "bob"}'),
        "twice a header": issuer.signed(f'{{"alg": "none", "alg": "RS256", "kid": "{KEY_ID}"}}', good),
        "100 KB": issuer.token(padding="x" * 100_000),
        "deep": issuer.signed(header, "[" * 3000 + "]" * 3000),
        "not base64": f"a+b.{segment(good)}.c",
        "list as payload": issuer.signed(header, [good]),
        "kid that is a list": issuer.signed({**header, "kid": ["a"]}, good),
        "compressed": issuer.token({"zip": "DEF"}),
    }


CASES = list(corpus(Issuer(), "http://127.0.0.1:9"))


class TestAttacks:
    """AT-01: nothing of this counts, and nothing of it makes us ask anybody but the pinned URL."""

    @pytest.mark.parametrize("case", CASES)
    async def test_a_bad_token_proves_nothing(self, issuer: Issuer, issuers: Issuers, case: str) -> None:
        listener = issuer.jwks_url.removesuffix("/keys")
        with pytest.raises(InvalidCredentials):
            await identified(issuers, corpus(issuer, listener)[case])
        assert set(issuer.requests) <= {"/keys"}

    @pytest.mark.parametrize("case", CASES)
    async def test_nor_does_it_where_the_key_is_pinned(self, made: Issuer, case: str) -> None:
        if case.startswith("kid that is"):  # ids do not count where there is one key; these are signed with it
            return
        if case == "kid in other letters":
            return
        with pytest.raises(InvalidCredentials):
            await identified(pinned(made), corpus(made, "http://127.0.0.1:9")[case])

    async def test_an_expired_token_says_that_it_was_good(self, issuer: Issuer, issuers: Issuers) -> None:
        now = int(time.time())
        with pytest.raises(CredentialsExpired):
            await identified(issuers, issuer.token(iat=now - 7200, exp=now - 3600))

    async def test_an_expired_token_of_a_stranger_does_not(self, issuer: Issuer, issuers: Issuers) -> None:
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        old = issuer.claims(exp=int(time.time()) - 3600)
        with pytest.raises(InvalidCredentials):
            await identified(issuers, jwt.encode(old, stranger, "RS256", {"kid": KEY_ID}))

    async def test_clocks_may_differ_a_little(self, issuer: Issuer, issuers: Issuers) -> None:
        now = int(time.time())
        await identified(issuers, issuer.token(iat=now + 10, exp=now - 10))

    async def test_a_token_of_the_longest_size_is_parsed(self, made: Issuer) -> None:
        room = LONGEST - len(made.token(padding=""))
        await identified(pinned(made), made.token(padding="x" * (room * 3 // 4 - 2)))

    async def test_a_secret_is_not_taken_from_a_key_set(self, issuer: Issuer, issuers: Issuers) -> None:
        issuer.keys.append({"kty": "oct", "kid": "s", "alg": "HS256", "k": segment(SECRET)})
        with pytest.raises(InvalidCredentials):
            await identified(issuers, jwt.encode(issuer.claims(), SECRET, "HS256", {"kid": "s"}))

    async def test_a_key_for_encryption_checks_no_signature(self, issuer: Issuer, issuers: Issuers) -> None:
        issuer.keys = [public_jwk(issuer.private, KEY_ID) | {"use": "enc"}, public_jwk(Issuer().private, "other")]
        with pytest.raises(InvalidCredentials):
            await identified(issuers, issuer.token())


class TestKeys:
    async def test_keys_are_fetched_once_for_many_requests(self, issuer: Issuer, issuers: Issuers) -> None:
        tokens = [issuer.token(jti=str(number)) for number in range(20)]
        await asyncio.gather(*(identified(issuers, token) for token in tokens))
        assert issuer.requests == ["/keys"]

    @pytest.mark.parametrize(
        ("private", "algorithm"),
        [(ec.generate_private_key(ec.SECP256R1()), "ES256"), (ed25519.Ed25519PrivateKey.generate(), "EdDSA")],
    )
    async def test_other_kinds_of_keys_work(
        self, issuer: Issuer, issuers: Issuers, private: Any, algorithm: str
    ) -> None:
        issuer.keys = [public_jwk(private, "other")]
        await identified(issuers, jwt.encode(issuer.claims(), private, algorithm, {"kid": "other"}))

    async def test_a_single_key_needs_no_id(self, issuer: Issuer, issuers: Issuers) -> None:
        await identified(issuers, jwt.encode(issuer.claims(), issuer.private, "RS256"))

    async def test_of_several_keys_one_has_to_be_named(self, issuer: Issuer, issuers: Issuers) -> None:
        issuer.keys.append(public_jwk(Issuer().private, "another"))
        with pytest.raises(InvalidCredentials):
            await identified(issuers, jwt.encode(issuer.claims(), issuer.private, "RS256"))

    async def test_a_new_key_is_found_and_made_up_ids_do_not_flood_the_issuer(
        self, issuer: Issuer, issuers: Issuers, clock: Clock
    ) -> None:
        await identified(issuers, issuer.token())
        fresh = Issuer()
        issuer.keys.append(public_jwk(fresh.private, "fresh"))
        clock.now += RETRY_AFTER
        token = jwt.encode(issuer.claims(), fresh.private, "RS256", {"kid": "fresh"})
        await identified(issuers, token)
        for number in range(50):
            with pytest.raises(InvalidCredentials):
                await identified(issuers, issuer.token({"kid": f"made-up-{number}"}))
        assert Counter(issuer.requests) == {"/keys": 2}

    async def test_an_issuer_that_is_away_is_no_reason_to_refuse_anybody_for_good(
        self, issuer: Issuer, issuers: Issuers, clock: Clock
    ) -> None:
        issuer.status = 500
        with pytest.raises(IdentityUnavailable):
            await identified(issuers, issuer.token())
        issuer.status, clock.now = 200, clock.now + RETRY_AFTER
        await identified(issuers, issuer.token())

    async def test_known_keys_stay_good_while_the_issuer_is_away(
        self, issuer: Issuer, issuers: Issuers, clock: Clock
    ) -> None:
        await identified(issuers, issuer.token())
        issuer.status = 500
        for _ in range(3):
            clock.now += FRESH_FOR
            await identified(issuers, issuer.token(jti=str(clock.now)))

    async def test_a_withdrawn_key_is_gone_after_a_while(self, issuer: Issuer, issuers: Issuers, clock: Clock) -> None:
        await identified(issuers, issuer.token())
        issuer.keys = [public_jwk(Issuer().private, "other")]
        clock.now += FRESH_FOR
        await identified(issuers, issuer.token(jti="served by the old keys while the new ones are fetched"))
        numbers = itertools.count()

        async def is_refused() -> bool:
            try:
                await identified(issuers, issuer.token(jti=str(next(numbers))))
            except InvalidCredentials:
                return True
            return False

        await until(is_refused)

    @pytest.mark.parametrize("status", [302, 404])
    async def test_a_key_set_elsewhere_is_not_followed(self, issuer: Issuer, issuers: Issuers, status: int) -> None:
        issuer.status = status
        with pytest.raises(IdentityUnavailable):
            await identified(issuers, issuer.token())
        assert issuer.requests == ["/keys"]

    async def test_a_key_set_without_a_usable_key_does_not_replace_one_that_had(
        self, issuer: Issuer, issuers: Issuers, clock: Clock
    ) -> None:
        await identified(issuers, issuer.token())
        issuer.keys, clock.now = [{"kty": "RSA", "n": "x"}], clock.now + RETRY_AFTER
        with pytest.raises(IdentityUnavailable):
            await identified(issuers, issuer.token({"kid": "unknown"}))
        await identified(issuers, issuer.token(jti="again"))

    @pytest.mark.parametrize(
        ("text", "algorithm"),
        [("short", "HS256"), ("x" * 40, "HS512"), ("no PEM", "RS256"), ("x" * 64, "none"), ("x" * 64, "ES256")],
    )
    def test_a_key_that_does_not_fit_its_algorithm_stops_the_start(self, text: str, algorithm: str) -> None:
        with pytest.raises(SettingsError):
            PinnedKey(text, algorithm)

    def test_a_public_key_is_no_secret(self, made: Issuer) -> None:
        with pytest.raises(SettingsError):
            PinnedKey(made.public_pem, "HS256")

    async def test_a_shared_secret_works_with_its_one_algorithm(self, made: Issuer) -> None:
        config = config_of(made, jwks_url=None, key=SECRET, algorithm="HS256")
        verifier = Issuers([config], time.time, time.monotonic)
        await identified(verifier, jwt.encode(made.claims(), SECRET, "HS256"))
        with pytest.raises(InvalidCredentials), pytest.warns(jwt.InsecureKeyLengthWarning):
            await identified(verifier, jwt.encode(made.claims(), SECRET, "HS384"))


class TestMemory:
    async def test_what_was_verified_is_not_verified_again(self, issuer: Issuer, clock: Clock) -> None:
        now = Clock(time.time())
        verifier = Issuers([config_of(issuer)], now, clock)
        token = issuer.token()
        first = await identified(verifier, token)
        assert await identified(verifier, token) is first
        now.now += BELIEVED_FOR
        assert await identified(verifier, token) is not first
        await verifier.close()

    async def test_nobody_is_remembered_beyond_the_end_of_their_token(self, made: Issuer) -> None:
        now = Clock(time.time())
        config = config_of(made, jwks_url=None, key=made.public_pem, algorithm="RS256", leeway=0.0)
        verifier = Issuers([config], now, time.monotonic)
        token = made.token(exp=int(now.now) + 60)
        principal = await identified(verifier, token)
        assert verifier._remembered.find(token) is principal
        now.now += 61
        assert verifier._remembered.find(token) is None

    async def test_no_token_is_kept(self, made: Issuer) -> None:
        verifier = pinned(made)
        token = made.token()
        principal = await identified(verifier, token)
        kept = repr((verifier._remembered._entries, principal))
        assert token not in kept
        assert token.rpartition(".")[2] not in kept
