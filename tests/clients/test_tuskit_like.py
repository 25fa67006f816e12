"""TUSKit's way: OPTIONS, then 500 KiB per PATCH, believing any answer with an offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.payload import BOUNDARY_SIZES, PART
from tests.clients.tuskit_like import CHUNK, TuskitLikeUpload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_small_chunks_become_the_object(production: Deployment, payload: Callable[[int], Payload], size: int) -> None:
    upload = TuskitLikeUpload(production.gateway.endpoint, payload(size))
    assert "creation" in upload.extensions
    upload.send_all()
    assert production.stored_sha256(upload.url) == payload(size).sha256


@pytest.mark.parametrize("sent", [0, 1, CHUNK // 2, CHUNK - 1])
def test_a_lost_connection_is_continued(deployment: Deployment, payload: Callable[[int], Payload], sent: int) -> None:
    file = payload(PART + 1)
    upload = TuskitLikeUpload(deployment.gateway.endpoint, file)
    upload.send_chunk_at(0)
    upload.break_request(sent)
    upload.resume()
    assert CHUNK <= upload.offset <= CHUNK + sent
    upload.send_all()
    assert deployment.stored_sha256(upload.url) == file.sha256


def test_a_chunk_at_a_stale_offset_is_told_the_right_one(
    deployment: Deployment, payload: Callable[[int], Payload]
) -> None:
    file = payload(PART + 1)
    upload = TuskitLikeUpload(deployment.gateway.endpoint, file)
    upload.send_chunk_at(0)
    upload.send_chunk_at(0)
    assert upload.offset == CHUNK
    upload.send_all()
    assert deployment.stored_sha256(upload.url) == file.sha256
