"""The Range header (RFC 9110, 14): which bytes of a file a request wants.

Rule 1: one range is answered as such. Several that overlap or touch are one; several that do not are answered with the
whole file, as Amazon S3 does: a server may ignore Range (14.2), every client of ranges knows a 200, and bodies made of
many small ranges have brought servers down (6.1 of the same advice: "denial of service attacks using Range").
Rule 2: what is not a byte range by the grammar is ignored, as other units are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MOST_RANGES: Final = 100
"""A header with more is ignored before it is looked at."""
_UNIT: Final = "bytes"
_RANGE: Final = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII)
_DIGITS: Final = 20
"""Of a number; longer ones are beyond any file."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `[start, end)` of a file; never empty."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many."""
        return self.end - self.start

    def content_range(self, length: int) -> str:
        """Return the value of Content-Range for a file of `length` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{length}"


class UnsatisfiableRangeError(Exception):
    """The request wants only bytes that the file does not have."""


def wanted_range(header: str | None, length: int) -> ByteRange | None:
    """Return the one range of a file of `length` bytes that `header` asks for; None: the whole file.

    Raises:
        UnsatisfiableRangeError: the header is valid, and no byte that it names is there.
    """
    unit, equals, ranges = (header or "").partition("=")
    if not equals or unit.strip().lower() != _UNIT or ranges.count(",") >= MOST_RANGES:
        return None
    specs = [spec for spec in ranges.split(",") if spec.strip(" \t")]  # empty elements of a list count for nothing
    found = [_parsed(spec) for spec in specs]
    valid = [each for each in found if each is not None]
    if not valid or len(valid) < len(found):
        return None
    if length == 0 and any(first is None and last for first, last in valid):
        return None  # the last n bytes of nothing are nothing, which no Content-Range can say
    there = sorted(filter(None, (_within(first, last, length) for first, last in valid)))
    if not there:
        raise UnsatisfiableRangeError
    return _joined(there)


def _parsed(spec: str) -> tuple[int | None, int | None] | None:
    """Return the first and the last position, `(None, n)` for the last n bytes, or None for what is no range."""
    match = _RANGE.fullmatch(spec)
    if match is None or match[1] == match[2] == "":
        return None
    first, last = (_number(text) for text in match.groups())
    if first is not None and last is not None and last < first:
        return None
    return first, last


def _number(text: str) -> int | None:
    if not text:
        return None
    significant = text.lstrip("0")
    return int(significant or "0") if len(significant) <= _DIGITS else 10**_DIGITS


def _within(first: int | None, last: int | None, length: int) -> tuple[int, int] | None:
    if first is None:
        start, end = max(0, length - (last or 0)), length
    else:
        start, end = first, length if last is None else min(length, last + 1)
    return (start, end) if start < end else None


def _joined(there: list[tuple[int, int]]) -> ByteRange | None:
    """Return the one range that all of them, in order, make; None when they leave a gap."""
    start, end = there[0]
    for next_start, next_end in there[1:]:
        if next_start > end:
            return None
        end = max(end, next_end)
    return ByteRange(start, end)
