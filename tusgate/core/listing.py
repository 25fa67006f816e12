"""What a listing of files asks for, and the place at which its next page begins."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypedDict

from tusgate.core.model import State

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.model import CreatedVia, Upload, UploadId

LISTED: Final = frozenset(State)
"""States that a listing may ask for: what was deleted is still known, by whom and when."""
PRESENT: Final = LISTED - {State.EXPIRED, State.TERMINATED}
"""States that are listed unless others are asked for."""


class Changes(TypedDict, total=False):
    """What may be changed of a file; what is not named stays.

    Attributes:
        expires_at: when it is deleted; None: never by itself.
        retain_until: until when it must be kept; None: not at all.
    """

    filename: str | None
    content_type: str | None
    expires_at: datetime | None
    retain_until: datetime | None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a listing: after this file, newest first. Both never change, so the place stays when files come.

    Attributes:
        created_at: of the last file before the place.
        id: the same file's, which decides between files of one moment.
    """

    created_at: datetime
    id: UploadId

    @classmethod
    def of(cls, upload: Upload) -> Position:
        """Return the place right after `upload`."""
        return cls(upload.created_at, upload.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFilter:
    """Which files are wanted. What is None wants any.

    Attributes:
        states: any of them.
        content_type: a media type in lower case without parameters, such as `image/png`, or `image/*`.
        created_from: created then or later.
        created_before: created earlier than then.
        name_contains, name_prefix: of the file name, without regard to case.
        created_via: the protocol that the upload came by.
        derived_from: made of this file; None: of none, sent by somebody.
    """

    states: frozenset[State] = field(default=PRESENT)
    content_type: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    name_contains: str | None = None
    name_prefix: str | None = None
    created_via: CreatedVia | None = None
    derived_from: UploadId | None = None

    @property
    def type_prefix(self) -> str | None:
        """What a stored type, in lower case and with a `;` at its end, begins with when it is wanted."""
        if self.content_type is None:
            return None
        return self.content_type.removesuffix("*") if self.content_type.endswith("/*") else self.content_type + ";"


def folded(name: str) -> str:
    """Return a file name as names are compared: without regard to case and to how characters are composed.

    Databases differ in what they know about letters, so both compare what this returns.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
