"""Beginning a multipart upload so that none can be leaked: by a crash, or by an answer that was lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import Fenced, StoreUnavailable
from tusgate.core.lifecycle import check_alive
from tusgate.core.placement import multipart_intent
from tusgate.ports import Attributes

if TYPE_CHECKING:
    from tusgate.core.model import MultipartId, Upload
    from tusgate.ports import Database, ObjectStore

TRIES: Final = 3
LONGEST_PAUSE: Final = 0.4
"""Seconds at most between two tries."""


async def begin_multipart(
    database: Database, store: ObjectStore, upload: Upload, *, announced: bool, with_copies: bool = False
) -> Upload:
    """Create the multipart upload of `upload` and record it; return the upload with its id and key.

    Every try has an intent of its own: one whose answer was lost may have made a multipart upload all the same, and
    its intent is what finds that one later.

    Args:
        database, store: where to.
        upload: with the epoch of its writer or finisher.
        announced: the intent of the first try is written already.
        with_copies: see `ObjectStore.create_multipart`.

    Raises:
        Fenced: somebody else writes, or has created it.
        StoreUnavailable: three tries failed.
    """
    intent = multipart_intent(upload)
    for attempt in range(TRIES):
        if attempt or not announced:
            await database.intend(upload, [intent])
        try:
            created = await store.create_multipart(
                intent.key, Attributes.of(upload), with_copies=with_copies, plan=upload.plan
            )
        except StoreUnavailable:
            if attempt == TRIES - 1:
                raise
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))  # noqa: S311 - spreads load, guards nothing
            continue
        return await database.record_multipart(replace(upload, object_key=intent.key), created)
    raise StoreUnavailable


async def join_multipart(database: Database, store: ObjectStore, partial: Upload) -> MultipartId:
    """Return the multipart upload of the group that `partial` lies in, created by the first one that needs it.

    Raises:
        UploadGone: the group has ended, and its partials with it.
        StoreUnavailable: three tries failed.
    """
    assert partial.group is not None
    while True:
        group = await database.get(partial.scope, partial.group)
        check_alive(group)
        if group.multipart_id is not None:
            return group.multipart_id
        with suppress(Fenced):  # another partial was first
            group = await begin_multipart(database, store, group, announced=False)
            assert group.multipart_id is not None
            return group.multipart_id
