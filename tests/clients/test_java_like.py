"""tus-java-client's way: chunked PATCHes without Content-Length, each behind `Expect: 100-continue`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.java_like import REQUEST_PAYLOAD, JavaLikeUpload
from tests.clients.payload import BOUNDARY_SIZES, LARGE, PART

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("size", [*BOUNDARY_SIZES, 2 * REQUEST_PAYLOAD, LARGE])
def test_chunked_requests_behind_expect_become_the_object(
    production: Deployment, payload: Callable[[int], Payload], size: int
) -> None:
    upload = JavaLikeUpload(production.gateway.endpoint, payload(size))
    upload.send_all()
    assert production.stored_sha256(upload.url) == payload(size).sha256


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("sent", [1, PART - 1, PART + 1, 9 * 1024 * 1024])
def test_a_request_that_breaks_in_the_middle_is_continued(
    deployment: Deployment, payload: Callable[[int], Payload], sent: int, reset: bool
) -> None:
    file = payload(3 * PART + 7)
    upload = JavaLikeUpload(deployment.gateway.endpoint, file)
    upload.break_request(sent, reset=reset)
    assert 0 <= deployment.offset(upload.url) <= sent
    upload.finish()
    assert deployment.stored_sha256(upload.url) == file.sha256


def test_bytes_of_an_orderly_close_are_kept_to_the_last_one(
    deployment: Deployment, payload: Callable[[int], Payload]
) -> None:
    file = payload(3 * PART + 7)
    upload = JavaLikeUpload(deployment.gateway.endpoint, file)
    upload.break_request(PART + 12_345, reset=False)
    assert deployment.wait_for_offset(upload.url, at_least=PART + 12_345) == PART + 12_345


@pytest.mark.parametrize("size", [PART, 3 * PART + 7], ids=["last-request", "first-of-several"])
def test_a_request_whose_answer_is_lost_is_continued(
    deployment: Deployment, payload: Callable[[int], Payload], size: int
) -> None:
    upload = JavaLikeUpload(deployment.gateway.endpoint, payload(size))
    upload.lose_answer()
    upload.finish()
    assert deployment.stored_sha256(upload.url) == payload(size).sha256


def test_a_finished_upload_takes_the_empty_request_at_its_end(
    deployment: Deployment, payload: Callable[[int], Payload]
) -> None:
    upload = JavaLikeUpload(deployment.gateway.endpoint, payload(REQUEST_PAYLOAD))
    assert upload.send_request() == REQUEST_PAYLOAD
    assert upload.send_request() == 0
    assert deployment.stored_sha256(upload.url) == payload(REQUEST_PAYLOAD).sha256
