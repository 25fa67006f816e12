"""Computes the SHA-256 of finished files in the background: each object is read once, in bounded memory.

A row says when somebody may do it; taking it moves that time on, so that a process which dies is followed by another.
Doing it twice does no harm. As the whole object is read, its checksum is compared, too.

A file whose tenant keeps equal files once (`core/dedup.py`) stays due until it has either found none that is equal, or
come to refer to the object of one. Before that the store is asked whether it still has that object: a good one must not
be given up for one that was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.dedup import NO_DEDUP, is_whole
from tusgate.core.errors import Fenced, ObjectLost, StoreUnavailable
from tusgate.service.files import verified

if TYPE_CHECKING:
    from tusgate.core.dedup import Dedup
    from tusgate.core.model import Upload
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

LEASE: Final = 120.0
"""Seconds after which another may take over from one that has not been heard of."""
RENEW_EVERY: Final = 30.0
HASHED_AT_ONCE: Final = 64 * 1024
"""Bytes that are hashed, in 50 us, while requests wait; a thread costs as much. More go into one."""
RETRY_AFTER: Final = 60.0
"""Seconds until a file is read again that the store did not give."""
LOST_RETRY_AFTER: Final = 86_400.0
"""The same where it is not there, or has other bytes: only an operator can help."""
KEPT_FOR: Final = 7200.0
"""Seconds that an object is kept to which its file no longer refers: for those who are reading it."""


class Digester:
    """Reads files that nobody has digested yet, one after the other."""

    def __init__(self, database: Database, stores: Stores[ObjectStore], dedup: Dedup = NO_DEDUP) -> None:
        self._database = database
        self._stores = stores
        self._dedup = dedup

    async def run(self) -> int:
        """Digest one file, if one is due; return how many there were. Raises DatabaseUnavailable."""
        due = await self._database.claim_undigested(LEASE, 1)
        for upload in due:
            try:
                await self._record(upload, upload.sha256 or await self._digest(upload))
            except ObjectLost as error:
                log.error("digest.object_lost", upload_id=upload.id, key=upload.object_key, error=str(error))  # noqa: TRY400 # no bug of ours: a trace tells nothing
                await self._database.postpone_digest(upload, LOST_RETRY_AFTER)
            except StoreUnavailable as error:
                log.warning("digest.postponed", upload_id=upload.id, error=str(error))
                await self._database.postpone_digest(upload, RETRY_AFTER)
        return len(due)

    async def _record(self, upload: Upload, sha256: bytes) -> None:
        try:
            if self._dedup.is_on(upload.scope.tenant):
                await self._share(upload, sha256)
            else:
                await self._database.record_digest(upload, sha256)
        except Fenced:
            return  # it was deleted meanwhile, or another process has done it
        log.info("digest.computed", upload_id=upload.id)

    async def _share(self, upload: Upload, sha256: bytes) -> None:
        """Record the digest, and let the file refer to the object of an equal one if there is one.

        Raises:
            Fenced: the file is gone, or refers to another object already.
            StoreUnavailable: it will be looked at again.
        """
        while (twin := await self._database.find_twin(upload, sha256, LEASE)) is not None:
            stored = await self._stores.of(twin.route).find(twin.object_key, twin.maker)
            if not is_whole(twin, stored):
                log.error("dedup.object_lost", upload_id=twin.id, key=twin.object_key)
                await self._database.record_digest(upload, sha256)
                return
            try:
                await self._database.adopt(upload, twin, KEPT_FOR)
            except Fenced:
                continue  # one of the two has ended: the next look tells which
            log.info("dedup.shared", upload_id=upload.id, with_upload=twin.id, size=upload.length)
            return

    async def _digest(self, upload: Upload) -> bytes:
        digest, now = hashlib.sha256(), asyncio.get_running_loop().time
        if upload.length == 0:
            return digest.digest()
        renew_at = now() + RENEW_EVERY
        chunks = self._stores.of(upload.route).read(upload.object_key, 0, upload.length, etag=upload.etag)
        if upload.crc64 is not None:
            chunks = verified(chunks, upload.length or 0, upload.crc64)
        async with aclosing(chunks):
            async for chunk in chunks:
                if len(chunk) > HASHED_AT_ONCE:
                    await asyncio.to_thread(digest.update, chunk)
                else:
                    digest.update(chunk)
                if now() >= renew_at:
                    await self._database.postpone_digest(upload, LEASE)
                    renew_at = now() + RENEW_EVERY
        return digest.digest()
