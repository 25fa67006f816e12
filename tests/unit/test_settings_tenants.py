"""The tenants file: what it says, and what is said of a wrong one."""

from __future__ import annotations

import base64
import json

import pytest
from typer.testing import CliRunner

from tusgate.cli import app
from tusgate.core.errors import SettingsError
from tusgate.core.quota import Quota
from tusgate.settings import Settings
from tusgate.settings.tenants import load_tenancy

S3 = {
    "s3_endpoint": "http://127.0.0.1:9000",
    "s3_bucket": "plain",
    "s3_access_key": "plain-access",
    "s3_secret_key": "plain-secret",
}
MIB = 1 << 20
WHOLE = """
unknown_tenants = "default"

[routes.eu]
bucket = "acme-eu"
prefix = "in/"
object_key = "{tenant}/{id}"
storage_class = "STANDARD_IA"
sse = "kms"
kms_key = "key-1"
tags = { team = "a b" }

[tenants.default]
max_size = "1GiB"

[tenants.acme]
route = "eu"
types = ["image/*", "application/PDF"]
check_content = true
quota_bytes = "2TiB"
quota_files = 1000
max_unfinished = 20
requests_per_second = 0.5
bandwidth = "5MiB/s"
"""


@pytest.fixture
def load(tmp_path):
    def read(text, **settings):
        path = tmp_path / "tenants.toml"
        path.write_text(text)
        return load_tenancy(Settings(**{**S3, "tenants_file": path, **settings}))

    return read


def by_name(tenancy):
    return {tenant.name: tenant for tenant in tenancy.tenants}


def test_without_a_file_everybody_is_welcome():
    assert load_tenancy(Settings()).tenants is None


def test_all_that_can_be_said_of_a_tenant(load):
    tenancy = load(WHOLE)
    acme = by_name(tenancy)["acme"]
    assert (acme.route, acme.key_template, acme.max_size) == ("eu", "{tenant}/{id}", None)
    assert (acme.types, acme.checks_content) == (("image/*", "application/pdf"), True)
    assert acme.quota == Quota(2 << 40, 1000, 20)
    assert (acme.request_rate, acme.bandwidth) == (0.5, 5 * MIB)
    assert tenancy.others == by_name(tenancy)["default"]
    assert tenancy.places == {"eu": "acme-eu/in/"}


def test_the_default_tenant_is_always_there_and_others_are_refused_unless_said(load):
    tenancy = load("[tenants.acme]")
    assert set(by_name(tenancy)) == {"acme", "default"}
    assert tenancy.others is None
    assert by_name(tenancy)["acme"].quota is None


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("[tenants.acme]\nquota_bytes = 'much'", "tenants.acme.quota_bytes", "a size"),
        ("[tenants.acme]\nquota_files = true", "tenants.acme.quota_files", "a whole number"),
        ("[tenants.acme]\nquota_files = -1", "tenants.acme.quota_files", "greater than or equal to 0"),
        ("[tenants.acme]\ncolour = 'red'", "tenants.acme.colour", "one of route, object_key"),
        ("[tenants.acme]\ntypes = ['png']", "tenants.acme.types", "media types"),
        ("[tenants.acme]\nroute = 'eu'", "tenants.acme.route", "[routes.eu]"),
        ("[tenants.acme]\nobject_key = 'same'", "tenants.acme.object_key", "with {id}"),
        ("[tenants.'a b']", "tenants.a b", "a name"),
        ("[routes.eu]", "routes.eu.bucket", "a bucket name"),
        ("[routes.eu]\nbucket = 'b'", "routes.eu.bucket", "a bucket name"),
        ("[routes.eu]\nbucket = 'one'\nsse = 'rot13'", "routes.eu.sse", "none"),
        ("[routes.eu]\nbucket = 'one'\nkms_key = 'k'", "routes.eu.kms_key", "kms"),
        ("[routes.eu]\nbucket = 'one'\nsse = 'customer'", "routes.eu.customer_key_file", "customer"),
        ("[routes.eu]\nbucket = 'one'\nstorage_class = 'GLACIER'", "routes.eu.storage_class", "read at once"),
        ("[routes.eu]\nbucket = 'one'\ncache_control = \"a\\nb\"", "routes.eu.cache_control", "ASCII"),
        ("[routes.eu]\nbucket = 'one'\naccess_key_env = 'A'", "routes.eu.secret_key_file", "access_key_file"),
        (
            "[routes.eu]\nbucket = 'one'\naccess_key_env = 'TUSGATE_NOT_SET'\nsecret_key_env = 'B'",
            "routes.eu.access_key_env",
            "a variable that is set",
        ),
        ("[routes.eu]\nbucket = 'plain'\nprefix = 'eu/'", "routes.eu.prefix", "overlap"),
        ("[routes.a]\nbucket = 'one'\n[routes.b]\nbucket = 'one'\nprefix = 'x/'", "routes.b.prefix", "overlap"),
        ("unknown_tenants = 'maybe'", "unknown_tenants", "default"),
        ("[tenant.acme]", "tenant", "one of unknown_tenants, routes, tenants"),
        ("[tenants.acme", "", "a TOML file"),
    ],
)
def test_a_wrong_file_is_told_by_file_table_and_field(load, text, place, expected):
    with pytest.raises(SettingsError) as caught:
        load(text)
    message = str(caught.value)
    assert message.count("tenants.toml") == 1
    assert f"tenants.toml: {place}" in message
    assert expected in message
    assert "\n" not in message.strip() or place == ""


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.toml: expected a readable TOML file"):
        load_tenancy(Settings(tenants_file=tmp_path / "missing.toml"))


