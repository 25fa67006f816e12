"""What may be copied for a direct upload, what proves that it was, and what becomes of a plan that changes."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from tests.unit.core.uploads import an_upload
from tusgate.core.checksum import Checksum
from tusgate.core.direct import (
    KnownPart,
    ListedPart,
    Plan,
    check_parts,
    copies_for,
    replanned,
    unproved_etags,
    with_proofs,
    wrong_numbers,
)
from tusgate.core.errors import InvalidRequest, PartsRefused
from tusgate.core.grid import MIB, Grid, PartLimits
from tusgate.core.model import CreatedVia, ObjectKey, Upload

LIMITS = PartLimits()
SIZE = 8 * MIB
ONE, TWO, THREE = b"1" * 32, b"2" * 32, b"3" * 32


def a_direct_upload(*digests: bytes, length: int = 2 * SIZE + 5, algorithm: str = "sha256") -> Upload:
    grid, plan = Grid(((LIMITS.max_parts, SIZE),)), Plan(None, algorithm, digests)
    return an_upload(created_via=CreatedVia.DIRECT, length=length, offset=0, grid=grid, plan=plan)


def known(digest: bytes, size: int) -> KnownPart:
    return KnownPart(digest, 0, size, ObjectKey("file"), "etag")


def test_a_part_is_copied_from_one_with_its_digest_and_its_size() -> None:
    upload = a_direct_upload(ONE, TWO, ONE)
    parts = [known(ONE, SIZE), known(TWO, 5), known(THREE, SIZE)]
    assert copies_for(upload, parts, LIMITS) == {1: parts[0]}
    assert copies_for(upload, [known(ONE, 5)], LIMITS) == {3: known(ONE, 5)}
    assert copies_for(upload, [], LIMITS) == {}


def test_an_etag_proves_the_digest_that_was_proved_with_it_and_no_other() -> None:
    upload = a_direct_upload(ONE, TWO, THREE)
    listed = [ListedPart(1, SIZE, "a"), ListedPart(2, SIZE, "b"), ListedPart(3, 5, "c", sha256=THREE)]
    assert unproved_etags(upload, listed) == [(ONE, "a"), (TWO, "b")]
    shown = with_proofs(upload, listed, {(ONE, "a"), (ONE, "b"), (TWO, "a")})
    assert [part.sha256 for part in shown] == [ONE, None, THREE]
    assert list(wrong_numbers(upload, shown, LIMITS)) == [2]


def test_what_the_store_shows_counts_more_than_what_is_known_of_its_etag() -> None:
    """I3"""
    upload = a_direct_upload(ONE, TWO, THREE)
    listed = [ListedPart(1, SIZE, "a", sha256=TWO)]
    assert unproved_etags(upload, listed) == []
    assert with_proofs(upload, listed, {(ONE, "a")}) == listed


@pytest.mark.parametrize("plan", [None, Plan(), Plan(None, "crc64nvme", (b"1" * 8,))])
def test_nothing_is_proved_where_no_sha256_was_declared(plan: Plan | None) -> None:
    upload = replace(a_direct_upload(), plan=plan)
    assert unproved_etags(upload, [ListedPart(1, SIZE, "a")]) == []


def test_parts_that_were_proved_are_committed_with_their_digest() -> None:
    upload = a_direct_upload(ONE, TWO, length=SIZE + 5)
    listed = [ListedPart(1, SIZE, "a", sha256=ONE), ListedPart(2, 5, "b", sha256=TWO)]
    assert [(part.start, part.sha256) for part in check_parts(upload, listed, None, LIMITS)] == [(0, ONE), (SIZE, TWO)]


def test_parts_that_are_left_over_of_a_longer_plan_do_not_count() -> None:
    upload = a_direct_upload(ONE, TWO, THREE)
    plan = replanned(upload, SIZE, Plan(None, "sha256", (ONE,)), LIMITS)
    changed = replace(upload, length=SIZE, plan=plan)
    listed = [ListedPart(1, SIZE, "a", sha256=ONE), ListedPart(3, 5, "c", sha256=THREE)]
    assert [part.number for part in check_parts(changed, listed, None, LIMITS)] == [1]
    longer = replanned(changed, SIZE + 1, Plan(None, "sha256", (ONE, TWO)), LIMITS)
    assert (plan.left_over, longer.left_over) == (3, 3)
    with pytest.raises(PartsRefused):
        check_parts(changed, [*listed, ListedPart(4, 5, "d")], None, LIMITS)


def test_a_plan_that_has_changed_is_kept_and_is_what_was_declared() -> None:
    plan = Plan(Checksum("sha256", THREE), "sha256", (ONE, TWO), left_over=7)
    kept = Plan.decode(plan.encode())
    assert (kept, kept.left_over) == (plan, 7)
    assert kept == replace(plan, left_over=0)
    assert "left_over" not in replace(plan, left_over=0).encode()


def test_a_plan_without_the_digests_of_all_parts_is_refused() -> None:
    upload = a_direct_upload(ONE, TWO, THREE)
    crc = base64.b64decode("AAAAAAAAAAA=")
    for length, plan in (
        (SIZE, Plan()),
        (SIZE, Plan(None, "crc64nvme", (crc,))),
        (SIZE, Plan(None, "sha256", (ONE, TWO))),
        (0, Plan(None, "sha256", ())),
        (LIMITS.max_parts * SIZE + 1, Plan(None, "sha256", (ONE,))),
    ):
        with pytest.raises(InvalidRequest):
            replanned(upload, length, plan, LIMITS)
    with pytest.raises(InvalidRequest):
        replanned(a_direct_upload(crc, algorithm="crc64nvme"), SIZE, Plan(None, "sha256", (ONE,)), LIMITS)
