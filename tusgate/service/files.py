"""The use cases of a file that was uploaded: find, list, describe, read, delete. The API calls nothing else."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.access import Permission
from tusgate.core.errors import (
    HookRefused,
    JobLost,
    NotClean,
    NotComplete,
    ObjectLost,
    Retained,
    StillProcessing,
    TooManyDownloads,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.events import DeliveryState, Search
from tusgate.core.lifecycle import check_complete
from tusgate.core.listing import Position
from tusgate.core.model import Role, State
from tusgate.core.processing import Processed
from tusgate.core.quota import Quota
from tusgate.service.digest import crc64

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Literal

    from tusgate.core.access import Principal
    from tusgate.core.events import Delivery
    from tusgate.core.listing import Changes, FileFilter
    from tusgate.core.model import Scope, Upload, UploadId
    from tusgate.core.processing import Job
    from tusgate.core.quota import Usage
    from tusgate.ports import ObjectStore, Presentation, ReadingDatabase
    from tusgate.service.hooks import Exchange
    from tusgate.service.stores import Stores
    from tusgate.service.uploads import Uploads

    Outcome = Literal["deleted", "gone", "not_found", "refused", "retained"]

log = structlog.get_logger(__name__)

MOST_UNDELIVERED: Final = 50
"""Events of one file that are shown because they could not be told."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with a file, or was.

    Attributes:
        derived: files that were made of it.
    """

    jobs: tuple[Job, ...] = ()
    derived: tuple[Upload, ...] = ()


class Files:
    """All that can be done with files, finished or not.

    Args:
        database: what is known about them.
        stores: their bytes.
        uploads: ends them; a file is deleted as a client of tus deletes its upload.
        most_downloads: files that are read at once by this process. Each holds a connection to the store, and up to
            1 MiB, for as long as its reader likes.
    """

    def __init__(
        self, database: ReadingDatabase, stores: Stores[ObjectStore], uploads: Uploads, most_downloads: int
    ) -> None:
        self._database = database
        self._stores = stores
        self._uploads = uploads
        self._most_downloads = most_downloads
        self.downloads = 0
        """Files that are being read now."""

    def admit(self, scope: Scope) -> None:
        """Count a request about files of `scope`. Raises TenantUnknown, Throttled."""
        self._uploads.admit(scope)

    async def find(self, scope: Scope, file_id: UploadId) -> Upload:
        """Return a file in any state but that of a deleted one.

        Raises:
            UploadNotFound: unknown, or somebody else's.
            UploadGone: deleted.
        """
        self._uploads.admit(scope)
        upload = await self._database.get(scope, file_id)
        if upload.state is State.TERMINATED:
            raise UploadGone(upload.state)
        return upload

    async def page(
        self, scope: Scope, wanted: FileFilter, after: Position | None, limit: int
    ) -> tuple[list[Upload], Position | None]:
        """Return the `limit` newest files from the place `after` on, and the place of the next page if there is one."""
        self._uploads.admit(scope)
        found = await self._database.list_files(scope, wanted, after, limit + 1)
        page = found[:limit]
        return page, Position.of(page[-1]) if len(found) > limit else None

    async def work_on(self, files: Sequence[Upload]) -> dict[UploadId, Work]:
        """Return what is done, or was, with those of `files` that have jobs; all of one scope."""
        processed = [file for file in files if file.processing is not None]
        if not processed:
            return {}
        jobs, derived = await self._database.jobs.of(processed), await self._database.jobs.derived(processed)
        return {file.id: Work(tuple(jobs[file.id]), tuple(derived.get(file.id, ()))) for file in processed}

    async def undelivered(self, file: Upload) -> list[Delivery]:
        """Return events of a file that a sink could not be told, and will not be by itself."""
        wanted = Search(upload_id=file.id, tenant=file.scope.tenant, state=DeliveryState.DEAD)
        return await self._database.deliveries.find(wanted, MOST_UNDELIVERED)

    async def process_again(self, scope: Scope, file_id: UploadId) -> Upload:
        """Have the jobs of a file tried again that were given up, and return it.

        Raises:
            UploadNotFound, NotComplete, UploadGone: there is no such file.
        """
        self._uploads.admit(scope)
        upload = await self._database.get(scope, file_id)
        check_complete(upload)
        try:
            return await self._database.jobs.revive(upload)
        except JobLost:
            raise UploadGone(State.TERMINATED) from None

    async def usage(self, scope: Scope) -> tuple[Usage, Quota]:
        """Return what the whole tenant has, and what it may have."""
        quota = self._uploads.admit(scope).quota
        return await self._database.usage(scope.tenant), quota or Quota()

    async def describe(self, principal: Principal, file_id: UploadId, changes: Changes) -> Upload:
        """Change what is known of a file; HEAD goes on to echo what the client once sent.

        `filename` and `content_type` at any time; `expires_at` and `retain_until` of a finished file. Only an
        administrator makes a file be retained for a shorter time.

        Raises:
            UploadNotFound, UploadGone: there is nothing to describe.
            TypeNotAllowed: the tenant takes no files of that type.
            UnsupportedMediaType: not if they are coded as this one is.
            NotComplete, InvalidRequest, Retained: see `ports.Database.describe`.
        """
        tenant = self._uploads.admit(principal.scope)
        if "content_type" in changes:
            tenant.check_type(changes["content_type"], None)
            if tenant.coded_types is not None:
                coding = (await self._database.get(principal.scope, file_id)).content_coding
                tenant.check_coding(coding, changes["content_type"], has_gates=False)
        is_admin = Permission.ADMIN in principal.permissions
        return await self._database.describe(principal.scope, file_id, changes, may_shorten=is_admin)

    async def delete(self, principal: Principal, file_id: UploadId, exchange: Exchange | None = None) -> None:
        """Delete a file, or end an upload: at once for everybody, and in the store as soon as the collector comes.

        Raises:
            UploadNotFound, UploadGone: there is nothing to delete.
            Retained: it must be kept.
            HookRefused, HookUnavailable: it is as it was.
        """
        await self._uploads.terminate(principal.scope, file_id, exchange, by=principal.proof)

    async def delete_many(
        self, principal: Principal, file_ids: Sequence[UploadId], exchange: Exchange | None = None
    ) -> dict[UploadId, Outcome]:
        """Delete files one after the other and return what became of each.

        When it is cut short (Unavailable, cancelled) the first ones are deleted; doing it again does the rest.
        """
        self._uploads.admit(principal.scope)
        outcomes: dict[UploadId, Outcome] = {}
        for file_id in file_ids:
            try:
                await self._uploads.end_if_allowed(principal.scope, file_id, exchange, by=principal.proof)
            except UploadNotFound:
                outcomes[file_id] = "not_found"
            except UploadGone:
                outcomes[file_id] = "gone"
            except HookRefused:
                outcomes[file_id] = "refused"
            except Retained:
                outcomes[file_id] = "retained"
            else:
                outcomes[file_id] = "deleted"
        return outcomes

    async def finished(self, scope: Scope, file_id: UploadId) -> Upload:
        """Return a file whose bytes may be read.

        Raises:
            UploadNotFound: unknown, or somebody else's.
            NotComplete: its object is not there and verified yet, or it is no file but a part of one.
            StillProcessing, NotClean: it is kept from readers.
            UploadGone: failed, expired or deleted.
        """
        self._uploads.admit(scope)
        upload = await self._database.get(scope, file_id)
        check_complete(upload)
        if upload.role is Role.PARTIAL:  # no processor has looked at it
            raise NotComplete
        await self._check_published(upload)
        return upload

    async def _check_published(self, upload: Upload) -> None:
        """Raise StillProcessing or NotClean for a file that nobody may read (yet), or that was made of such a one."""
        source = upload if upload.derived_from is None else await self._database.get(upload.scope, upload.derived_from)
        if source.withheld:
            raise StillProcessing if source.processing is Processed.PROCESSING else NotClean

    async def read(self, upload: Upload, start: int, size: int) -> AsyncGenerator[bytes]:
        """Stream `size` bytes of a finished file from byte `start`; close it when it is given up.

        When the whole file is read, its last bytes come only if all of them have the checksum that it was stored with.

        Raises:
            TooManyDownloads: before the first byte.
            ObjectLost: the store has another object, none, or other bytes; operators are told by an error in the log.
            StoreUnavailable: also in the middle.
        """
        if self.downloads >= self._most_downloads:
            raise TooManyDownloads
        self.downloads += 1
        try:
            chunks = self._stores.of(upload.route).read(upload.object_key, start, size, etag=upload.etag)
            if upload.crc64 is not None and size == upload.length:
                chunks = verified(chunks, size, upload.crc64)
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        except ObjectLost as error:
            log.error("download.object_lost", upload_id=upload.id, key=upload.object_key, error=str(error))  # noqa: TRY400 # no bug of ours: a trace tells nothing
            raise
        finally:
            self.downloads -= 1

    def presigned(
        self, method: Literal["GET", "HEAD"], upload: Upload, presentation: Presentation, seconds: int
    ) -> str | None:
        """Return a URL of the store for a finished file; None where the store has none."""
        return self._stores.of(upload.route).presign(method, upload.object_key, presentation, seconds)


async def verified(chunks: AsyncGenerator[bytes], size: int, expected: int) -> AsyncGenerator[bytes]:
    """Pass `chunks` of `size` bytes on. Raises ObjectLost instead of the last one when the CRC64 is not as expected."""
    checksum = position = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            checksum = crc64(chunk, checksum)
            position += len(chunk)
            if position >= size and checksum != expected:
                raise ObjectLost("the object has other bytes than were stored")
            yield chunk
