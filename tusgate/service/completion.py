"""Finishing: from sealed (all bytes committed) to complete (the object exists and is verified).

Idempotent and restartable at every step: each attempt works from the committed rows, and what an earlier attempt, or
another replica, has done already is found again. Success is never inferred from a 404, failure never from
NoSuchUpload: only an object of the right size that carries our marker and CRC counts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from tusgate.core.errors import (
    Fenced,
    MultipartLost,
    PieceLost,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
    UploadGone,
)
from tusgate.core.model import Part, State, StoredObject
from tusgate.core.placement import is_whole, whole_intent
from tusgate.ports import Attributes, Body
from tusgate.service.digest import combined_crc64
from tusgate.service.multiparts import begin_multipart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.grid import Cell
    from tusgate.core.model import MultipartId, Piece, Scope, Upload, UploadId
    from tusgate.ports import Database, ObjectStore

log = structlog.get_logger(__name__)

LEASE = 30.0
"""Seconds that a finishing lease lasts; renewed at every attempt and every `LEASE / 3` while one runs. After a crash
another process takes over within that time, so that an upload is finished within a minute (I5)."""
FIRST_DELAY = 0.2
"""Seconds between the first two tries, doubling from one to the next."""
LONGEST_DELAY = 8.0
"""Seconds between two tries at most, so that an upload is finished within 10 s of the end of a fault."""
LOST_CONFIRMATIONS = 4
"""How often in a row the store must know neither the multipart upload nor the object, or not give a piece back,
before we believe the loss."""


class Completion:
    """Finishes sealed uploads, each by one task of this process at most; leases keep replicas apart."""

    def __init__(self, database: Database, store: ObjectStore, holder: str) -> None:
        self._database = database
        self._store = store
        self._holder = holder
        self._tasks: dict[UploadId, asyncio.Task[None]] = {}
        self._failing: set[UploadId] = set()

    def start(self, upload: Upload) -> None:
        """Finish `upload` in the background; does nothing when that is under way already."""
        if upload.id not in self._tasks:
            task = asyncio.create_task(self._finish(upload))
            self._tasks[upload.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(upload.id, None))

    async def wait(self, upload: Upload, seconds: float) -> Upload:
        """Wait until the sealed `upload` is complete, at most `seconds`; return it as committed then.

        Works for uploads that another replica finishes, too.
        """
        self.start(upload)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._wait_for_end(upload.scope, upload.id)
        return await self._database.get(upload.scope, upload.id)

    def is_failing(self, upload_id: UploadId) -> bool:
        """Return whether the last attempt of this process to finish the upload went wrong."""
        return upload_id in self._failing

    async def resume_abandoned(self, limit: int) -> int:
        """Finish sealed uploads that nobody is working on, up to `limit` at once; return how many were found."""
        found = await self._database.claim_sealed(self._holder, LEASE, max(0, limit - len(self._tasks)))
        for upload in found:
            self.start(upload)
        return len(found)

    async def stop(self) -> None:
        """Cancel all attempts; another replica, or the next start, takes over."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_end(self, scope: Scope, upload_id: UploadId) -> Upload:
        delay = 0.05
        while True:
            task = self._tasks.get(upload_id)
            if task is not None:
                await asyncio.wait([task], timeout=1.0)
            else:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
            found = await self._database.get(scope, upload_id)
            if found.state is not State.SEALED:
                return found

    async def _finish(self, upload: Upload) -> None:
        """Try until the upload is complete or has failed for good, or somebody else has the lease."""
        delay, lost = FIRST_DELAY, 0
        try:
            while True:
                try:
                    if await self._database.lease_sealed(upload, self._holder, LEASE):
                        await self._renewing(upload)
                    return
                except (MultipartLost, PieceLost) as error:
                    lost += 1
                    if lost >= LOST_CONFIRMATIONS:
                        await self._store.check()  # a bucket that is away as a whole is no loss
                        await self._fail(upload, loss_reason(error))
                        return
                except StoreRefused as error:
                    await self._fail(upload, str(error))
                    return
                except Unavailable as error:
                    lost = 0
                    log.warning("completion.retried", upload_id=upload.id, error=str(error), delay=delay)
                self._failing.add(upload.id)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_DELAY)
        except (UploadGone, Fenced):
            log.info("completion.overtaken", upload_id=upload.id)
        except Unavailable as error:
            log.warning("completion.postponed", upload_id=upload.id, error=str(error))
        except asyncio.CancelledError:
            with suppress(Unavailable):
                await self._database.release_sealed(upload, self._holder, 0.0)
            raise
        finally:
            self._failing.discard(upload.id)

    async def _renewing(self, upload: Upload) -> None:
        """Run one attempt, keeping the lease while it takes long."""
        attempt = asyncio.create_task(self._attempt(upload))
        try:
            while not (await asyncio.wait([attempt], timeout=LEASE / 3))[0]:
                with suppress(Unavailable):
                    await self._database.lease_sealed(upload, self._holder, LEASE)
            await attempt
        finally:
            attempt.cancel()

    async def _fail(self, upload: Upload, reason: str) -> None:
        await self._database.fail(upload, reason)
        log.error("upload.failed", upload_id=upload.id, reason=reason)

    async def _attempt(self, upload: Upload) -> None:
        upload = await self._database.get(upload.scope, upload.id)
        if upload.state is not State.SEALED:
            return
        pieces = await self._database.pieces(upload)
        if is_whole(upload.grid.cell_at(0, upload.length), upload.length, upload.multipart_id is not None):
            stored = await self._put_whole(upload, pieces)
        else:
            upload = await self._put_missing_parts(upload, pieces)
            stored = await self._complete_multipart(upload, await self._database.parts(upload))
        await self._database.complete(upload, stored)
        log.info("upload.completed", upload_id=upload.id, size=stored.size)

    async def _put_whole(self, upload: Upload, pieces: Sequence[Piece]) -> StoredObject:
        intent = whole_intent(upload)
        await self._database.intend(upload, [intent])
        return await self._store.put_object(intent.key, _body(pieces), Attributes.of(upload))

    async def _put_missing_parts(self, upload: Upload, pieces: Sequence[Piece]) -> Upload:
        """Make parts of the cells that are there as pieces only: the last one, or all that one checksum covered."""
        if not pieces:
            return upload
        multipart_id = upload.multipart_id
        if multipart_id is None:
            multipart_id = await begin_multipart(self._database, self._store, upload, announced=False)
        parts = []
        cells = groupby(pieces, lambda piece: upload.grid.cell_at(piece.start, upload.length))
        for cell, members in cells:
            parts.append(await self._put_part(upload, multipart_id, cell, list(members)))
        return await self._database.absorb(upload, parts)

    async def _put_part(self, upload: Upload, multipart_id: MultipartId, cell: Cell, pieces: Sequence[Piece]) -> Part:
        body = _body(pieces)
        etag = await self._store.put_part(upload.object_key, multipart_id, cell.number, body)
        return Part(cell.number, cell.start, body.size, etag, body.crc64)

    async def _complete_multipart(self, upload: Upload, parts: Sequence[Part]) -> StoredObject:
        """Complete with exactly the committed parts, then look: only a verified object counts."""
        assert upload.multipart_id is not None
        if sum(part.size for part in parts) != upload.length:
            msg = f"the committed parts of {upload.id} do not add up to its length"
            raise AssertionError(msg)
        crc64 = combined_crc64(parts)
        doubt: StoreRefused | StoreUnavailable | None = None
        try:
            await self._store.complete_multipart(upload.object_key, upload.multipart_id, parts, crc64)
        except (StoreRefused, StoreUnavailable) as error:
            doubt = error
        found = await self._store.find(upload.object_key, upload.id)
        if found is not None:
            return _verified(upload, found, crc64)
        if isinstance(doubt, MultipartLost) and await self._store.multipart_exists(
            upload.object_key, upload.multipart_id
        ):
            raise StoreUnavailable("Complete did not find a multipart upload that is there") from doubt
        raise doubt or StoreUnavailable("the object is not there after Complete")


def loss_reason(error: MultipartLost | PieceLost) -> str:
    """Return why an upload has failed whose stored bytes are lost."""
    if isinstance(error, MultipartLost):
        return "the object store threw the unfinished multipart upload away"
    return "the object store lost bytes that waited for their part"


def _body(pieces: Sequence[Piece]) -> Body:
    """Return the pieces as one body; inline ones are always the last."""
    return Body(
        sum(piece.size for piece in pieces),
        combined_crc64(pieces),
        tuple(piece for piece in pieces if piece.data is None),
        [piece.data for piece in pieces if piece.data is not None],
    )


def _verified(upload: Upload, found: StoredObject, crc64: int) -> StoredObject:
    if found.size != upload.length or found.crc64 not in (crc64, -1):
        raise StoreRefused(
            f"the stored object has {found.size} bytes and CRC64NVME {found.crc64:016x}, "
            f"expected {upload.length} and {crc64:016x}"
        )
    return StoredObject(found.key, found.size, found.etag, crc64)
