"""Conditional requests, by the table of RFC 9110, 13.2.2."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.web.preconditions import Validators, Verdict, judge, range_counts

FILE = Validators('"abc-2"', datetime(2026, 11, 21, 10, 30, 0, 999_999, tzinfo=UTC))
THEN = "Sat, 21 Nov 2026 10:30:00 GMT"
EARLIER = "Sat, 21 Nov 2026 10:29:59 GMT"
LATER = "Sat, 21 Nov 2026 10:30:01 GMT"
GO_ON, NOT_MODIFIED, FAILED = Verdict.GO_ON, Verdict.NOT_MODIFIED, Verdict.FAILED


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, GO_ON),
        ({"If-Match": '"abc-2"'}, GO_ON),
        ({"If-Match": "*"}, GO_ON),
        ({"If-Match": '"x", "abc-2"'}, GO_ON),
        ({"If-Match": '"x"'}, FAILED),
        ({"If-Match": 'W/"abc-2"'}, FAILED),
        ({"If-Match": "abc-2"}, FAILED),
        ({"If-Match": ""}, FAILED),
        ({"If-Match": '"abc-2"', "If-Unmodified-Since": EARLIER}, GO_ON),
        ({"If-Unmodified-Since": EARLIER}, FAILED),
        ({"If-Unmodified-Since": THEN}, GO_ON),
        ({"If-Unmodified-Since": "yesterday"}, GO_ON),
        ({"If-None-Match": '"abc-2"'}, NOT_MODIFIED),
        ({"If-None-Match": 'W/"abc-2"'}, NOT_MODIFIED),
        ({"If-None-Match": '"x" , W/"y", "abc-2"'}, NOT_MODIFIED),
        ({"If-None-Match": "*"}, NOT_MODIFIED),
        ({"If-None-Match": '"x"'}, GO_ON),
        ({"If-None-Match": '"a,b", "abc-2"'}, NOT_MODIFIED),
        ({"If-None-Match": '"x"', "If-Modified-Since": LATER}, GO_ON),
        ({"If-Modified-Since": THEN}, NOT_MODIFIED),
        ({"If-Modified-Since": LATER}, NOT_MODIFIED),
        ({"If-Modified-Since": EARLIER}, GO_ON),
        ({"If-Modified-Since": "Sat, 99 Nov 2026 10:30:00 GMT"}, GO_ON),
        ({"If-Match": '"x"', "If-None-Match": '"abc-2"'}, FAILED),
    ],
)
def test_conditions_come_to(headers: dict[str, str], verdict: Verdict) -> None:
    assert judge(headers, FILE) is verdict


@pytest.mark.parametrize(
    ("condition", "counts"),
    [
        (None, True),
        ('"abc-2"', True),
        ('W/"abc-2"', False),
        ('"x"', False),
        (THEN, True),
        (EARLIER, False),
        (LATER, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_a_range_counts_only_for_the_very_file(condition: str | None, counts: bool) -> None:
    """DL-04."""
    headers = {} if condition is None else {"If-Range": condition}
    assert range_counts(headers, FILE) is counts


NAMES = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40)))
def test_no_header_breaks_it(headers: dict[str, str]) -> None:
    assert judge(headers, FILE) in Verdict
    assert range_counts(headers, FILE) in (True, False)
