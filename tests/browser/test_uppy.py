"""Uppy 5 and 6 with their aws-s3 plugins, in a page of another origin: parts go from Chromium to MinIO."""

from __future__ import annotations

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
START = """({ endpoint, version }) => {
  const where = version === 5 ? { endpoint } : { companionEndpoint: endpoint };
  const uppy = new window.Uppy({ autoProceed: false });
  uppy.use(window.AwsS3, { ...where, shouldUseMultipart: true, getChunkSize: () => 5 * 1024 * 1024 });
  const file = document.querySelector("input").files[0];
  uppy.addFile({ name: file.name, type: file.type, data: file });
  window.seen = { progress: 0, ended: null };
  uppy.on("upload-progress", (_, progress) => { window.seen.progress = progress.bytesUploaded; });
  uppy.on("upload-success", (_, result) => { window.seen.ended = { url: result.uploadURL }; });
  uppy.on("upload-error", (_, error) => { window.seen.ended = { error: String(error.message) }; });
  window.uppy = uppy;
  uppy.upload();
}"""


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
def page(browser: Browser, application: str, version: int, node: Node, tmp_path: Path, file: Payload) -> Page:
    """Give the application with this Uppy in it, as a page bundles it, and a file chosen."""
    bundle, home = tmp_path / "uppy.js", CLIENTS / f"uppy{version}"
    esbuild = CLIENTS / "node_modules" / "esbuild" / "bin" / "esbuild"
    subprocess.run(
        [str(node.program), str(esbuild), "bundle.mjs", "--bundle", "--format=iife", f"--outfile={bundle}"],
        cwd=home,
        check=True,
        capture_output=True,
    )
    shown = browser.open(f"{application}/").page
    shown.add_script_tag(path=bundle)
    shown.set_input_files("input", file.path)
    return shown


def start(page: Page, deployment: Deployment, version: int) -> None:
    page.evaluate(START, {"endpoint": f"{deployment.gateway.url}/api/v1/companion", "version": version})


def limit_uploads(network: CDPSession, rate: int) -> None:
    """Let the page send so many bytes per second; -1: as many as it can."""
    network.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate}
    network.send("Network.emulateNetworkConditions", limits)


def ended(page: Page) -> dict[str, Any]:
    page.wait_for_function("window.seen.ended !== null", timeout=60_000)
    result: dict[str, Any] = page.evaluate("window.seen.ended")
    return result


def test_uppy_sends_a_file_to_the_store_and_the_gateway_makes_it_one(
    page: Page, deployment: Deployment, version: int, file: Payload
) -> None:
    start(page, deployment, version)
    result = ended(page)
    assert "error" not in result, result
    assert page.evaluate("""async (url) => (await (await fetch(url)).blob()).size""", result["url"]) == SIZE
    (key,) = deployment.objects.keys()
    assert deployment.objects.sha256(key) == file.sha256


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
    result = ended(page)
    assert "error" not in result, result
    (key,) = deployment.objects.keys()
    assert deployment.objects.sha256(key) == file.sha256


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
    result = ended(page)
    assert "error" not in result, result
    (key,) = deployment.objects.keys()
    assert deployment.objects.sha256(key) == file.sha256


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
