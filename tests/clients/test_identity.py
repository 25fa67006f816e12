"""Clients with credentials: the recipes of docs/identity.md as they are printed, and fresh tokens in the middle."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from tests.clients.deployment import Deployment, DirectoryObjects
from tests.clients.payload import MIB, PART
from tests.gateway import TUSGATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.payload import Payload
    from tests.gateway import Gateway
    from tests.servers.node import Node

pytestmark = pytest.mark.clients

KEY = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")
TIMEOUT = 120.0
TUS = {"Tus-Resumable": "1.0.0"}


def recipe(language: str) -> str:
    """Return the block of the page that is marked as runnable in `language`."""
    (found,) = re.findall(rf"^```{language} run\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def minted(**changes: Any) -> str:
    now = int(time.time())
    claims = {"aud": "tusgate-upload", "sub": "user-17", "jti": os.urandom(8).hex(), "iat": now, "exp": now + 600}
    return jwt.encode(claims | changes, KEY, "HS256")


@pytest.fixture
def guarded(start_gateway: Callable[..., Gateway]) -> Deployment:
    """Give a gateway that takes upload tokens and static ones."""
    gateway = start_gateway({"TUSGATE_AUTH": "upload-token,token", "TUSGATE_UPLOAD_TOKEN_KEYS": KEY})
    return Deployment(gateway, DirectoryObjects(gateway.home / "data" / "objects"))


def tusgate(gateway: Gateway, *arguments: str) -> str:
    """Run a command of the gateway's own with its settings; return what it prints."""
    ended = subprocess.run(
        [*TUSGATE, *arguments], env=gateway.environment, cwd=gateway.home, capture_output=True, check=True, text=True
    )
    return ended.stdout.strip()


