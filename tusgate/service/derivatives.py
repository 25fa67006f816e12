"""Puts files that were made of others into their store, with one part of a file in memory at a time."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import StoreUnavailable
from tusgate.core.grid import MIB, grid_for
from tusgate.core.model import Part, StoredObject, UploadId
from tusgate.core.naming import derived_key
from tusgate.core.processing import Staged
from tusgate.ports import Attributes, Body
from tusgate.service.digest import combined_crc64, crc64

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import BinaryIO

    from tusgate.core.grid import Grid
    from tusgate.core.model import ObjectKey
    from tusgate.core.processing import Job
    from tusgate.ports import ByteSource, JobQueue, ObjectStore

    Chunks = AsyncIterator[bytes]
    Source = Callable[[int], Chunks]
    """Gives bytes in pieces of the size that it is asked for."""

PART_SIZE: Final = 8 * MIB
ID_BYTES: Final = 24
"""Random bytes in the id of a derived file."""


async def read_in_parts(file: BinaryIO, part_size: int) -> Chunks:
    """Yield the rest of `file` in pieces of `part_size` bytes, the last one shorter."""
    while data := await asyncio.to_thread(file.read, part_size):
        yield data


async def receive_in_parts(body: ByteSource, part_size: int) -> Chunks:
    """Yield what a request brings in pieces of `part_size` bytes, the last one shorter. Raises as `body.read` does."""
    gathered = bytearray()
    while chunk := await body.read():
        gathered += chunk
        while len(gathered) >= part_size:
            with memoryview(gathered) as view:
                part = bytes(view[:part_size])
            yield part
            del gathered[:part_size]
    if gathered:
        yield bytes(gathered)


async def keep(
    store: ObjectStore, key: ObjectKey, attributes: Attributes, size: int, source: Source
) -> tuple[StoredObject, Grid]:
    """Store `size` bytes of `source` at `key`, which nobody else writes to; return what is there then, verified.

    An object, or a multipart upload, may be left behind by an error: whoever calls this has announced both.

    Raises:
        TooLarge: more than the store can hold.
        StoreRefused, StoreUnavailable: see `ObjectStore`.
    """
    grid = grid_for(size, PART_SIZE, store.limits)
    part_size = grid.runs[0][1]
    if size <= part_size:
        data = b"".join([data async for data in source(part_size)])
        return await store.put_object(key, Body(len(data), crc64(data, 0), buffers=[data]), attributes), grid
    multipart_id = await store.create_multipart(key, attributes)
    parts: list[Part] = []
    async for data in source(part_size):
        number, checksum = len(parts) + 1, crc64(data, 0)
        etag = await store.put_part(key, multipart_id, number, Body(len(data), checksum, buffers=[data]))
        parts.append(Part(number, (number - 1) * part_size, len(data), etag, checksum))
    whole = combined_crc64(parts)
    await store.complete_multipart(key, multipart_id, parts, whole)
    found = await store.find(key, attributes.upload_id)
    if found is None or found.size != size or found.crc64 not in {whole, -1}:
        raise StoreUnavailable("the object is not there after Complete, or has other bytes")
    return StoredObject(key, size, found.etag, whole), grid


async def stage(
    jobs: JobQueue,
    store: ObjectStore,
    job: Job,
    source: Source,
    *,
    size: int,
    name: str,
    content_type: str,
    filename: str,
) -> Staged:
    """Put a derived file into the store of its source, and note it; it becomes a file when the job is done.

    What an error leaves in the store was announced before, and is removed by the collector.

    Raises:
        JobLost: see `ports.JobQueue`.
        TooLarge, StoreRefused, StoreUnavailable: see `keep`.
    """
    file_id = UploadId(secrets.token_urlsafe(ID_BYTES))
    key = derived_key(job.source.object_key, file_id, filename)
    await jobs.intend(job, key)
    stored, grid = await keep(store, key, Attributes(file_id, content_type, None, filename), size, source)
    staged = Staged(
        id=file_id,
        name=name,
        key=stored.key,
        content_type=content_type,
        filename=filename,
        size=stored.size,
        etag=stored.etag,
        crc64=stored.crc64,
        grid=grid.encode(),
    )
    await jobs.stage(job, staged)
    return staged
