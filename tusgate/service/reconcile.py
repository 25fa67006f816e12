"""Compares the database with the store, in both directions, and mends what can be mended without guessing.

For operators: after a backup was restored, or when something other than tusgate has changed one of the two. May run
beside gateways.

Rule 1: the store is read before the database. What is stored was named before it was created, so what the database
        does not name then is no upload on its way. What looks missing is believed when the row, read anew, still
        says that it should be there.
Rule 2: finished objects are never deleted unless that is asked for by itself (`Mending.delete_objects`): a restored
        database knows nothing of the uploads that were finished in the time that it has lost.
Rule 3: only what carries our marker is ours. Everything else is counted and left alone, wherever it lies.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from tusgate.core.direct import as_one_part
from tusgate.core.errors import Fenced, StoreRefused, UploadGone
from tusgate.core.lifecycle import advance
from tusgate.core.model import FOREVER, State, StoreName, UploadId
from tusgate.core.naming import PIECES, attempt_key
from tusgate.service.digest import combined_crc64, crc64_in_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from datetime import datetime

    from tusgate.core.model import Keeping, ListedObject, MultipartId, ObjectKey, Part, Piece, StoredObject, Upload
    from tusgate.ports import SurveyedDatabase, SurveyedStore
    from tusgate.service.stores import Stores

PAGE: Final = 500
"""Rows, or listed objects, that are compared together."""
CALLS_AT_ONCE: Final = 8
GRACE: Final = timedelta(hours=24)
"""Age below which nothing in the store is called superfluous: far above the life of any request."""
_MAYBE_IDS: Final = re.compile(r"[A-Za-z0-9_-]{22,64}", re.ASCII)
Seen = TypeVar("Seen")
_LIVE: Final = frozenset({State.UPLOADING, State.SEALED})


class Trouble(StrEnum):
    """What does not agree."""

    OBJECT_MISSING = "object missing"
    """Complete, and no object of the upload is at its key. Bring it back, or delete the upload."""
    OBJECT_DIFFERS = "object differs"
    """Complete, and the object has other bytes."""
    NOT_RECORDED = "finish not recorded"
    """The whole object is there, and the database takes the upload for unfinished. Mended by recording it."""
    MULTIPART_LOST = "parts lost"
    """Unfinished, and the store no longer has its multipart upload. Mended by letting the upload fail."""
    PIECE_MISSING = "piece missing"
    """Unfinished, and acknowledged bytes are not in the store. Mended by letting the upload fail."""
    OBJECT_UNKNOWN = "object unknown"
    """Carries our marker, and no row names it. Deleted only when that is asked for."""
    PIECE_UNKNOWN = "piece unknown"
    """A piece that no row names. Mended by deleting it."""
    MULTIPART_UNKNOWN = "multipart unknown"
    """A multipart upload of a known key that no row names. Mended by aborting it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that does not agree.

    Attributes:
        detail: what exactly, in words.
        mended: it does now.
    """

    trouble: Trouble
    upload_id: UploadId
    key: ObjectKey
    detail: str
    mended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """What may be changed.

    Attributes:
        repair: everything but finished objects.
        delete_objects: also delete finished objects that no row names.
    """

    repair: bool = False
    delete_objects: bool = False


@dataclass(slots=True)
class Looked:
    """How much was compared: rows, listed objects, and those of them that were too young or not ours."""

    uploads: int = 0
    objects: int = 0
    young: int = 0
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """A finding, and what would mend it. None: nothing that could be done without guessing."""

    finding: Finding
    mend: Callable[[], Awaitable[object]] | None = None


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """One comparison.

    Args:
        now: the time, for the age of objects.
        grace: younger objects and multipart uploads are not called superfluous.
        keeping: what becomes of files whose end is recorded now.

    Attributes:
        looked: how much was compared so far.
    """

    database: SurveyedDatabase
    stores: Stores[SurveyedStore]
    mending: Mending
    now: datetime
    grace: timedelta = GRACE
    keeping: Keeping = FOREVER
    looked: Looked = field(default_factory=Looked)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_AT_ONCE))

    async def run(self) -> AsyncIterator[Finding]:
        """Yield what does not agree, mended as far as that is allowed. Raises Unavailable."""
        for _, store in self.stores:
            await store.check()  # a bucket that is away as a whole would look like a great loss
        async for uploads in self._pages_of_uploads():
            for finding in await self._all(self._about_upload, uploads):
                yield finding
        for _, store in self.stores:
            async for objects in self._pages_of_objects(store):
                names = await self._names(id_ for found in objects for id_ in _MAYBE_IDS.findall(found.key))
                nameless = [found for found in objects if StoreName(found.key) not in names]
                for finding in await self._all(partial(self._about_object, store), nameless):
                    yield finding

    async def _pages_of_uploads(self) -> AsyncIterator[list[Upload]]:
        page = await self.database.survey("", PAGE)
        while page:
            self.looked.uploads += len(page)
            yield page
            page = await self.database.survey(page[-1].id, PAGE)

    async def _pages_of_objects(self, store: SurveyedStore) -> AsyncIterator[list[ListedObject]]:
        page: list[ListedObject] = []
        async for found in store.list_objects():
            self.looked.objects += 1
            if self.now - found.modified < self.grace:
                self.looked.young += 1
                continue
            page.append(found)
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    async def _names(self, candidates: Iterable[str]) -> set[StoreName]:
        return await self.database.names([UploadId(text) for text in set(candidates)])

    async def _all(self, look: Callable[[Seen], Awaitable[list[_Suspicion]]], at: Iterable[Seen]) -> list[Finding]:
        """Look at everything in `at`, some at a time, and mend what is found."""

        async def take(each: Seen) -> list[Finding]:
            async with self._slots:
                return [await self._mended(suspicion) for suspicion in await look(each)]

        return [finding for findings in await asyncio.gather(*map(take, at)) for finding in findings]

    async def _mended(self, suspicion: _Suspicion) -> Finding:
        finding, mend = suspicion.finding, suspicion.mend
        is_object = finding.trouble is Trouble.OBJECT_UNKNOWN
        if mend is None or not (self.mending.delete_objects if is_object else self.mending.repair):
            return finding
        try:
            await mend()
        except (Fenced, UploadGone, StoreRefused) as error:
            return replace(finding, detail=f"{finding.detail}; not mended: {error}")
        return replace(finding, mended=True)

    async def _about_upload(self, upload: Upload) -> list[_Suspicion]:
        """Compare one upload with what the store has of it."""
        found: list[_Suspicion] = []
        if upload.state is State.COMPLETE:
            found += await self._about_finished(upload)
        elif upload.state in _LIVE:
            found += await self._about_unfinished(upload)
        return found + await self._about_multiparts(upload)

    async def _about_finished(self, upload: Upload) -> list[_Suspicion]:
        stored = await self._store_of(upload).find(upload.object_key, upload.maker)
        difference = _difference(upload, stored)
        if difference is None or await self._has_moved(upload):
            return []
        trouble = Trouble.OBJECT_MISSING if stored is None else Trouble.OBJECT_DIFFERS
        return [_Suspicion(_finding(trouble, upload, upload.object_key, difference))]

    async def _about_unfinished(self, upload: Upload) -> list[_Suspicion]:
        whole = await self._whole_object(upload) if upload.state is State.UPLOADING else None
        if whole is not None:
            found = self._about_forgotten_end(upload, whole)
        else:
            found = await self._about_parts(upload) or await self._about_pieces(upload)
        return [] if found and await self._has_moved(upload) else found

    async def _whole_object(self, upload: Upload) -> StoredObject | None:
        """Return the finished object of an upload that takes bytes: then nothing that it consisted of is missed."""
        if upload.final_length is None:
            return None
        for attempt in range(1, upload.put_attempts + 2):
            stored = await self._store_of(upload).find(attempt_key(upload.object_key, attempt), upload.id)
            if stored is not None and stored.size == upload.final_length and await self._continues(upload, stored):
                return stored
        return None

    async def _continues(self, upload: Upload, stored: StoredObject) -> bool:
        """Return whether the object begins with the acknowledged bytes; it is read as far as they go.

        Another writer, which was replaced before it could record its object, may have had other ones.
        """
        if not upload.offset or self._is_young(upload):
            return True
        committed: list[Part | Piece] = [*await self.database.parts(upload), *await self.database.pieces(upload)]
        beginning = await crc64_in_store(self._store_of(upload), stored.key, 0, upload.offset)
        return beginning == combined_crc64(committed)

    def _is_young(self, upload: Upload) -> bool:
        return self.now - upload.updated_at < self.grace

    def _about_forgotten_end(self, upload: Upload, stored: StoredObject) -> list[_Suspicion]:
        if self._is_young(upload):
            return []  # perhaps it is recorded at this moment
        detail = f"the database has {upload.offset} of its {stored.size} bytes"
        finding = _finding(Trouble.NOT_RECORDED, upload, stored.key, detail)
        step = advance(upload, stored.size, stored.size, stored=stored, keeping=self.keeping)
        if upload.plan is not None and upload.plan.whole is not None:
            # Gateways finish it, as any sealed upload: the object is not known to be what was declared.
            if upload.multipart_id is None:
                return [_Suspicion(finding)]  # it is none that they could finish
            step = advance(upload, stored.size, stored.size, parts=(as_one_part(stored),))
        return [_Suspicion(finding, _later(self.database.commit, upload, step))]

    async def _about_parts(self, upload: Upload) -> list[_Suspicion]:
        """See whether the parts are there. Of a sealed upload they may just have become the object."""
        if upload.state is not State.UPLOADING or upload.multipart_id is None:
            return []
        return await self._about_own_multipart(upload, upload.multipart_id)

    async def _about_own_multipart(self, upload: Upload, multipart_id: MultipartId) -> list[_Suspicion]:
        if await self._store_of(upload).multipart_exists(upload.object_key, multipart_id):
            return []
        detail = f"{upload.offset} acknowledged bytes"
        mend = _later(self.database.fail, upload, "the object store lost the multipart upload")
        return [_Suspicion(_finding(Trouble.MULTIPART_LOST, upload, upload.object_key, detail), mend)]

    async def _about_pieces(self, upload: Upload) -> list[_Suspicion]:
        for piece in await self.database.pieces(upload):
            if piece.key is None:
                continue
            stored = await self._store_of(upload).find(piece.key, upload.id)
            if stored is None or stored.size != piece.size or stored.crc64 not in (piece.crc64, -1):
                detail = f"bytes {piece.start} to {piece.end} of {upload.offset} acknowledged ones"
                mend = _later(self.database.fail, upload, "the object store lost acknowledged bytes")
                return [_Suspicion(_finding(Trouble.PIECE_MISSING, upload, piece.key, detail), mend)]
        return []

    async def _about_multiparts(self, upload: Upload) -> list[_Suspicion]:
        """Find multipart uploads of the upload's key that are nobody's. By key, as not every store lists by prefix."""
        if upload.group is not None or upload.object_of is not None:
            return []  # the key is that of its group, or of the maker of its object: what is there is not its own
        listed = await self._store_of(upload).list_multiparts(upload.object_key)
        if not listed:
            return []
        names = await self.database.names([upload.id])
        named = {name.multipart_id for name in names if name.multipart and name.key == upload.object_key}
        found = []
        for multipart_id in listed if None not in named else ():
            if multipart_id in named or not await self._store_of(upload).multipart_exists(
                upload.object_key, multipart_id
            ):
                continue
            mend = _later(self._store_of(upload).abort_multipart, upload.object_key, multipart_id)
            detail = f"{multipart_id}, upload is {upload.state}"
            found.append(_Suspicion(_finding(Trouble.MULTIPART_UNKNOWN, upload, upload.object_key, detail), mend))
        return found

    async def _about_object(self, store: SurveyedStore, listed: ListedObject) -> list[_Suspicion]:
        """Look at an object that none of the uploads names that its key may be about."""
        owner = await store.owner_of(listed.key)
        if owner is None:
            self.looked.foreign += 1
            return []
        if StoreName(listed.key) in await self._names([owner]):
            return []
        trouble = Trouble.PIECE_UNKNOWN if listed.key.startswith(PIECES) else Trouble.OBJECT_UNKNOWN
        detail = f"{listed.size} bytes, since {listed.modified:%Y-%m-%d %H:%M}"
        finding = Finding(trouble=trouble, upload_id=owner, key=listed.key, detail=detail)
        return [_Suspicion(finding, _later(store.delete_objects, [listed.key]))]

    def _store_of(self, upload: Upload) -> SurveyedStore:
        return self.stores.of(upload.route)

    async def _has_moved(self, upload: Upload) -> bool:
        """Return whether the upload has changed since its row was read: then what it showed proves nothing."""
        return await self.database.get(upload.scope, upload.id) != upload


def _difference(upload: Upload, stored: StoredObject | None) -> str | None:
    """Return in words how the object is not that of the complete `upload`; None when it is."""
    if stored is None:
        return f"{upload.length} bytes, complete since {upload.completed_at:%Y-%m-%d %H:%M}"
    if stored.size != upload.length:
        return f"{stored.size} bytes instead of {upload.length}"
    if stored.crc64 >= 0 and upload.crc64 is not None:
        same = stored.crc64 == upload.crc64
    else:
        same = stored.etag == upload.etag  # changes when an object is copied, so it counts only where nothing else does
    return None if same else "other bytes of the same number"


def _finding(trouble: Trouble, upload: Upload, key: ObjectKey, detail: str) -> Finding:
    return Finding(trouble=trouble, upload_id=upload.id, key=key, detail=detail)


def _later(call: Callable[..., Awaitable[object]], *arguments: object) -> Callable[[], Awaitable[object]]:
    return lambda: call(*arguments)
