"""Files that were made of others, on their way into every kind of store."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.test_object_store import some_bytes, store
from tusgate.core.grid import MIB
from tusgate.core.model import ObjectKey, UploadId
from tusgate.ports import Attributes
from tusgate.service.derivatives import PART_SIZE, keep, read_in_parts, receive_in_parts

if TYPE_CHECKING:
    from tusgate.ports import SurveyedStore

__all__ = ["store"]  # the fixture

KEY, OWN = ObjectKey("acme/made/file.bin"), Attributes(UploadId("derived"), "image/png", None, "file.bin")


class Request:
    """A body that arrives in chunks of odd sizes."""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self.is_abandoned = False
        self._rest = io.BytesIO(data)

    async def read(self, paid: int = 0) -> bytes:
        return self._rest.read(paid or 999_983)

    def interrupt(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("size", [0, 1, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, 17 * MIB + 5])
@pytest.mark.parametrize("from_a_request", [False, True])
async def test_a_file_of_any_size_is_kept_and_verified(store: SurveyedStore, size: int, from_a_request: bool) -> None:
    data = some_bytes(size)
    source = partial(receive_in_parts, Request(data)) if from_a_request else partial(read_in_parts, io.BytesIO(data))
    stored, grid = await keep(store, KEY, OWN, size, source)
    assert (stored.key, stored.size) == (KEY, size)
    assert grid.capacity >= size
    found = await store.find(KEY, OWN.upload_id)
    assert found is not None
    assert (found.size, found.etag) == (size, stored.etag)
    assert b"".join([chunk async for chunk in store.read(KEY, 0, size, etag=stored.etag)]) == data
    assert await store.list_multiparts(KEY) == []
