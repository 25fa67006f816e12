"""Making one upload of several (tus concatenation): which partials lie together, and what becomes of a final."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.concat import chained, lay_out, may_be_in_place, place_member, shared_group
from tusgate.core.errors import Fenced, Finishing, InvalidRequest, TooLarge
from tusgate.core.grid import Grid
from tusgate.core.lifecycle import check_alive, check_present
from tusgate.core.model import Role, State
from tusgate.service.hooks import check_refusal
from tusgate.service.material import pieces_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tusgate.core.concat import GroupWish
    from tusgate.core.model import NewUpload, Part, Upload, UploadId
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.completion import Completion
    from tusgate.service.hooks import Exchange
    from tusgate.service.stores import Stores

    Ask = Callable[[NewUpload], Awaitable[NewUpload]]

log = structlog.get_logger(__name__)

TRIES: Final = 4
"""How often a final is looked at anew because a partial changed meanwhile."""
_FIELD: Final = "Upload-Concat"


class Concatenation:
    """Partials and finals of all owners."""

    def __init__(
        self,
        database: Database,
        stores: Stores[ObjectStore],
        completion: Completion,
        part_size: int,
        finish_wait: float,
    ) -> None:
        """Take the configured `part_size` in bytes, `finish_wait` in seconds as for any upload."""
        self._database = database
        self._stores = stores
        self._completion = completion
        self._part_size = part_size
        self._finish_wait = finish_wait

    async def create_partial(self, new: NewUpload, group: NewUpload, wish: GroupWish) -> Upload | None:
        """Insert a partial beside the others of its file, if the store lets it lie there; None when nothing was done.

        Args:
            new: the partial.
            group: for the first partial of a file: the upload that their final will be.
            wish: what the client asks for.
        """
        store, length = self._stores.of(new.route), new.length
        limits = store.limits
        if length is None or not may_be_in_place(length, limits, completes_all_parts=store.completes_all_parts):
            return None

        def place(taken: Sequence[Grid]) -> Grid | None:
            return place_member(length, wish, taken, self._part_size, limits)

        group = replace(
            group, role=Role.GROUP, grid=Grid(((1, 1),)), length=None, epoch=0, metadata=None, token_id=None
        )
        return await self._database.create_partial(new, group, wish.name, place)

    async def concatenate(
        self,
        final: NewUpload,
        ids: Sequence[UploadId],
        max_size: int | None,
        ask: Ask | None = None,
        exchange: Exchange | None = None,
    ) -> Upload:
        """Make the upload that is the bytes of the uploads `ids`, in this order; wait a while until it is complete.

        Asked again with the same list and metadata, the first one is returned. A crash after the commit leaves a
        sealed upload, which any process finishes. What takes longer than `finish_wait` goes on in the background.

        Args:
            final: with everything but its length and grid.
            ids: of partials, repeats allowed.
            max_size: bytes that the final may have; None = as many as the store allows.
            ask: called before a final is made, once, with all but its grid; returns it as it is to be made.
            exchange: see `Completion.start`.

        Raises:
            UploadNotFound, UploadGone: one of `ids` is unknown or has ended.
            InvalidRequest: one of them is no partial, or not all of its bytes are there (CAT-07, CAT-09).
            TooLarge: together they pass what is allowed (CAT-14).
            Finishing: a partial is being finished, or the final has met an obstacle; ask again.
            Fenced: the partials change all the time.
        """
        for _ in range(TRIES):
            partials = await self._partials(final, ids)
            _check_size(partials, max_size)
            final = replace(final, route=_common_route(partials))
            made = await self._database.find_final(final, ids[0])
            if made is None and ask is not None:
                final, ask = await _asked(ask, final, partials), None
                made = await self._database.find_final(final, ids[0])  # now with the metadata that hooks have set
            with suppress(Fenced):
                made = made or await self._make(final, partials)
                return await self._finished(made, exchange)
        raise Fenced

    async def _partials(self, final: NewUpload, ids: Sequence[UploadId]) -> list[Upload]:
        known: dict[UploadId, Upload] = {}
        for each in ids:
            if each not in known:
                known[each] = await self._partial(await self._database.get(final.scope, each))
        return [known[each] for each in ids]

    async def _partial(self, upload: Upload) -> Upload:
        if upload.role is not Role.PARTIAL:
            raise InvalidRequest(_FIELD, "only uploads that were created with Upload-Concat: partial")
        if upload.state is State.SEALED:
            upload = await self._completion.wait(upload, self._finish_wait)
            if upload.state is State.SEALED:
                raise Finishing
        check_present(upload)
        if not upload.has_all_bytes:
            raise InvalidRequest(_FIELD, f"finished uploads; /{upload.id} is at {upload.offset} of {upload.length}")
        return upload

    async def _make(self, final: NewUpload, partials: Sequence[Upload]) -> Upload:
        """Insert the final. Raises Fenced when something has changed: look again."""
        group_id = shared_group(partials)
        if group_id is not None:
            group = await self._database.get(final.scope, group_id)
            if group.state is State.UPLOADING and not await self._finished_members(group, partials):
                return await self._turn_into(group, final, partials)
        await self._gather_homes(partials)
        pieces = await pieces_of(self._database, partials)
        store = self._stores.of(final.route)
        grid = lay_out(pieces, self._part_size, store.limits, copies=store.copies_parts)
        total = sum(piece.size for piece in pieces)
        made = await self._database.concatenate(replace(final, length=total, grid=grid), partials)
        log.info("upload.concatenated", upload_id=made.id, partials=len(partials), in_place=False)
        return made

    async def _finished_members(self, group: Upload, besides: Sequence[Upload] = ()) -> list[Upload]:
        """Return the partials of `group`, but those in `besides`, that have all their bytes, in the order of parts.

        Others end with the multipart upload. That may happen only to those that hold no byte: their creation, as a
        rule, was answered in vain. Raises InvalidRequest when there are bytes to lose.
        """
        listed = {partial.id for partial in besides}
        others = [member for member in await self._database.members(group) if member.id not in listed]
        if any(member.offset and not member.has_all_bytes for member in others):
            raise InvalidRequest("Upload-Metadata, concat-group", "a name for this file only: others are not finished")
        return sorted((member for member in others if member.has_all_bytes), key=lambda member: member.grid.first)

    async def _turn_into(self, group: Upload, final: NewUpload, partials: Sequence[Upload]) -> Upload:
        parts = chained(await self._parts(partials))
        adopting = replace(final, id=group.id, object_key=group.object_key, grid=group.grid)
        adopting = replace(adopting, length=sum(part.size for part in parts))
        made = await self._database.concatenate(adopting, partials, parts)
        log.info("upload.concatenated", upload_id=made.id, partials=len(partials), in_place=True)
        return made

    async def _parts(self, partials: Sequence[Upload]) -> list[Part]:
        return [part for partial in partials if partial.length for part in await self._database.parts(partial)]

    async def _gather_homes(self, partials: Sequence[Upload]) -> None:
        """See to it that the bytes of all `partials` are in finished objects.

        Partials of an open group whose order or choice is not that of the final become one object first.

        Raises Fenced when one of them has ended meanwhile: look again.
        """
        for home_id in {partial.group for partial in partials if partial.group is not None}:
            home = await self._database.get(partials[0].scope, home_id)
            if home.state is State.UPLOADING:
                members = await self._finished_members(home)
                if not {partial.id for partial in partials if partial.group == home_id} <= {
                    each.id for each in members
                }:
                    raise Fenced
                home = await self._database.gather(home, members, chained(await self._parts(members)))
            if home.state is State.SEALED:
                home = await self._completion.wait(home, self._finish_wait)
            if home.state is State.SEALED:
                raise Finishing
            check_alive(home)

    async def _finished(self, final: Upload, exchange: Exchange | None) -> Upload:
        if final.state is State.SEALED:
            final = await self._completion.wait(final, self._finish_wait, exchange)
        check_refusal(exchange)
        check_present(final)
        if final.state is State.SEALED and self._completion.is_in_doubt(final):
            raise Finishing
        return final


async def _asked(ask: Ask, final: NewUpload, partials: Sequence[Upload]) -> NewUpload:
    """Return the final as hooks want it; its length is theirs to know, and found again when it is made."""
    asked = await ask(replace(final, length=sum(partial.length or 0 for partial in partials)))
    return replace(asked, length=None, route=final.route)


def _check_size(partials: Sequence[Upload], max_size: int | None) -> None:
    total = sum(partial.length or 0 for partial in partials)
    if max_size is not None and total > max_size:
        raise TooLarge(f"{_FIELD}: {total} bytes are more than the largest upload allowed, {max_size}")


def _common_route(partials: Sequence[Upload]) -> str | None:
    """Return where the partials lie, and so their final: nothing is copied from one store to another.

    Raises InvalidRequest when they lie in several: the tenant's route has changed between them.
    """
    routes = {partial.route for partial in partials}
    if len(routes) > 1:
        raise InvalidRequest(_FIELD, "uploads that lie in one store; upload them again")
    return routes.pop()
