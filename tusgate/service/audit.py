"""The access log: no byte of a file leaves before it is written down who gets it.

An access costs one commit at its beginning, which its reader waits for; a database that is away then means 503, as it
does for finding the file. How it ended is written down behind the reader's back, and tried again for a minute; if that
fails the row says `started` for ever, and the log tells.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.audit import AccessId, Ending, NewAccess
from tusgate.core.errors import Unavailable, UploadNotFound
from tusgate.core.listing import Position
from tusgate.core.model import UploadId
from tusgate.service.tenants import Tenants

if TYPE_CHECKING:
    from tusgate.core.audit import Access, AccessFilter, How
    from tusgate.core.model import Scope, Upload
    from tusgate.core.sharing import Share
    from tusgate.ports import ReadingDatabase


log = structlog.get_logger(__name__)

RETRY_AFTER: Final = (1.0, 5.0, 20.0, 30.0)
"""Seconds before each further try to write down an end."""
MOST_UNWRITTEN: Final = 10_000
"""Ends that one process remembers while the database is away."""


class Audit:
    """Writes the access log and reads it.

    Args:
        database: has the log, and the share links: a download by one is counted in the same commit.
        is_kept: whether there is a log; else downloads by share links are counted all the same.
        tenants: whose requests to see the log are counted; None: they have no limits.
    """

    def __init__(self, database: ReadingDatabase, *, is_kept: bool, tenants: Tenants | None = None) -> None:
        self._database = database
        self._tenants = tenants or Tenants()
        self._is_kept = is_kept
        self._unwritten: set[asyncio.Task[None]] = set()

    async def begin(
        self,
        upload: Upload,
        *,
        reader: str,
        proof: str,
        how: How,
        client: str | None,
        part: tuple[int, int] | None = None,
        is_over: bool = False,
        counts: Share | None = None,
    ) -> NewAccess | None:
        """Write down that an access begins; return what `end` wants to know.

        Args:
            upload: the file.
            reader, proof, how, client: see `NewAccess`.
            part: first byte, and how many are to be sent.
            is_over: there is no end to wait for.
            counts: the share link by which it is a download of its own.

        Raises:
            UploadNotFound: `counts` is good for no more; nothing is written down.
            DatabaseUnavailable: then nothing may be read.
        """
        if not self._is_kept:
            if counts is not None and not await self._database.count_download(counts):
                raise UploadNotFound
            return None
        first, wanted = part or (None, None)
        new = NewAccess(
            id=AccessId(secrets.token_urlsafe(18)),
            scope=upload.scope,
            file_id=upload.id,
            reader=reader,
            proof=proof,
            how=how,
            client=client,
            first_byte=first,
            wanted=wanted,
            ending=Ending.DONE if is_over else Ending.STARTED,
        )
        if not await self._database.begin_access(new, counts):
            raise UploadNotFound
        return new

    def end(self, begun: NewAccess | None, sent: int) -> None:
        """Have it written down how an access ended. Returns at once."""
        if begun is None:
            return
        if len(self._unwritten) >= MOST_UNWRITTEN:
            log.warning("access.unfinished", access_id=begun.id, upload_id=begun.file_id, sent=sent)
            return
        task = asyncio.create_task(self._write_end(begun, sent))
        self._unwritten.add(task)
        task.add_done_callback(self._unwritten.discard)

    async def _write_end(self, begun: NewAccess, sent: int) -> None:
        ending = Ending.DONE if sent == begun.wanted else Ending.BROKEN
        for seconds in (*RETRY_AFTER, None):
            try:
                await self._database.end_access(begun, sent, ending)
            except Unavailable:
                if seconds is not None:
                    await asyncio.sleep(seconds)
            else:
                return
        log.warning("access.unfinished", access_id=begun.id, upload_id=begun.file_id, sent=sent)

    async def close(self) -> None:
        """Wait a moment for ends that are being written down; the others stay unwritten. Idempotent."""
        if self._unwritten:
            await asyncio.wait(self._unwritten, timeout=2.0)
        for task in self._unwritten:
            task.cancel()
        await asyncio.gather(*self._unwritten, return_exceptions=True)

    async def of_file(
        self, scope: Scope, file_id: UploadId, after: Position | None, limit: int
    ) -> tuple[list[Access], Position | None]:
        """Return who read a file of `scope`, deleted ones too, the latest first, and the place of the next page.

        Raises:
            UploadNotFound: there never was one.
            TenantUnknown, Throttled: see `Tenants.admit`.
        """
        self._tenants.admit(scope.tenant)
        await self._database.get(scope, file_id)
        return _page(await self._database.list_accesses(scope, file_id, after, limit + 1), limit)

    async def of_tenant(
        self, tenant: str, wanted: AccessFilter, after: Position | None, limit: int
    ) -> tuple[list[Access], Position | None]:
        """Return who read files of a tenant, whoever owns them; for those who may administer it.

        Raises TenantUnknown, Throttled: see `Tenants.admit`.
        """
        self._tenants.admit(tenant)
        return _page(await self._database.list_all_accesses(tenant, wanted, after, limit + 1), limit)


def _page(found: list[Access], limit: int) -> tuple[list[Access], Position | None]:
    page = found[:limit]
    return page, Position(page[-1].began_at, UploadId(page[-1].id)) if len(found) > limit else None
