"""The recipe of docs/cdn.md with a real nginx: files come through it, and nobody goes around it."""

from __future__ import annotations

import getpass
import json
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.clients.readme import ROOT, blocks
from tests.servers.process import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.nginx import Nginx

pytestmark = pytest.mark.servers

HOST = "files.example.net"
TOKEN = "the-token-in-hex"
CDN_PAGE = (ROOT / "docs" / "cdn.md").read_text(encoding="utf-8")


def asked(url: str, method: str = "GET", body: bytes | None = None, host: str | None = None) -> tuple[int, bytes]:
    """Return status and body of an answer; redirects are followed by nobody."""
    request = urllib.request.Request(url, body, {"Host": host} if host else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def write_configuration(directory: Path, gateway: Gateway, port: int, token: str) -> Path:
    """Write a whole nginx.conf around the block of the page; return its path."""
    [block] = blocks("nginx", CDN_PAGE)
    for shipped, here in (
        ("/var/cache/nginx/files", str(directory / "files")),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("http://127.0.0.1:8080", gateway.url),
        (TOKEN, token),
    ):
        assert shipped in block
        block = block.replace(shipped, here)
    scratch = "".join(
        f"    {name}_temp_path {directory / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = directory / "nginx.conf"
    user = f"user {getpass.getuser()};\n"  # nobody may not enter the directories of pytest
    path.write_text(f"{user}pid {directory}/pid;\nevents {{}}\nhttp {{\n{scratch}access_log off;\n{block}}}\n")
    return path


@pytest.fixture
def settings() -> dict[str, str]:
    """What the page says, in one place, with a token that is long enough."""
    [ini, *_] = blocks("ini", CDN_PAGE)
    told = dict(re.findall(r"^(\w+)=(.+)$", ini, re.MULTILINE))
    assert told.pop("TUSGATE_ORIGIN_TOKENS_FILE")
    return {
        **told,
        "TUSGATE_DOWNLOAD_URL": f"http://{HOST}",
        "TUSGATE_ORIGIN_TOKENS": f"{'n' * 64},{'o' * 64}",
        "TUSGATE_TRUSTED_PROXIES": "127.0.0.1",
    }


def outcomes(gateway: Gateway, file_id: str) -> list[str]:
    """Return how the readings of a file have ended."""
    _, log = asked(f"{gateway.url}/api/v1/files/{file_id}/accesses")
    return [access["outcome"] for access in json.loads(log)["accesses"]]


@pytest.mark.parametrize("kept", [False, True], ids=["public, no-cache", "public, s-maxage=60"])
def test_files_come_by_the_cdn_only_and_it_keeps_what_it_may(
    start_gateway: Callable[..., Gateway], settings: dict[str, str], nginx: Nginx, tmp_path: Path, kept: bool
) -> None:
    if kept:
        settings["TUSGATE_DOWNLOAD_CACHE_CONTROL"] = "public, s-maxage=60"
    gateway = start_gateway(settings)
    status, _ = asked(f"{gateway.endpoint}/", "POST", b"hello, world")
    assert status == 201
    _, listing = asked(f"{gateway.url}/api/v1/files")
    [file] = json.loads(listing)["files"]
    content = f"/api/v1/files/{file['id']}/content"
    assert file["links"]["content"] == f"http://{HOST}{content}"
    assert asked(gateway.url + content, host=HOST)[0] == 403, "around the CDN"
    port = free_port()
    with nginx.serving(write_configuration(tmp_path, gateway, port, "o" * 64), port):
        edge = f"http://127.0.0.1:{port}"
        for _ in range(2):
            assert asked(edge + content, host=HOST) == (200, b"hello, world")
        assert asked(f"{edge}/api/v1/files", host=HOST)[0] == 404, "it passes on nothing but files"
        wait_until(lambda: outcomes(gateway, file["id"]) == ["done"] * (1 if kept else 2), "the ends are written down")
        assert asked(f"{gateway.url}/api/v1/files/{file['id']}", "DELETE")[0] == 204
        assert asked(edge + content, host=HOST)[0] == (200 if kept else 410)
