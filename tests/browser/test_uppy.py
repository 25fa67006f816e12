"""Uppy 5 and 6 with their aws-s3 plugins, in a page of another origin: parts go from Chromium to MinIO."""

from __future__ import annotations

import re
import subprocess
import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.test_parallel_uploads import Application
from tests.clients.deployment import BucketObjects, Deployment
from tests.clients.payload import MIB, Payload, write_payload
from tests.gateway import minio_settings
from tests.servers.node import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import CDPSession, Page, Route

    from tests.browser.conftest import Browser
    from tests.gateway import Gateway
    from tests.servers.node import Node
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.servers]

SIZE = 21 * MIB + 5
PARTS = 5
"""Of `SIZE`, as Uppy is told to cut it."""
MADE = """({ endpoint, version, retrieves }) => {
  const where = version === 5 ? { endpoint } : { companionEndpoint: endpoint };
  const uppy = new window.Uppy({ autoProceed: false });
  uppy.use(window.AwsS3, { ...where, shouldUseMultipart: true, getChunkSize: () => 5 * 1024 * 1024 });
  window.seen = { progress: 0, ended: null };
  uppy.on("upload-progress", (_, progress) => { window.seen.progress = progress.bytesUploaded; });
  uppy.on("upload-success", (_, result) => { window.seen.ended = { url: result.uploadURL }; });
  uppy.on("upload-error", (_, error) => { window.seen.ended = { error: String(error.message) }; });
  if (retrieves) {
    uppy.on("restored", () => uppy.emit("restore-confirmed"));
    const most = 2 ** 30;
    uppy.use(window.GoldenRetriever, { indexedDB: { maxFileSize: most, maxTotalSize: most } });
  }
  window.uppy = uppy;
}"""
STARTED = """() => {
  const file = document.querySelector("input").files[0];
  window.uppy.addFile({ name: file.name, type: file.type, data: file });
  window.uppy.upload();
}"""
EXPIRED = re.compile(r"X-Amz-Date=\d{4}")


@pytest.fixture
def file(tmp_path: Path) -> Payload:
    return write_payload(tmp_path, SIZE)


