"""The recipes of docs/identity.md: a real nginx with a login that answers as oauth2-proxy does, and JWTs."""

from __future__ import annotations

import asyncio
import getpass
import http.client
import http.server
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.readme import ROOT, blocks
from tests.issuer import Issuer
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.nginx import Nginx

pytestmark = pytest.mark.servers

PAGE = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
TUS: dict[str, Any] = {"Tus-Resumable": "1.0.0"}
USERS = {"alice": "staff", "bob": "staff", "root": "staff,upload-admins"}


class Login(http.server.BaseHTTPRequestHandler):
    """202 with the user whose name the cookie has, else 401: oauth2-proxy with `--set-xauthrequest`."""

    def do_GET(self) -> None:
        user = re.search(r"session=(\w+)", self.headers.get("Cookie", ""))
        known = user is not None and user[1] in USERS
        self.send_response(202 if known else 401)
        if known and user is not None:
            self.send_header("X-Auth-Request-User", user[1])
            self.send_header("X-Auth-Request-Groups", USERS[user[1]])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def login() -> Iterator[int]:
    """Give the port of a login."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Login)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Site:
    """What browsers see."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, who: str = "", body: bytes = b"", **fields: str) -> tuple[int, str, bytes]:
        """Return status, Location and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        try:
            connection.request(method, path, body, {**named, **({"Cookie": f"session={who}"} if who else {})})
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Location", ""), answer.read()
        finally:
            connection.close()


@pytest.fixture
def site(start_gateway: Callable[..., Gateway], nginx: Nginx, tmp_path: Path) -> Iterator[Site]:
    settings = next(found for found in blocks("ini", PAGE) if "TUSGATE_AUTH=proxy" in found)
    gateway = start_gateway(
        dict(re.findall(r"^(\w+)=(.+)$", settings, re.MULTILINE)) | {"TUSGATE_SHARE_KEYS": "k" * 32}
    )
    [block] = blocks("nginx", PAGE)
    port = free_port()
    with login() as login_port:
        for shipped, here in (
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("http://127.0.0.1:8080", gateway.url),
            ("http://127.0.0.1:4180", f"http://127.0.0.1:{login_port}"),
        ):
            assert shipped in block
            block = block.replace(shipped, here)
        scratch = "".join(
            f"{name}_temp_path {tmp_path / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = tmp_path / "nginx.conf"
        path.write_text(
            f"user {getpass.getuser()};\npid {tmp_path}/pid;\nevents {{}}\n"
            f"http {{\n{scratch}access_log off;\n{block}}}\n"
        )
        with nginx.serving(path, port):
            yield Site(port)


def test_who_is_not_logged_in_is_sent_to_the_login_and_programs_are_told(site: Site) -> None:
    assert site.ask("GET", "/")[:2] == (302, f"http://127.0.0.1:{site.port}/oauth2/sign_in?rd=/")
    for path in ("/files", "/api/v1/files", "/assets/page.js"):
        assert site.ask("GET", path)[:2] == (401, ""), path
    assert site.ask("POST", "/files", **TUS, Upload_Length="5")[0] == 401
    assert site.ask("POST", "/files", **TUS, Upload_Length="5", X_Forwarded_User="alice")[0] == 401
    assert site.ask("GET", "/", "alice")[0] == 200


def test_users_have_their_own_files_whatever_they_say_of_themselves(site: Site) -> None:
    origin = f"http://127.0.0.1:{site.port}"
    claims: dict[str, Any] = {"X_Forwarded_User": "bob", "X_Forwarded_Groups": "upload-admins", "Origin": origin}
    status, location, _ = site.ask("POST", "/files", "alice", **TUS, Upload_Length="5", **claims)
    assert (status, location.startswith(f"{origin}/files/")) == (201, True), "the page can go on there"
    path = location.removeprefix(origin)
    offset: dict[str, Any] = {"Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
    assert site.ask("PATCH", path, "bob", b"hello", **TUS, **offset)[0] == 404
    assert site.ask("PATCH", path, "alice", b"hello", **TUS, **offset)[0] == 204
    file = path.replace("/files/", "/api/v1/files/")
    shown = json.loads(site.ask("GET", file, "alice")[2])
    assert (shown["owner"], shown["state"]) == ("alice", "complete")
    assert site.ask("GET", file, "bob")[0] == 404
    assert site.ask("GET", "/api/v1/accesses", "alice", **claims)[0] == 403
    assert site.ask("GET", "/api/v1/accesses", "root")[0] == 200
    made = site.ask("POST", f"{file}/shares", "alice", b"{}", Content_Type="application/json")
    link = json.loads(made[2])["url"]
    assert site.ask("GET", link.removeprefix(origin))[::2] == (200, b"hello"), "without a login"
    assert site.ask("POST", "/files", "alice", **TUS, Upload_Length="5", Origin="https://evil.example")[0] == 403


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_a_token_of_an_identity_provider_is_enough(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    settings = next(found for found in blocks("ini", PAGE) if "TUSGATE_AUTH=jwt" in found)
    told = dict(re.findall(r"^(\w+)=(.+)$", settings, re.MULTILINE))
    [issuer] = json.loads(told["TUSGATE_JWT_ISSUERS"])
    (tmp_path / "photo.png").write_bytes(b"hello")
    async with Issuer(issuer["issuer"]).serving() as provider:
        told["TUSGATE_JWT_ISSUERS"] = json.dumps([issuer | {"jwks_url": provider.jwks_url}])
        gateway = await asyncio.to_thread(start_gateway, told)
        [script] = blocks("sh jwt", PAGE)
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-ec", script.replace("http://localhost:8080", gateway.url)),
            cwd=tmp_path,
            env={**os.environ, "TOKEN": provider.token(aud=issuer["audience"])},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await shell.communicate()
        assert shell.returncode == 0, output
        listing = output.decode().partition("{")
        [file] = json.loads(listing[1] + listing[2])["files"]
        assert (file["owner"], file["filename"], file["state"]) == ("alice", "photo.png", "complete")
