"""The use cases of share links: make, list, revoke; and, for whoever has one, open, read."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import (
    NotClean,
    NotComplete,
    StillProcessing,
    TenantUnknown,
    TooManyShares,
    TooManyTries,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.sharing import ID_BYTES, NewShare, ShareId

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.access import Principal
    from tusgate.core.model import Scope, Upload, UploadId
    from tusgate.core.sharing import Share
    from tusgate.ports import ShareStore
    from tusgate.service.files import Files
    from tusgate.service.passwords import Passwords

MOST_OF_A_FILE: Final = 100
"""Links of one file, ended ones included until they are forgotten."""
MOST_TRIES: Final = 10
TRIES_WINDOW: Final = 900.0
"""Wrong passwords that one link takes in so many seconds, from anybody and by any replica together."""


class Sharing:
    """All that can be done with share links."""

    def __init__(self, shares: ShareStore, files: Files, passwords: Passwords) -> None:
        self._shares = shares
        self._files = files
        self._passwords = passwords

    async def create(
        self,
        principal: Principal,
        file_id: UploadId,
        *,
        expires_at: datetime | None = None,
        password: str | None = None,
        max_downloads: int | None = None,
    ) -> Share:
        """Make a link to a finished file.

        Raises:
            UploadNotFound, NotComplete, UploadGone: see `Files.finished`.
            InvalidRequest: `expires_at` is over.
            TooManyShares: there are `MOST_OF_A_FILE`.
        """
        if len(await self.list(principal.scope, file_id)) >= MOST_OF_A_FILE:
            raise TooManyShares(MOST_OF_A_FILE)
        new = NewShare(
            id=ShareId(base64.urlsafe_b64encode(secrets.token_bytes(ID_BYTES)).decode()),
            scope=principal.scope,
            file_id=file_id,
            created_by=principal.proof,
            password=None if password is None else await self._passwords.hashed(password),
            max_downloads=max_downloads,
            expires_at=expires_at,
        )
        return await self._shares.create_share(new)

    async def list(self, scope: Scope, file_id: UploadId) -> list[Share]:
        """Return the links of a file, the newest first, ended ones too. Raises UploadNotFound, UploadGone."""
        await self._files.find(scope, file_id)
        return await self._shares.list_shares(scope, file_id)

    async def revoke(self, scope: Scope, file_id: UploadId, share_id: ShareId) -> None:
        """End a link; it stays ended. Raises UploadNotFound when there is none of that id; TenantUnknown, Throttled."""
        self._files.admit(scope)
        await self._shares.revoke_share(scope, file_id, share_id)

    async def find(self, share_id: ShareId) -> tuple[Share, Upload]:
        """Return a link that is good, and its file.

        Raises:
            UploadNotFound: it is unknown, over or revoked, or its file or tenant is not there (any more), or nobody
                reads it; one and the same error.
            Throttled: the tenant of the file is asked about its files faster than it may be.
        """
        share = await self._shares.find_share(share_id)
        if share is None:
            raise UploadNotFound
        try:
            return share, await self._files.finished(share.scope, share.file_id)
        except (NotClean, NotComplete, StillProcessing, TenantUnknown, UploadGone):
            raise UploadNotFound from None

    async def is_right(self, share: Share, password: str) -> bool:
        """Return whether `password` opens the link. Every try counts before it is looked at; a right one is taken back.

        Raises:
            TooManyTries: others have to pass first.
        """
        assert share.password is not None
        if not await self._shares.begin_try(share, MOST_TRIES, TRIES_WINDOW):
            raise TooManyTries
        is_right = await self._passwords.is_right(password, share.password)
        if is_right:
            await self._shares.take_try_back(share)
        return is_right
