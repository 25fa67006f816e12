"""Parts of direct uploads that need not be sent: the store copies them from finished files of the same owner.

A copy is a convenience and never a proof. Whatever is copied is looked at like a part that somebody has sent, by what
the store lists; so a copy that went wrong, or none, leaves a part that is to be sent, and a crash in the middle leaves
an unfinished upload like any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.access import Route, may
from tusgate.core.direct import copies_for, unproved_etags, with_proofs
from tusgate.core.errors import TusgateError
from tusgate.core.model import Piece

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tusgate.core.access import Principal
    from tusgate.core.direct import KnownPart, ListedPart
    from tusgate.core.model import Upload
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.stores import Stores

log = structlog.get_logger(__name__)

COPYING_SECONDS: Final = 20.0
"""Seconds that the creation of an upload waits for copies; what is not copied by then is to be sent. Proxies and
clients wait longer for an answer."""
COPIES_OF_ONE: Final = 8
"""Copies for one upload at once."""
COPIES_OF_ALL: Final = 32
"""Copies of this process at once: they share connections with what finishes uploads."""


class KnownParts:
    """What the store has already of new uploads."""

    def __init__(self, database: Database, stores: Stores[ObjectStore]) -> None:
        self._database = database
        self._stores = stores
        self._slots = asyncio.Semaphore(COPIES_OF_ALL)

    async def find(self, principal: Principal, upload: Upload) -> dict[int, KnownPart]:
        """Return what parts of `upload` can be copied from, by their numbers.

        Only files that the principal could download as well: to know a digest is no right to anybody's bytes.

        Raises Unavailable.
        """
        plan = upload.plan
        if plan is None or plan.algorithm != "sha256" or not may(principal, Route.CONTENT, "GET"):
            return {}
        store = self._stores.of(upload.route)
        if not store.copies_declared_parts:
            return {}
        digests = list(dict.fromkeys(plan.digests))
        known = await self._database.find_known_parts(upload.scope, upload.route, digests)
        return copies_for(upload, known, store.limits)

    async def copy(self, upload: Upload, known: Mapping[int, KnownPart]) -> int:
        """Copy these parts into the multipart upload of `upload`, as many as can be had in `COPYING_SECONDS`.

        Cancelled, or out of time, a copy that is under way may still arrive: with the bytes that are wanted there.

        Returns:
            How many there was no time for. What the store does not copy is not among them.
        """
        todo, copied, refused, left = iter(known.items()), 0, 0, 0

        async def work() -> None:
            nonlocal copied, refused
            for number, part in todo:  # which all workers share
                if not await self._is_copied(upload, number, part):
                    refused += 1
                    return  # what the store will not do once it will not do again, as a rule
                copied += 1

        try:
            async with asyncio.timeout(COPYING_SECONDS), asyncio.TaskGroup() as workers:
                for _ in range(min(COPIES_OF_ONE, len(known))):
                    workers.create_task(work())
        except TimeoutError:
            left = len(known) - copied - refused
        log.info("direct.copied", upload_id=upload.id, parts=copied, left=left)
        return left

    async def _is_copied(self, upload: Upload, number: int, part: KnownPart) -> bool:
        assert upload.multipart_id is not None
        source = Piece(0, part.size, -1, part.key, skip=part.start)
        store = self._stores.of(upload.route)
        try:
            async with self._slots:
                await store.copy_part(upload.object_key, upload.multipart_id, number, source, etag=part.etag)
        except TusgateError as error:
            log.warning("direct.not_copied", upload_id=upload.id, part=number, error=str(error))
            return False
        return True

    async def proved(self, upload: Upload, listed: Sequence[ListedPart]) -> list[ListedPart]:
        """Return `listed` with the SHA-256 of copied parts that the store shows none of, as far as it is known.

        Raises Unavailable.
        """
        pairs = unproved_etags(upload, listed)
        proofs: Collection[tuple[bytes, str]] = ()
        if pairs:
            proofs = await self._database.find_proved_etags(upload.scope, upload.route, pairs)
        return with_proofs(upload, listed, proofs)
