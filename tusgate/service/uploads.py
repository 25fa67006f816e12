"""The use cases of an upload: create, look, append, terminate. Protocol modules call these and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import structlog

from tusgate.core.access import UNLIMITED, asks_for_the_same, check_length, check_type
from tusgate.core.errors import (
    AlreadyComplete,
    ChecksumMismatch,
    ClientGone,
    ContentMismatch,
    DatabaseUnavailable,
    Draining,
    Fenced,
    Finishing,
    InvalidRequest,
    MultipartLost,
    Overrun,
    PieceLost,
    StoreUnavailable,
    TokenSpent,
    TooLarge,
    TusgateError,
    UploadGone,
)
from tusgate.core.fingerprint import to_go_on_with
from tusgate.core.grid import grid_for
from tusgate.core.hooks import Moment, Question
from tusgate.core.lifecycle import (
    GONE,
    Append,
    check_append,
    check_comes_through,
    check_present,
    declared_length,
    overrun,
)
from tusgate.core.model import CreatedVia, NewUpload, Role, State, UploadId
from tusgate.core.naming import object_key
from tusgate.core.placement import foresee
from tusgate.core.tenant import least
from tusgate.service.concatenation import Concatenation
from tusgate.service.digest import RequestDigest
from tusgate.service.hooks import Hooks, check_refusal, check_waited_for
from tusgate.service.inspection import Inspection
from tusgate.service.intake import Intake
from tusgate.service.losses import has_multipart, has_pieces, loss_reason
from tusgate.service.recent import RecentUploads
from tusgate.service.stores import Stores
from tusgate.service.tenants import Tenants, check_coding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from tusgate.core.access import Principal
    from tusgate.core.checksum import Checksum
    from tusgate.core.concat import GroupWish
    from tusgate.core.direct import Plan
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.model import Intent, Piece, Scope, Upload
    from tusgate.core.tenant import Tenant
    from tusgate.ports import ByteSource, Database, ObjectStore
    from tusgate.service.completion import Completion
    from tusgate.service.hooks import Exchange
    from tusgate.service.intake import IntakeTools
    from tusgate.service.ledger import Progress
    from tusgate.service.writers import Writers

log = structlog.get_logger(__name__)

CLAIM_TRIES = 8
"""Claims lost to other requests before this one gives up; each loss means that another request moved on."""
PATIENCE_DELAYS = (0.1, 0.4, 1.0, 1.5, 2.0)
"""Seconds between looks at an absent database before a HEAD gives up: tus-js-client throws its progress away when
a HEAD fails, so it is worth 5 s."""
PATIENCE = 6.0
"""Seconds after which it does not look again, where the database is not merely away but silent, and each look is a
long wait of its own."""

MOST_ALIKE = 100
"""Uploads of one fingerprint that are looked at, the newest ones."""
STORE_CHECK_EVERY = 10.0
"""Seconds for which a good answer of the store counts."""
ENDING_PATIENCE = 5.0
"""Seconds that a HEAD waits for a request whose connection broke to save its last bytes: tus-java-client gives up
when the offset that it was told moves on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What a creation request asks for, parsed and syntactically valid.

    Attributes:
        length: declared bytes; None = deferred.
        metadata: the raw Upload-Metadata header, None when absent or empty.
        filename, content_type, content_coding: as the client says, cleaned of what cannot be stored or shown.
        checksum: of the body of the creating request.
        ends: the upload ends with the body of the creating request.
        role: PARTIAL for an upload that a final will be made of.
        group: with which other partials it shall be stored.
        plan: of a direct upload.
        part_size: bytes of a part, where the client has a wish.
        fingerprint: what the client tells the file by.
    """

    created_via: CreatedVia
    length: int | None
    metadata: bytes | None
    filename: str | None
    content_type: str | None
    checksum: Checksum | None = None
    ends: bool = False
    content_coding: str | None = None
    role: Role | None = None
    group: GroupWish | None = None
    plan: Plan | None = None
    part_size: int | None = None
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRules:
    """Settings of the use cases.

    Attributes:
        part_size: bytes of a part, unless an upload needs larger ones.
        key_template: see `core.naming`.
        finish_wait: seconds that a request waits for an upload to be finished.
        holder: name of this process in the database.
        resumes_by_fingerprint: a creation of tus with the fingerprint of an unfinished upload is answered with that.
    """

    part_size: int
    key_template: str
    finish_wait: float
    holder: str
    resumes_by_fingerprint: bool = False


class Uploads:
    """All that can be done with uploads."""

    def __init__(
        self,
        tools: IntakeTools,
        writers: Writers,
        completion: Completion,
        rules: UploadRules,
        now: Callable[[], datetime],
        reaffirm: Callable[[Principal], Awaitable[None]] | None = None,
        stores: Stores[ObjectStore] | None = None,
        tenants: Tenants | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """Take `tools` with the default store and limits; those of a tenant take their places where it has its own."""
        self._tools = tools
        self._reaffirm = reaffirm
        self._stores = stores or Stores(tools.store)
        self._tenants = tenants or Tenants()
        self._hooks = hooks or Hooks()
        self._concatenation = Concatenation(
            tools.database, self._stores, completion, rules.part_size, rules.finish_wait
        )
        expiry = tools.expiry
        self._database = tools.database
        self._writers = writers
        self._completion = completion
        self._rules = rules
        self._now = now
        self._recent = RecentUploads()
        self._store_fine_until = 0.0
        self.budget = tools.budget
        self.max_size = tools.max_size
        self.lifetime = min((limit for limit in (expiry.lifetime, expiry.max_age) if limit is not None), default=None)
        """Seconds after which a new upload ends unless bytes come; None = never."""

    async def create(
        self,
        principal: Principal,
        creation: Creation,
        source: ByteSource | None = None,
        progress: Progress | None = None,
        exchange: Exchange | None = None,
    ) -> Upload:
        """Make a new upload; with `source`, store its bytes at once (creation-with-upload).

        An upload of length 0 is complete when this returns, unless requests end it. An interrupted body leaves the
        upload as far as it got: unless `progress` was told of it, its URL is unknown, and it expires.

        With an upload token that was spent before, the upload that it made is returned as it is, nothing of `source`
        is read, if this only repeats the request that made it (see `core.access.asks_for_the_same`). Likewise one that
        is found by its fingerprint, where that is wanted.

        Raises:
            HookRefused, HookUnavailable: nothing was made, or, of an upload that ends with its body: it has failed,
                or is finished when the hook answers.
            NotCovered, TokenSpent, TooLarge: the principal's token does not allow this upload.
            CredentialsExpired: revoked before the last byte had arrived; as `Interrupted`.
            UnsupportedMediaType: the tenant does not take such files compressed.
            InconsistentLength: the body that ends the upload does not have the declared length.
            TooLarge: the length, or the body, passes what is allowed: no upload is left.
            ChecksumMismatch: no upload is left.
            Interrupted, Unavailable: as for `append`.
        """
        if self._writers.draining:
            raise Draining
        tenant = await self._admit_creation(principal, creation)
        length = _checked_length(creation, source, self.size_limit(principal))
        again = await self._wanted_again(principal, creation)
        if again is not None:
            return again
        writes = source is not None or (length == 0 and not creation.created_via.ends_by_request)
        new = self._new_upload(tenant, principal, creation, length, epoch=1 if writes else 0)
        check_coding(tenant, self._tools.expiry.keeping, new)
        if self._hooks.want(Moment.CREATE, new.scope.tenant):
            creation = await self._asked(tenant, principal, creation, new, (), exchange)
            new = self._new_upload(tenant, principal, creation, length, epoch=new.epoch)
            check_coding(tenant, self._tools.expiry.keeping, new)
        body = source or _Nothing()
        intents = self._foreseen(new, new.epoch, body.size, length) if writes else []
        try:
            upload = await self._insert(tenant, principal, creation, new, intents)
        except TokenSpent as spent:
            if spent.upload is None or not asks_for_the_same(spent.upload, new):
                raise
            upload, writes = spent.upload, False
        if upload.group is not None:
            intents = []
        if progress is not None:
            progress(upload)
        if not writes:
            self._recent.remember(upload)
            return upload
        try:
            return await self._write(
                upload,
                [],
                intents,
                body,
                length,
                creation.checksum,
                ends=creation.ends,
                principal=principal,
                progress=progress,
                exchange=exchange,
            )
        except (TooLarge, ChecksumMismatch):
            await self._database.terminate(upload.scope, upload.id)
            raise

    async def outlined(self, principal: Principal, creation: Creation, upload_id: UploadId) -> NewUpload:
        """Return the upload of declared length that `creation` asks for; nothing is made, and no hook is asked.

        Raises:
            Draining: this process is about to end.
            NotCovered, TenantUnknown, TooLarge, TooManyRequests, TypeNotAllowed, DatabaseUnavailable: as for `create`.
        """
        if self._writers.draining:
            raise Draining
        tenant = await self._admit_creation(principal, creation)
        length = _checked_length(creation, None, self.size_limit(principal))
        return self._new_upload(tenant, principal, creation, length, epoch=0, upload_id=upload_id)

    async def agreed(
        self, principal: Principal, creation: Creation, new: NewUpload, exchange: Exchange | None
    ) -> NewUpload:
        """Return `new`, outlined by `creation`, as hooks want it. Raises as `create` does for what they say."""
        if not self._hooks.want(Moment.CREATE, new.scope.tenant):
            return new
        tenant = self._tenants.of(new.scope.tenant)
        creation = await self._asked(tenant, principal, creation, new, (), exchange)
        return self._new_upload(tenant, principal, creation, new.length, epoch=0, upload_id=new.id)

    async def agreed_to_publish(self, new: NewUpload, exchange: Exchange | None) -> None:
        """Ask hooks about the end of an upload whose object is there already. Raises HookRefused, HookUnavailable."""
        if self._hooks.want_to_know_end(new):
            sealed = new.with_all_bytes(self._now())
            await self._hooks.ask(Question(moment=Moment.FINISH, upload=sealed), exchange)

    def inspection_of(self, new: NewUpload) -> Inspection | None:
        """Return what the content of `new` has to be; None where nobody looks. Raises TenantUnknown."""
        return Inspection.of(self._tenants.of(new.scope.tenant), new)

    async def _wanted_again(self, principal: Principal, creation: Creation) -> Upload | None:
        if not self._rules.resumes_by_fingerprint or creation.created_via is not CreatedVia.TUS:
            return None
        return await self.find_again(principal, creation)

    async def find_again(self, principal: Principal, creation: Creation) -> Upload | None:
        """Return the unfinished upload that `creation` would only repeat, as its fingerprint says; None without one.

        Upload tokens are for new uploads: what they demand may not be true of an old one.
        """
        wanted = creation.fingerprint
        if wanted is None or creation.role is not None or principal.limits != UNLIMITED:
            return None
        found = await self._database.find_by_fingerprint(principal.scope, wanted, MOST_ALIKE)
        return to_go_on_with(
            found, wanted, creation.created_via, creation.length, creation.plan, creation.content_coding
        )

    async def _admit_creation(self, principal: Principal, creation: Creation) -> Tenant:
        """Return the tenant that may make this upload as far as that can be told now; the database counts for itself.

        Raises NotCovered, TenantUnknown, TooManyRequests, TypeNotAllowed, DatabaseUnavailable.
        """
        name = principal.scope.tenant
        tenant = self._tenants.admit(name, creates=True)
        check_type(principal.limits, creation.content_type)
        tenant.check_type(creation.content_type, creation.role)
        await self._tenants.prepare(self._database, name)
        return tenant

    async def _asked(
        self,
        tenant: Tenant,
        principal: Principal,
        creation: Creation,
        new: NewUpload,
        partials: Sequence[UploadId],
        exchange: Exchange | None,
    ) -> Creation:
        """Return the creation as hooks want it. A client that has left meanwhile gets no upload.

        Raises HookRefused, HookUnavailable, ClientGone, and NotCovered or TypeNotAllowed for what hooks have changed.
        """
        question = Question(moment=Moment.CREATE, upload=new, partials=tuple(partials))
        changed = await self._hooks.ask(question, exchange)
        check_waited_for(exchange)
        if changed is None:
            return creation
        check_type(principal.limits, changed.content_type)
        tenant.check_type(changed.content_type, creation.role)
        return replace(creation, metadata=changed.raw, filename=changed.filename, content_type=changed.content_type)

    def _foreseen(self, upload: Upload | NewUpload, epoch: int, size: int | None, length: int | None) -> list[Intent]:
        publishes = not self._hooks.want_to_know_end(upload)
        return foresee(upload, epoch, size, length, self._tools.piece_inline_max, publishes=publishes)

    async def _insert(
        self, tenant: Tenant, principal: Principal, creation: Creation, new: NewUpload, intents: Sequence[Intent]
    ) -> Upload:
        # Where content is looked at, a file has to have a first part of its own.
        if creation.group is not None and not tenant.checks_content:
            group = self._new_upload(tenant, principal, creation, None, epoch=0)
            beside = await self._concatenation.create_partial(new, group, creation.group)
            if beside is not None:
                return beside
        return await self._database.create(new, intents)

    async def concatenate(
        self,
        principal: Principal,
        creation: Creation,
        concat: str,
        partials: Sequence[UploadId],
        exchange: Exchange | None = None,
    ) -> Upload:
        """Make the upload that is the bytes of `partials`, in this order.

        Args:
            principal: whose, and what they may.
            creation: what the client says of the new upload.
            concat: the header that names the partials, kept as received.
            partials: their ids, repeats allowed.
            exchange: the request, for hooks.

        Raises:
            Draining: this process is about to end.
            HookRefused, HookUnavailable: as for `create`.
            NotCovered, TokenSpent: the principal's token does not allow it.
            UploadNotFound, UploadGone, InvalidRequest, TooLarge, Finishing, Fenced: see `Concatenation`.
        """
        if self._writers.draining:
            raise Draining
        tenant = await self._admit_creation(principal, creation)

        def new_final(creation: Creation) -> NewUpload:
            new = self._new_upload(tenant, principal, creation, None, epoch=0)
            return replace(new, role=Role.FINAL, concat=concat)

        async def ask(final: NewUpload) -> NewUpload:
            return new_final(await self._asked(tenant, principal, creation, final, partials, exchange))

        asking = ask if self._hooks.want(Moment.CREATE, principal.scope.tenant) else None
        limit = self.size_limit(principal)
        return await self._concatenation.concatenate(new_final(creation), partials, limit, asking, exchange)

    async def head(self, scope: Scope, upload_id: UploadId) -> Upload:
        """Return the upload as committed; waits while it is being finished, never for a writer.

        A final is returned SEALED when that takes longer than `finish_wait` seconds: its offset must not be shown.

        Raises:
            UploadNotFound, UploadGone: there is nothing to continue.
            OnlyDirect: not here; an offset would be an invitation to write.
            Finishing: it is still being finished after `finish_wait` seconds. An offset equal to the length is only
                ever shown for a verified object: clients stop there.
            DatabaseUnavailable: the state could not be read within about 5 s.
        """
        self.admit(scope)
        await self._writers.wait_for_ending(upload_id, ENDING_PATIENCE)
        upload = await self._get_patiently(scope, upload_id)
        if upload.state is State.SEALED:
            upload = await self._completion.wait(upload, self._rules.finish_wait)
        check_present(upload)
        check_comes_through(upload)
        if upload.state is State.SEALED and upload.role is not Role.FINAL:
            raise Finishing
        self._recent.remember(upload)
        return upload

    async def settle(self, scope: Scope, upload_id: UploadId) -> Upload:
        """Return the upload as committed, after ending its writer: only a later request can move the offset.

        The writer saves what it has when it runs in this process, else it is fenced. An upload that ends by reaching
        its length is left alone. Raises like `head`, and Fenced when other requests move on all the time.
        """
        for _ in range(CLAIM_TRIES):
            upload = await self.head(scope, upload_id)
            if upload.state is State.SEALED:
                raise Finishing
            if not upload.ends_by_request or upload.state is not State.UPLOADING:
                return upload
            await self._writers.end(upload_id, ENDING_PATIENCE)
            with suppress(Fenced):
                upload, _ = await self._database.claim(upload, self._rules.holder)
                self._recent.remember(upload)
                return upload
        raise Fenced

    async def look(self, scope: Scope, upload_id: UploadId) -> Upload:
        """Return the upload as committed, in whatever state. Raises UploadNotFound, DatabaseUnavailable."""
        return await self._database.get(scope, upload_id)

    def seconds_left(self, upload: Upload) -> float | None:
        """Return after how many seconds the upload ends by itself; None = never."""
        if upload.expires_at is None:
            return None
        return max(0.0, (upload.expires_at - self._now()).total_seconds())

    async def append(
        self,
        principal: Principal,
        upload_id: UploadId,
        append: Append,
        source: ByteSource,
        checksum: Checksum | None = None,
        progress: Progress | None = None,
        exchange: Exchange | None = None,
    ) -> Upload:
        """Add the bytes of `source` at `append.offset`; all checks are made before the first byte is read.

        A body that is cut keeps what has arrived (nothing, with a checksum). Errors carry the committed upload.

        Raises:
            UploadNotFound, UploadGone, WrongProtocol, AlreadyComplete, OffsetMismatch, InconsistentLength, TooLarge:
                see `core.lifecycle`.
            Overrun: the upload has failed.
            ChecksumMismatch: nothing was kept.
            CredentialsExpired: revoked before the last byte had arrived. Somebody of the same scope can go on.
            Fenced: another request took over.
            HookRefused: all bytes are in, and a hook did not want them: the upload has failed.
            Finishing: all bytes are in, but finishing has met an obstacle; it goes on in the background.
            Interrupted, Unavailable: ended early, resume at `error.upload.offset`.
        """
        self.admit(principal.scope)
        try:
            return await self._append(principal, upload_id, append, source, checksum, progress, exchange)
        except Overrun as error:
            if error.upload is not None:
                await self._invalidate(error.upload)
            raise

    async def _append(
        self,
        principal: Principal,
        upload_id: UploadId,
        append: Append,
        source: ByteSource,
        checksum: Checksum | None,
        progress: Progress | None,
        exchange: Exchange | None,
    ) -> Upload:
        upload, length = await self._check(principal, upload_id, append)
        for _ in range(CLAIM_TRIES):
            if upload.state is not State.UPLOADING:
                return await self._append_nothing(upload, source, checksum)
            if append.size == 0 and length == upload.length and checksum is None and not append.ends:
                return upload
            end = None if upload.ends_by_request and not append.ends else length
            intents = self._foreseen(upload, upload.epoch + 1, append.size, end)
            try:
                upload, pieces = await self._database.claim(upload, self._rules.holder, intents)
            except Fenced:
                if source.is_abandoned:
                    raise ClientGone from None  # to try again could only take over from the client's next request
                upload, length = await self._check(principal, upload_id, append)
                continue
            return await self._write(
                upload,
                pieces,
                intents,
                source,
                length,
                checksum,
                ends=append.ends,
                principal=principal,
                progress=progress,
                exchange=exchange,
            )
        raise Fenced

    def admit(self, scope: Scope) -> Tenant:
        """Count a request about uploads that exist, and return whose they are. Raises TenantUnknown, Throttled."""
        return self._tenants.admit(scope.tenant)

    async def terminate(
        self, scope: Scope, upload_id: UploadId, exchange: Exchange | None = None, by: str | None = None
    ) -> None:
        """End the upload for good: writers are cut off, what it stored is cleaned up in the background.

        Args:
            scope: whose.
            upload_id: which.
            by: how whoever asks for it was known; None: nobody does.

        Raises:
            UploadNotFound, UploadGone: there is nothing to end.
            HookRefused, HookUnavailable: it is as it was.
            Retained: it must be kept.
        """
        self.admit(scope)
        await self.end_if_allowed(scope, upload_id, exchange, by)

    async def end_if_allowed(
        self, scope: Scope, upload_id: UploadId, exchange: Exchange | None = None, by: str | None = None
    ) -> None:
        """Terminate one of the uploads of a request that is admitted already. Raises like `terminate`."""
        if self._hooks.want(Moment.TERMINATE, scope.tenant):
            upload = await self._database.get(scope, upload_id)
            if upload.state not in GONE and upload.role is not Role.GROUP:
                await self._hooks.ask(Question(moment=Moment.TERMINATE, upload=upload), exchange)
        await self.end(scope, upload_id, by)

    async def end(self, scope: Scope, upload_id: UploadId, by: str | None = None) -> None:
        """Terminate an upload, whatever hooks would say. Raises UploadNotFound, UploadGone, Retained."""
        upload = await self._database.terminate(scope, upload_id, by)
        self._writers.taken_over(upload_id, upload.epoch + 1)

    async def end_unfinished(self, upload: Upload, reason: str) -> None:
        """Terminate what a writer has left, unless a later request has taken it over; what is complete stays.

        Args:
            upload: as its writer has seen it last.
            reason: that it has failed, if the process dies in the middle.

        Raises Fenced for what is not ended, DatabaseUnavailable.
        """
        upload, _ = await self._database.claim(upload, self._rules.holder, [])
        await self._database.fail(upload, reason)
        await self.end(upload.scope, upload.id)

    async def check_ready(self) -> None:
        """Raise Draining or Unavailable, with the reason, when this process should get no requests.

        The store is asked at most every `STORE_CHECK_EVERY` seconds while it is fine: a probe of it is several calls.
        """
        if self._writers.draining:
            raise Draining
        await self._database.check()
        now = asyncio.get_running_loop().time()
        if now >= self._store_fine_until:
            await self._stores.check()
            self._store_fine_until = now + STORE_CHECK_EVERY

    async def _check(self, principal: Principal, upload_id: UploadId, append: Append) -> tuple[Upload, int | None]:
        scope = principal.scope
        hint = self._recent.take(scope, upload_id)
        if hint is not None and append.size != 0:  # without bytes there may be no claim, which proves the hint
            with suppress(TusgateError):
                return hint, self._checked(principal, hint, append)
        upload = await self._database.get(scope, upload_id)
        try:
            return upload, self._checked(principal, upload, append)
        except TusgateError as error:
            error.upload = upload
            raise

    def _checked(self, principal: Principal, upload: Upload, append: Append) -> int | None:
        length = check_append(upload, append, self.size_limit(principal))
        if upload.state is State.UPLOADING:
            tenant = self._tenants.of(upload.scope.tenant)
            tenant.check_type(upload.content_type, upload.role)
            tenant.check_size(length)
            check_coding(tenant, self._tools.expiry.keeping, upload)
        return length

    def store_for(self, scope: Scope) -> ObjectStore:
        """Return the store that new uploads of `scope` go to. Raises TenantUnknown, StoreUnavailable."""
        return self._stores.of(self._tenants.of(scope.tenant).route)

    def size_limit(self, principal: Principal) -> int | None:
        """Return the most bytes that one upload of `principal` may have; None = any. Raises TenantUnknown."""
        tenant = self._tenants.of(principal.scope.tenant)
        return least(self.max_size, tenant.max_size, principal.limits.max_size)

    def check_new_length(self, principal: Principal, upload: Upload, length: int) -> None:
        """Raise unless an unfinished upload may become one of `length` bytes.

        Raises:
            TooLarge: nobody may have so many.
            InvalidRequest: hooks have agreed to another length, and would have to be asked about a new upload.
        """
        check_length(length, self.size_limit(principal))
        if length != upload.length and self._hooks.want(Moment.CREATE, upload.scope.tenant):
            raise InvalidRequest("size", f"{upload.length}, as hooks were told; begin a new upload")

    async def _append_nothing(self, upload: Upload, source: ByteSource, checksum: Checksum | None) -> Upload:
        """Answer an append to an upload that has all its bytes: an empty body is a question whether it is complete."""
        if not upload.ends_by_request and await source.read():
            raise TooLarge(f"the upload has all its {upload.length} bytes")
        if checksum is not None and not RequestDigest(checksum).matches():
            raise ChecksumMismatch
        if upload.state is State.SEALED:
            upload = await self._completion.wait(upload, self._rules.finish_wait)
        check_present(upload)
        if upload.state is State.SEALED:
            raise Finishing
        if upload.ends_by_request:
            error = AlreadyComplete()
            error.upload = upload
            raise error
        return upload

    async def _write(
        self,
        upload: Upload,
        pieces: list[Piece],
        intents: Sequence[Intent],
        source: ByteSource,
        length: int | None,
        checksum: Checksum | None,
        *,
        ends: bool,
        principal: Principal,
        progress: Progress | None,
        exchange: Exchange | None,
    ) -> Upload:
        tools = replace(
            self._tools,
            store=self._stores.of(upload.route),
            inspection=Inspection.of(self._tenants.of(upload.scope.tenant), upload),
            publishes=not self._hooks.want_to_know_end(upload),
        )
        intake = Intake(
            tools,
            upload,
            pieces,
            intents,
            self._tenants.paced(upload.scope.tenant, source),
            length,
            checksum,
            ends=ends,
            max_size=self.size_limit(principal),
            before_end=None if self._reaffirm is None else partial(self._reaffirm, principal),
            progress=progress,
        )
        try:
            self._writers.enter(intake)
            try:
                upload = await intake.run()
            finally:
                self._writers.leave(intake)
                if intake.upload.state is State.SEALED:
                    self._completion.start(intake.upload, exchange)
        except (MultipartLost, PieceLost) as error:
            await self._give_up(intake.upload, error)
        except Fenced as error:
            error.upload = await self._database.get(upload.scope, upload.id)
            check_present(error.upload)
            raise
        except ContentMismatch as error:
            with suppress(Fenced):
                error.upload = await self._database.fail(intake.upload, str(error))
                log.warning("upload.failed", upload_id=upload.id, reason=str(error))
            raise
        except TusgateError as error:
            error.upload = intake.upload
            raise
        return await self._finished(upload, exchange)

    async def _give_up(self, upload: Upload, error: MultipartLost | PieceLost) -> NoReturn:
        """The store threw parts away (MinIO: 24 h after the multipart upload began), or bytes: the upload has failed.

        Raises:
            Fenced: a later writer has used the piece up, and that is why it is gone.
            StoreUnavailable: the store has all of it when it is asked again, or cannot be asked.
        """
        store = self._stores.of(upload.route)
        await store.check()  # a bucket that is away as a whole, or renamed, is no loss
        current = await self._database.get(upload.scope, upload.id)
        check_present(current)
        if current.epoch != upload.epoch:
            fenced = Fenced()
            fenced.upload = current
            raise fenced from error
        reason = loss_reason(error)
        doomed = current
        if isinstance(error, MultipartLost):
            if upload.group is not None:
                doomed = await self._database.get(upload.scope, upload.group)
            is_there = await has_multipart(store, doomed)
        else:
            is_there = await has_pieces(store, upload.id, await self._database.pieces(current))
        if is_there:
            unconfirmed = StoreUnavailable(f"{error}; yet it is there when the store is asked again")
            unconfirmed.upload = current
            raise unconfirmed from error
        failed = await self._database.fail(doomed, reason)
        log.error("upload.failed", upload_id=upload.id, reason=reason)
        raise UploadGone(failed.state.value, reason) from error

    async def _invalidate(self, upload: Upload) -> None:
        """Let an upload fail whose client does not know what it sends. Fenced: a later request decides."""
        reason = "a request brought more bytes than the declared length"
        with suppress(Fenced):
            await let_fail(self._database, self._writers, upload, reason)

    async def _finished(self, upload: Upload, exchange: Exchange | None) -> Upload:
        """Wait for a sealed upload; one that merely takes long is finished in the background and acknowledged."""
        if upload.state is not State.SEALED:
            self._recent.remember(upload)
            return upload
        upload = await self._completion.wait(upload, self._rules.finish_wait, exchange)
        check_refusal(exchange)
        check_present(upload)
        if upload.state is State.SEALED and self._completion.is_in_doubt(upload):
            raise Finishing
        return upload

    async def _get_patiently(self, scope: Scope, upload_id: UploadId) -> Upload:
        now = asyncio.get_running_loop().time
        end = now() + PATIENCE
        for delay in PATIENCE_DELAYS:
            try:
                return await self._database.get(scope, upload_id, ahead=True)
            except DatabaseUnavailable:
                if now() + delay > end:
                    raise
                await asyncio.sleep(delay)
        return await self._database.get(scope, upload_id, ahead=True)

    def _new_upload(
        self,
        tenant: Tenant,
        principal: Principal,
        creation: Creation,
        length: int | None,
        epoch: int,
        upload_id: UploadId | None = None,
    ) -> NewUpload:
        upload_id = upload_id or UploadId(secrets.token_urlsafe(18))
        date = self._now().date().isoformat()
        return NewUpload(
            id=upload_id,
            scope=principal.scope,
            created_via=creation.created_via,
            length=length,
            grid=grid_for(length, creation.part_size or self._rules.part_size, self._stores.of(tenant.route).limits),
            metadata=creation.metadata,
            filename=creation.filename,
            content_type=creation.content_type,
            object_key=object_key(
                tenant.key_template or self._rules.key_template, upload_id, principal.scope, date, creation.filename
            ),
            epoch=epoch,
            lifetime=self._tools.expiry.lifetime,
            max_age=self._tools.expiry.max_age,
            content_coding=creation.content_coding,
            role=creation.role,
            token_id=principal.limits.token_id,
            route=tenant.route,
            plan=creation.plan,
            fingerprint=None if creation.fingerprint is None else str(creation.fingerprint),
        )


async def let_fail(database: Database, writers: Writers, upload: Upload, reason: str) -> None:
    """Let `upload` fail, and end its writer. Raises Fenced, DatabaseUnavailable."""
    failed = await database.fail(upload, reason)
    writers.taken_over(failed.id, failed.epoch + 1)
    log.warning("upload.failed", upload_id=upload.id, reason=reason)


def _checked_length(creation: Creation, source: ByteSource | None, limit: int | None) -> int | None:
    """Return the length that the creation declares."""
    size = source.size if source else None
    length = declared_length(0, size, creation.length, ends=creation.ends)
    check_length(length, limit)
    if size is not None and length is not None and size > length:
        raise overrun(creation.created_via, f"the body has {size} bytes, more than Upload-Length {length}")
    return length


class _Nothing:
    """The body of a request without one."""

    size: int | None = 0
    is_abandoned = False

    async def read(self, paid: int = 0) -> bytes:
        return b""

    def interrupt(self, error: Exception) -> None:
        """Nothing is pending that could be interrupted."""
