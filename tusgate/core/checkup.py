"""What is wrong with an installation, by what was seen of it; no look is taken here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTICED: Final = timedelta(seconds=30)
"""Difference of two clocks that is worth a word."""
TOLERATED: Final = timedelta(minutes=5)
"""Difference that breaks something: S3 refuses what was signed 15 minutes ago, and signed URLs live for 15 minutes."""
ANY_ORIGIN: Final = "*"
SOME_PAGE: Final = "https://some-page.example"
"""Asked for where pages of any origin may send parts."""
OK: Final = 200


class Health(StrEnum):
    """How bad a finding is."""

    FINE = "fine"
    DOUBTFUL = "doubtful"
    MENDED = "mended"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: that was looked at.
        told: what was seen.
        advice: what to do; empty when nothing is to be done.
    """

    what: str
    health: Health
    told: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a store has answered to a page that sends a part.

    Attributes:
        may_send: the preflight allows the page to.
        status: of the part itself.
        shows_etag: the page may read the ETag of the part.
        clock: of the store.
    """

    may_send: bool
    status: int
    shows_etag: bool
    clock: datetime | None


def of_clock(whose: str, theirs: datetime, ours: datetime) -> Finding:
    """Return what is to be said of a clock beside our own."""
    apart = theirs - ours
    what = f"clock of the {whose}"
    if abs(apart) < NOTICED:
        return Finding(what, Health.FINE, "agrees with ours")
    told = f"{abs(apart).total_seconds():.0f} s {'ahead of' if apart > timedelta() else 'behind'} ours"
    health = Health.WRONG if abs(apart) > TOLERATED else Health.DOUBTFUL
    return Finding(what, health, told, "set both by NTP")


def of_page(origin: str, seen: Seen, advice: str) -> Finding:
    """Return what is to be said of the pages of `origin`, which are to send parts.

    Args:
        origin: of pages, or `*`.
        seen: by such a page.
        advice: how the store is told to let them.
    """
    what = "direct uploads from any page" if origin == ANY_ORIGIN else f"direct uploads from {origin}"
    if seen.status != OK:
        told = f"the store answered a part that was sent by a signed URL with {seen.status}"
        return Finding(what, Health.WRONG, told, "may the key for signed URLs put objects (s3:PutObject)?")
    if not seen.may_send:
        return Finding(what, Health.WRONG, "CORS of the bucket does not let pages send parts", advice)
    if not seen.shows_etag:
        return Finding(what, Health.WRONG, "CORS of the bucket hides the ETag of parts from pages", advice)
    return Finding(what, Health.FINE, "a part was taken, and its ETag shown")


def origins_to_ask(pages: Sequence[str], own: str | None) -> list[str]:
    """Return the origins whose pages are to send parts.

    Args:
        pages: as configured; may hold `*`.
        own: origin of our own page; None: there is none.
    """
    return [ANY_ORIGIN] if ANY_ORIGIN in pages else list(dict.fromkeys([*pages, *([own] if own else [])]))
