"""A gateway as it starts with each way to prove who one is: its warning, its page, and what its settings let in."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import pytest

from tests.issuer import AUDIENCE, Issuer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.gateway import Gateway

pytestmark = pytest.mark.slow

KEY = "k" * 32


def status(gateway: Gateway, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request(method, path, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "3", **(headers or {})})
        return connection.getresponse().status
    finally:
        connection.close()


def test_an_open_gateway_that_others_can_reach_is_warned_of(start_gateway: Callable[..., Gateway]) -> None:
    assert "server.open" in start_gateway({"TUSGATE_HOST": "0.0.0.0"}).log_path.read_text()
    assert "server.open" not in start_gateway().log_path.read_text()
    guarded = start_gateway({"TUSGATE_HOST": "0.0.0.0", "TUSGATE_AUTH": "token"})
    assert "server.open" not in guarded.log_path.read_text()


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, True),
        ({"TUSGATE_AUTH": "proxy", "TUSGATE_TRUSTED_PROXIES": "127.0.0.1"}, True),
        ({"TUSGATE_AUTH": "open,token"}, True),
        ({"TUSGATE_AUTH": "token"}, False),
        ({"TUSGATE_AUTH": "upload-token", "TUSGATE_UPLOAD_TOKEN_KEYS": KEY}, False),
    ],
    ids=["open", "proxy", "open and token", "token", "upload token"],
)
def test_the_page_is_there_where_it_can_upload(
    start_gateway: Callable[..., Gateway], settings: dict[str, str], shown: bool
) -> None:
    assert status(start_gateway(settings), "GET", "/") == (200 if shown else 404)


def test_a_proxy_of_the_settings_names_users_and_only_our_own_pages_may_act_for_them(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway({"TUSGATE_AUTH": "proxy", "TUSGATE_TRUSTED_PROXIES": "127.0.0.0/8"})
    carol = {"X-Forwarded-User": "carol"}
    assert status(gateway, "POST", "/files", carol) == 201
    assert status(gateway, "POST", "/files") == 401
    assert status(gateway, "POST", "/files", carol | {"Origin": "https://evil.example"}) == 403
    assert status(gateway, "POST", "/files", carol | {"Origin": gateway.url}) == 201


def test_issuers_of_the_settings_are_believed_and_the_log_has_no_token(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    issuer = Issuer()
    entry = {"issuer": issuer.name, "audience": AUDIENCE, "key": issuer.public_pem, "algorithm": "RS256"}
    file = tmp_path / "issuers.json"
    file.write_text(json.dumps([entry]))
    gateway = start_gateway({"TUSGATE_AUTH": "jwt", "TUSGATE_JWT_ISSUERS_FILE": str(file)})
    token = issuer.token()
    assert status(gateway, "POST", "/files", {"Authorization": f"Bearer {token}"}) == 201
    refused = issuer.token(aud="another")
    assert status(gateway, "POST", "/files", {"Authorization": f"Bearer {refused}"}) == 401
    log = gateway.log_path.read_text()
    assert "identity.refused" in log
    assert token not in log
    assert refused not in log


def test_a_gateway_whose_issuer_has_no_usable_key_does_not_start(start_gateway: Callable[..., Gateway]) -> None:
    entry = {"issuer": "https://a.example", "audience": "a", "key": "no PEM", "algorithm": "RS256"}
    with pytest.raises(Exception, match="RS256"):
        start_gateway({"TUSGATE_AUTH": "jwt", "TUSGATE_JWT_ISSUERS": json.dumps([entry])})
