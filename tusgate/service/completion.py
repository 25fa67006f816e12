"""Finishing: from sealed (all bytes committed) to complete (the object exists and is verified).

Idempotent and restartable at every step: each attempt works from the committed rows, and what an earlier attempt, or
another replica, has done already is found again. Success is never inferred from a 404, failure never from
NoSuchUpload: only an object of the right size that carries our marker and CRC counts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from tusgate.core.concat import cut
from tusgate.core.errors import (
    Fenced,
    HookRefused,
    MultipartLost,
    PieceLost,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    TusgateError,
    Unavailable,
    UnsupportedMediaType,
    UploadGone,
)
from tusgate.core.hooks import Moment, Question
from tusgate.core.model import FOREVER, Intent, Part, Role, State, StoredObject
from tusgate.core.placement import is_whole, whole_intent
from tusgate.ports import Attributes, Body
from tusgate.service.declared import check_arrived
from tusgate.service.digest import combined_crc64
from tusgate.service.hooks import Hooks
from tusgate.service.inspection import Inspection
from tusgate.service.losses import loss_reason
from tusgate.service.material import merged, missing_cells, pieces_of
from tusgate.service.multiparts import begin_multipart
from tusgate.service.tenants import Tenants, check_coding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.grid import Cell
    from tusgate.core.model import Keeping, Piece, Scope, Upload, UploadId
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.hooks import Exchange
    from tusgate.service.stores import Stores

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


PARTS_AT_ONCE = 4
"""Parts of one upload that are made side by side."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What has to be done before Complete.

    Attributes:
        cells: that have no part yet, each with what it is made of.
        copies: parts may be copied: the multipart upload is one that allows it.
    """

    cells: list[tuple[Cell, list[Piece]]]
    copies: bool = False


class Completion:
    """Finishes sealed uploads, each by one task of this process at most; leases keep replicas apart."""

    def __init__(
        self,
        database: Database,
        stores: Stores[ObjectStore],
        holder: str,
        tenants: Tenants | None = None,
        hooks: Hooks | None = None,
        keeping: Keeping = FOREVER,
    ) -> None:
        self._database = database
        self._stores = stores
        self._tenants = tenants or Tenants()
        self._keeping = keeping
        self._holder = holder
        self._tasks: dict[UploadId, asyncio.Task[None]] = {}
        self._failing: set[UploadId] = set()
        self._hooks = hooks or Hooks()
        self._agreed: set[UploadId] = set()
        """Uploads whose hooks have agreed, while this process finishes them."""

    def start(self, upload: Upload, exchange: Exchange | None = None) -> None:
        """Finish `upload` in the background; does nothing when that is under way already.

        `exchange` is the request that has brought the last byte: hooks are told of it, and answer it.
        """
        if upload.id not in self._tasks:
            task = asyncio.create_task(self._finish(upload, exchange))
            self._tasks[upload.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(upload.id, None))

    async def wait(self, upload: Upload, seconds: float, exchange: Exchange | None = None) -> Upload:
        """Wait until the sealed `upload` is complete, at most `seconds`; return it as committed then.

        Works for uploads that another replica finishes, too. For `exchange` see `start`.
        """
        self.start(upload, exchange)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._wait_for_end(upload.scope, upload.id)
        return await self._database.get(upload.scope, upload.id)

    def is_in_doubt(self, upload: Upload) -> bool:
        """Return whether nobody can promise success: the last attempt went wrong, or a hook has not agreed yet."""
        unasked = upload.id not in self._agreed and self._hooks.want_to_know_end(upload)
        return unasked or upload.id in self._failing

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

    async def _finish(self, upload: Upload, exchange: Exchange | None) -> None:
        """Try until the upload is complete or has failed for good, or somebody else has the lease."""
        delay, lost = FIRST_DELAY, 0
        try:
            while True:
                try:
                    if await self._database.lease_sealed(upload, self._holder, LEASE):
                        await self._renewing(upload, exchange)
                    return
                except (MultipartLost, PieceLost) as error:
                    lost += 1
                    if lost >= LOST_CONFIRMATIONS:
                        await self._stores.of(upload.route).check()  # a bucket that is away as a whole is no loss
                        await self._fail(upload, loss_reason(error))
                        return
                except (HookRefused, StoreRefused, TooLarge, UnsupportedMediaType) as error:
                    await self._refuse(upload, error, exchange)
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
            self._agreed.discard(upload.id)

    async def _renewing(self, upload: Upload, exchange: Exchange | None) -> None:
        """Run one attempt, keeping the lease while it takes long."""
        attempt = asyncio.create_task(self._attempt(upload, exchange))
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

    async def _refuse(self, upload: Upload, error: TusgateError, exchange: Exchange | None) -> None:
        """Let the upload fail for good; a hook's refusal is told in its own words."""
        await self._fail(upload, str(error))
        if exchange is not None and isinstance(error, HookRefused):
            exchange.refusal = error

    async def _attempt(self, upload: Upload, exchange: Exchange | None) -> None:
        upload = await self._database.get(upload.scope, upload.id)
        if upload.state is not State.SEALED:
            return
        self._check_limits(upload)
        if self._hooks.want_to_know_end(upload) and upload.id not in self._agreed:
            await self._ask(upload, exchange)
            self._agreed.add(upload.id)
        work = await self._work_on(upload)
        if is_whole(upload.grid.cell_at(0, upload.length), upload.length, upload.multipart_id is not None):
            stored = await self._put_whole(upload, [piece for _, pieces in work.cells for piece in pieces])
        else:
            upload = await self._put_missing_parts(upload, work)
            stored = await self._complete_multipart(upload, await self._all_parts(upload), copies=work.copies)
        if upload.plan is not None:
            await check_arrived(self._stores.of(upload.route), upload, stored, self._inspection(upload))
        await self._database.complete(upload, stored, self._keeping)
        log.info("upload.completed", upload_id=upload.id, size=stored.size)

    async def _ask(self, upload: Upload, exchange: Exchange | None) -> None:
        """Ask the hooks whether the upload may be published.

        Not where it already was: a process has died between Complete and its commit, and they had agreed before.

        Raises:
            HookRefused, HookUnavailable: see `Hooks.ask`.
        """
        if exchange is None and upload.multipart_id is not None:
            store = self._stores.of(upload.route)
            if await store.find(upload.object_key, upload.id) is not None:
                return
        partials = await self._database.sources(upload) if upload.role is Role.FINAL else []
        ids = tuple(partial.id for partial in partials)
        await self._hooks.ask(Question(moment=Moment.FINISH, upload=upload, partials=ids), exchange)

    def _check_limits(self, upload: Upload) -> None:
        """Ask once more whether the tenant may have this file: its limits may have changed since the creation.

        One that is no longer declared has lost its access, not its files. What files are made of is no file itself.
        """
        tenant = self._tenants.known(upload.scope.tenant)
        if tenant is not None and upload.role not in {Role.PARTIAL, Role.GROUP}:
            tenant.check_type(upload.content_type, upload.role)
            tenant.check_size(upload.length)
            check_coding(tenant, self._keeping, upload)

    def _inspection(self, upload: Upload) -> Inspection | None:
        return Inspection.of(self._tenants.known(upload.scope.tenant), upload)

    async def _inspect(self, upload: Upload, body: Body) -> None:
        inspection = self._inspection(upload)
        if inspection is not None:
            await inspection.look_at(body, self._stores.of(upload.route))

    async def _work_on(self, upload: Upload) -> _Work:
        """Return the cells that are there as pieces only: the last one, all that one checksum covered, or a final's."""
        if upload.role is Role.FINAL:
            return await self._work_on_final(upload)
        pieces = await self._database.pieces(upload)
        cells = groupby(pieces, lambda piece: upload.grid.cell_at(piece.start, upload.length))
        return _Work([(cell, list(members)) for cell, members in cells])

    async def _work_on_final(self, final: Upload) -> _Work:
        partials = await self._database.sources(final)
        if any(partial.group == final.id for partial in partials):
            return _Work([])
        cells = missing_cells(final, await self._database.parts(final))
        pieces = await pieces_of(self._database, partials) if cells else []
        return _Work([(cell, cut(pieces, cell)) for cell in cells], copies=self._stores.of(final.route).copies_parts)

    async def _put_whole(self, upload: Upload, pieces: Sequence[Piece]) -> StoredObject:
        intent = whole_intent(upload)
        await self._database.intend(upload, [intent])
        body = _body(await self._merged(upload, pieces))
        await self._inspect(upload, body)
        return await self._stores.of(upload.route).put_object(intent.key, body, Attributes.of(upload))

    async def _put_missing_parts(self, upload: Upload, work: _Work) -> Upload:
        """Make parts of the cells that are there as pieces only, each committed as soon as the store has it."""
        if not work.cells:
            return upload
        if upload.multipart_id is None:
            upload = await begin_multipart(
                self._database, self._stores.of(upload.route), upload, announced=False, with_copies=work.copies
            )
        slots = asyncio.Semaphore(PARTS_AT_ONCE)

        async def put(cell: Cell, pieces: Sequence[Piece]) -> None:
            async with slots:
                part = await self._put_part(upload, cell, await self._merged(upload, pieces), copies=work.copies)
                await self._database.absorb(upload, [part])

        tasks = [asyncio.create_task(put(cell, pieces)) for cell, pieces in work.cells]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return upload

    async def _merged(self, upload: Upload, pieces: Sequence[Piece]) -> Sequence[Piece]:
        return await merged(self._stores.of(upload.route), pieces) if upload.role is Role.FINAL else pieces

    async def _put_part(self, upload: Upload, cell: Cell, pieces: Sequence[Piece], *, copies: bool) -> Part:
        """Copy what lies in one object, where the store can; else, or where it does not like to, send the bytes."""
        assert upload.multipart_id is not None
        body, etag, store = _body(pieces), None, self._stores.of(upload.route)
        if cell.start == 0:
            await self._inspect(upload, body)
        if copies and len(pieces) == 1:
            try:
                etag = await store.copy_part(upload.object_key, upload.multipart_id, cell.number, pieces[0])
            except MultipartLost:
                raise
            except StoreRefused as error:
                log.warning("completion.not_copied", upload_id=upload.id, part=cell.number, error=str(error))
        if etag is None:
            etag = await store.put_part(upload.object_key, upload.multipart_id, cell.number, body)
        return Part(cell.number, cell.start, body.size, etag, body.crc64)

    async def _all_parts(self, upload: Upload) -> list[Part]:
        """Return the committed parts, which are the whole upload now. Fenced: it has ended between two looks."""
        parts = await self._database.parts(upload)
        if sum(part.size for part in parts) == upload.length:
            return parts
        if (await self._database.get(upload.scope, upload.id)).state is not State.SEALED:
            raise Fenced
        msg = f"the committed parts of {upload.id} do not add up to its length"
        raise AssertionError(msg)

    async def _complete_multipart(self, upload: Upload, parts: Sequence[Part], *, copies: bool = False) -> StoredObject:
        """Complete with exactly the committed parts, then look: only a verified object counts."""
        if upload.multipart_id is None:
            raise Fenced  # another one has made the parts since the row was read, and goes on
        crc64 = combined_crc64(parts)
        store = self._stores.of(upload.route)
        if upload.plan is not None and (upload.plan.whole is not None or self._inspection(upload) is not None):
            # Should the object turn out to be another file, this is what removes it.
            await self._database.intend(upload, [Intent(upload.object_key)])
        doubt: StoreRefused | StoreUnavailable | None = None
        try:
            await store.complete_multipart(
                upload.object_key, upload.multipart_id, parts, crc64, with_copies=copies, plan=upload.plan
            )
        except (StoreRefused, StoreUnavailable) as error:
            doubt = error
        found = await store.find(upload.object_key, upload.id)
        if found is not None:
            return _verified(upload, found, crc64)
        if isinstance(doubt, MultipartLost) and await store.multipart_exists(upload.object_key, upload.multipart_id):
            raise StoreUnavailable("Complete did not find a multipart upload that is there") from doubt
        raise doubt or StoreUnavailable("the object is not there after Complete")


def _body(pieces: Sequence[Piece]) -> Body:
    """Return the pieces as one body; inline ones are always the last."""
    return Body(
        sum(piece.size for piece in pieces),
        combined_crc64(pieces),
        tuple(piece for piece in pieces if piece.data is None),
        [piece.data for piece in pieces if piece.data is not None],
    )


def _verified(upload: Upload, found: StoredObject, crc64: int) -> StoredObject:
    if crc64 == -1:
        crc64 = found.crc64
    if found.size != upload.length or found.crc64 not in (crc64, -1):
        raise StoreRefused(
            f"the stored object has {found.size} bytes and CRC64NVME {found.crc64:016x}, "
            f"expected {upload.length} and {crc64:016x}"
        )
    return StoredObject(found.key, found.size, found.etag, crc64)
