"""Settings of identity: combinations that would let in more people than was meant stop the start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tusgate.core.access import USER, Permission
from tusgate.core.errors import SettingsError
from tusgate.settings import Settings, load_settings
from tusgate.settings.model import shown

if TYPE_CHECKING:
    from pathlib import Path

KEYED = {"issuer": "https://a.example", "audience": "tusgate", "key": "k" * 32, "algorithm": "HS256"}
FETCHED = {"issuer": "https://b.example", "audience": "tusgate", "jwks_url": "https://b.example/keys"}
JWT = {"auth": "jwt"}
CANARY = "canary-3f9a-secret-of-thirty-two-bytes"


def issuers(*entries: dict[str, Any]) -> dict[str, Any]:
    return JWT | {"jwt_issuers": json.dumps(entries)}


def test_without_settings_the_gateway_is_open() -> None:
    assert Settings().auth == ("open",)


def test_modes_combine() -> None:
    settings = load_settings({"auth": "token, upload-token", "upload_token_keys": f"{'a' * 32},{'b' * 32}"}).settings
    assert settings.auth == ("token", "upload-token")
    assert [key.get_secret_value() for key in settings.upload_token_keys] == ["a" * 32, "b" * 32]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"auth": ""}, "AUTH"),
        ({"auth": "everybody"}, "AUTH"),
        ({"auth": "jwt"}, "JWT_ISSUERS"),
        ({"auth": "upload-token"}, "UPLOAD_TOKEN_KEYS"),
        ({"upload_token_keys": "k" * 32}, "AUTH"),
        ({"jwt_issuers": json.dumps([KEYED])}, "AUTH"),
        ({"auth": "upload-token", "upload_token_keys": "k" * 31}, "UPLOAD_TOKEN_KEYS"),
        ({"auth": "proxy"}, "TRUSTED_PROXIES"),
        ({"auth": "proxy", "trusted_proxies": "10.0.0.1", "cors_origins": "*"}, "CORS_ORIGINS"),
        ({"auth": "proxy", "trusted_proxies": "10.0.0.1", "proxy_user_header": "a b"}, "PROXY_USER_HEADER"),
        ({"auth": "proxy", "trusted_proxies": "10.0.0.1", "proxy_permissions": "fly"}, "PROXY_PERMISSIONS"),
        (JWT | {"jwt_issuers": "no JSON"}, "JWT_ISSUERS"),
        (JWT | {"jwt_issuers": "{}"}, "JWT_ISSUERS"),
        (issuers({"issuer": "x"}), "audience"),
        (issuers({**KEYED, "jwks_url": "https://x.example/"}), "one of jwks_url, key and key_file"),
        (issuers({**KEYED, "key": None}), "one of jwks_url, key and key_file"),
        (issuers({**KEYED, "algorithm": None}), "algorithm"),
        (issuers({**KEYED, "algorithm": "none"}), "algorithm"),
        (issuers({**FETCHED, "algorithm": "HS256"}), "algorithm"),
        (issuers({**KEYED, "audience": "tusgate-upload"}), "audience"),
        (issuers({**KEYED, "tenant": "a/b"}), "tenant"),
        (issuers({**KEYED, "tenant": "acme\n"}), "tenant"),
        (issuers({**KEYED, "tenant": "a", "tenant_claim": "b"}), "tenant_claim"),
        (issuers({**KEYED, "permissions": ["fly"]}), "permissions"),
        (issuers({**KEYED, "permissions": ["read"], "permissions_claim": "scope"}), "permissions_claim"),
        (issuers({**KEYED, "permission_map": {"a": ["read"]}}), "permissions_claim"),
        (issuers({**KEYED, "leeway": "1h"}), "leeway"),
        (issuers({**KEYED, "isuer": "x"}), "isuer"),
        (issuers(KEYED, KEYED), "each issuer once"),
        (issuers(KEYED, FETCHED), "owner_prefix"),
        (issuers({**KEYED, "owner_prefix": "a|"}, FETCHED, {**FETCHED, "issuer": "c"}), "owner_prefix"),
        (issuers({**KEYED, "tenant": "x"}, {**FETCHED, "tenant": "x"}), "owner_prefix"),
    ],
    ids=lambda value: json.dumps(value)[:100],
)
def test_what_cannot_be_meant_is_refused_by_name(values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(values)


@pytest.mark.parametrize(
    "entries",
    [
        [{**KEYED, "owner_prefix": "a|"}, {**FETCHED, "owner_prefix": "b|"}],
        [{**KEYED, "owner_prefix": ""}, {**FETCHED, "owner_prefix": ""}],
        [{**KEYED, "tenant": "a"}, {**FETCHED, "tenant": "b"}],
        [{**KEYED, "tenant": "a"}, FETCHED],
    ],
)
def test_two_issuers_whose_users_are_kept_apart_or_joined_on_purpose_are_fine(entries: list[dict[str, Any]]) -> None:
    assert len(load_settings(issuers(*entries)).settings.jwt_issuers) == 2


def test_an_issuer_gives_what_it_says_or_what_users_have() -> None:
    plain, mapped, named = load_settings(
        issuers(
            {**KEYED, "owner_prefix": ""},
            {**FETCHED, "owner_prefix": "", "permissions_claim": "roles", "permission_map": {"up": ["create"]}},
            {**FETCHED, "owner_prefix": "", "issuer": "c", "permissions_claim": "scope"},
        )
    ).settings.jwt_issuers
    assert plain.granted == USER
    assert mapped.grants == {"up": {Permission.CREATE}}
    assert named.grants["admin"] == {Permission.ADMIN}


def test_a_key_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret in a file\n")
    entry = {**KEYED, "key": None, "key_file": str(file)}
    (issuer,) = load_settings(issuers(entry)).settings.jwt_issuers
    assert issuer.key_text() == "secret in a file"
    (issuer,) = load_settings(issuers({**entry, "key_file": str(tmp_path / "absent")})).settings.jwt_issuers
    with pytest.raises(SettingsError, match="absent"):
        issuer.key_text()


def test_issuers_may_stand_in_the_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "tusgate.toml"
    file.write_text(
        'auth = ["jwt"]\n[[jwt_issuers]]\nissuer = "https://a.example"\naudience = "tusgate"\n'
        'jwks_url = "https://a.example/keys"\nleeway = "10s"\n'
    )
    (issuer,) = load_settings({}, file).settings.jwt_issuers
    assert (issuer.jwks_url, issuer.leeway) == ("https://a.example/keys", 10.0)


@pytest.mark.parametrize("wrong", [{"algorithm": "RS1"}, {"tenant": "/"}, {"extra": CANARY}, {"audience": 5}])
def test_no_key_shows_in_an_error_or_a_display(wrong: dict[str, Any]) -> None:
    """I19."""
    with pytest.raises(SettingsError) as refused:
        load_settings(issuers({**KEYED, "key": CANARY} | wrong))
    assert CANARY not in str(refused.value)
    settings = load_settings(
        issuers({**KEYED, "key": CANARY}) | {"auth": "jwt,upload-token", "upload_token_keys": CANARY}
    ).settings
    shows = [shown(name, getattr(settings, name)) for name in ("jwt_issuers", "upload_token_keys")]
    assert shows == ["https://a.example", "***"]
    assert CANARY not in repr(settings)


def test_behind_a_proxy_that_knows_users_only_our_own_pages_may_upload_unless_others_are_listed() -> None:
    """A cookie of the proxy goes along with what any page sends."""
    proxied = {"auth": "proxy", "trusted_proxies": "10.0.0.1"}
    assert load_settings(proxied).settings.page_origins == ()
    listed = proxied | {"cors_origins": "https://app.example.com"}
    assert load_settings(listed).settings.page_origins == ("https://app.example.com",)
    assert Settings().page_origins == ("*",)
