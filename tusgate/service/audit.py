"""The access log: no byte of a file leaves before it is written down who gets it.

The reader of a file waits until the beginning is committed, together with all others that wait by then; a database that
is away means 503, as it does for finding the file. How accesses ended is written down behind their readers' backs, many
at once, and tried again for a minute; if that fails the rows say `started` for ever, and the log tells.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.audit import AccessId, EndedAccess, Ending, NewAccess
from tusgate.core.errors import Unavailable, UploadNotFound
from tusgate.core.listing import Position
from tusgate.core.model import UploadId
from tusgate.service.batches import Batches
from tusgate.service.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.audit import Access, AccessFilter, How
    from tusgate.core.model import Scope, Upload
    from tusgate.core.sharing import Share
    from tusgate.ports import ReadingDatabase


log = structlog.get_logger(__name__)

MOST_TOGETHER: Final = 500
"""Accesses in one commit."""
GATHERING: Final = 0.05
"""Seconds that ends wait for others."""
RETRY_AFTER: Final = (1.0, 5.0, 20.0, 30.0)
"""Seconds before each further try to write down ends."""
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
        self._beginnings = Batches(self._write_beginnings, MOST_TOGETHER)
        self._ends: list[EndedAccess] = []
        self._unwritten = 0
        self._writing: set[asyncio.Task[None]] = set()

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
        if counts is None:
            await self._beginnings.write(new)
        elif not await self._database.begin_counted_access(new, counts):
            raise UploadNotFound
        return new

    async def _write_beginnings(self, new: Sequence[NewAccess]) -> None:
        await self._database.begin_accesses(new)

    def end(self, begun: NewAccess | None, sent: int) -> None:
        """Have it written down how an access ended. Returns at once."""
        if begun is None:
            return
        if self._unwritten >= MOST_UNWRITTEN:
            _tell_unfinished(EndedAccess(begun, sent))
            return
        self._unwritten += 1
        self._ends.append(EndedAccess(begun, sent))
        if len(self._ends) == 1:
            task = asyncio.create_task(self._write_ends())
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write_ends(self) -> None:
        await asyncio.sleep(GATHERING)
        ends, self._ends = self._ends, []
        for first in range(0, len(ends), MOST_TOGETHER):
            await self._write_together(ends[first : first + MOST_TOGETHER])

    async def _write_together(self, ends: Sequence[EndedAccess]) -> None:
        try:
            for seconds in (*RETRY_AFTER, None):
                try:
                    await self._database.end_accesses(ends)
                except Unavailable:
                    if seconds is not None:
                        await asyncio.sleep(seconds)
                else:
                    return
            for ended in ends:
                _tell_unfinished(ended)
        finally:
            self._unwritten -= len(ends)

    async def close(self) -> None:
        """Wait a moment for ends that are being written down; the others stay unwritten. Idempotent."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=2.0)
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._beginnings.close()

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


def _tell_unfinished(ended: EndedAccess) -> None:
    log.warning("access.unfinished", access_id=ended.begun.id, upload_id=ended.begun.file_id, sent=ended.sent)


def _page(found: list[Access], limit: int) -> tuple[list[Access], Position | None]:
    page = found[:limit]
    return page, Position(page[-1].began_at, UploadId(page[-1].id)) if len(found) > limit else None