@pytest.fixture
def application() -> Iterator[str]:
    """Give the URL of a page of another origin than the gateway's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def deployment(start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str, application: str) -> Deployment:
    settings = minio_settings(minio, bucket) | {"TUSGATE_DIRECT": "on", "TUSGATE_CORS_ORIGINS": application}
    return Deployment(start_gateway(settings), BucketObjects(minio, bucket))


@pytest.fixture(params=[5, 6])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def bundle(version: int, node: Node, tmp_path: Path) -> Path:
    """Return this Uppy as a page bundles it."""
    made = tmp_path / "uppy.js"
    esbuild = CLIENTS / "node_modules" / "esbuild" / "bin" / "esbuild"
    subprocess.run(
        [str(node.program), str(esbuild), "bundle.mjs", "--bundle", "--format=iife", f"--outfile={made}"],
        cwd=CLIENTS / f"uppy{version}",
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture
def page(browser: Browser, application: str, bundle: Path, file: Payload) -> Page:
    """Give the application with this Uppy in it, and a file chosen."""
    shown = browser.open(f"{application}/").page
    shown.add_script_tag(path=bundle)
    shown.set_input_files("input", file.path)
    return shown


def make(page: Page, deployment: Deployment, version: int, *, retrieves: bool = False) -> None:
    """Have the page make its Uppy, with the Golden Retriever or without."""
    endpoint = f"{deployment.gateway.url}/api/v1/companion"
    page.evaluate(MADE, {"endpoint": endpoint, "version": version, "retrieves": retrieves})


def start(page: Page, deployment: Deployment, version: int, *, retrieves: bool = False) -> None:
    """Have the page upload the file that is chosen."""
    make(page, deployment, version, retrieves=retrieves)
    page.evaluate(STARTED)


def limit_uploads(network: CDPSession, rate: int) -> None:
    """Let the page send so many bytes per second; -1: as many as it can."""
    network.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate}
    network.send("Network.emulateNetworkConditions", limits)


def ended(page: Page) -> dict[str, Any]:
    page.wait_for_function("window.seen.ended !== null", timeout=60_000)
    result: dict[str, Any] = page.evaluate("window.seen.ended")
    return result


def expect_made(page: Page, deployment: Deployment, file: Payload) -> None:
    """Wait until Uppy says that it is done, and compare what is there."""
    result = ended(page)
    assert "error" not in result, result
    assert page.evaluate("async (url) => (await (await fetch(url)).blob()).size", result["url"]) == file.size
    (key,) = deployment.objects.keys()
    assert deployment.objects.sha256(key) == file.sha256


@pytest.mark.parametrize("size", [0, 5, SIZE, 200 * MIB], ids=["empty", "small", "parts", "200 MiB"])
def test_uppy_sends_a_file_to_the_store_and_the_gateway_makes_it_one(
    page: Page, deployment: Deployment, version: int, tmp_path: Path, size: int
) -> None:
    file = write_payload(tmp_path, size)
    page.set_input_files("input", file.path)
    start(page, deployment, version)
    expect_made(page, deployment, file)


def test_uppy_goes_on_after_a_reload_in_the_middle(
    page: Page, deployment: Deployment, version: int, bundle: Path, file: Payload
) -> None:
    """With the Golden Retriever, which keeps the file in the browser; parts that are there are not sent again."""
    network = page.context.new_cdp_session(page)
    limit_uploads(network, 2 * MIB)
    with page.expect_response(lambda answer: answer.request.method == "PUT" and answer.ok):
        start(page, deployment, version, retrieves=True)
    page.reload()
    limit_uploads(network, -1)
    sent: list[str] = []
    page.on("requestfinished", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    page.add_script_tag(path=bundle)
    make(page, deployment, version, retrieves=True)
    expect_made(page, deployment, file)
    assert 0 < len(sent) < PARTS


def expire(route: Route) -> None:
    """Send the request with an older date: the store looks at that first, and answers as to a URL of yesterday."""
    route.continue_(url=EXPIRED.sub("X-Amz-Date=2020", route.request.url))


def be_busy(route: Route) -> None:
    route.fulfill(status=503, headers={"Access-Control-Allow-Origin": "*"})


@pytest.mark.parametrize(
    "fail", [expire, be_busy, lambda route: route.abort()], ids=["an expired URL", "a busy store", "no connection"]
)
def test_uppy_sends_a_part_again_that_fails(
    page: Page, deployment: Deployment, version: int, file: Payload, fail: Callable[[Route], None]
) -> None:
    failed: list[str] = []

    def fail_once(route: Route) -> None:
        if route.request.method != "PUT" or failed:
            route.fallback()
        else:
            failed.append(route.request.url)
            fail(route)

    page.route("**/*", fail_once)
    start(page, deployment, version)
    if version == 6 and fail is expire:  # that one tells its user of every 4xx, who may go on
        assert "error" in ended(page)
        page.evaluate("() => { window.seen.ended = null; window.uppy.retryAll(); }")
    expect_made(page, deployment, file)
    assert failed


def test_uppy_pauses_and_goes_on(
    browser: Browser, page: Page, deployment: Deployment, version: int, file: Payload
) -> None:
    network = page.context.new_cdp_session(page)
    limit_uploads(network, 2 * MIB)  # so that it is paused in the middle, not at its end
    start(page, deployment, version)
    page.wait_for_function("window.seen.progress > 0", timeout=30_000)
    page.evaluate("window.uppy.pauseAll()")
    limit_uploads(network, -1)
    page.evaluate("window.uppy.resumeAll()")
    expect_made(page, deployment, file)


def test_uppy_goes_on_after_a_pause_that_took_the_answer_to_its_last_request(
    page: Page, deployment: Deployment, version: int, file: Payload
) -> None:
    """DM-02: the file is made by then, so that all its parts are listed and Complete is said again."""

    def miss_the_answer(route: Route) -> None:
        assert route.fetch().status == 200
        page.evaluate("() => { window.uppy.pauseAll(); window.seen.paused = true; }")

    page.route("**/complete**", miss_the_answer, times=1)
    start(page, deployment, version)
    page.wait_for_function("window.seen.paused === true", timeout=60_000)
    page.evaluate("window.uppy.resumeAll()")
    expect_made(page, deployment, file)


SIGNED = """({ endpoint }) => {
  const signRequest = async (request) => {
    const body = JSON.stringify(request);
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`${endpoint}/s3/sign`, { method: "POST", headers, body });
    const signed = await answer.json();
    if (!answer.ok) throw new Error(signed.message);
    return signed;
  };
  const uppy = new window.Uppy({ autoProceed: false });
  uppy.use(window.AwsS3, {
    signRequest, shouldUseMultipart: true, getChunkSize: () => 5 * 1024 * 1024, generateObjectKey: (file) => file.name,
  });
  const file = document.querySelector("input").files[0];
  uppy.addFile({ name: file.name, type: file.type, data: file });
  window.seen = { ended: null };
  uppy.on("upload-success", (_, result) => { window.seen.ended = { url: result.uploadURL }; });
  uppy.on("upload-error", (_, error) => { window.seen.ended = { error: String(error.message) }; });
  uppy.upload();
}"""


@pytest.mark.parametrize("version", [6], indirect=True)
@pytest.mark.parametrize("size", [SIZE, 0])
def test_uppy_has_each_request_signed(page: Page, deployment: Deployment, tmp_path: Path, size: int) -> None:
    file = write_payload(tmp_path, size)
    page.set_input_files("input", file.path)
    page.evaluate(SIGNED, {"endpoint": f"{deployment.gateway.url}/api/v1/companion"})
    result = ended(page)
    assert "error" not in result, result
    (key,) = deployment.objects.keys()
    assert deployment.objects.sha256(key) == file.sha256
    shown = page.evaluate(
        "async (url) => (await (await fetch(url)).json()).files[0]", f"{deployment.gateway.url}/api/v1/files"
    )
    assert (shown["filename"], shown["size"], shown["created_via"]) == (
        file.path.name,
        size,
        "direct" if size else "plain",
    )


def test_uppy_gives_an_upload_up_and_nothing_of_it_is_left_to_be_continued(
    page: Page, deployment: Deployment, version: int, minio: S3Server, bucket: str
) -> None:
    limit_uploads(page.context.new_cdp_session(page), 2 * MIB)  # it is not done yet when it is given up
    start(page, deployment, version)
    page.wait_for_function("window.seen.progress > 0", timeout=30_000)
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as aborted:
        page.evaluate("window.uppy.cancelAll()")
    assert aborted.value.status == 200
    assert list(minio.keys(bucket)) == []