def test_a_route_needs_a_server_and_keys(load):
    none = dict.fromkeys(S3)
    with pytest.raises(SettingsError, match=r"routes\.eu\.endpoint"):
        load("[routes.eu]\nbucket = 'one'", **none)
    with pytest.raises(SettingsError, match=r"routes\.eu\.access_key_file"):
        load("[routes.eu]\nbucket = 'one'\nendpoint = 'http://127.0.0.1:1'", **none)


def test_a_customers_key_goes_over_tls_only(load, tmp_path):
    (tmp_path / "key").write_bytes(bytes(32))
    text = f"[routes.eu]\nbucket = 'one'\nsse = 'customer'\ncustomer_key_file = '{tmp_path / 'key'}'\n"
    with pytest.raises(SettingsError, match=r"routes\.eu\.sse: expected an https endpoint"):
        load(text)
    load(text + "endpoint = 'https://s3.example.com'")


@pytest.mark.parametrize("content", [bytes(range(32)), base64.b64encode(bytes(range(32))) + b"\n"])
def test_secrets_are_read_from_files_and_the_environment_and_never_shown(load, tmp_path, monkeypatch, content):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "secret").write_text("very-secret\n")
    monkeypatch.setenv("ACME_ACCESS", "acme-access")
    tenancy = load(
        f"[routes.eu]\nbucket = 'one'\nsse = 'customer'\ncustomer_key_file = '{tmp_path / 'key'}'\n"
        "endpoint = 'https://s3.example.com'\naccess_key_env = 'ACME_ACCESS'\n"
        f"secret_key_file = '{tmp_path / 'secret'}'"
    )
    keys = dict(tenancy.keys)["eu"]
    assert keys.access_key.get_secret_value() == "acme-access"
    assert keys.secret_key.get_secret_value() == "very-secret"
    assert base64.b64decode(keys.customer_key.get_secret_value()) == bytes(range(32))
    shown = repr(tenancy)
    for secret in ("acme-access", "very-secret", keys.customer_key.get_secret_value()):
        assert secret not in shown


def test_a_route_has_a_key_of_its_own_for_urls(load, tmp_path, monkeypatch):
    (tmp_path / "id").write_text("acme-urls\n")
    monkeypatch.setenv("ACME_URLS", "hidden-secret")
    tenancy = load(
        "[routes.eu]\nbucket = 'one'\npublic_endpoint = 'https://s3.example.com'\n"
        f"presign_access_key_file = '{tmp_path / 'id'}'\npresign_secret_key_env = 'ACME_URLS'"
    )
    keys = dict(tenancy.keys)["eu"]
    assert keys.presign_access_key.get_secret_value() == "acme-urls"
    assert keys.presign_secret_key.get_secret_value() == "hidden-secret"
    assert keys.access_key is None
    assert "acme-urls" not in repr(tenancy)
    assert "hidden-secret" not in repr(tenancy)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("presign_access_key_env = 'HOME'", "presign_secret_key_file"),
        ("presign_secret_key_env = 'HOME'", "presign_secret_key_file"),
        ("presign_access_key_env = 'HOME'\npresign_access_key_file = 'x'", "presign_access_key_file"),
        ("presign_access_key_env = 'NOT_SET_HERE'\npresign_secret_key_env = 'HOME'", "presign_access_key_env"),
        ("public_endpoint = 'ftp://x'", "public_endpoint"),
    ],
)
def test_half_a_key_for_urls_is_refused(load, given, named):
    with pytest.raises(SettingsError, match=rf"routes\.eu\.{named}"):
        load(f"[routes.eu]\nbucket = 'one'\n{given}")


def test_a_key_of_the_wrong_length_is_refused_without_showing_it(load, tmp_path):
    (tmp_path / "key").write_bytes(b"only-so-long")
    with pytest.raises(SettingsError) as caught:
        load(
            f"[routes.eu]\nbucket = 'one'\nsse = 'customer'\ncustomer_key_file = '{tmp_path / 'key'}'\n"
            "endpoint = 'https://s3.example.com'"
        )
    assert "32 bytes" in str(caught.value)
    assert "only-so-long" not in str(caught.value)


def test_the_command_shows_tenants_beside_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tenants.toml").write_text(WHOLE)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in S3.items()]
    ran = CliRunner().invoke(app, ["config", "--json", "--tenants-file", "tenants.toml", *flags])
    assert ran.exit_code == 0, ran.output
    rows = {row["name"]: row["value"] for row in json.loads(ran.stdout)}
    assert rows["tenants.acme.quota_bytes"] == "2TiB"
    assert rows["tenants.acme.bandwidth"] == "5MiB/s"
    assert rows["tenants.acme.types"] == "image/*,application/pdf"
    assert rows["routes.eu.tags"] == "team=a b"
    assert rows["unknown_tenants"] == "default"
