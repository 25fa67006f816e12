"""The upload page in Chromium against a real gateway: what a person does, and what is stored then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import embedded
from tests.clients.payload import MIB, PART, Payload, write_payload
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.browser.conftest import Browser, UploadPage
    from tests.clients.deployment import Deployment
    from tests.gateway import Gateway
    from tests.servers.nginx import Nginx

pytestmark = pytest.mark.clients

SLOW = 8 * MIB
"""Bytes per second at which `file` has a middle that can be seen."""
MIDDLE = PART + 1
PATIENCE = 60_000.0  # ms


@pytest.fixture
def file(tmp_path: Path) -> Payload:
    """Give a file of several parts."""
    return write_payload(tmp_path, 5 * PART + 7)


def begin(browser: Browser, deployment: Deployment, file: Payload) -> tuple[UploadPage, str]:
    """Open the page, choose the file on a slow line, and return when the gateway has some of it, with its URL."""
    page = browser.open(deployment.gateway.url)
    page.limit_upload(SLOW)
    with page.page.expect_response(lambda answer: answer.request.method == "POST") as created:
        page.choose(file.path)
    url = created.value.headers["location"]
    deployment.wait_for_offset(url, at_least=MIDDLE)
    return page, url


def expect_finished(page: UploadPage, file: Payload) -> None:
    expect(page.row(file.path.name)).to_contain_text("Uploaded", timeout=PATIENCE)


def test_several_files_are_uploaded_and_show_their_addresses(
    browser: Browser, deployment: Deployment, tmp_path: Path
) -> None:
    files = [write_payload(tmp_path, size) for size in (0, 1, PART - 1, PART, PART + 1)]
    page = browser.open(deployment.gateway.url)
    page.choose([file.path for file in files])
    for file in files:
        expect_finished(page, file)
        assert deployment.stored_sha256(page.address_of(file.path.name)) == file.sha256
    assert browser.count("POST") == len(files)
    assert page.page.evaluate("Object.keys(localStorage).length") == 0


def test_an_upload_goes_on_after_a_reload_when_the_file_is_chosen_again(
    browser: Browser, production: Deployment, file: Payload
) -> None:
    page, url = begin(browser, production, file)
    page.page.reload()
    expect(page.row(file.path.name)).to_contain_text(re.compile(r"\d+ % uploaded"))
    acknowledged = production.offset(url)
    page.limit_upload(-1)
    page.choose(file.path)
    expect_finished(page, file)

    assert page.address_of(file.path.name) == url
    assert browser.count("POST") == 1
    assert MIDDLE <= acknowledged <= (browser.last_patch_offset() or 0) < file.size
    assert production.stored_sha256(url) == file.sha256


def test_an_upload_goes_on_after_the_browser_was_closed(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    _, url = begin(browser, deployment, file)
    browser.close()
    page = browser.open(deployment.gateway.url)
    with page.page.expect_file_chooser() as chooser:
        page.press(f"Choose {file.path.name} again to continue")
    chooser.value.set_files(file.path)
    expect_finished(page, file)

    assert browser.count("POST") == 1
    assert deployment.stored_sha256(url) == file.sha256


def test_another_file_is_not_taken_for_the_unfinished_one(
    browser: Browser, deployment: Deployment, file: Payload, tmp_path: Path
) -> None:
    page, url = begin(browser, deployment, file)
    page.page.reload()
    other = tmp_path / "other" / file.path.name
    other.parent.mkdir()
    other.write_bytes(b"same name, other file")
    with page.page.expect_file_chooser() as chooser:
        page.press(f"Choose {file.path.name} again to continue")
    chooser.value.set_files(other)
    expect(page.page.get_by_role("alert")).to_contain_text("is another file")
    assert browser.count("POST") == 1
    assert deployment.offset(url) < file.size


def test_pause_stops_and_resume_goes_on(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page, url = begin(browser, deployment, file)
    page.press(f"Pause {file.path.name}")
    expect(page.row(file.path.name)).to_contain_text("Paused")
    page.limit_upload(-1)
    page.press(f"Resume {file.path.name}")
    expect_finished(page, file)

    assert browser.count("POST") == 1
    assert (browser.last_patch_offset() or 0) >= MIDDLE
    assert deployment.stored_sha256(url) == file.sha256


def test_cancel_deletes_the_upload(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page, url = begin(browser, deployment, file)
    page.press(f"Cancel {file.path.name}")
    expect(page.row(file.path.name)).to_have_count(0)
    assert browser.count("DELETE") == 1
    assert page.page.request.head(url, headers={"Tus-Resumable": "1.0.0"}).status in (404, 410)
    assert page.page.evaluate("Object.keys(localStorage).length") == 0


def test_discard_deletes_the_upload_of_an_earlier_visit(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    page, url = begin(browser, deployment, file)
    page.page.reload()
    page.press(f"Discard {file.path.name}")
    expect(page.row(file.path.name)).to_have_count(0)
    assert page.page.request.head(url, headers={"Tus-Resumable": "1.0.0"}).status in (404, 410)


def test_a_crash_of_the_gateway_is_survived_without_a_hand(
    browser: Browser, deployment: Deployment, file: Payload
) -> None:
    page, url = begin(browser, deployment, file)
    deployment.gateway.kill()
    expect(page.row(file.path.name)).to_contain_text("trying again")
    page.limit_upload(-1)
    deployment.gateway.start()
    expect_finished(page, file)

    assert browser.count("POST") == 1
    assert deployment.stored_sha256(url) == file.sha256


def test_a_failing_proxy_does_not_make_it_begin_anew(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page, url = begin(browser, deployment, file)
    page.press(f"Pause {file.path.name}")
    page.limit_upload(-1)
    failures = iter([502, 401, 500])

    def fail_head(route: Route) -> None:
        status = next(failures, None) if route.request.method == "HEAD" else None
        if status is None:
            route.fallback()
        else:
            route.fulfill(status=status)

    page.page.route(url, fail_head)
    page.press(f"Resume {file.path.name}")
    expect_finished(page, file)
    assert next(failures, None) is None
    assert browser.count("POST") == 1
    assert deployment.stored_sha256(url) == file.sha256


def test_dropped_files_are_uploaded(browser: Browser, deployment: Deployment) -> None:
    page = browser.open(deployment.gateway.url)
    transfer = page.page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['dropped'], 'dropped.txt')); return data; }"
    )
    page.page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.row("dropped.txt")).to_contain_text("Uploaded")


def test_the_page_works_with_the_keyboard_alone(browser: Browser, deployment: Deployment, file: Payload) -> None:
    page = browser.open(deployment.gateway.url)
    page.limit_upload(SLOW)
    page.page.keyboard.press("Tab")
    with page.page.expect_file_chooser() as chooser:
        page.page.keyboard.press("Space")
    chooser.value.set_files(file.path)
    page.page.keyboard.press("Tab")
    for name in ("Pause", "Resume", "Pause"):
        expect(page.page.get_by_role("button", name=f"{name} {file.path.name}", exact=True)).to_be_focused()
        page.page.keyboard.press("Enter")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    expect(page.row(file.path.name)).to_have_count(0)
    expect(page.page.get_by_label("Choose files")).to_be_focused()


PROXY_CONFIGURATION = """
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location /drop/ {{
            proxy_pass {gateway}/;
            proxy_http_version 1.1;
            proxy_request_buffering off;
        }}
    }}
}}
"""


def test_the_page_works_below_the_path_prefix_of_a_proxy(
    browser: Browser, nginx: Nginx, start_gateway: Callable[..., Gateway], file: Payload, tmp_path: Path
) -> None:
    port = free_port()
    public_url = f"http://127.0.0.1:{port}/drop"
    deployment = embedded(start_gateway({"TUSGATE_PUBLIC_URL": public_url}))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(PROXY_CONFIGURATION.format(port=port, gateway=deployment.gateway.url))
    with nginx.serving(configuration, port):
        page = browser.open(f"{public_url}/")
        page.choose(file.path)
        expect_finished(page, file)
    url = page.address_of(file.path.name)
    assert url.startswith(f"{public_url}/files/")
    assert deployment.stored_sha256(url) == file.sha256
