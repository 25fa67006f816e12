"""Conditional requests (RFC 9110, 13), for a file whose bytes never change: what to answer before any byte is read.

The order is that of section 13.2.2. A malformed date counts as absent; a malformed entity tag matches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAG: Final = re.compile(r'[ \t]*(W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*")[ \t]*(?:,|$)')


class Verdict(Enum):
    """What the conditions of a request come to."""

    GO_ON = "go on"
    NOT_MODIFIED = "304"
    FAILED = "412"


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells this file from every other.

    Attributes:
        etag: strong, with its quotes.
        modified: when it was complete; whole seconds count.
    """

    etag: str
    modified: datetime


def judge(headers: Mapping[str, str], validators: Validators) -> Verdict:
    """Return what to do about the conditions of a GET or HEAD, but for If-Range."""
    modified = validators.modified.astimezone(UTC).replace(microsecond=0)
    if "If-Match" in headers:
        if not _matches(headers["If-Match"], validators.etag, strongly=True):
            return Verdict.FAILED
    elif (since := _date(headers.get("If-Unmodified-Since"))) is not None and modified > since:
        return Verdict.FAILED
    if "If-None-Match" in headers:
        if _matches(headers["If-None-Match"], validators.etag, strongly=False):
            return Verdict.NOT_MODIFIED
    elif (since := _date(headers.get("If-Modified-Since"))) is not None and modified <= since:
        return Verdict.NOT_MODIFIED
    return Verdict.GO_ON


def range_counts(headers: Mapping[str, str], validators: Validators) -> bool:
    """Whether Range is to be looked at: If-Range is absent, or names this very file.

    A date must be exactly the one that was told (13.1.5), and a weak tag never matches.
    """
    condition = headers.get("If-Range")
    if condition is None:
        return True
    if '"' in condition:
        return _matches(condition, validators.etag, strongly=True)
    return _date(condition) == validators.modified.astimezone(UTC).replace(microsecond=0)


def _matches(condition: str, etag: str, *, strongly: bool) -> bool:
    if condition.strip() == "*":
        return True
    position = 0
    while match := _TAG.match(condition, position):
        if match[2] == etag and not (strongly and match[1]):
            return True
        position = match.end()
        if position == len(condition):
            break
    return False


def _date(text: str | None) -> datetime | None:
    """Return an HTTP date; None when it is absent or none."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
