"""Files that need not be sent, because an equal one is here and whoever wants it has proved to have it.

`core/possession.py` says what has to be known. The answer is compared with what the store gives, so no digest of a
file, nor anything else that the database knows, is worth a file. Apart from its bytes all is as for a file that was
sent: limits, types, hooks, quota, events and jobs.

Rule 1: an unknown file and a wrong answer are refused by the same words: send the file.
Rule 2: nothing is remembered of challenges. One that has made a file is answered with that file.
Rule 3: the file is made by `Database.create_equal` and by nothing else, so the object cannot be collected meanwhile.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.checksum import Checksum
from tusgate.core.dedup import NO_DEDUP, is_whole
from tusgate.core.direct import Plan
from tusgate.core.errors import Fenced, InstantOff, NotPossessed, ObjectLost, UploadNotFound
from tusgate.core.fingerprint import fingerprint_of
from tusgate.core.lifecycle import check_present
from tusgate.core.model import FOREVER
from tusgate.core.possession import SALT_BYTES, ChallengeKeys, Claim, blank_answer
from tusgate.service.digests import HASHED_AT_ONCE
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tusgate.core.access import Principal
    from tusgate.core.dedup import Dedup
    from tusgate.core.model import Keeping, NewUpload, Scope, Upload
    from tusgate.core.possession import Challenge, Range
    from tusgate.ports import Database, ObjectStore
    from tusgate.service.hooks import Exchange
    from tusgate.service.stores import Stores
    from tusgate.service.uploads import Creation, Uploads

log = structlog.get_logger(__name__)

PROOFS_AT_ONCE: Final = 2
"""Answers that one process checks at once; others wait. Each reads `possession.WHOLE` bytes at most."""
READS_AT_ONCE: Final = 4
"""Blocks for one answer that are read at once, and held."""
READERS: Final = PROOFS_AT_ONCE * READS_AT_ONCE
"""Connections to a store that this needs beside those of downloads, which may be held for hours."""


@dataclass(frozen=True, slots=True)
class InstantRules:
    """Settings of instant uploads.

    Attributes:
        keys: make challenges; None: there are no instant uploads.
        tenants: who may have them; equal files of theirs share objects, too.
        keeping: of finished files.
    """

    keys: ChallengeKeys | None = None
    tenants: Dedup = NO_DEDUP
    keeping: Keeping = FOREVER


@dataclass(frozen=True, slots=True)
class Proof:
    """What shall prove that somebody has a file.

    Attributes:
        sha256: of the file.
        challenge: as it was given out.
        answer: HMAC-SHA256 of the bytes of its ranges, by its nonce.
    """

    sha256: bytes
    challenge: str
    answer: bytes


class InstantUploads:
    """Gives out challenges, and makes files for right answers.

    Args:
        database: knows equal files.
        stores: have their bytes.
        uploads: says what an upload of a principal may be, and who is asked about it.
        rules: see there.
        now: seconds since 1970, alike on all replicas to a few seconds.
    """

    def __init__(
        self,
        database: Database,
        stores: Stores[ObjectStore],
        uploads: Uploads,
        rules: InstantRules,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._stores = stores
        self._uploads = uploads
        self._rules = rules
        self._now = now
        self._room = asyncio.Semaphore(PROOFS_AT_ONCE)

    def challenge(self, scope: Scope, sha256: bytes, size: int) -> Challenge:
        """Return what has to be known of a file of `size` bytes, at least 1. Nothing is looked up.

        Raises:
            InstantOff: there are no instant uploads for this tenant.
            TenantUnknown, Throttled: see `Uploads.admit`.
        """
        self._uploads.admit(scope)
        return self._keys_of(scope).make(Claim(scope, sha256, size), secrets.token_bytes(SALT_BYTES), self._now())

    async def create(
        self, principal: Principal, creation: Creation, proof: Proof, exchange: Exchange | None = None
    ) -> tuple[Upload, bool]:
        """Make a file that is complete at once.

        Cancelled, or dead before its commit, it leaves nothing; after that, asking again is answered with the file.

        Returns:
            The file, and whether it is new: a challenge makes one file.

        Args:
            principal: whose, and what they may.
            creation: with a length of at least 1.
            proof: that they have it.
            exchange: the request, for hooks.

        Raises:
            InstantOff: there are no instant uploads for this tenant.
            InvalidRequest: the challenge was made for somebody or something else, or is over.
            NotPossessed: there is no equal file (any more), or the answer is wrong.
            UploadGone: the file that this challenge has made was deleted.
            ContentMismatch: the file is not of its declared type.
            HookRefused, HookUnavailable: nothing was made.
            Draining, NotCovered, QuotaExceeded, TokenSpent, TooLarge, TooManyRequests, TooManyUploads, TypeNotAllowed,
                Unavailable: as for any other creation.
        """
        assert creation.length is not None
        claim = Claim(principal.scope, proof.sha256, creation.length)
        challenge = self._keys_of(principal.scope).read(proof.challenge, claim, self._now())
        whole = Checksum("sha256", proof.sha256)
        creation = replace(creation, plan=Plan(whole), fingerprint=fingerprint_of(whole))
        new = await self._uploads.outlined(principal, creation, challenge.file_id)
        made = await self._made_before(new)
        if made is not None:
            return made, False
        await self._check(new, proof, challenge)
        new = await self._uploads.agreed(principal, creation, new, exchange)
        await self._inspect(new, proof.sha256)
        await self._uploads.agreed_to_publish(new, exchange)
        return await self._made(new, proof.sha256)

    def _keys_of(self, scope: Scope) -> ChallengeKeys:
        if self._rules.keys is None or not self._rules.tenants.is_on(scope.tenant):
            raise InstantOff
        return self._rules.keys

    async def _made_before(self, new: NewUpload) -> Upload | None:
        """Return the file that the challenge has made before. Raises UploadGone."""
        try:
            made = await self._database.get(new.scope, new.id)
        except UploadNotFound:
            return None
        check_present(made)
        return made

    async def _found(self, new: NewUpload, sha256: bytes) -> Upload:
        twin = await self._database.find_equal(new, sha256)
        if twin is None:
            raise NotPossessed
        return twin

    async def _check(self, new: NewUpload, proof: Proof, challenge: Challenge) -> None:
        """Raise NotPossessed unless the answer is that of an equal file."""
        twin = await self._found(new, proof.sha256)
        try:
            async with self._room:
                expected = await self._answer(twin, challenge)
        except ObjectLost as error:
            raise _lost(twin) from error
        if not hmac.compare_digest(expected, proof.answer):
            log.info(LogEvent.INSTANT_REFUSED, like_upload=twin.id)
            raise NotPossessed

    async def _answer(self, twin: Upload, challenge: Challenge) -> bytes:
        """Return the right answer. Raises ObjectLost, StoreUnavailable."""
        answer = blank_answer(challenge)
        if len(challenge.ranges) == 1:
            async with aclosing(self._read(twin, challenge.ranges[0])) as chunks:
                async for chunk in chunks:
                    await _add(answer, chunk)
        else:
            for first in range(0, len(challenge.ranges), READS_AT_ONCE):
                for block in await self._blocks(twin, challenge.ranges[first : first + READS_AT_ONCE]):
                    await _add(answer, block)
        return answer.digest()

    async def _blocks(self, twin: Upload, blocks: Sequence[Range]) -> list[bytes]:
        async def whole(block: Range) -> bytes:
            async with aclosing(self._read(twin, block)) as chunks:
                return b"".join([chunk async for chunk in chunks])

        try:
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(whole(block)) for block in blocks]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [read.result() for read in reads]

    def _read(self, twin: Upload, wanted: Range) -> AsyncGenerator[bytes]:
        return self._stores.of(twin.route).read(twin.object_key, wanted.start, wanted.size, etag=twin.etag)

    async def _inspect(self, new: NewUpload, sha256: bytes) -> None:
        """Raise ContentMismatch where the tenant wants content looked at, and it is of another type than `new`."""
        inspection = self._uploads.inspection_of(new)
        if inspection is None:
            return
        twin = await self._found(new, sha256)
        assert twin.length is not None
        try:
            await inspection.look_at_object(twin.object_key, twin.length, self._stores.of(twin.route))
        except ObjectLost as error:
            raise _lost(twin) from error

    async def _made(self, new: NewUpload, sha256: bytes) -> tuple[Upload, bool]:
        """Return a new file with the object of an equal one, and that it is new; or the one that was made meanwhile.

        The bytes were proved to be those of any file with this digest: it was computed from what the store has.
        """
        while True:
            twin = await self._found(new, sha256)
            stored = await self._stores.of(twin.route).find(twin.object_key, twin.maker)
            if not is_whole(twin, stored):
                raise _lost(twin)
            try:
                file = await self._database.create_equal(new, twin, self._rules.keeping)
            except Fenced:  # the other one has ended, or another request with this challenge was first
                made = await self._made_before(new)
                if made is not None:
                    return made, False
                continue
            log.info(LogEvent.INSTANT_CREATED, upload_id=file.id, with_upload=twin.id, size=file.length)
            return file, True


async def _add(answer: hmac.HMAC, data: bytes) -> None:
    if len(data) > HASHED_AT_ONCE:
        await asyncio.to_thread(answer.update, data)
    else:
        answer.update(data)


def _lost(twin: Upload) -> NotPossessed:
    """Return what is said to who wants a file whose object is not there as it was verified: that is the operator's."""
    log.error(LogEvent.DEDUP_OBJECT_LOST, upload_id=twin.id, key=twin.object_key)
    return NotPossessed()
