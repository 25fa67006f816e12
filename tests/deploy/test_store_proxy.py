"""What docs/direct.md says about a MinIO that clients reach: the proxy in front of it, and the key that signs URLs."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import minio
import pytest
from minio.error import S3Error

from tests.clients.readme import ROOT, blocks
from tests.gateway import Gateway, minio_settings
from tests.servers import minio as minio_server
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.nginx import Nginx
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.slow]

DIRECT = (ROOT / "docs" / "direct.md").read_text(encoding="utf-8")
BUCKET = "uploads"
"""As the documented policy calls it."""
DATA = bytes(range(256)) * (5 * 4096) + b"the end"
PART = 5 << 20


@dataclass
class Front:
    """A gateway whose clients reach MinIO by the documented proxy, with URLs of a key that may put objects only."""

    gateway: Gateway
    store: S3Server
    proxy: str
    key: tuple[str, str]

    def ask(self, method: str, path: str, body: object) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        try:
            connection.request(method, f"/api/v1{path}", json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a request through the proxy."""
        address = urlsplit(url)
        connection = http.client.HTTPConnection(urlsplit(self.proxy).netloc, timeout=60)
        try:
            connection.request(method, f"{address.path}?{address.query}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def front(nginx: Nginx, mc: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    home, port = tmp_path_factory.mktemp("front"), free_port()
    with minio_server.running_with_cors("*") as store:
        store.client().make_bucket(bucket_name=BUCKET)
        key = _key_that_signs(store, mc, home)
        (location,) = blocks("nginx", DIRECT)
        location = location.replace("http://127.0.0.1:9000", store.endpoint)
        configuration = home / "nginx.conf"
        server = f"server {{ listen 127.0.0.1:{port};\n{location} }}"
        configuration.write_text(f"pid {home}/nginx.pid; events {{}} http {{ access_log off; {server} }}")
        own = {"TUSGATE_DIRECT": "on", "TUSGATE_S3_PUBLIC_ENDPOINT": f"http://127.0.0.1:{port}"}
        own |= {"TUSGATE_S3_PRESIGN_ACCESS_KEY": key[0], "TUSGATE_S3_PRESIGN_SECRET_KEY": key[1]}
        settings = minio_settings(store, BUCKET) | {"TUSGATE_PART_SIZE": "5MiB"} | own
        with nginx.serving(configuration, port), Gateway(home / "gateway", settings) as gateway:
            yield Front(gateway, store, f"http://127.0.0.1:{port}", key)


def _key_that_signs(store: S3Server, mc: Path, home: Path) -> tuple[str, str]:
    """Make a user with the documented policy and return its key."""
    (policy,) = [text for text in blocks("json", DIRECT) if "Statement" in text]
    (home / "policy.json").write_text(policy)
    address = urlsplit(store.endpoint)
    environment = {**os.environ, "HOME": str(home)}
    environment["MC_HOST_it"] = f"http://{store.access_key}:{store.secret_key}@{address.netloc}"
    for arguments in (
        ["user", "add", "it", "signer", "a-secret-of-the-signer"],
        ["policy", "create", "it", "signing", str(home / "policy.json")],
        ["policy", "attach", "it", "signing", "--user", "signer"],
    ):
        command = [str(mc), "--quiet", "admin", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    return "signer", "a-secret-of-the-signer"


def test_direct_uploads_pass_the_proxy(front: Front) -> None:
    """DM-09."""
    begun = front.ask("POST", "/uploads", {"size": len(DATA), "part_size": PART})
    for part in begun["parts"]["urls"]:
        assert part["url"].startswith(front.proxy)
        chunk = DATA[part["start"] :][: part["size"]]
        assert front.send("PUT", part["url"], part["headers"], chunk)[0] == 200
    upload_id = begun["upload"]["id"]
    assert front.ask("POST", f"/uploads/{upload_id}/complete", {})["state"] == "complete"
    assert front.store.read(BUCKET, upload_id) == DATA


@pytest.mark.parametrize("value", ["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "streaming-unsigned-payload-trailer"])
def test_a_forged_request_with_a_key_id_out_of_a_url_ends_at_the_proxy(front: Front, value: str) -> None:
    """DM-09: CVE-2026-40344."""
    begun = front.ask("POST", "/uploads", {"size": 5})
    url = begun["parts"]["urls"][0]["url"]
    assert f"X-Amz-Credential={front.key[0]}" in url
    now = datetime.now(UTC)
    scope = f"{front.key[0]}/{now:%Y%m%d}/us-east-1/s3/aws4_request"
    forged = {
        "Authorization": (
            f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
            f"Signature={'0' * 64}"
        ),
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-amz-content-sha256": value,
        "x-amz-decoded-content-length": "5",
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    body = b"5\r\nwrong\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    status, told = front.send("PUT", f"/{BUCKET}/forged", forged, body)
    assert (status, b"nginx" in told) == (403, True), told
    assert "forged" not in list(front.store.keys(BUCKET))


def test_the_key_that_signs_can_do_nothing_else(front: Front) -> None:
    """DM-09: neither list, get nor delete."""
    front.store.client().put_object(bucket_name=BUCKET, object_name="of-others", data=io.BytesIO(b"mine"), length=4)
    signer = minio.Minio(
        endpoint=urlsplit(front.store.endpoint).netloc,
        access_key=front.key[0],
        secret_key=front.key[1],
        secure=False,
        region=front.store.region,
    )
    for attempt in (
        lambda: list(signer.list_objects(bucket_name=BUCKET)),
        lambda: signer.get_object(bucket_name=BUCKET, object_name="of-others"),
        lambda: signer.remove_object(bucket_name=BUCKET, object_name="of-others"),
    ):
        with pytest.raises(S3Error) as refused:
            attempt()
        assert refused.value.code == "AccessDenied"
    assert front.store.read(BUCKET, "of-others") == b"mine"
