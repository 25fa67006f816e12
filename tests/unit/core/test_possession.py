"""Which bytes have to be known, how likely it is to pass without having them all, and which challenges are ours."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tusgate.core.errors import InvalidRequest
from tusgate.core.model import UPLOAD_ID, Scope
from tusgate.core.possession import (
    BLOCK,
    STRETCHES,
    WHOLE,
    WINDOW,
    ChallengeKeys,
    Claim,
    Range,
    blank_answer,
    ranges_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB = 1 << 20
KEYS = ChallengeKeys(["first" * 8, "second" * 8])
CLAIM = Claim(Scope("acme", "alice"), b"s" * 32, 100 * MIB)
SALT, NOW = b"salt" * 3, 1_800_000_000.0
DRAWS = 1500
DATA = bytearray(random.Random(3).randbytes(WHOLE + MIB))


def passes(ranges: Sequence[Range], knows: Callable[[int], bool]) -> bool:
    """Return whether somebody passes who knows the blocks of these numbers."""
    return all(knows(each.start // BLOCK) for each in ranges)


def passed_of(size: int, knows: Callable[[int], bool]) -> int:
    """Return how many of `DRAWS` draws they pass."""
    return sum(passes(ranges, knows) for ranges in draws_of(size))


@cache
def draws_of(size: int) -> list[tuple[Range, ...]]:
    """Return always the same draws."""
    return [ranges_of(size, number.to_bytes(4, "big")) for number in range(DRAWS)]


@given(st.integers(1, WHOLE))
def test_a_small_file_has_to_be_known_whole(size: int) -> None:
    assert ranges_of(size, b"seed") == (Range(0, size),)


@given(st.integers(WHOLE + 1, 5 << 40), st.binary(max_size=4))
def test_of_a_large_file_one_block_of_each_stretch_has_to_be_known(size: int, seed: bytes) -> None:
    ranges, blocks = ranges_of(size, seed), -(-size // BLOCK)
    assert sum(each.size for each in ranges) <= WHOLE
    for number, each in enumerate(ranges):
        assert each.start % BLOCK == 0
        assert each.start + each.size == min(each.start + BLOCK, size)
        assert number * blocks // STRETCHES <= each.start // BLOCK < -(-(number + 1) * blocks // STRETCHES)


def test_who_lacks_a_byte_of_each_mib_passes_as_rarely_as_is_written() -> None:
    """One of 16 blocks is spoiled: (15 / 16) ** 128 is 0.00026. A byte of every second MiB: 0.017."""
    size = 200 * MIB
    assert passed_of(size, lambda block: block % 16 != 7) <= 3
    expected = DRAWS * (31 / 32) ** STRETCHES
    assert abs(passed_of(size, lambda block: block % 32 != 7) - expected) < 4 * math.sqrt(expected)


@pytest.mark.parametrize("size", [WHOLE + 1, 33 * MIB, 50 * MIB + 1, 200 * MIB])
def test_it_does_not_matter_where_the_missing_blocks_are(size: int) -> None:
    """At best they are spread; no place is drawn less than others. 99 % known is 0.99 ** 128 = 0.28 at most."""
    blocks = -(-size // BLOCK)
    count = -(-blocks // 100)
    most = DRAWS * (1 - count / blocks) ** STRETCHES
    chance = random.Random(1)
    placed: list[Sequence[int]] = [range(count), range(blocks - count, blocks), range(0, blocks, -(-blocks // count))]
    placed += [chance.sample(range(blocks), count) for _ in range(2)]
    for missing in map(frozenset, placed):
        assert len(missing) <= count
        bound = most if len(missing) == count else DRAWS * (1 - len(missing) / blocks) ** STRETCHES
        assert passed_of(size, lambda block, missing=missing: block not in missing) < bound + 4 * math.sqrt(bound)  # type: ignore[misc]  # mypy knows no type of a default


def test_who_has_nine_tenths_never_passes() -> None:
    for missing in (range(320), range(160, 480), range(0, 3200, 10)):
        assert passed_of(200 * MIB, lambda block, missing=frozenset(missing): block not in missing) == 0  # type: ignore[misc]  # likewise


@settings(max_examples=30)
@given(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=8))
def test_the_answer_is_another_one_exactly_where_a_byte_is_that_was_asked_for(place: int, seed: bytes) -> None:
    challenge = replace(KEYS.make(CLAIM, SALT, NOW), ranges=ranges_of(len(DATA), seed))

    def answer() -> bytes:
        found = blank_answer(challenge)
        for each in challenge.ranges:
            found.update(DATA[each.start : each.start + each.size])
        return found.digest()

    right = answer()
    is_asked_for = any(each.start <= place < each.start + each.size for each in challenge.ranges)
    DATA[place] ^= 1
    try:
        assert (answer() != right) is is_asked_for
    finally:
        DATA[place] ^= 1


def test_a_challenge_is_known_again_by_any_of_the_keys_until_it_ends() -> None:
    challenge = KEYS.make(CLAIM, SALT, NOW)
    assert WINDOW <= challenge.until - NOW <= 2 * WINDOW
    later = ChallengeKeys(["new" * 16, "first" * 8])
    for keys in (KEYS, later):
        assert keys.read(challenge.text, CLAIM, challenge.until - 1) == challenge
        with pytest.raises(InvalidRequest):
            keys.read(challenge.text, CLAIM, challenge.until)
    with pytest.raises(InvalidRequest):
        ChallengeKeys(["new" * 16]).read(challenge.text, CLAIM, NOW)
    assert UPLOAD_ID.fullmatch(challenge.file_id)


@pytest.mark.parametrize(
    "other",
    [
        replace(CLAIM, scope=Scope("acme", "bob")),
        replace(CLAIM, scope=Scope("other", "alice")),
        replace(CLAIM, sha256=b"t" * 32),
        replace(CLAIM, size=CLAIM.size + 1),
    ],
    ids=["owner", "tenant", "file", "size"],
)
def test_a_challenge_is_for_one_principal_and_one_file(other: Claim) -> None:
    challenge = KEYS.make(CLAIM, SALT, NOW)
    with pytest.raises(InvalidRequest):
        KEYS.read(challenge.text, other, NOW)
    assert KEYS.make(other, SALT, NOW).ranges != challenge.ranges


@given(st.text(), st.integers(0, len(KEYS.make(CLAIM, SALT, NOW).text) - 1))
def test_no_text_like_it_is_a_challenge(text: str, place: int) -> None:
    challenge = KEYS.make(CLAIM, SALT, NOW)
    changed = challenge.text[:place] + text + challenge.text[place + 1 :]
    for made_up in {text, changed} - {challenge.text}:
        with pytest.raises(InvalidRequest):
            KEYS.read(made_up, CLAIM, NOW)


def test_who_asks_again_is_asked_the_same_until_the_window_is_over() -> None:
    """Otherwise one could ask until only such blocks are drawn that one has."""
    first, again = KEYS.make(CLAIM, SALT, NOW), KEYS.make(CLAIM, b"more" * 3, NOW + WINDOW - 1)
    assert (first.ranges, first.until) == (again.ranges, again.until)
    assert len({first.nonce, again.nonce, first.file_id, again.file_id, first.text, again.text}) == 6
    assert KEYS.make(CLAIM, SALT, NOW + WINDOW).ranges != first.ranges