class TestRecipes:
    @pytest.mark.parametrize("language", ["python", "js"])
    def test_a_minted_token_makes_the_upload_that_it_is_for(
        self, guarded: Deployment, node: Node, language: str, tmp_path: Path
    ) -> None:
        script = tmp_path / f"mint.{'py' if language == 'python' else 'mjs'}"
        script.write_text(recipe(language))
        program = sys.executable if language == "python" else str(node.program)
        ended = subprocess.run(
            [program, str(script)],
            env={**os.environ, "UPLOAD_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        who = {**TUS, "Authorization": f"Bearer {ended.stdout.strip()}"}
        endpoint = guarded.gateway.endpoint
        image = {"Upload-Metadata": "filetype aW1hZ2UvcG5n"}
        assert requests.post(endpoint, headers={**who, "Upload-Length": "3"}, timeout=30).status_code == 403
        too_large = {**who, **image, "Upload-Length": "100000001"}
        assert requests.post(endpoint, headers=too_large, timeout=30).status_code == 413
        made = requests.post(endpoint, headers={**who, **image, "Upload-Length": "3"}, timeout=30)
        assert made.status_code == 201
        told = requests.head(made.headers["Location"], headers=who, timeout=30)
        assert told.headers["Upload-Metadata"] == "filetype aW1hZ2UvcG5n,album Nw=="

    @pytest.mark.skipif(
        shutil.which("curl") is None or shutil.which("openssl") is None, reason="curl or openssl is not installed"
    )
    def test_the_shell_uploads_with_a_token_that_it_minted(self, guarded: Deployment, tmp_path: Path) -> None:
        (tmp_path / "photo.png").write_bytes(b"a picture")
        script = recipe("sh").replace("http://localhost:8080", guarded.gateway.url)
        ended = subprocess.run(
            ["sh", "-eu"],
            input=script,
            env={**os.environ, "UPLOAD_KEY": KEY},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert ended.returncode == 0, (ended.stdout, ended.stderr)
        (key,) = guarded.objects.keys()  # not a dictionary
        assert ended.stdout.strip() == f"{guarded.gateway.endpoint}/{key}"


class TestStaticTokens:
    def test_the_commands_make_list_and_revoke_what_the_gateway_believes(self, guarded: Deployment) -> None:
        gateway = guarded.gateway
        token = tusgate(gateway, "token", "create", "--owner", "scanner-3", "--label", "third floor")
        who = {**TUS, "Authorization": f"Bearer {token}", "Upload-Length": "3"}
        assert requests.post(gateway.endpoint, headers=who, timeout=30).status_code == 201
        (listed,) = json.loads(tusgate(gateway, "token", "list", "--json"))
        assert (listed["owner"], listed["label"], listed["revoked_at"]) == ("scanner-3", "third floor", None)
        assert listed["last_used_at"] is not None
        assert token.rpartition("_")[2] not in json.dumps(listed)
        tusgate(gateway, "token", "revoke", listed["id"])
        deadline = time.monotonic() + 30
        while requests.post(gateway.endpoint, headers=who, timeout=30).status_code != 401:
            assert time.monotonic() < deadline, "the revocation was never noticed"
            time.sleep(0.1)
        assert token.rpartition("_")[2] not in gateway.log_path.read_text()

    def test_the_upload_command_takes_a_token(self, guarded: Deployment, payload: Callable[[int], Payload]) -> None:
        token = tusgate(guarded.gateway, "token", "create", "--owner", "scanner-3")
        file = payload(PART + 1)
        header = f"Authorization=Bearer {token}"
        url = tusgate(guarded.gateway, "upload", "--header", header, str(file.path))
        assert guarded.stored_sha256(url) == file.sha256


class TestFreshTokens:
    """AT-05: 401 in the middle, and on with a fresh token, on the same upload."""

    def test_tuspy_goes_on(self, guarded: Deployment, payload: Callable[[int], Payload]) -> None:
        file = payload(3 * PART + 7)
        client = TusClient(guarded.gateway.endpoint, headers={"Authorization": f"Bearer {minted()}"})
        with file.path.open("rb") as stream:
            uploader = client.uploader(file_stream=stream, chunk_size=3 * MIB)
            uploader.upload(stop_at=10 * MIB)
            client.set_headers({"Authorization": f"Bearer {minted(exp=1)}"})
            with pytest.raises(TusCommunicationError) as refused:
                uploader.upload_chunk()
            assert refused.value.status_code == 401
            # A HEAD with it is 423: tuspy keeps the URL then.
            with pytest.raises(TusCommunicationError) as locked:
                uploader.get_offset()
            assert locked.value.status_code == 423
            client.set_headers({"Authorization": f"Bearer {minted()}"})
            assert uploader.get_offset() == uploader.offset
            uploader.upload()
        assert guarded.stored_sha256(str(uploader.url)) == file.sha256
        assert len(guarded.objects.keys()) == 1

    @pytest.mark.parametrize("stale", [1, 2, 3], ids=["PATCH", "PATCH and HEAD", "PATCH, HEAD and HEAD"])
    def test_tus_js_client_goes_on(
        self, guarded: Deployment, node: Node, payload: Callable[[int], Payload], stale: int
    ) -> None:
        """From the fourth request on, `stale` of them come with a token that has ended, later ones with a good one."""
        file = payload(3 * PART + 7)
        with tokens(ended=range(3, 3 + stale)) as mint:
            task = {
                "endpoint": guarded.gateway.endpoint,
                "file": str(file.path),
                "mint": mint,
                "options": {"chunkSize": 3 * MIB},
            }
            ended = subprocess.run(
                [str(node.program), str(node.clients / "js" / "fresh_tokens.mjs"), json.dumps(task)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        print(ended.stdout, ended.stderr)
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        statuses = [(line["request"], line["status"]) for line in lines if "request" in line]
        assert statuses[3 : 3 + stale] == [("PATCH", 401), ("HEAD", 423), ("HEAD", 423)][:stale]
        assert [request for request, _ in statuses].count("POST") == 1
        (url,) = [line["done"] for line in lines if "done" in line]
        assert guarded.stored_sha256(url) == file.sha256


class tokens:  # noqa: N801 # a context manager, read as a function
    """A backend that mints upload tokens, some of which have ended when they come; enter it for its address."""

    def __init__(self, ended: range) -> None:
        numbers = iter(range(1_000_000))

        class Backend(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                token = minted(exp=1) if next(numbers) in ended else minted()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(token.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Backend)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_the_snippet_of_the_page_is_the_one_that_is_tried() -> None:
    script = (Path(__file__).parent / "js" / "fresh_tokens.mjs").read_text(encoding="utf-8")
    for line in (
        'onBeforeRequest: async (request) => request.setHeader("Authorization", `Bearer ${await freshToken()}`),',
        "onShouldRetry: (error) => [0, 401, 409, 423].includes(error.originalResponse?.getStatus() ?? 0)",
        "|| error.originalResponse.getStatus() >= 500,",
    ):
        assert line in script
        assert line in PAGE
