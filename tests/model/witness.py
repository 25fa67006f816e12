"""Ports that report what has happened to the `Truth`, in the very moment that it happens.

They stand beneath the faults: a call whose answer is lost, or that is delivered late, is seen all the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from tusgate.core.clockwatch import go_on
from tusgate.core.model import FOREVER, Role, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.doubles.database import MemoryDatabase
    from tests.doubles.store import MemoryStore
    from tests.model.truth import Truth
    from tusgate.core.clockwatch import Judge
    from tusgate.core.direct import Plan
    from tusgate.core.grid import Grid
    from tusgate.core.model import (
        Intent,
        Keeping,
        MultipartId,
        NewUpload,
        ObjectKey,
        Part,
        Piece,
        Scope,
        Step,
        StoredObject,
        Upload,
        UploadId,
    )
    from tusgate.ports import Database, ObjectStore


class WitnessedDatabase:
    """A database whose effects are reported.

    Args:
        database: does the work.
        store: to see what is finished there.
    """

    def __init__(self, database: MemoryDatabase, store: MemoryStore, truth: Truth) -> None:
        self._database = database
        self._store = store
        self._truth = truth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def create(self, new: NewUpload, intents: Sequence[Intent] = ()) -> Upload:
        created = await self._database.create(new, intents)
        self._truth.created(created, _now())
        return created

    async def create_partial(
        self, new: NewUpload, group: NewUpload, name: str, place: Callable[[Sequence[Grid]], Grid | None]
    ) -> Upload:
        created = await self._database.create_partial(new, group, name, place)
        opened = await self._database.survey("", 1000)
        for row in opened:
            if row.role is Role.GROUP and row.id not in self._truth.uploads:
                self._truth.grouped(row)
        self._truth.created(created, _now())
        return created

    async def concatenate(self, final: NewUpload, sources: Sequence[Upload], parts: Sequence[Part] = ()) -> Upload:
        made = await self._database.concatenate(final, sources, parts)
        self._truth.concatenated(made, sources, _now())
        return made

    async def gather(self, group: Upload, members: Sequence[Upload], parts: Sequence[Part]) -> Upload:
        made = await self._database.gather(group, members, parts)
        self._truth.concatenated(made, members, _now())
        return made

    async def claim(self, upload: Upload, holder: str, intents: Sequence[Intent] = ()) -> tuple[Upload, list[Piece]]:
        claimed, pieces = await self._database.claim(upload, holder, intents)
        self._truth.claimed(upload, claimed)
        return claimed, pieces

    async def commit(self, upload: Upload, step: Step) -> Upload:
        committed = await self._database.commit(upload, step)
        self._truth.committed(upload, step, committed, _now())
        if step.stored is not None:
            self._finished(upload, step.stored)
        return committed

    async def complete(self, upload: Upload, stored: StoredObject, keeping: Keeping = FOREVER) -> Upload:
        before = self._truth.uploads[upload.id].state
        completed = await self._database.complete(upload, stored, keeping)
        if before is not State.COMPLETE:
            self._finished(upload, stored)
        return completed

    async def fail(self, upload: Upload, reason: str) -> Upload:
        failed = await self._database.fail(upload, reason)
        self._truth.failed(failed)
        return failed

    async def terminate(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> Upload:
        terminated = await self._database.terminate(scope, upload_id, by)
        self._truth.terminated(terminated)
        return terminated

    async def expire(self, limit: int, judge: Judge = go_on) -> list[Upload]:
        expired = await self._database.expire(limit, judge)
        for upload in expired:
            self._truth.expired(upload, _now())
        return expired

    def _finished(self, upload: Upload, stored: StoredObject) -> None:
        found = self._store.objects.get(stored.key)
        self._truth.finished(upload, stored, None if found is None else found.data)


class WitnessedStore:
    """A store in which Complete is looked at: it must list the committed parts and nothing else (I7)."""

    def __init__(self, store: MemoryStore, database: Database, truth: Truth) -> None:
        self._store = store
        self._database = database
        self._truth = truth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def complete_multipart(
        self,
        key: ObjectKey,
        multipart_id: MultipartId,
        parts: Sequence[Part],
        crc64: int,
        *,
        with_copies: bool = False,
        plan: Plan | None = None,
    ) -> None:
        await self._compare(multipart_id, list(parts))
        await self._store.complete_multipart(key, multipart_id, parts, crc64, with_copies=with_copies, plan=plan)

    async def _compare(self, multipart_id: MultipartId, listed: list[Part]) -> None:
        multipart = self._store.multiparts.get(multipart_id)
        known = self._truth.uploads.get(multipart.attributes.upload_id) if multipart is not None else None
        if known is not None and known.state is State.SEALED:
            committed = await self._database.parts(known.row)
            self._truth.expect(listed == committed, "I7", f"Complete lists {listed} and not {committed}")


def _now() -> float:
    return asyncio.get_running_loop().time()


if TYPE_CHECKING:
    _: tuple[type[Database], type[ObjectStore]] = (
        cast("type[Database]", WitnessedDatabase),
        cast("type[ObjectStore]", WitnessedStore),
    )
