"""Who read what: the values of the access log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.model import Scope, UploadId

AccessId = NewType("AccessId", str)


class How(StrEnum):
    """The way by which somebody came to what is in a file."""

    API = "api"
    """Was told what is known of a finished file. Not written any more: such rows may be there still."""
    CONTENT = "content"
    """Was sent bytes, by a login."""
    SHARE = "share"
    """Was sent bytes, by a share link."""
    REDIRECT = "redirect"
    """Was given a signed URL of the store; what was done with it the store alone knows."""


class Ending(StrEnum):
    """What became of an access."""

    STARTED = "started"
    """It runs, or the process died, or the database could not be told."""
    DONE = "done"
    """All that was asked for was sent."""
    BROKEN = "broken"
    """The reader left or was too slow, or the store failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccess:
    """An access that begins.

    Attributes:
        scope, file_id: of the file.
        reader: owner in whose name it is; "" in open mode, and for a share link.
        proof: how that was known, `share:<id>` for a share link; see `Principal.proof`.
        client: address that the request came from, as far as trusted proxies tell.
        first_byte, wanted: what of the file was asked for; None where it is no bytes.
        ending: DONE for what is over at once.
    """

    id: AccessId
    scope: Scope
    file_id: UploadId
    reader: str
    proof: str
    how: How
    client: str | None
    first_byte: int | None = None
    wanted: int | None = None
    ending: Ending = Ending.STARTED


@dataclass(frozen=True, slots=True)
class EndedAccess:
    """An access that is over, after `sent` bytes were handed to the network."""

    begun: NewAccess
    sent: int

    @property
    def ending(self) -> Ending:
        """What became of it."""
        return Ending.DONE if self.sent == self.begun.wanted else Ending.BROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Access(NewAccess):
    """A row of the access log.

    Attributes:
        sent: bytes that were handed to the network; None before the end, and where there are none to count.
    """

    sent: int | None
    began_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFilter:
    """Which accesses are wanted; None wants any."""

    file_id: UploadId | None = None
    reader: str | None = None
    began_from: datetime | None = None
    began_before: datetime | None = None
