"""Keys of a tenant's own for the URLs that are handed out: on MinIO, with rights to match, and on the strict double."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from yarl import URL

from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double
from tests.doubles.s3.signature import Key
from tests.gateway import TUSGATE, minio_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

DATA = b"hello, world"


@dataclass(frozen=True)
class Store:
    """A store whose keys come and go.

    Attributes:
        add_key: makes a key that may read one bucket.
        remove_key: makes it useless.
    """

    server: S3Server
    bucket: str
    tenants_bucket: str
    add_key: Callable[[str, str, str], object]
    remove_key: Callable[[str], object]


@asynccontextmanager
async def on_double() -> AsyncIterator[Store]:
    async with S3Double(BEHAVIOURS["minio"]) as double:
        for bucket in ("plain", "tenants"):
            double.make_bucket(bucket)

        def add(name: str, secret: str, _bucket: str) -> None:
            double.gate.keys[name] = Key(secret)

        yield Store(double.as_server(), "plain", "tenants", add, double.gate.keys.pop)


@asynccontextmanager
async def on_minio(server: S3Server) -> AsyncIterator[Store]:
    credentials = StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=urlsplit(server.endpoint).netloc, credentials=credentials, secure=False)

    def add(name: str, secret: str, bucket: str) -> None:
        statement = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        admin.add_service_account(access_key=name, secret_key=secret, policy=policy)

    plain, tenants = (server.make_bucket("presign") for _ in range(2))
    yield Store(server, plain, tenants, add, admin.delete_service_account)


@pytest.fixture(params=["double", "minio"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    kind = on_double() if request.param == "double" else on_minio(request.getfixturevalue("minio"))
    async with kind as found:
        yield found


@dataclass(frozen=True)
class Place:
    """A gateway where acme has a route with a key for URLs, and everybody else the plain settings with another one."""

    gateway: Gateway
    store: Store
    keys: dict[str, str]

    async def link_for(self, tenant: str) -> str:
        """Upload a file of a tenant and return where its download is redirected to."""
        gateway = self.gateway
        named = {"X-Forwarded-User": "somebody", "X-Tenant": tenant}
        async with aiohttp.ClientSession(headers=named) as session:
            async with session.post(f"{gateway.endpoint}/", data=DATA) as made:
                assert made.status == 201, await made.text()
                file_id = made.headers["Location"].rsplit("/", 1)[1]
            content = f"{gateway.url}/api/v1/files/{file_id}/content"
            async with session.get(content, allow_redirects=False) as answer:
                assert answer.status == 302, await answer.text()
                return answer.headers["Location"]


@pytest.fixture
async def place(store: Store, start_gateway: Callable[..., Gateway], tmp_path: Path) -> Place:
    keys = {name: f"{name}{secrets.token_hex(4)}" for name in ("plainurls", "acmeurls")}
    hidden = {name: secrets.token_hex(16) for name in keys}
    for name, bucket in (("plainurls", store.bucket), ("acmeurls", store.tenants_bucket)):
        await asyncio.to_thread(store.add_key, keys[name], hidden[name], bucket)
    for name, text in {**keys, **{f"{name}-secret": text for name, text in hidden.items()}}.items():
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "tenants.toml").write_text(f"""
        [routes.acme]
        bucket = "{store.tenants_bucket}"
        public_endpoint = "http://localhost:{urlsplit(store.server.endpoint).port}"
        presign_access_key_file = "{tmp_path / "acmeurls"}"
        presign_secret_key_env = "ACME_PRESIGN_SECRET"
        [tenants.acme]
        route = "acme"
    """)
    settings = {
        **minio_settings(store.server, store.bucket),
        "TUSGATE_TENANTS_FILE": str(tmp_path / "tenants.toml"),
        "TUSGATE_S3_PRESIGN_ACCESS_KEY_FILE": str(tmp_path / "plainurls"),
        "TUSGATE_S3_PRESIGN_SECRET_KEY_FILE": str(tmp_path / "plainurls-secret"),
        "TUSGATE_DOWNLOADS": "redirect",
        "TUSGATE_AUTH": "proxy",
        "TUSGATE_TRUSTED_PROXIES": "127.0.0.1",
        "TUSGATE_PROXY_TENANT_HEADER": "X-Tenant",
        "ACME_PRESIGN_SECRET": hidden["acmeurls"],
    }
    return Place(await asyncio.to_thread(start_gateway, settings), store, {**keys, **hidden_names(hidden)})


def hidden_names(hidden: dict[str, str]) -> dict[str, str]:
    return {f"{name} secret": text for name, text in hidden.items()}


def signer_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["X-Amz-Credential"][0].split("/")[0]


async def fetched(link: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(URL(link, encoded=True)) as answer:
        return answer.status, await answer.read()


async def test_each_routes_urls_are_signed_by_its_own_key_at_its_own_address(place: Place) -> None:
    """DL-03."""
    plain, acme = await place.link_for("default"), await place.link_for("acme")
    assert signer_of(plain) == place.keys["plainurls"]
    assert signer_of(acme) == place.keys["acmeurls"]
    assert urlsplit(acme).hostname == "localhost"
    assert urlsplit(acme).path.startswith(f"/{place.store.tenants_bucket}/")
    for link in (plain, acme):
        assert await fetched(link) == (200, DATA)
    await asyncio.to_thread(place.store.remove_key, place.keys["acmeurls"])
    assert (await fetched(acme))[0] == 403
    assert await fetched(plain) == (200, DATA)
    await place.link_for("acme")  # uploads go on: they need another key


async def test_no_secret_of_theirs_is_shown(place: Place) -> None:
    """I19."""
    await place.link_for("acme")
    gateway = place.gateway
    shown = await asyncio.create_subprocess_exec(
        *TUSGATE, "config", cwd=gateway.home, env=gateway.environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await shown.communicate()
    assert shown.returncode == 0
    assert b"presign_secret_key_env" in output
    for name, text in place.keys.items():
        if name.endswith("secret"):
            assert text not in output.decode() + gateway.log_path.read_text(), name
