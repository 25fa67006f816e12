"""Range headers against a reference that counts single bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.web.ranges import MOST_RANGES, ByteRange, UnsatisfiableRangeError, wanted_range

Spec = tuple[int | None, int | None]

lengths = st.integers(0, 40)
positions = st.integers(0, 50) | st.sampled_from([2**31, 2**63, 2**64, 10**30])
specs: st.SearchStrategy[Spec] = st.tuples(positions, st.none() | positions) | st.tuples(st.none(), positions)
blanks = st.sampled_from(["", " ", "\t", "  "])


def written(spec: Spec, before: str = "", after: str = "") -> str:
    first, last = ("" if end is None else str(end) for end in spec)
    return f"{before}{first}-{last}{after}"


def reference(wanted: list[Spec], length: int) -> ByteRange | str | None:
    """Return what section 14 of RFC 9110 says, byte by byte; "unsatisfiable" where nothing is there."""
    there: set[int] = set()
    for first, last in wanted:
        if first is not None and last is not None and last < first:
            return None
        if first is None:
            if length == 0 and last:
                return None
            there |= set(range(length)[-last:]) if last else set()
        else:
            there |= {at for at in range(length) if at >= first and (last is None or at <= last)}
    if not there:
        return "unsatisfiable"
    start, end = min(there), max(there) + 1
    return ByteRange(start, end) if len(there) == end - start else None


def answer(header: str, length: int) -> ByteRange | str | None:
    try:
        return wanted_range(header, length)
    except UnsatisfiableRangeError:
        return "unsatisfiable"


@given(
    wanted=st.lists(specs, min_size=1, max_size=5),
    length=lengths,
    blank=blanks,
    unit=st.sampled_from(["bytes", "Bytes"]),
)
def test_a_range_is_what_counting_bytes_says(wanted: list[Spec], length: int, blank: str, unit: str) -> None:
    """DL-04."""
    header = f"{unit}=" + ",".join(written(spec, blank, blank) for spec in wanted)
    assert answer(header, length) == reference(wanted, length)


@given(header=st.text(max_size=30) | st.text("bytes=0123456789-, ", max_size=30), length=lengths)
def test_no_header_breaks_it_and_a_range_lies_in_the_file(header: str, length: int) -> None:
    found = answer(header, length)
    if isinstance(found, ByteRange):
        assert 0 <= found.start < found.end <= length


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=,", "bytes 0-1", "0-1", "items=0-1"),
        *("bytes=5-2", "bytes=0-1,x", "bytes=0-1,5-2", "bytes=1-2-3", "bytes=0-1;2-3"),
        *("bytes=+1-2", "bytes=1_0-", "bytes=0x1-2", "bytes=\u0661-\u0662"),
    ],
)
def test_what_is_no_byte_range_is_ignored(header: str) -> None:
    assert wanted_range(header, 10) is None


@pytest.mark.parametrize("length", [0, 1, 10])
@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_bytes_that_are_not_there_cannot_be_had(header: str, length: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        wanted_range(header, length)


def test_a_header_of_very_many_ranges_is_not_even_looked_at() -> None:
    """CVE-2011-3192."""
    many = ",".join(["0-0"] * MOST_RANGES)
    assert wanted_range(f"bytes={many}", 10) == ByteRange(0, 1)
    assert wanted_range(f"bytes={many},0-0", 10) is None
