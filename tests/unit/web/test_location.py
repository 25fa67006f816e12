from __future__ import annotations

from ipaddress import ip_network

import pytest
from aiohttp.test_utils import make_mocked_request

from tusgate.core.errors import InvalidRequest, OriginForbidden
from tusgate.web.config import WebConfig
from tusgate.web.cors import Cors
from tusgate.web.location import PublicAddress

BEHIND_PROXY = WebConfig(trusted_proxies=(ip_network("10.0.0.0/8"),))
PROXY = "10.1.2.3"
STRANGER = "192.0.2.7"


def a_request(headers, peer=STRANGER):
    return make_mocked_request("POST", "/files", headers=headers).clone(remote=peer)


def url(config, headers, peer=STRANGER):
    return PublicAddress(config).upload_url(a_request(headers, peer), "id")


@pytest.mark.spec("CRE-08")
def test_the_configured_address_is_used_whatever_the_request_says():
    config = WebConfig(public_url="https://up.example.org", trusted_proxies=BEHIND_PROXY.trusted_proxies)
    lies = {"Host": "evil", "X-Forwarded-Host": "worse", "X-Forwarded-Proto": "gopher"}
    assert url(config, lies, PROXY) == "https://up.example.org/files/id"


@pytest.mark.spec("CRE-08")
def test_without_configuration_the_host_field_is_used():
    assert url(WebConfig(), {"Host": "localhost:8080"}) == "http://localhost:8080/files/id"
    assert url(WebConfig(base_path="/up"), {"Host": "[::1]:8080"}) == "http://[::1]:8080/up/id"


def test_a_default_port_is_left_out():
    assert url(WebConfig(), {"Host": "example.org:80"}) == "http://example.org/files/id"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@host", "host:x", "host:123456", 'a"b', "[::1", "ключ"])
def test_a_malformed_host_is_refused(host):
    with pytest.raises(InvalidRequest, match=r"^Host"):
        url(WebConfig(), {"Host": host})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example:443"}, "https://a.example/files/id"),
        ({"X-Forwarded-Proto": "https"}, "https://inner/files/id"),
        ({"X-Forwarded-Host": "forged, a.example"}, "http://a.example/files/id"),
        ({"Forwarded": 'for=192.0.2.1;proto=https;host="a.example:8443"'}, "https://a.example:8443/files/id"),
        ({"Forwarded": "host=forged, host=a.example;proto=https"}, "https://a.example/files/id"),
    ],
)
def test_forwarded_fields_of_a_trusted_proxy_are_believed(headers, expected):
    assert url(BEHIND_PROXY, {"Host": "inner", **headers}, PROXY) == expected


def test_forwarded_fields_of_anybody_else_are_not():
    lies = {"Host": "real", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil", "Forwarded": "host=evil"}
    assert url(BEHIND_PROXY, lies, STRANGER) == "http://real/files/id"
    assert url(WebConfig(), lies, PROXY) == "http://real/files/id"


def test_a_mapped_ipv4_peer_counts_as_its_ipv4_address():
    assert url(BEHIND_PROXY, {"Host": "h", "X-Forwarded-Proto": "https"}, "::ffff:10.0.0.1") == "https://h/files/id"


@pytest.mark.parametrize("headers", [{"X-Forwarded-Proto": "gopher"}, {"X-Forwarded-Host": "a b"}])
def test_nonsense_of_a_trusted_proxy_is_refused(headers):
    with pytest.raises(InvalidRequest, match=r"^X-Forwarded"):
        url(BEHIND_PROXY, {"Host": "inner", **headers}, PROXY)


def cors(*origins, public_url=None):
    config = WebConfig(cors_origins=origins, public_url=public_url)
    return Cors(config, PublicAddress(config))


def test_any_origin_means_a_star_and_no_credentials():
    granted = cors("*").headers(a_request({"Host": "h", "Origin": "https://page.example"}))
    assert granted["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in granted


@pytest.mark.spec("COR-04")
def test_a_listed_origin_is_echoed_with_credentials():
    granted = cors("https://page.example").headers(a_request({"Host": "h", "Origin": "https://page.example"}))
    assert granted["Access-Control-Allow-Origin"] == "https://page.example"
    assert granted["Access-Control-Allow-Credentials"] == "true"
    assert granted["Vary"] == "Origin"


@pytest.mark.spec("COR-05")
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://page.example.evil", "null", "https://page.example:444"]
)
def test_an_origin_that_is_not_listed_is_forbidden(origin):
    with pytest.raises(OriginForbidden):
        cors("https://page.example").headers(a_request({"Host": "h", "Origin": origin}))


def test_our_own_pages_may_always_upload():
    own = cors("https://page.example", public_url="https://up.example/prefix")
    assert own.headers(a_request({"Host": "inner", "Origin": "https://up.example"}))
    assert cors().headers(a_request({"Host": "h:8080", "Origin": "http://h:8080"}))
