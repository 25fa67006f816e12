"""Share links: what one allows, and the texts by which it is known. Decisions only; who asks brings keys and the time.

The address of a link is its id and a signature. The id has 144 random bits and is all that the database knows; so
neither a copy of the database nor anything that was made up opens a file, and the second is found out without a look
at the database. A link ends when the key that signed it is no longer in the settings.

A session is what one client has shown already: the password, or that its download was counted. It is signed and handed
to the client, so that ranges, repeated and continued requests of one client are one download.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tusgate.core.model import Scope, UploadId

ShareId = NewType("ShareId", str)

ID_BYTES: Final = 18
"""Random bytes of an id; its base64 has no padding, and so one form only."""
_SIGNED: Final = 18
"""Bytes of a signature."""
_ADDRESS: Final = re.compile(r"([A-Za-z0-9_-]{24})([A-Za-z0-9_-]{24})", re.ASCII)
_SESSION: Final = re.compile(r"([cd])([0-9]{1,12})\.([A-Za-z0-9_-]{24})", re.ASCII)


class Proven(StrEnum):
    """What a session proves; the value is how it is written."""

    KNOWS = "c"
    """The password was right; nothing was downloaded yet."""
    DOWNLOAD = "d"
    """A download was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewShare:
    """A link to be.

    Attributes:
        created_by: how whoever makes it was known; see `Principal.proof`.
        password: see `service.passwords`; None: none is asked for.
        max_downloads: that it is good for; None: any number.
        expires_at: None: it ends by being revoked.
    """

    id: ShareId
    scope: Scope
    file_id: UploadId
    created_by: str
    password: bytes | None = field(default=None, repr=False)
    max_downloads: int | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A link as the database knows it.

    Attributes:
        downloads: that have begun.
    """

    id: ShareId
    scope: Scope
    file_id: UploadId
    created_by: str
    password: bytes | None = field(repr=False)
    max_downloads: int | None
    downloads: int
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def is_used_up(self) -> bool:
        """Whether no further download may begin."""
        return self.max_downloads is not None and self.downloads >= self.max_downloads


class ShareKeys:
    """Signs with the first key; what any of the keys has signed is good.

    Args:
        keys: secrets; to change one, put the new one first and take the old one out when its links may end.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def address(self, share_id: ShareId) -> str:
        """Return the text that opens the link."""
        return share_id + _signature(self._keys[0], "share", share_id)

    def share_of(self, address: str) -> ShareId | None:
        """Return the id of the link that `address` opens; None when it is none of ours."""
        written = _ADDRESS.fullmatch(address)
        if written is None or not self._is_signed(written[2], "share", written[1]):
            return None
        return ShareId(written[1])

    def session(self, share_id: ShareId, proven: Proven, until: float) -> str:
        """Return what proves `proven` for the link until `until`, in seconds since 1970."""
        ends = str(int(until))
        return f"{proven}{ends}.{_signature(self._keys[0], 'session', share_id, proven, ends)}"

    def proven(self, session: str, share_id: ShareId, now: float) -> Proven | None:
        """Return what `session` proves for the link at `now`; None: nothing."""
        written = _SESSION.fullmatch(session)
        if written is None or not self._is_signed(written[3], "session", share_id, written[1], written[2]):
            return None
        return Proven(written[1]) if now < int(written[2]) else None

    def _is_signed(self, signature: str, *said: str) -> bool:
        # All keys are tried, in a time that tells nothing.
        matches = [hmac.compare_digest(_signature(key, *said), signature) for key in self._keys]
        return any(matches)


def _signature(key: bytes, *said: str) -> str:
    digest = hmac.digest(key, "\0".join(("tusgate", *said)).encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:_SIGNED]).decode()
