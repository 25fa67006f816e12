"""The dialects of RUFH: each interop version is a draft, and the final form names none.

A request has one version. A known one gets its own dialect, with 104s. Without a version, or with one that we do not
know, a request is read in the final form (in that of -01 when it speaks of Upload-Incomplete), without 104s (R-VER-01).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tusgate.web import structured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.web.structured import Fields

VERSION: Final = "Upload-Draft-Interop-Version"
COMPLETE: Final = "Upload-Complete"
INCOMPLETE: Final = "Upload-Incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs on the wire.

    Attributes:
        version: interop version, repeated on every answer; None = no version was agreed on, so no 104.
        speaks_of_incomplete: the flag is Upload-Incomplete, inverted, and complete when absent.
        typed: appends need the media type `application/partial-upload`.
        appended_status: of the answer to an append that leaves the upload unfinished.
        age_limit: what Upload-Limit calls the seconds that are left; None = there is no Upload-Limit.
        refuses_positions: HEAD and DELETE may not carry an offset or a flag.
        replays_end: an append to a complete upload gets the final answer again, else 400.
    """

    version: int | None = None
    speaks_of_incomplete: bool = False
    typed: bool = True
    appended_status: int = 204
    age_limit: str | None = "max-age"
    refuses_positions: bool = False
    replays_end: bool = True

    @property
    def identification(self) -> dict[str, str]:
        """The version as a header field."""
        return {} if self.version is None else {VERSION: str(self.version)}

    def ends(self, fields: Fields) -> bool | None:
        """Return whether the request ends the upload; None when it does not say so, or not readably.

        A malformed Upload-Incomplete is not taken for an absent one: a cut-off file would be called complete.
        """
        if not self.speaks_of_incomplete:
            return structured.flag(fields, COMPLETE)
        if INCOMPLETE not in fields:
            return True
        incomplete = structured.flag(fields, INCOMPLETE)
        return None if incomplete is None else not incomplete

    def completeness(self, complete: bool) -> dict[str, str]:
        """Return the flag of an answer as a header field."""
        if self.speaks_of_incomplete:
            return {INCOMPLETE: structured.write_flag(not complete)}
        return {COMPLETE: structured.write_flag(complete)}

    def limits(self, limits: Mapping[str, int], seconds_left: float | None) -> dict[str, str]:
        """Return Upload-Limit as a header field, from `limits` and the time until the upload ends by itself."""
        if self.age_limit is None:
            return {}
        age = {} if seconds_left is None else {self.age_limit: int(seconds_left)}
        return {"Upload-Limit": structured.write_numbers({**limits, **age})}


FINAL: Final = Dialect()
_INTEROP_6: Final = Dialect(
    version=6, appended_status=201, age_limit="expires", refuses_positions=True, replays_end=False
)
_INTEROP_5: Final = replace(_INTEROP_6, version=5, typed=False, age_limit=None)
_INTEROP_3: Final = replace(_INTEROP_5, version=3, speaks_of_incomplete=True)
_BY_VERSION: Final[dict[int, Dialect]] = {
    3: _INTEROP_3,
    5: _INTEROP_5,
    6: _INTEROP_6,
    8: Dialect(version=8, replays_end=False),
    9: Dialect(version=9),
}


def dialect_of(fields: Fields) -> Dialect:
    """Return the dialect in which a request is to be read and answered."""
    version = structured.number(fields, VERSION)
    if version in _BY_VERSION:
        return _BY_VERSION[version]
    if INCOMPLETE in fields and COMPLETE not in fields:
        return replace(_INTEROP_3, version=None)
    return FINAL
