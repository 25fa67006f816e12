"""Parallel uploads as a web application of another origin makes them: with the snippet of the README, in Chromium."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.payload import MIB, Payload, write_payload
from tests.clients.readme import blocks, reporting
from tests.clients.watched import in_background, watching
from tests.fault.tcp import TcpFaultProxy
from tests.servers.node import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.browser.conftest import Browser
    from tests.clients.deployment import Deployment
    from tests.clients.watched import Watched
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.clients, pytest.mark.slow]

APPLICATION = b"<!doctype html><title>an application</title><input type=file>"
CLIENT = CLIENTS.parents[1] / "tusgate" / "web" / "page" / "assets" / "tus-4.3.1.min.js"
SIZE = 44 * MIB + 3
PARTIALS = 4


@pytest.fixture
def file(tmp_path: Path) -> Payload:
    """Give a file whose partials are two parts each."""
    return write_payload(tmp_path, SIZE)


@pytest.fixture
def watched(
    minio: S3Server, bucket: str, database_url: str, start_gateway: Callable[..., Gateway]
) -> Iterator[Watched]:
    """Give a gateway on MinIO and PostgreSQL whose calls are seen."""
    with watching(minio, bucket, database_url, start_gateway) as watched:
        yield watched


class Application(BaseHTTPRequestHandler):
    """The server of the application's one page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(APPLICATION)))
        self.end_headers()
        self.wfile.write(APPLICATION)


@pytest.fixture
def application() -> Iterator[str]:
    """Give the URL of a page of another origin than the gateway's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def upload(browser: Browser, application: str, code: str, address: str, file: Payload) -> str:
    """Have the application upload `file` by `code`, and return the URL of the upload."""
    page = browser.open(application).page
    page.add_script_tag(path=CLIENT)
    page.set_input_files("input", file.path)
    page.evaluate("window.client = window.tus")
    script = reporting(code, address)
    wrapped = f"""() => new Promise((report) => {{
      const file = document.querySelector("input").files[0];
      {script}
    }})"""
    ended: dict[str, Any] = page.evaluate(wrapped)
    assert "error" not in ended, ended
    return str(ended["done"])


def the_snippet() -> str:
    (snippet,) = (block for block in blocks("js") if "parallelUploads" in block)
    return snippet


def test_the_snippet_of_the_readme_moves_every_byte_once(
    browser: Browser, application: str, watched: Watched, file: Payload
) -> None:
    watched.check(upload(browser, application, the_snippet(), watched.url, file), file)
    assert watched.moved == (SIZE, 0, 0)


def test_partials_that_nobody_groups_are_copied_by_the_store(
    browser: Browser, application: str, watched: Watched, file: Payload
) -> None:
    code = "new tus.Upload(file, { endpoint: 'http://localhost:8080/files/', parallelUploads: 4 }).start()"
    watched.check(upload(browser, application, code, watched.url, file), file)
    assert watched.moved == (SIZE, PARTIALS, 0)


def test_connections_that_are_cut_in_the_middle_are_healed_by_the_client_itself(
    browser: Browser, application: str, watched: Watched, file: Payload
) -> None:
    with in_background(TcpFaultProxy("127.0.0.1", watched.deployment.gateway.port)) as line:
        cut = line.cut("up", after=7 * MIB, times=PARTIALS)
        url = upload(browser, application, the_snippet(), f"http://{line.host}:{line.port}", file)
        assert cut.times == 0
        watched.check(url, file)
        assert watched.calls.count("UploadPartCopy") == 0


def test_the_snippet_of_the_readme_works_with_the_default_settings(
    browser: Browser, application: str, deployment: Deployment, file: Payload
) -> None:
    url = upload(browser, application, the_snippet(), deployment.gateway.url, file)
    assert deployment.stored_sha256(url) == file.sha256
