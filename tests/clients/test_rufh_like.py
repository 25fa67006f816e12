"""RUFH's way, in the dialect of each interop version: 104, lost connections, HEAD, and the rest; byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.payload import BOUNDARY_SIZES, LARGE, PART
from tests.clients.rufh_like import RufhLikeUpload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload

pytestmark = pytest.mark.clients

IDENTIFIED = (3, 5, 6, 8, 9)


@pytest.mark.parametrize("version", [*IDENTIFIED, None])
@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_a_file_sent_at_once_becomes_the_object(
    production: Deployment, payload: Callable[[int], Payload], version: int | None, size: int
) -> None:
    upload = RufhLikeUpload(production.gateway.endpoint, payload(size), version)
    answer = upload.send_whole()
    assert (answer.status, answer.offset) == (201, size)
    assert upload.is_complete(answer)
    assert upload.url is not None
    assert production.stored_sha256(upload.url) == payload(size).sha256
    assert [early.status for early in upload.early[:1]] == ([] if version is None else [104])


@pytest.mark.parametrize("version", IDENTIFIED)
@pytest.mark.parametrize("sent", [0, 1, PART, 2 * PART + 1000])
def test_a_broken_creation_is_continued_where_the_104_said(
    deployment: Deployment, payload: Callable[[int], Payload], version: int, sent: int
) -> None:
    file = payload(3 * PART + 7)
    upload = RufhLikeUpload(deployment.gateway.endpoint, file, version)
    upload.break_creation(sent)
    offset, complete = upload.ask()
    assert 0 <= offset <= sent
    assert not complete
    answer = upload.send_rest(offset)
    assert (answer.status, answer.offset) == (201, file.size)
    assert upload.is_complete(answer)
    assert upload.ask() == (file.size, True)
    assert upload.url is not None
    assert deployment.stored_sha256(upload.url) == file.sha256


@pytest.mark.parametrize("version", [*IDENTIFIED, None])
def test_an_upload_that_was_created_first_survives_several_cuts(
    deployment: Deployment, payload: Callable[[int], Payload], version: int | None
) -> None:
    file = payload(3 * PART + 7)
    upload = RufhLikeUpload(deployment.gateway.endpoint, file, version)
    upload.create()
    offset = 0
    for sent in (1000, PART, 5):
        upload.break_append(offset, sent)
        told, complete = upload.ask()
        assert offset <= told <= offset + sent
        assert not complete
        offset = told
    upload.finish()
    assert upload.ask() == (file.size, True)
    assert upload.url is not None
    assert deployment.stored_sha256(upload.url) == file.sha256


def test_a_large_file_is_told_of_in_quarters(production: Deployment, payload: Callable[[int], Payload]) -> None:
    file = payload(LARGE)
    upload = RufhLikeUpload(production.gateway.endpoint, file, 6)
    assert upload.send_whole().status == 201
    located, *progress = upload.early
    assert located.headers["Location"] == upload.url
    told = [early.offset for early in progress]
    assert 1 <= len(told) <= 3
    assert all(later - earlier >= LARGE // 4 for earlier, later in zip([0, *told], told, strict=False))
    assert upload.url is not None
    assert production.stored_sha256(upload.url) == file.sha256
