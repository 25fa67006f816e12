"""The upload page with its other door: parts go from Chromium to MinIO, and the gateway sees none of them."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.test_parallel_uploads import Application
from tests.clients.deployment import BucketObjects, Deployment
from tests.clients.payload import MIB, Payload, write_payload
from tests.gateway import minio_settings
from tests.servers import minio as minio_server
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.browser.conftest import Browser, UploadPage
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.servers]

PATIENCE = 60_000.0  # ms
SLOW = 8 * MIB
PART = 8 * MIB


@pytest.fixture
def deployment(start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str) -> Deployment:
    settings = minio_settings(minio, bucket) | {"TUSGATE_DIRECT": "on"}
    return Deployment(start_gateway(settings), BucketObjects(minio, bucket))


@pytest.fixture
def file(tmp_path: Path) -> Payload:
    """Give a file of several parts."""
    return write_payload(tmp_path, 5 * PART + 7)


def opened(browser: Browser, deployment: Deployment) -> UploadPage:
    page = browser.open(deployment.gateway.url)
    page.page.get_by_label("straight to the object store").check()
    return page


def expect_finished(page: UploadPage, deployment: Deployment, file: Payload) -> str:
    """Wait until the page says so, and return the id of the file, which is what was sent."""
    expect(page.row(file.path.name)).to_contain_text("Uploaded", timeout=PATIENCE)
    address = page.address_of(file.path.name)
    assert deployment.stored_sha256(address) == file.sha256
    return address.rpartition("/")[2]


def ask(deployment: Deployment, path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", deployment.gateway.port, timeout=60)
    try:
        connection.request("GET", f"/api/v1{path}")
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def the_upload(deployment: Deployment) -> str:
    """Return the id of the one unfinished upload."""
    listed = ask(deployment, "/files?state=uploading")["files"]
    assert isinstance(listed, list)
    (upload,) = listed
    return str(upload["id"])


def stored_parts(deployment: Deployment, upload_id: str) -> int:
    parts = ask(deployment, f"/uploads/{upload_id}/parts")["parts"]
    assert isinstance(parts, list)
    return sum(part["etag"] is not None for part in parts)


def begun(browser: Browser, deployment: Deployment, file: Payload) -> tuple[UploadPage, str]:
    """Return when the store has a part, with the id of the upload; the line is slow."""
    page = opened(browser, deployment)
    page.limit_upload(SLOW)
    with page.page.expect_response(lambda answer: urlsplit(answer.url).path == "/api/v1/uploads"):
        page.choose(file.path)
    upload_id = the_upload(deployment)
    wait_until(lambda: stored_parts(deployment, upload_id) > 0, "a part in the store")
    return page, upload_id


def test_files_go_to_the_store_and_none_of_their_bytes_to_the_gateway(
    browser: Browser, deployment: Deployment, tmp_path: Path
) -> None:
    page = opened(browser, deployment)
    files = [write_payload(tmp_path, size) for size in (0, 1, PART, 3 * PART + 1)]
    hosts: list[tuple[str, str]] = []
    page.page.on("request", lambda request: hosts.append((request.method, urlsplit(request.url).netloc)))
    page.choose([file.path for file in files])
    ids = {expect_finished(page, deployment, file) for file in files}
    assert {str(ask(deployment, f"/files/{each}")["created_via"]) for each in ids} == {"direct"}
    store = urlsplit(deployment.gateway.environment["TUSGATE_S3_ENDPOINT"]).netloc
    assert [host for method, host in hosts if method == "PUT"] == [store] * 6
    assert browser.count("PATCH") == 0


def test_a_file_goes_on_after_a_reload_when_it_is_chosen_again(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    page, upload_id = begun(browser, deployment, file)
    page.page.reload()
    page.limit_upload(-1)
    before = stored_parts(deployment, upload_id)
    sent: list[str] = []
    page.page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.page.get_by_label("straight to the object store").check()
    page.choose(file.path)
    assert expect_finished(page, deployment, file) == upload_id
    assert len(sent) == 6 - before


def test_an_unfinished_file_is_listed_and_goes_on_at_its_own_door(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    """After the browser was closed, and whichever door is chosen by then."""
    page, upload_id = begun(browser, deployment, file)
    browser.close()
    page = browser.open(deployment.gateway.url)
    before = stored_parts(deployment, upload_id)
    expect(page.row(file.path.name)).to_contain_text("% uploaded")
    expect(page.page.get_by_role("heading", name="Unfinished")).to_be_visible()
    expect(page.page.get_by_label("through the gateway")).to_be_checked()
    sent: list[str] = []
    page.page.on("request", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    with page.page.expect_file_chooser() as chooser:
        page.press(f"Choose {file.path.name} again to continue")
    chooser.value.set_files(file.path)
    assert expect_finished(page, deployment, file) == upload_id
    assert len(sent) == 6 - before
    expect(page.page.get_by_role("heading", name="Unfinished")).to_be_hidden()
    page.page.reload()
    expect(page.row(file.path.name)).to_have_count(0)


def test_an_unfinished_file_is_discarded_with_its_parts(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    page, upload_id = begun(browser, deployment, file)
    page.page.reload()
    page.press(f"Discard {file.path.name}")
    expect(page.row(file.path.name)).to_have_count(0)
    assert ask(deployment, f"/files/{upload_id}")["status"] == 410
    page.page.reload()
    expect(page.row(file.path.name)).to_have_count(0)


def test_an_upload_that_has_ended_meanwhile_is_listed_no_more(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    page, upload_id = begun(browser, deployment, file)
    browser.close()
    connection = http.client.HTTPConnection("127.0.0.1", deployment.gateway.port, timeout=60)
    connection.request("DELETE", f"/api/v1/uploads/{upload_id}")
    assert connection.getresponse().status == 204
    connection.close()
    page = browser.open(deployment.gateway.url)
    page.page.wait_for_function("Object.keys(localStorage).every((key) => !key.startsWith('tusgate::direct'))")
    expect(page.row(file.path.name)).to_have_count(0)


def test_a_file_is_paused_and_goes_on(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page, upload_id = begun(browser, deployment, file)
    page.press(f"Pause {file.path.name}")
    expect(page.row(file.path.name)).to_contain_text("Paused")
    page.limit_upload(-1)
    page.press(f"Resume {file.path.name}")
    assert expect_finished(page, deployment, file) == upload_id


def test_a_cancelled_file_is_gone(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page, upload_id = begun(browser, deployment, file)
    page.press(f"Cancel {file.path.name}")
    expect(page.row(file.path.name)).to_have_count(0)
    assert ask(deployment, f"/files/{upload_id}")["status"] == 410


@pytest.mark.parametrize("status", [403, 503, None], ids=["an expired URL", "a busy store", "no connection"])
def test_a_part_that_fails_is_sent_again(
    browser: Browser, deployment: Deployment, file: Payload, status: int | None
) -> None:
    page = opened(browser, deployment)
    failed: list[str] = []

    def fail_once(route: Route) -> None:
        if route.request.method != "PUT" or failed:
            route.fallback()
        else:
            failed.append(route.request.url)
            if status is None:
                route.abort()
            else:
                route.fulfill(status=status, headers={"Access-Control-Allow-Origin": "*"})

    page.page.route("**/*", fail_once)
    page.choose(file.path)
    expect_finished(page, deployment, file)
    assert failed


def test_a_lost_answer_to_the_last_request_makes_no_second_file(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    """DM-02: the file is there, and the page finds it so."""
    page = opened(browser, deployment)
    lost: list[int] = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().status)
        route.abort()

    page.page.route("**/complete", lose, times=1)
    page.choose(file.path)
    expect_finished(page, deployment, file)
    assert lost == [200]
    listed = ask(deployment, "/files")["files"]
    assert isinstance(listed, list)
    assert len(listed) == 1


def test_where_there_are_no_direct_uploads_there_is_no_choice(browser: Browser, gateway: Gateway) -> None:
    page = browser.open(gateway.url)
    expect(page.page.get_by_label("straight to the object store")).to_be_hidden()


AS_A_PAGE = """async ({ url, headers }) => {
  try {
    const answer = await fetch(url, { method: "PUT", headers, body: "12345" });
    return answer.headers.get("ETag") ?? "hidden";
  } catch (error) {
    return String(error);
  }
}"""


def test_a_page_of_a_foreign_origin_cannot_send_a_part(
    browser: Browser, start_gateway: Callable[..., Gateway], applications: tuple[str, str]
) -> None:
    """DM-11: one of an allowed origin can, and sees the ETag."""
    allowed, foreign = applications
    with minio_server.running_with_cors(allowed) as minio:
        own = {"TUSGATE_DIRECT": "on", "TUSGATE_CORS_ORIGINS": allowed}
        gateway = start_gateway(minio_settings(minio, minio.make_bucket()) | own)
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        connection.request("POST", "/api/v1/uploads", json.dumps({"size": 5}), {"Content-Type": "application/json"})
        (part,) = json.loads(connection.getresponse().read())["parts"]["urls"]
        connection.close()
        page = browser.open(f"{foreign}/").page
        assert "Failed to fetch" in page.evaluate(AS_A_PAGE, part)
        page.goto(f"{allowed}/")
        assert page.evaluate(AS_A_PAGE, part).strip('"') == hashlib.md5(b"12345").hexdigest()


@pytest.fixture
def applications() -> Iterator[tuple[str, str]]:
    """Give the URLs of the same page at two origins."""
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Application) as one,
        ThreadingHTTPServer(("127.0.0.1", 0), Application) as other,
    ):
        for server in (one, other):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}", f"http://127.0.0.1:{other.server_port}"
        one.shutdown()
        other.shutdown()
