"""Which jobs a file gets, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from tests.unit.core.uploads import an_upload
from tusgate.core.model import Role, Scope
from tusgate.core.processing import (
    INTENT_LIFE,
    MOST_TRIES,
    RETRIES,
    UNSETTLED,
    Chosen,
    Declared,
    JobState,
    NewJob,
    Processed,
    Processing,
    is_withheld,
    processed,
)
from tusgate.service.jobs import JobRules

SCAN, THUMBNAIL = Declared("scan", 2, ("*/*",)), Declared("thumbnail", 1, ("image/*", "application/pdf"))


@pytest.mark.parametrize(
    ("content_type", "names"),
    [
        ("image/png", ["scan", "thumbnail"]),
        ("IMAGE/PNG; q=1", ["scan", "thumbnail"]),
        ("application/pdf", ["scan", "thumbnail"]),
        ("text/plain", ["scan"]),
        (None, ["scan"]),
        ("", ["scan"]),
    ],
)
def test_a_file_gets_a_job_from_each_processor_that_takes_its_type(content_type: str | None, names: list[str]) -> None:
    processing = Processing((SCAN, THUMBNAIL), Chosen(("scan", "thumbnail")))
    jobs = processing.jobs_of(replace(an_upload(), content_type=content_type))
    assert [job.processor for job in jobs] == names


def test_a_tenant_may_choose_others_and_none() -> None:
    gated = Chosen(("scan",), frozenset({"scan"}))
    processing = Processing((SCAN, THUMBNAIL), Chosen(("thumbnail",)), {"acme": gated, "archive": Chosen()})
    picture = replace(an_upload(), content_type="image/png")

    def jobs_of(tenant: str) -> tuple[NewJob, ...]:
        return processing.jobs_of(replace(picture, scope=Scope(tenant, "alice")))

    assert jobs_of("other") == (NewJob("thumbnail", 1),)
    assert jobs_of("acme") == (NewJob("scan", 2, is_gate=True),)
    assert jobs_of("archive") == ()


@pytest.mark.parametrize(("role", "count"), [(None, 1), (Role.FINAL, 1), (Role.PARTIAL, 0), (Role.GROUP, 0)])
def test_what_files_are_made_of_gets_no_job(role: Role | None, count: int) -> None:
    processing = Processing((SCAN,), Chosen(("scan",)))
    assert len(processing.jobs_of(replace(an_upload(), role=role))) == count


def test_a_file_is_ready_exactly_when_all_of_its_jobs_are_done() -> None:
    for states in product(JobState, repeat=3):
        outcome = processed(states)
        assert (outcome is Processed.READY) == (set(states) == {JobState.DONE})
        assert (outcome is Processed.PROCESSING) == bool(set(states) & UNSETTLED)
        if outcome is Processed.REFUSED:
            assert JobState.REFUSED in states
        if outcome is Processed.FAILED:
            assert JobState.DEAD in states
            assert JobState.REFUSED not in states


def test_only_gates_that_are_done_let_readers_in() -> None:
    assert not is_withheld([])
    for states in product(JobState, repeat=2):
        assert is_withheld(states) == (set(states) != {JobState.DONE})


def test_a_job_is_tried_three_times_and_then_given_up() -> None:
    delays = [RETRIES.after(tries, None, 0.5) for tries in range(1, MOST_TRIES + 1)]
    assert delays == [10.0, 40.0, None]


def test_a_job_never_records_what_the_collector_may_be_removing() -> None:
    assert JobRules().intent_grace - INTENT_LIFE >= 300
