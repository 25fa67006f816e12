"""Upload tokens: what they may say, and what they allow."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tusgate.core.access import UPLOADER, Limits, Permission, Presented, Principal
from tusgate.core.errors import CredentialsExpired, InvalidCredentials, SettingsError
from tusgate.core.model import Scope
from tusgate.identity.upload_tokens import UploadTokens

KEY, OLD_KEY = "k" * 32, "o" * 40


def minted(key: str = KEY, algorithm: str = "HS256", **changes: Any) -> str:
    now = int(time.time())
    good = {"aud": "tusgate-upload", "sub": "alice", "iat": now, "exp": now + 600, "jti": "one"}
    return jwt.encode({name: value for name, value in (good | changes).items() if value is not None}, key, algorithm)


async def identified(token: str) -> Principal:
    principal = await UploadTokens([KEY, OLD_KEY], time.time).verify(Presented(bearer=token))
    assert principal is not None
    return principal


async def test_a_token_says_whose_the_upload_is_and_what_it_may_be() -> None:
    principal = await identified(
        minted(
            tenant="acme",
            max_size=1000,
            types=["image/*", "application/pdf"],
            metadata={"album": "7"},
            required_metadata=["filename"],
            permissions=["create", "append", "read"],
        )
    )
    assert principal.scope == Scope("acme", "alice")
    assert principal.permissions == UPLOADER | {Permission.READ}
    assert principal.limits == Limits(
        max_size=1000,
        types=("image/*", "application/pdf"),
        metadata=(("album", "7"),),
        required_metadata=("filename",),
        token_id="one",
    )


async def test_without_more_a_token_creates_one_upload_and_continues_it() -> None:
    principal = await identified(minted())
    assert (principal.scope, principal.permissions) == (Scope("default", "alice"), UPLOADER)
    assert principal.limits == Limits(token_id="one")


async def test_the_older_key_counts_until_it_is_removed() -> None:
    await identified(minted(OLD_KEY))
    with pytest.raises(InvalidCredentials):
        await UploadTokens([KEY], time.time).verify(Presented(bearer=minted(OLD_KEY)))


@pytest.mark.parametrize(
    "changes",
    [
        {"jti": None},
        {"jti": ""},
        {"jti": "a\nb"},
        {"jti": "x" * 256},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"sub": ""},
        {"tenant": 5},
        {"tenant": "a/b"},
        {"max_size": "1000"},
        {"max_size": -1},
        {"max_size": 10.5},
        {"max_size": True},
        {"types": "image/*"},
        {"types": [5]},
        {"metadata": ["album"]},
        {"metadata": {"album": 7}},
        {"metadata": {"two words": "x"}},
        {"metadata": {"": "x"}},
        {"required_metadata": "filename"},
        {"permissions": ["admin"]},
        {"permissions": ["list"]},
        {"permissions": ["fly"]},
        {"permissions": "create"},
    ],
    ids=repr,
)
async def test_a_claim_of_the_wrong_form_is_refused_rather_than_left_out(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCredentials):
        await identified(minted(**changes))


@pytest.mark.parametrize("token", [minted("s" * 32), minted("k" * 64, "HS512"), minted()[:-2]], ids=range(3))
async def test_what_no_key_has_signed_is_refused(token: str) -> None:
    with pytest.raises(InvalidCredentials):
        await identified(token)


async def test_a_token_whose_time_is_over_says_so() -> None:
    with pytest.raises(CredentialsExpired):
        await identified(minted(exp=int(time.time()) - 60))


async def test_a_token_for_another_audience_is_not_for_this_verifier() -> None:
    verifier = UploadTokens([KEY], time.time)
    assert await verifier.verify(Presented(bearer=minted(aud="tusgate"))) is None
    assert await verifier.verify(Presented(bearer=minted(aud=["tusgate-upload", "tusgate"]))) is None
    assert await verifier.verify(Presented(bearer="opaque")) is None
    assert await verifier.verify(Presented()) is None


async def test_a_token_with_much_in_it_is_checked_each_time_and_not_remembered() -> None:
    verifier = UploadTokens([KEY], time.time)
    for metadata, remembered in (({}, True), ({"note": "x" * 1000}, False)):
        presented = Presented(bearer=minted(metadata=metadata))
        first, again = await verifier.verify(presented), await verifier.verify(presented)
        assert first == again
        assert (first is again) == remembered


def test_a_short_key_stops_the_start() -> None:
    with pytest.raises(SettingsError):
        UploadTokens(["short"], time.time)
