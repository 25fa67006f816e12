"""The use cases of direct uploads: clients send parts to the store by signed URLs, and the gateway keeps the books.

Rows, states, expiry and garbage are those of every other upload. The row is `uploading`, at offset 0, from the creation
on; its multipart upload is begun at once, behind an intent. One commit brings all parts and the seal, after the store
was asked what it has; `completion` does the rest, as for any sealed upload, after any crash and on any replica.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from tusgate.core.direct import (
    Plan,
    Slot,
    check_count,
    check_is_direct,
    check_parts,
    check_same_parts,
    check_size,
    check_takes_parts,
    fixed_standings,
    is_the_file,
    part_count,
    replanned,
    slot,
    standings,
    wrong_numbers,
)
from tusgate.core.errors import (
    DirectOff,
    Fenced,
    InvalidRequest,
    MultipartLost,
    PartsFixed,
    PartsRefused,
    TusgateError,
    Unavailable,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.fingerprint import finished, unfinished
from tusgate.core.grid import grid_for
from tusgate.core.lifecycle import advance, check_present
from tusgate.core.model import CreatedVia, Part, State
from tusgate.service.completion import loss_reason
from tusgate.service.digest import RequestDigest
from tusgate.service.hooks import check_refusal
from tusgate.service.known_parts import KnownParts
from tusgate.service.multiparts import begin_multipart
from tusgate.service.uploads import MOST_ALIKE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from tusgate.core.access import Principal
    from tusgate.core.direct import ListedPart, Standing
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.model import Scope, Upload, UploadId
    from tusgate.ports import Database, ObjectStore, SignedPart
    from tusgate.service.completion import Completion
    from tusgate.service.hooks import Exchange
    from tusgate.service.ledger import Expiry
    from tusgate.service.stores import Stores
    from tusgate.service.uploads import Creation, Uploads

log = structlog.get_logger(__name__)

SEAL_TRIES = 4
"""Looks at the store before a Complete gives up to others that change the upload all the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectRules:
    """Settings of direct uploads.

    Attributes:
        offered: whether there are any.
        url_ttl: seconds that a signed URL is good for, at most.
        part_size: bytes of a part unless the client wishes others.
        finish_wait: seconds that a request waits for an upload to be finished.
        expiry: how long unfinished uploads live.
    """

    offered: bool
    url_ttl: int
    part_size: int
    finish_wait: float
    expiry: Expiry


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that is ready for its parts.

    Attributes:
        is_new: it did not exist before.
        copies_left: parts that can be had without sending them, for which there was no time: they come by asking again.
    """

    upload: Upload
    is_new: bool
    copies_left: int = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """One part, and what lets the client send it."""

    slot: Slot
    signed: SignedPart


@dataclass(frozen=True, slots=True)
class Tickets:
    """What lets the client send some parts.

    Attributes:
        tickets: one for each part.
        seconds: how long they are good for.
        next_after: the last part of a page after which there are more; None = there are no more.
    """

    tickets: list[Ticket]
    seconds: int
    next_after: int | None = None


class DirectUploads:
    """All that can be done with direct uploads."""

    def __init__(
        self,
        database: Database,
        stores: Stores[ObjectStore],
        uploads: Uploads,
        completion: Completion,
        rules: DirectRules,
    ) -> None:
        self._database = database
        self._stores = stores
        self._uploads = uploads
        self._completion = completion
        self._rules = rules
        self._known = KnownParts(database, stores)

    async def begin(self, principal: Principal, creation: Creation, exchange: Exchange | None = None) -> Begun:
        """Make an upload whose parts the client sends. One of no bytes is complete when this returns.

        Parts that finished files of the owner have are copied before this returns, as far as time allows; an upload
        that is found again goes on with that, too.

        Returns:
            A new upload; with the fingerprint of an unfinished one, that one.

        Args:
            principal: whose, and what they may.
            creation: of DIRECT, with a plan. Without a length the client cuts the file as it likes.
            exchange: the request, for hooks.

        Raises:
            DirectOff: there are no direct uploads here.
            HookRefused, HookUnavailable: nothing was made.
            InvalidRequest: what is declared cannot be verified, or does not fit together.
            NotCovered, TokenSpent, TooLarge: the principal's token does not allow this upload; none is left.
            Draining, Unavailable: no upload is left.
        """
        store = self._uploads.store_for(principal.scope)
        if not (self._rules.offered and store.signs_parts):
            raise DirectOff
        wish = min(creation.part_size or self._rules.part_size, store.limits.max_part_size)
        creation = replace(creation, part_size=wish)
        self._check_plan(creation, store)
        again = await self._uploads.find_again(principal, creation)
        if again is not None:
            return await self._with_known_parts(principal, again, is_new=False)
        upload = await self._uploads.create(principal, creation, exchange=exchange)
        if upload.state is not State.UPLOADING:
            return Begun(upload, is_new=True)
        try:
            return await self._with_known_parts(principal, upload, is_new=True)
        except Unavailable:
            with suppress(TusgateError):
                await self._database.terminate(upload.scope, upload.id)
            raise

    async def replan(
        self, principal: Principal, upload_id: UploadId, length: int, plan: Plan, fingerprint: Fingerprint | None
    ) -> Begun:
        """Let an unfinished upload be of a file that has changed; parts that the store has, and that stay, are kept.

        URLs of parts that have changed are worth nothing any more, as the store has other bytes to compare with then.

        Args:
            principal, upload_id: which upload, and how large it may be.
            length: bytes of the file now.
            plan: with the SHA-256 of all parts of the size that they had.
            fingerprint: what the client tells the file by now.

        Raises:
            UploadNotFound, NotDirect, UploadGone, PartsFixed: it takes no parts.
            InvalidRequest, TooLarge, QuotaExceeded: nothing has changed.
            Fenced: others change it.
        """
        self._uploads.admit(principal.scope)
        upload = await self._database.get(principal.scope, upload_id)
        check_takes_parts(upload)
        plan = replanned(upload, length, plan, self._store_of(upload).limits)
        self._uploads.check_new_length(principal, upload, length)
        named = None if fingerprint is None else str(fingerprint)
        try:
            upload = await self._database.replan(upload, length, plan, named)
        except Fenced:
            check_takes_parts(await self._database.get(upload.scope, upload.id))
            raise
        log.info("direct.replanned", upload_id=upload.id, size=length)
        return await self._with_known_parts(principal, upload, is_new=False)

    async def look(self, scope: Scope, upload_id: UploadId) -> Upload:
        """Return the upload in any state. Raises UploadNotFound, NotDirect."""
        self._uploads.admit(scope)
        upload = await self._database.get(scope, upload_id)
        check_is_direct(upload)
        return upload

    async def find(self, scope: Scope, wanted: Fingerprint) -> tuple[Upload, list[int] | None]:
        """Return the file, or an unfinished upload of it, that `wanted` tells; of either door.

        Returns:
            The upload, and of a direct one of declared size the numbers of the parts that are to be sent.

        Raises:
            UploadNotFound: there is none.
        """
        self._uploads.admit(scope)
        found = await self._database.find_by_fingerprint(scope, wanted, MOST_ALIKE)
        upload = finished(found, wanted) or unfinished(found, wanted)
        if upload is None:
            raise UploadNotFound("no file and no upload has this fingerprint")
        if upload.created_via is not CreatedVia.DIRECT or upload.state is not State.UPLOADING:
            return upload, None
        limits = self._store_of(upload).limits
        return upload, list(wrong_numbers(upload, await self._listed(upload), limits))

    async def parts(self, scope: Scope, upload_id: UploadId) -> tuple[Upload, list[Standing]]:
        """Return the upload and how its parts stand: those in the store, and those that are still to come.

        Of an upload that has all of them, those that it is made of: its client may have missed that.

        Raises:
            UploadNotFound, NotDirect, UploadGone: there are no parts any more.
        """
        upload = await self.look(scope, upload_id)
        limits = self._store_of(upload).limits
        try:
            check_takes_parts(upload)
            return upload, list(standings(upload, await self._listed(upload), limits))
        except PartsFixed:
            upload = await self._database.get(scope, upload_id)
            return upload, list(fixed_standings(upload, await self._database.parts(upload), limits))

    async def sign(
        self, scope: Scope, upload_id: UploadId, numbers: Sequence[int], seconds: int | None = None
    ) -> Tickets:
        """Return URLs for these parts; the upload lives on as if bytes had come.

        Args:
            scope, upload_id: which upload.
            numbers: of the parts, old or new: a URL that has expired is signed again, a part that is there replaced.
            seconds: for so long; more than is allowed is cut.

        Raises:
            UploadNotFound, NotDirect, UploadGone, PartsFixed: it takes no parts.
            InvalidRequest: it has no such part.
        """
        self._uploads.admit(scope)
        upload = await self._database.get(scope, upload_id)
        check_takes_parts(upload)
        slots = [slot(upload, number, self._store_of(upload).limits) for number in numbers]
        upload = await self._prolonged(await self._with_multipart(upload))
        return self._tickets(upload, slots, seconds)

    async def sign_page(
        self, scope: Scope, upload_id: UploadId, after: int, limit: int, seconds: int | None = None
    ) -> Tickets:
        """Return URLs for up to `limit` parts above `after` that the store does not have, and where to go on.

        Raises:
            InvalidRequest: only the client knows which parts there are.
            UploadNotFound, NotDirect, UploadGone: it takes no parts.
        """
        upload = await self.look(scope, upload_id)
        try:
            return await self._page_of_missing(upload, after, limit, seconds)
        except PartsFixed:
            return Tickets([], seconds=min(seconds or self._rules.url_ttl, self._rules.url_ttl))

    async def _page_of_missing(self, upload: Upload, after: int, limit: int, seconds: int | None) -> Tickets:
        check_takes_parts(upload)
        if part_count(upload) is None:
            raise InvalidRequest("parts", "the numbers of the parts to sign, as the size was not declared")
        upload = await self._prolonged(await self._with_multipart(upload))
        limits = self._store_of(upload).limits
        wanted = wrong_numbers(upload, await self._listed(upload), limits)
        found = list(islice((number for number in wanted if number > after), limit + 1))
        page = found[:limit]
        slots = [slot(upload, number, limits) for number in page]
        return self._tickets(upload, slots, seconds, page[-1] if len(found) > limit else None)

    async def complete(
        self,
        principal: Principal,
        upload_id: UploadId,
        named: Mapping[int, str] | None,
        exchange: Exchange | None = None,
    ) -> Upload:
        """Verify what the store has and make the file of it; idempotent. SEALED when that takes long.

        Args:
            principal, upload_id: which upload, and how large it may be.
            named: ETag by part number, as the client got them; None: it says nothing.
            exchange: the request, for hooks.

        Raises:
            UploadNotFound, NotDirect, UploadGone: there is nothing to complete.
            HookRefused: all parts are there, and a hook did not want them: the upload has failed.
            PartsRefused: the store has other parts than planned; nothing has changed, and they can be sent again. Or
                the file is made, or being made, of other parts than `named`.
            InvalidRequest, TooLarge: nothing has changed.
            Fenced: others change it all the time.
        """
        self._uploads.admit(principal.scope)
        upload = await self._database.get(principal.scope, upload_id)
        check_is_direct(upload)
        most = self._uploads.size_limit(principal)
        if upload.state is not State.UPLOADING:
            exchange = None  # another request has brought it to its end
        for _ in range(SEAL_TRIES):
            if upload.state is not State.UPLOADING:
                break
            upload = await self._sealed(upload, named, most)
        else:
            raise Fenced
        check_present(upload)
        check_same_parts(await self._database.parts(upload), named)
        if upload.state is State.SEALED:
            upload = await self._completion.wait(upload, self._rules.finish_wait, exchange)
        check_refusal(exchange)
        check_present(upload)
        return upload

    async def abort(self, principal: Principal, upload_id: UploadId, exchange: Exchange | None = None) -> None:
        """End the upload for good. What the store has of it, and what may still come, is cleaned up in the background.

        Raises:
            UploadNotFound, NotDirect, UploadGone: there is nothing to end.
            Retained: it has become a file, which must be kept.
            HookRefused, HookUnavailable: it is as it was.
        """
        check_is_direct(await self._database.get(principal.scope, upload_id))
        await self._uploads.terminate(principal.scope, upload_id, exchange, by=principal.proof)

    async def abandon(self, principal: Principal, upload_id: UploadId, exchange: Exchange | None = None) -> None:
        """End the upload as S3 aborts a multipart upload: one that has all its parts has become a file, and stays.

        Raises:
            UploadNotFound, NotDirect, UploadGone: there is nothing to end.
            HookRefused, HookUnavailable: it is as it was.
        """
        try:
            check_takes_parts(await self._database.get(principal.scope, upload_id))
        except PartsFixed:
            return
        await self._uploads.terminate(principal.scope, upload_id, exchange, by=principal.proof)

    def _store_of(self, upload: Upload) -> ObjectStore:
        return self._stores.of(upload.route)

    def _check_plan(self, creation: Creation, store: ObjectStore) -> None:
        plan = creation.plan or Plan()
        if plan.algorithm is not None:
            if plan.algorithm not in store.part_checksums:
                raise InvalidRequest("part_checksums", "none, as the object store verifies none of parts")
            if creation.length is None:
                raise InvalidRequest("part_checksums", "size beside it")
            grid = grid_for(creation.length, creation.part_size or self._rules.part_size, store.limits)
            size = grid.runs[0][1]
            check_count(plan, creation.length, size)
        if plan.whole is not None and creation.length == 0 and not RequestDigest(plan.whole).matches():
            raise InvalidRequest("checksum", "that of no bytes, as the size is 0")

    async def _with_known_parts(self, principal: Principal, upload: Upload, *, is_new: bool) -> Begun:
        """Return `upload` with its multipart upload, and in that what can be had without sending it."""
        left = 0
        known = await self._known.find(principal, upload)
        upload = await self._with_multipart(upload, with_copies=bool(known))
        if known:
            with suppress(PartsFixed):  # another request has completed it
                missing = set(wrong_numbers(upload, await self._listed(upload), self._store_of(upload).limits))
                wanted = {number: part for number, part in known.items() if number in missing}
                left = await self._known.copy(upload, wanted)
        return Begun(upload, is_new, left)

    async def _with_multipart(self, upload: Upload, *, with_copies: bool = False) -> Upload:
        """Return `upload` with its multipart upload, begun unless a crash came between: nobody else does it."""
        while upload.multipart_id is None:
            with suppress(Fenced):  # another request was first
                store = self._store_of(upload)
                await begin_multipart(self._database, store, upload, announced=False, with_copies=with_copies)
            upload = await self._database.get(upload.scope, upload.id)
            check_takes_parts(upload)
        return upload

    async def look_again(self, upload: Upload) -> None:
        """Finish `upload` if the store has all of it by now, as if its client had said so; nothing else happens.

        Only what was declared when it was created can be verified without the client.

        Raises:
            Unavailable: nobody knows yet.
        """
        if upload.state is State.SEALED:
            self._completion.start(upload)
        elif upload.state is State.UPLOADING and upload.created_via is CreatedVia.DIRECT and upload.length is not None:
            with suppress(PartsRefused, UploadGone):
                sealed = await self._sealed(upload, None, None)
                if sealed.state is State.SEALED:
                    self._completion.start(sealed)

    async def _prolonged(self, upload: Upload) -> Upload:
        """Let `upload` live on: nothing else shows us that bytes are coming."""
        expiry = self._rules.expiry
        step = advance(upload, 0, upload.length, lifetime=expiry.lifetime, max_age=expiry.max_age)
        try:
            return await self._database.commit(upload, step)
        except Fenced:
            check_takes_parts(await self._database.get(upload.scope, upload.id))
            raise

    async def _sealed(self, upload: Upload, named: Mapping[int, str] | None, most: int | None) -> Upload:
        """Return `upload` with all its parts, or as another request has left it."""
        try:
            parts = check_parts(upload, await self._listed(upload), named, self._store_of(upload).limits)
            size = check_size(parts, most)
            return await self._database.commit(upload, advance(upload, size, size, parts=parts))
        except PartsRefused as error:
            log.info("direct.refused", upload_id=upload.id, faults=len(error.faults))
            raise
        except (PartsFixed, Fenced):
            return await self._database.get(upload.scope, upload.id)

    async def _listed(self, upload: Upload) -> list[ListedPart]:
        """Return what the store has, with what is known of copied parts that it shows no checksum of.

        Raises:
            UploadGone: it was ended; or the store has thrown it away, and so the upload has failed.
            PartsFixed: another request has completed it.
        """
        if upload.multipart_id is None:
            return []  # a crash has come between; the next URL makes good for it
        try:
            listed = await self._store_of(upload).list_parts(upload.object_key, upload.multipart_id)
        except MultipartLost as error:
            current = await self._database.get(upload.scope, upload.id)
            check_takes_parts(current)
            await self._give_up(current, error)
        return await self._known.proved(upload, listed)

    async def _give_up(self, upload: Upload, error: MultipartLost) -> NoReturn:
        """Let the upload fail, unless its multipart upload is gone because somebody else has made the object of it."""
        found = await self._store_of(upload).find(upload.object_key, upload.id)
        if found is not None and is_the_file(upload, found):
            whole = Part(1, 0, found.size, found.etag, found.crc64)
            await self._database.commit(upload, advance(upload, found.size, found.size, parts=(whole,)))
            raise PartsFixed from error
        await self._store_of(upload).check()  # a bucket that is away as a whole, or renamed, is no loss
        reason = loss_reason(error)
        failed = await self._database.fail(upload, reason)
        log.error("upload.failed", upload_id=upload.id, reason=reason)
        raise UploadGone(failed.state.value, reason) from error

    def _tickets(
        self, upload: Upload, slots: Sequence[Slot], seconds: int | None, next_after: int | None = None
    ) -> Tickets:
        assert upload.multipart_id is not None
        key, multipart_id, plan = upload.object_key, upload.multipart_id, upload.plan or Plan()
        ttl = min(seconds or self._rules.url_ttl, self._rules.url_ttl)
        sign = partial(self._store_of(upload).presign_part, key, multipart_id)
        return Tickets([Ticket(each, sign(each, plan, ttl)) for each in slots], ttl, next_after)
