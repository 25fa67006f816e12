"""What an upload counts for, and how much a tenant may have. The databases count by these rules, in the same commit.

Bytes are those in the store, or promised to it: the declared length from the creation on, the offset while no length
is declared. What has ended (expired, terminated, failed) counts for nothing, in the commit that ends it. Partials
whose bytes lie in the object of their group count for nothing once that is sealed: the object does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tusgate.core.errors import QuotaExceeded, TooManyUploads
from tusgate.core.model import Role, State

if TYPE_CHECKING:
    from tusgate.core.errors import TusgateError
    from tusgate.core.model import Upload

COUNTING = frozenset({State.UPLOADING, State.SEALED, State.COMPLETE})
"""States in which an upload counts."""


class Measure(StrEnum):
    """What is counted. The values are the words by which databases say which limit was passed."""

    BYTES = "bytes"
    FILES = "files"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Usage:
    """How much there is.

    Attributes:
        bytes: in the store, or promised to it.
        files: uploads that are a file, or become one: no partials.
        unfinished: uploads, and partials, that still miss bytes or are being finished.
    """

    bytes: int = 0
    files: int = 0
    unfinished: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.bytes + other.bytes, self.files + other.files, self.unfinished + other.unfinished)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.bytes - other.bytes, self.files - other.files, self.unfinished - other.unfinished)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a tenant may have at most; None = any number. What is there already when a limit shrinks stays."""

    bytes: int | None = None
    files: int | None = None
    unfinished: int | None = None


def usage_of(upload: Upload) -> Usage:
    """Return what one upload counts for. `postgres.sql` and `sqlite.sql` say the same in SQL."""
    if upload.state not in COUNTING:
        return Usage()
    size = upload.offset if upload.length is None else upload.length
    is_file = upload.role not in {Role.PARTIAL, Role.GROUP}
    is_unfinished = upload.state is not State.COMPLETE and upload.role is not Role.GROUP and not upload.has_all_bytes
    return Usage(size if upload.counted else 0, int(is_file), int(is_unfinished))


def passed_by(growth: Usage, total: Usage, quota: Quota) -> Measure | None:
    """Return the first limit that a change passes, None when it may be made.

    Args:
        growth: what the change adds; a change that adds nothing passes nothing.
        total: what there will be after it.
        quota: the limits.
    """
    for measure in Measure:
        limit = getattr(quota, measure)
        if limit is not None and getattr(growth, measure) > 0 and getattr(total, measure) > limit:
            return measure
    return None


def refusal_of(measure: Measure) -> TusgateError:
    """Return the error for a limit that would be passed."""
    match measure:
        case Measure.BYTES:
            return QuotaExceeded("the tenant's quota of bytes is used up")
        case Measure.FILES:
            return QuotaExceeded("the tenant's quota of files is used up")
        case Measure.UNFINISHED:
            return TooManyUploads()
