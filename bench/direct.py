"""The physical floor: the same bytes from memory straight into S3, by our own part sender. Prints one JSON line.

`python -m bench.direct ENDPOINT ACCESS SECRET BUCKET CONNECTIONS SIZE UPLOADS`: parts of 8 MiB, four in flight per
upload; uploads of at most one part are one PutObject. Nothing is received, checked against a database or committed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from tusgate.core.grid import MIB
from tusgate.core.model import ObjectKey, Part, UploadId
from tusgate.ports import Attributes, Body
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES
from tusgate.s3.store import S3Store
from tusgate.service.digest import combined_crc64, crc64_of

if TYPE_CHECKING:
    from tusgate.ports import Buffer

PART_SIZE = 8 * MIB
BLOCK = bytes(range(256)) * 256
"""64 KiB, as large as what a socket brings."""


def body_of(size: int) -> Body:
    """Return a body of `size` bytes in blocks as they come from a socket."""
    buffers: list[Buffer] = [memoryview(BLOCK)[: min(len(BLOCK), size - start)] for start in range(0, size, len(BLOCK))]
    return Body(size, crc64_of(buffers), (), buffers)


async def upload(store: S3Store, number: int, size: int) -> float:
    """Store one object of `size` bytes; return the seconds of Complete alone."""
    upload_id = UploadId(f"direct-{number:020d}")
    key = ObjectKey(upload_id)
    if size <= PART_SIZE:
        await store.put_object(key, body_of(size), Attributes(upload_id))
        return 0.0
    multipart_id = await store.create_multipart(key, Attributes(upload_id))
    slots = asyncio.Semaphore(4)

    async def put(index: int) -> Part:
        async with slots:
            start = index * PART_SIZE
            body = body_of(min(PART_SIZE, size - start))
            etag = await store.put_part(key, multipart_id, index + 1, body)
            return Part(index + 1, start, body.size, etag, body.crc64)

    parts = await asyncio.gather(*(put(index) for index in range(-(-size // PART_SIZE))))
    begin = time.perf_counter()
    await store.complete_multipart(key, multipart_id, parts, combined_crc64(parts))
    return time.perf_counter() - begin


async def warm_up(store: S3Store) -> None:
    """Have botocore load its models before the clock starts."""
    await store.find(ObjectKey("warm-up"), UploadId("warm-up"))


async def run(store: S3Store, connections: int, size: int, uploads: int) -> float:
    """Make all uploads, `connections` at once; return the seconds that it took."""
    numbers = iter(range(uploads))
    await warm_up(store)

    async def work() -> None:
        for number in numbers:
            await upload(store, number, size)

    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return time.perf_counter() - begin


async def main() -> None:
    """Run what the command line asks for."""
    endpoint, access, secret, bucket, connections, size, uploads = sys.argv[1:]
    store = S3Store(S3Config(endpoint, "us-east-1", bucket, "", access, secret, profile=PROFILES["minio"]))
    try:
        seconds = await run(store, int(connections), int(size), int(uploads))
    finally:
        await store.close()
    print(json.dumps({"seconds": seconds, "done": int(uploads), "failures": []}))


if __name__ == "__main__":
    uvloop.run(main())
